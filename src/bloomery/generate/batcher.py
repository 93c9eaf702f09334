"""The one loop that all answers come from: requests come and go while the others go on (continuous batching).

`step` admits waiting requests as rows and room in the cache free up, takes one forward pass for everybody, and tells the
token that each has got. Who steps, how often and in which thread is the caller's affair: `Engine.generate` steps until
nobody is left, a server for as long as it lives.

A request has a row of the cache (see model/cache.py), in the slots of which lie its prompt and its answer. Several samples of
one prompt are added together: what is whole pieces of it is then kept once, beside the rows, and read once for all of them.

Legend: B rows of the cache, M rows of one prompt, N requests, L layers, C keys or values, G key-value heads, T tokens, P
tokens of a prefix, K head dimension, V vocabulary, D model.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.generate.finish import Finish, GrowingAnswer
from bloomery.generate.prefixes import PromptReader
from bloomery.generate.sampling import SamplingParams, choose, draws
from bloomery.generate.text import Vocabulary
from bloomery.model.config import ModelConfig
from bloomery.model.decoding import Decoder, SharedPrefix
from bloomery.model.row_cache import RowCache

MAX_ROWS = 256
"""Rows that are answered together. More do not make a step cheaper for each row on a CPU."""

MAX_SLOTS = 65_536
"""Tokens that the cache has room for."""

ROW_BLOCK = 8
"""The cache has rows for a multiple of this many requests, so that it is not laid out anew for each that comes."""


class Speaker(Protocol):
    """A model that is ready to generate, and its tokenizer; an Engine is one."""

    tokenizer: Vocabulary

    def decoder(self) -> Decoder:
        """The model with its weights as they are now."""
        ...


class Event(NamedTuple):
    """A token that a request has got; `finish` says that it is the last one, and why."""

    request_id: int
    token: int
    logp: float
    """After temperature, before penalty, top-k, top-p and min-p."""
    top: list[tuple[int, float]]
    """The likeliest tokens here and their log-probabilities, as many as `top_logps` asks for."""
    finish: Finish | None


@dataclass(eq=False)
class _Request:
    id: int
    seed: int
    answer: GrowingAnswer
    draw_T: list[float] = field(default_factory=list)
    """Filled when it begins: of those who wait there can be many."""


@dataclass(eq=False)
class _Asked:
    """A prompt and those who wait for an answer to it: one request, or the samples that were added together."""

    prompt: list[int]
    params: SamplingParams
    limit: int
    shared_tokens: int
    """So many of the prompt's first tokens are kept once for all; 0 for one request."""
    requests: list[_Request]
    num_samples: int
    """How many they were at first; some may be cancelled."""
    kv_LCGPK: Tensor | None = None

    @property
    def row_slots(self) -> int:
        return len(self.prompt) - self.shared_tokens + self.limit


class _Row(NamedTuple):
    asked: _Asked
    request: _Request

    @property
    def tokens(self) -> list[int]:
        """The answer so far."""
        return self.request.answer.tokens

    @property
    def position(self) -> int:
        """That of the latest token."""
        return len(self.asked.prompt) + len(self.tokens) - 1

    @property
    def slot(self) -> int:
        """Where the latest token goes."""
        return self.position - self.asked.shared_tokens


class Batcher:
    """Requests in, tokens out. It reads the model's weights as they are when it is made.

    A request's tokens and log-probabilities depend on its prompt, params and seed, and not on what shares its batch: in
    float32 on a CPU they are the same to the last bit. Samples that were added together count as one request here: they read
    their prompt in other sums than a single one does, and differ from it in the last bits.
    """

    def __init__(self, engine: Speaker, *, max_rows: int = MAX_ROWS, max_slots: int = MAX_SLOTS) -> None:
        self.tokenizer, self.max_rows, self.max_slots = engine.tokenizer, max_rows, max_slots
        self._decoder = engine.decoder()
        self._reader = PromptReader(self._decoder, pad_id=self.tokenizer.pad_id)
        self._waiting: deque[_Asked] = deque()
        self._cache = RowCache(self._decoder)
        self._row_of: dict[int, int] = {}
        self._rows: list[_Row | None] = []
        self._next_id = 0

    @property
    def num_active(self) -> int:
        """Requests that get a token at each step."""
        return len(self._row_of)

    @property
    def num_waiting(self) -> int:
        """Requests that no step has begun yet."""
        return sum(len(asked.requests) for asked in self._waiting)

    @property
    def tokens_read(self) -> int:
        """Tokens of prompts that went through the model; what was read before and is still known does not count."""
        return self._reader.tokens_read

    def add(self, prompt: Sequence[int], params: SamplingParams, *, seed: int) -> int:
        """Queues a request and returns its id; the first step that has room begins it.

        Raises DataError for a prompt that is empty, has ids that the model does not know, leaves no room in its context,
        or needs more slots than there are.
        """
        return self.add_samples(prompt, params, seeds=[seed])[0]

    def add_samples(self, prompt: Sequence[int], params: SamplingParams, *, seeds: Sequence[int]) -> list[int]:
        """Queues a request for each seed; they begin together, and the prompt is read once for all of them."""
        limit = answer_limit(self._decoder.config, prompt, params)
        ids = range(self._next_id, self._next_id + len(seeds))
        answers = [GrowingAnswer(self.tokenizer, params, limit=limit) for _ in seeds]
        requests = [_Request(i, seed, answer) for i, seed, answer in zip(ids, seeds, answers, strict=True)]
        # The last token is read by each for itself: it tells what comes next.
        whole = (len(prompt) - 1) // self._reader.piece_tokens * self._reader.piece_tokens
        can_share = len(seeds) > 1 and not self._decoder.config.sliding_window
        asked = _Asked(list(prompt), params, limit, whole if can_share else 0, requests, num_samples=len(requests))
        if len(seeds) > self.max_rows or self._slots_with(asked, alone=True) > self.max_slots:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and {len(seeds)} answers of up to {limit}: the cache has {self.max_rows} rows "
                f"and room for {self.max_slots} tokens"
            )
        self._next_id += len(seeds)
        self._waiting.append(asked)
        return list(ids)

    def cancel(self, request_id: int) -> None:
        """Forgets a request, waiting or active; its row is free for the next step. Unknown and finished ids are let be."""
        for asked in self._waiting:
            asked.requests[:] = [request for request in asked.requests if request.id != request_id]
        self._waiting = deque(asked for asked in self._waiting if asked.requests)
        if request_id in self._row_of:
            self._rows[self._row_of.pop(request_id)] = None

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for every active request, in the order in which they were added; nothing if nobody is there."""
        hidden_of: dict[int, Tensor] = {}
        if self._row_of:
            hidden_BD = self._advance()
            hidden_of = {i: hidden_BD[row] for i, row in self._row_of.items()}
        admitted: list[_Asked] = []
        while self._waiting and self._has_room(self._waiting[0], admitted):
            admitted.append(self._waiting.popleft())
        hidden_of |= self._begin(admitted)
        if not hidden_of:
            return []
        order = sorted(hidden_of)
        events = self._choose(torch.stack([hidden_of[i] for i in order]), [self._row(i) for i in order])
        for event in events:
            if event.finish is not None:
                self._rows[self._row_of.pop(event.request_id)] = None
        return events

    def _row(self, request_id: int) -> _Row:
        row = self._rows[self._row_of[request_id]]
        assert row is not None
        return row

    def _has_room(self, asked: _Asked, admitted: Sequence[_Asked]) -> bool:
        num_rows = self.num_active + sum(len(one.requests) for one in (asked, *admitted))
        return num_rows <= self.max_rows and self._slots_with(asked, admitted) <= self.max_slots

    def _slots_with(self, asked: _Asked, admitted: Sequence[_Asked] = (), *, alone: bool = False) -> int:
        # What the cache can grow to: rows are as long as the longest of them.
        active = {id(row.asked): row.asked for row in self._rows if row is not None} if not alone else {}
        every = [asked, *admitted, *active.values()]
        num_rows = sum(len(one.requests) for one in (asked, *admitted)) + (0 if alone else self.num_active)
        return num_rows * max(one.row_slots for one in every) + sum(one.shared_tokens for one in every)

    def _begin(self, admitted: Sequence[_Asked]) -> dict[int, Tensor]:
        """Reads the prompts of those who are admitted and gives each a row; the stream at the end of its prompt by request."""
        if not admitted:
            return {}
        self._decoder.reserve_positions(max(len(asked.prompt) + asked.limit for asked in admitted))
        free = iter(self._free_rows(sum(len(asked.requests) for asked in admitted)))
        rows_of = [[next(free) for _ in asked.requests] for asked in admitted]
        self._cache.reserve(len(self._rows), max(len(asked.prompt) - asked.shared_tokens for asked in admitted) + 1)
        found: dict[int, Tensor] = {}
        for i, read in self._reader.read_each([asked.prompt for asked in admitted]):
            asked, rows = admitted[i], rows_of[i]
            if asked.shared_tokens:
                asked.kv_LCGPK = read.kv_LCGTK[..., : asked.shared_tokens, :].contiguous()
            own_LCGTK = read.kv_LCGTK[..., asked.shared_tokens :, :]
            for row, request in zip(rows, asked.requests, strict=True):
                request.draw_T = draws([request.seed], asked.limit)[0].tolist()
                self._rows[row] = _Row(asked, request)
                self._row_of[request.id] = row
                found[request.id] = read.hidden_1D[0]
            for first, count in _runs(rows):
                self._cache.fill(first, own_LCGTK, num_rows=count)
        return found

    def _free_rows(self, count: int) -> list[int]:
        free = [i for i, row in enumerate(self._rows) if row is None]
        if len(free) < count:
            more = -(-(count - len(free)) // ROW_BLOCK) * ROW_BLOCK
            free += range(len(self._rows), len(self._rows) + more)
            self._rows += [None] * more
        return free

    def _compact(self) -> None:
        """Moves the rows in use together when a block of others, a quarter of all, does nothing but be computed."""
        used = [i for i, row in enumerate(self._rows) if row is not None]
        size = max(self._decoder.min_rows, -(-len(used) // ROW_BLOCK) * ROW_BLOCK)
        if 4 * size > 3 * len(self._rows) and len(self._rows) >= self._decoder.min_rows:
            return
        self._rows = [*(self._rows[i] for i in used), *[None] * (size - len(used))]
        self._row_of = {row.request.id: i for i, row in enumerate(self._rows) if row is not None}
        self._cache.keep(used, num_rows=size, num_slots=max((row.slot for row in self._rows if row is not None), default=0) + 1)

    def _advance(self) -> Tensor:
        self._compact()
        # A row of nobody says token 0 at position 0 over and over.
        tokens = [row.tokens[-1] if row else 0 for row in self._rows]
        positions = [row.position if row else 0 for row in self._rows]
        slots = [row.slot if row else 0 for row in self._rows]
        self._cache.reserve(len(slots), max(slots) + 1)
        token_B1, position_B1, slot_B1 = torch.tensor([tokens, positions, slots], device=self._decoder.device)[:, :, None]
        hidden_B1D = self._decoder.read(
            token_B1, self._cache.kv_LCBGSK, position_BT=position_B1, slot_BT=slot_B1, prefixes=self._prefixes()
        )
        return hidden_B1D[:, 0]

    def _prefixes(self) -> list[SharedPrefix]:
        rows_of: dict[int, tuple[_Asked, list[int]]] = {}
        for i, row in enumerate(self._rows):
            if row is not None and row.asked.kv_LCGPK is not None:
                rows_of.setdefault(id(row.asked), (row.asked, []))[1].append(i)
        found = []
        for asked, rows in rows_of.values():
            assert asked.kv_LCGPK is not None
            filled = [*rows, *rows[:1] * (asked.num_samples - len(rows))]
            found.append(SharedPrefix(asked.kv_LCGPK, torch.tensor(filled, device=self._decoder.device), len(rows)))
        return found

    def _choose(self, hidden_ND: Tensor, rows: Sequence[_Row]) -> list[Event]:
        draw_N = torch.tensor([row.request.draw_T[len(row.tokens)] for row in rows], dtype=torch.float64, device=hidden_ND.device)
        penalized = any(row.asked.params.repetition_penalty != 1.0 for row in rows)
        seen = [[*row.asked.prompt, *row.tokens] for row in rows] if penalized else ()
        choice = choose(self._decoder.logits(hidden_ND), draw_N, [row.asked.params for row in rows], seen)
        return [
            Event(row.request.id, token, logp, top, row.request.answer.push(token))
            for row, token, logp, top in zip(rows, choice.token_B.tolist(), choice.logp_B.tolist(), choice.tops, strict=True)
        ]


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs of neighbours: (first, how many)."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs


def answer_limit(config: ModelConfig, prompt: Sequence[int], params: SamplingParams) -> int:
    """The most tokens that an answer can have. Raises DataError for a prompt that cannot be answered."""
    room = config.max_positions - len(prompt)
    if not prompt or room < 1:
        raise DataError(f"a prompt of {len(prompt)} tokens: expected 1 to {config.max_positions - 1}, with room for an answer")
    if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
        raise DataError(f"a prompt has ids from {min(prompt)} to {max(prompt)}; the model knows 0 to {config.vocab_size - 1}")
    return min(params.max_tokens, room)
