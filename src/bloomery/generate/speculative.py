"""Speculative decoding: a small model drafts tokens, the large one judges several of them in one pass.

    draft      x_0, x_1, ... each drawn from the small model's q, one pass of it each
    judge      the large model's p at all their places, in one pass
    accept     x_j with probability min(1, p(x_j) / q(x_j)), in order; at the first that is not, a token from max(0, p - q) instead;
               if all are, one more from p for nothing

(Leviathan et al., arXiv:2211.17192, algorithm 1; Chen et al., 2302.01318, algorithm 2.) What is said then has exactly the
large model's distribution, whatever the small one is: it decides only how many passes are needed. Greedy answers are those
of the large model, token for token. p and q are what tokens are drawn by: after penalty, temperature, top-k, top-p and min-p.

It pays where a pass costs what it costs to read the weights: few rows, a large model. Draws are made of (seed, place, purpose)
alone, as everywhere; they are not those of `Engine.generate`, so that a seed gives another answer of the same distribution.

Legend: B rows, J places (drafted tokens and one more), T tokens, V vocabulary, D model.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bloomery.core.errors import ConfigError
from bloomery.generate.batcher import answer_limit
from bloomery.generate.engine import Engine, Sample
from bloomery.generate.finish import Finish, GrowingAnswer
from bloomery.generate.prefixes import PromptReader
from bloomery.generate.sampling import SamplingParams, draw, draws, likelihood
from bloomery.model.decoding import Decoder
from bloomery.model.row_cache import RowCache

NUM_DRAFT = 4
MAX_ROWS = 16
"""Rows that are answered together; with more, passes of the large model are no longer bound by reading its weights."""


@dataclass(frozen=True)
class Speculation:
    """How much drafting helped."""

    num_drafted: int = 0
    num_accepted: int = 0
    num_tokens: int = 0
    """Tokens of answers."""
    num_passes: int = 0
    """Rows times passes of the large model for them."""

    @property
    def acceptance_rate(self) -> float:
        """The share of drafted tokens that were kept; 0 if none were drafted."""
        return self.num_accepted / self.num_drafted if self.num_drafted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that each pass of the large model gave; 1 without speculation."""
        return self.num_tokens / self.num_passes if self.num_passes else 0.0

    def __add__(self, other: "Speculation") -> "Speculation":
        return Speculation(
            self.num_drafted + other.num_drafted,
            self.num_accepted + other.num_accepted,
            self.num_tokens + other.num_tokens,
            self.num_passes + other.num_passes,
        )


@dataclass(eq=False)
class _Row:
    prompt: list[int]
    answer: GrowingAnswer
    draft_draw_T: np.ndarray
    accept_draw_T: np.ndarray
    token_draw_T: np.ndarray
    logps: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.answer.tokens]


class SpeculativeEngine:
    """Generates as `engine` does, with drafts of a smaller model. `speculation` counts over all calls.

    Raises ConfigError if the two models have not the same tokenizer.
    """

    def __init__(self, engine: Engine, draft: Engine, *, num_draft: int = NUM_DRAFT) -> None:
        if num_draft < 1:
            raise ConfigError(f"num_draft = {num_draft}: expected at least 1 token to draft")
        check_same_tokenizer(engine, draft)
        self.engine, self.draft, self.num_draft = engine, draft, num_draft
        self.speculation = Speculation()

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together: what both models can read."""
        return min(self.engine.context_tokens, self.draft.context_tokens)

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """An answer for each prompt, in their order; seeds[i] decides what is drawn for prompts[i]."""
        samples = dict(self.generate_each(prompts, params, seeds=seeds))
        return [samples[i] for i in range(len(prompts))]

    def generate_each(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Sample]]:
        """`generate`, with the answers of MAX_ROWS prompts given out together, as (number of its prompt, sample)."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        rows = [self._make_row(prompt, params, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        pair = _Pair(self.engine, self.draft, params, num_draft=self.num_draft)
        # Answers of like length end together: those of like prompts are the best guess at it.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt))
        for start in range(0, len(order), MAX_ROWS):
            part = order[start : start + MAX_ROWS]
            self.speculation += pair.answer([rows[i] for i in part])
            yield from ((i, Sample(rows[i].answer.tokens, rows[i].logps, rows[i].finish or "length", rows[i].tops)) for i in part)

    def _make_row(self, prompt: Sequence[int], params: SamplingParams, seed: int) -> _Row:
        limit = min(answer_limit(model.model.config, prompt, params) for model in (self.engine, self.draft))
        draft, accept, token = (draws([_derive(seed, purpose)], limit + self.num_draft)[0] for purpose in ("draft", "accept", "token"))
        return _Row(list(prompt), GrowingAnswer(self.engine.tokenizer, params, limit=limit), draft, accept, token)


def check_same_tokenizer(engine: Engine, draft: Engine) -> None:
    """Raises ConfigError if a token means something else to the draft model."""
    ours, theirs = engine.tokenizer, draft.tokenizer
    for name in ("vocab_size", "end_id"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"the draft model has another tokenizer: {name} {getattr(theirs, name)}, and the model's is {getattr(ours, name)}"
            )
    for i in range(ours.vocab_size):
        if ours.decode_bytes([i]) != theirs.decode_bytes([i]):
            found, expected = theirs.decode_bytes([i]), ours.decode_bytes([i])
            raise ConfigError(f"the draft model has another tokenizer: its token {i} is {found!r}, and the model's is {expected!r}")


class _Pair:
    """Both models and what they have read of the rows at hand."""

    def __init__(self, engine: Engine, draft: Engine, params: SamplingParams, *, num_draft: int) -> None:
        self.params, self.num_draft = params, num_draft
        self.target, self.small = (_Side(one) for one in (engine, draft))

    @torch.inference_mode()
    def answer(self, rows: Sequence[_Row]) -> Speculation:
        """Answers these rows to their ends."""
        for side in (self.target, self.small):
            side.begin([row.prompt for row in rows], spare=max(row.answer.limit for row in rows) + self.num_draft)
        first = likelihood(self.target.logits(self.target.hidden_BD), self.params, [row.ids for row in rows])
        tokens = draw(first.weight_BV, torch.tensor([row.token_draw_T[0] for row in rows], device=first.weight_BV.device))
        for i, row in enumerate(rows):
            self._push(row, int(tokens[i]), first.logp_BV[i])
        counted = Speculation(num_tokens=len(rows), num_passes=len(rows))
        active = list(range(len(rows)))
        while active := [i for i in active if rows[i].finish is None]:
            counted += self._round(rows, active)
        return counted

    def _round(self, rows: Sequence[_Row], active: Sequence[int]) -> Speculation:
        drafted, weights = self._draft(rows)
        ids = [[row.ids[-1], *tokens] for row, tokens in zip(rows, drafted, strict=True)]
        hidden_BJD = self.target.read(ids, [len(row.ids) - 1 for row in rows])
        judged = [
            likelihood(
                self.target.logits(hidden_BJD[:, j]),
                self.params,
                [[*row.ids, *tokens[:j]] for row, tokens in zip(rows, drafted, strict=True)],
            )
            for j in range(self.num_draft + 1)
        ]
        num_accepted = num_tokens = 0
        for i in active:
            row, place = rows[i], len(rows[i].answer.tokens)
            for j in range(self.num_draft + 1):
                p_V, drafted_token = judged[j].weight_BV[i], drafted[i][j] if j < self.num_draft else None
                p_V = p_V / p_V.sum()
                q_V = None if drafted_token is None else weights[j][i] / weights[j][i].sum()
                accepted = q_V is not None and row.accept_draw_T[place + j] * float(q_V[drafted_token]) < float(p_V[drafted_token])
                token = drafted_token if accepted and drafted_token is not None else _draw_rest(p_V, q_V, row.token_draw_T[place + j])
                self._push(row, token, judged[j].logp_BV[i])
                num_accepted, num_tokens = num_accepted + accepted, num_tokens + 1
                if row.finish is not None or not accepted:
                    break
        return Speculation(self.num_draft * len(active), num_accepted, num_tokens, len(active))

    def _draft(self, rows: Sequence[_Row]) -> tuple[list[list[int]], list[Tensor]]:
        # The last two tokens: where all drafts were accepted, the small model has not read the last of them. Else it reads one again.
        hidden_BD = self.small.read([row.ids[-2:] for row in rows], [len(row.ids) - 2 for row in rows])[:, 1]
        tokens: list[list[int]] = [[] for _ in rows]
        weights = []
        for j in range(self.num_draft):
            if j:
                hidden_BD = self.small.read([row[-1:] for row in tokens], [len(row.ids) + j - 1 for row in rows])[:, 0]
            seen = [[*row.ids, *drafted] for row, drafted in zip(rows, tokens, strict=True)]
            weight_BV = likelihood(self.small.logits(hidden_BD), self.params, seen).weight_BV
            place_draws = [row.draft_draw_T[min(len(row.answer.tokens) + j, len(row.draft_draw_T) - 1)] for row in rows]
            for row, token in zip(tokens, draw(weight_BV, torch.tensor(place_draws, device=weight_BV.device)).tolist(), strict=True):
                row.append(token)
            weights.append(weight_BV)
        return tokens, weights

    def _push(self, row: _Row, token: int, logp_V: Tensor) -> None:
        row.finish = row.answer.push(token)
        row.logps.append(float(logp_V[token]))
        if self.params.top_logps:
            top = logp_V.topk(min(self.params.top_logps, len(logp_V)))
            row.tops.append(list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))


class _Side:
    """One of the two models."""

    def __init__(self, engine: Engine) -> None:
        self.decoder: Decoder = engine.decoder()
        self.cache = RowCache(self.decoder)
        self._reader = PromptReader(self.decoder, pad_id=engine.tokenizer.pad_id)
        self.hidden_BD = torch.empty(0, 0)

    def begin(self, prompts: Sequence[Sequence[int]], *, spare: int) -> None:
        """Reads prompts, one a row, with room for `spare` tokens after them."""
        longest = max(map(len, prompts)) + spare
        self.decoder.reserve_positions(longest + 1)
        self.cache = RowCache(self.decoder)
        self.cache.reserve(max(len(prompts), self.decoder.min_rows), longest)
        hidden = []
        for row, prompt in enumerate(prompts):
            read = self._reader.read(prompt)
            self.cache.fill(row, read.kv_LCGTK)
            hidden.append(read.hidden_1D)
        self.hidden_BD = torch.cat(hidden)

    def read(self, ids: Sequence[Sequence[int]], positions: Sequence[int]) -> Tensor:
        """The stream at new tokens of each row, BTD; `positions` are those of their first ones."""
        num_missing = self.cache.kv_LCBGSK.shape[2] - len(ids)
        token_BT = torch.tensor([*ids, *[[0] * len(ids[0])] * num_missing], device=self.decoder.device)
        first_B1 = torch.tensor([*positions, *[0] * num_missing], device=self.decoder.device)[:, None]
        position_BT = first_B1 + torch.arange(token_BT.shape[1], device=self.decoder.device)
        return self.decoder.read(token_BT, self.cache.kv_LCBGSK, position_BT=position_BT)[: len(ids)]

    def logits(self, hidden_BD: Tensor) -> Tensor:
        return self.decoder.logits(hidden_BD)


def _draw_rest(p_V: Tensor, q_V: Tensor | None, number: float) -> int:
    # From what p has more than q (2211.17192, sec. 2.3); without a draft from p itself.
    rest_V = p_V if q_V is None else (p_V - q_V).clamp_(min=0)
    if not bool(rest_V.sum() > 0):  # p and q are the same but for rounding
        rest_V = p_V
    return int(draw(rest_V[None], torch.tensor([number], dtype=torch.float64, device=p_V.device)))


def _derive(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"speculative/{purpose}/{seed}".encode(), digest_size=8).digest(), "little")
