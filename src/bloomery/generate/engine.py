"""Answers from a model: batched generation with a static key-value cache, and a stream for one conversation.

Requests are sorted by length and go in groups; a group's different prompts are read once, its rows then advance
together, and when half of them have ended the rest move up. A request's answer depends on its prompt and seed, not on
its company: its draws are its own (see sampling), and in float32 a row's numbers are the same in any group.

Legend: B rows of the batch, U different prompts, T prompt tokens, V vocabulary, D model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from bloomery.core.config import Config
from bloomery.core.errors import DataError
from bloomery.generate.sampling import Choice, choose, draws
from bloomery.model.cache import KVCache
from bloomery.model.transformer import Transformer

MAX_ROWS = 256
"""Rows of a group. More do not make a step cheaper for each row on a CPU, and leave more stragglers at the end."""

MAX_SLOTS = 65_536
"""Rows times tokens of a group's cache."""

MIN_ROWS = 16
"""A batch is filled up to this many rows: matrix products of fewer go through other kernels, which add in another order,
and a request would then depend on its company in the last bits (measured with MKL in float32: 8 rows differ, 16 and more do not)."""


SLOT_MULTIPLE = 16
"""Prompts are filled up to a multiple of this, for the same reason: attention sums other lengths in another order."""


class EndToken(Protocol):
    """What the engine needs of a tokenizer: how many ids it has, the one that ends an answer, and the one that fills up."""

    @property
    def vocab_size(self) -> int:
        """Its ids are 0 to vocab_size - 1."""
        ...

    @property
    def end_id(self) -> int:
        """The id of `<|end|>`."""
        ...

    @property
    def pad_id(self) -> int:
        """An id to fill up with."""
        ...


class SamplingParams(Config):
    """How answers are drawn. Temperature 0 takes the likeliest token each time (greedy)."""

    max_tokens: PositiveInt
    """The most tokens of an answer, its `<|end|>` counted."""
    temperature: float = Field(default=1.0, ge=0.0)
    top_k: NonNegativeInt = 0
    """Draw among this many likeliest tokens; 0 = among all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Draw among the fewest likeliest tokens that together have this probability (nucleus sampling, arXiv:1904.09751)."""


@dataclass(frozen=True)
class Sample:
    """An answer. `tokens` keep the end token, which is trained like any other; `logps` are after temperature (see `choose`)."""

    tokens: list[int]
    logps: list[float]
    finish: Literal["end", "length"]


class Engine:
    """Generates with `model` as it is at each call, on its device and in its compute dtype."""

    def __init__(self, model: Transformer, tokenizer: EndToken) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together."""
        return self.model.config.max_positions

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """An answer for each prompt, in their order; seeds[i] decides what is drawn for prompts[i].

        An answer ends with `<|end|>` ("end"), or with `max_tokens` or the model's last position ("length"). Raises
        DataError for a prompt that is empty or fills the model's context.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        limits = [self._limit(prompt, params) for prompt in prompts]
        samples: dict[int, Sample] = {}
        for group in _groups([len(prompt) for prompt in prompts], params.max_tokens):
            answers = self._answer([prompts[i] for i in group], [seeds[i] for i in group], [limits[i] for i in group], params)
            samples |= zip(group, answers, strict=True)
        return [samples[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], params: SamplingParams, *, seed: int) -> Iterator[int]:
        """The tokens of one answer as they are made, the end token too; one row, so the quickest way to the next word."""
        limit = self._limit(prompt, params)
        draw_T = torch.from_numpy(draws([seed], limit)[0]).to(self._device)
        cache, hidden_BD = self._read([prompt], len(prompt) + limit)
        for t in range(limit):
            token_B = self._choose(hidden_BD, draw_T[t : t + 1], params).token_B
            token = int(token_B)
            yield token
            if token == self.tokenizer.end_id or t + 1 == limit:
                return
            hidden_BD = self._advance(cache, token_B, torch.tensor([len(prompt) + t], device=self._device))

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def _limit(self, prompt: Sequence[int], params: SamplingParams) -> int:
        room = self.model.config.max_positions - len(prompt)
        if not prompt or room < 1:
            raise DataError(
                f"a prompt of {len(prompt)} tokens: expected 1 to {self.model.config.max_positions - 1}, with room for an answer"
            )
        return min(params.max_tokens, room)

    def _answer(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Sequence[int], params: SamplingParams
    ) -> list[Sample]:
        num_requests, max_new, device = len(prompts), max(limits), self._device
        # One request more than there are: `nobody`, whom the rows that only fill up the batch belong to.
        nobody = num_requests
        draw_NT = torch.from_numpy(draws([*seeds, 0], max_new)).to(device)
        token_NT = torch.zeros(num_requests + 1, max_new, dtype=torch.int64, device=device)
        logp_NT = torch.zeros(num_requests + 1, max_new, dtype=torch.float32, device=device)
        limit_N = torch.tensor([*limits, 0], device=device)

        unique = {tuple(prompt): u for u, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        cache, hidden_UD = self._read(list(unique), max(map(len, prompts)) + max_new)
        owner_B = _fill_up(torch.arange(num_requests, device=device), nobody)
        source_B = torch.tensor([unique[tuple(prompt)] for prompt in prompts] + [0] * (len(owner_B) - num_requests), device=device)
        cache.keep_rows(source_B)
        hidden_BD = hidden_UD[source_B]
        position_B = torch.tensor([len(prompt) for prompt in unique], device=device)[source_B]
        ended_B = owner_B == nobody
        for t in range(max_new):
            token_B, logp_B = self._choose(hidden_BD, draw_NT[owner_B, t], params)
            token_NT[owner_B, t], logp_NT[owner_B, t] = token_B, logp_B
            ended_B = ended_B | (token_B == self.tokenizer.end_id) | (limit_N[owner_B] == t + 1)
            going_R = (~ended_B).nonzero()[:, 0]
            if len(going_R) == 0:
                break
            if len(owner_B) > MIN_ROWS and len(going_R) <= len(owner_B) // 2:
                kept_B = _fill_up(going_R, int(going_R[0]))
                owner_B = _fill_up(owner_B[going_R], nobody)
                cache.keep_rows(kept_B)
                token_B, position_B, ended_B = token_B[kept_B], position_B[kept_B], owner_B == nobody
            hidden_BD = self._advance(cache, token_B, position_B)
            position_B = position_B + 1
        rows = zip(token_NT.tolist(), logp_NT.tolist(), limits, strict=False)
        return [_cut(tokens[:limit], logps, self.tokenizer.end_id) for tokens, logps, limit in rows]

    def _read(self, prompts: Sequence[Sequence[int]], num_slots: int) -> tuple[KVCache, Tensor]:
        width = _round_up(max(map(len, prompts)))
        padded = [[*prompt, *[self.tokenizer.pad_id] * (width - len(prompt))] for prompt in prompts]
        token_UT = torch.tensor(padded, device=self._device)
        config, dtype = self.model.config, self.model.compute_dtype
        cache = KVCache(config, num_rows=len(prompts), max_tokens=max(width, _round_up(num_slots)), dtype=dtype, device=self._device)
        # Padding is on the right and its keys are written over before a query can see them (see model/cache).
        position_UT = torch.arange(width, device=self._device).expand_as(token_UT)
        hidden_UTD = self.model.hidden_states(token_UT, position_BT=position_UT, cache=cache)
        last_U = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._device)
        return cache, hidden_UTD[torch.arange(len(prompts), device=self._device), last_U]

    def _choose(self, hidden_BD: Tensor, draw_B: Tensor, params: SamplingParams) -> Choice:
        # Of others' models some have rows beyond the tokenizer's ids, which stand for nothing and must not be said.
        logits_BV = self.model.logits(hidden_BD)[:, : self.tokenizer.vocab_size]
        return choose(logits_BV, draw_B, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)

    def _advance(self, cache: KVCache, token_B: Tensor, position_B: Tensor) -> Tensor:
        return self.model.hidden_states(token_B[:, None], position_BT=position_B[:, None], cache=cache)[:, 0]


def _groups(lengths: Sequence[int], max_new: int) -> Iterator[list[int]]:
    # Longest first: what is too much for the memory then fails at once, not after an hour.
    group: list[int] = []
    for i in np.argsort(-np.array(lengths, dtype=np.int64), kind="stable").tolist():
        if group and (len(group) == MAX_ROWS or (len(group) + 1) * (lengths[group[0]] + max_new) > MAX_SLOTS):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _round_up(num_tokens: int) -> int:
    return -(-num_tokens // SLOT_MULTIPLE) * SLOT_MULTIPLE


def _fill_up(row_B: Tensor, with_row: int) -> Tensor:
    missing = max(0, MIN_ROWS - len(row_B))
    return torch.cat([row_B, row_B.new_full((missing,), with_row)])


def _cut(tokens: list[int], logps: list[float], end_id: int) -> Sample:
    if end_id not in tokens:
        return Sample(tokens, logps[: len(tokens)], "length")
    length = tokens.index(end_id) + 1
    return Sample(tokens[:length], logps[:length], "end")
