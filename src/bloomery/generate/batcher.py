"""The one loop that all answers come from: requests come and go while the others go on (continuous batching).

`step` admits waiting requests as rows and room in the cache free up, takes one forward pass for everybody, and tells the
token that each has got. Who steps, how often and in which thread is the caller's affair: `Engine.generate` steps until
nobody is left, a server for as long as it lives.

Legend: B rows of the batch, T prompt tokens, V vocabulary, D model.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.generate.sampling import SamplingParams, choose, draws
from bloomery.generate.text import TextStream, Vocabulary
from bloomery.model.cache import KVCache
from bloomery.model.transformer import Transformer

Finish = Literal["end", "length", "stop"]
"""Why an answer ended: with `<|end|>`; by max_tokens or the end of the model's context; with a stop string or stop token."""

MAX_ROWS = 256
"""Rows that are answered together. More do not make a step cheaper for each row on a CPU."""

MAX_SLOTS = 65_536
"""Tokens that the cache has room for."""

MIN_ROWS = 16
"""A batch is filled up to this many rows: matrix products of fewer go through other kernels, which add in another order,
and a request would then depend on its company in the last bits (measured with MKL in float32: 8 rows differ, 16 and more do not)."""

SLOT_MULTIPLE = 16
"""Prompts are filled up to a multiple of this, for the same reason: attention sums other lengths in another order."""


class Speaker(Protocol):
    """A model and its tokenizer; an Engine is one."""

    model: Transformer
    tokenizer: Vocabulary


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
    prompt: list[int]
    params: SamplingParams
    limit: int
    draw_T: list[float]
    text: TextStream | None
    tokens: list[int] = field(default_factory=list)

    @property
    def num_slots(self) -> int:
        return len(self.prompt) + self.limit


class Batcher:
    """Requests in, tokens out. It reads the model's weights as they are when it is made.

    A request's draws depend on its prompt, params and seed, and not on what shares its batch.
    """

    def __init__(self, engine: Speaker, *, max_rows: int = MAX_ROWS, max_slots: int = MAX_SLOTS) -> None:
        self.model, self.tokenizer = engine.model, engine.tokenizer
        self.max_rows, self.max_slots = max_rows, max_slots
        self._waiting: deque[_Request] = deque()
        self._active: list[_Request] = []
        self._next_id = 0
        self._cache: KVCache | None = None

    @property
    def num_active(self) -> int:
        """Requests that get a token at each step."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Requests that no step has begun yet."""
        return len(self._waiting)

    def add(self, prompt: Sequence[int], params: SamplingParams, *, seed: int) -> int:
        """Queues a request and returns its id; the first step that has room begins it.

        Raises DataError for a prompt that is empty, has ids that the model does not know, leaves no room in its context,
        or needs more slots than there are.
        """
        limit = answer_limit(self.model, prompt, params)
        if len(prompt) + limit > self.max_slots:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and an answer of up to {limit}: the cache has room for {self.max_slots} (max_slots)"
            )
        text = TextStream(self.tokenizer, params.stop) if params.stop else None
        request = _Request(self._next_id, list(prompt), params, limit, draws([seed], limit)[0].tolist(), text)
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, request_id: int) -> None:
        """Forgets a request, waiting or active; its row is free for the next step. Unknown and finished ids are let be."""
        self._waiting = deque(request for request in self._waiting if request.id != request_id)
        if any(request.id == request_id for request in self._active):
            self._keep([i for i, request in enumerate(self._active) if request.id != request_id])

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for every active request, in the order in which they began; nothing if nobody is there."""
        hidden = [self._advance()] if self._active else []
        while self._waiting and len(self._active) < self.max_rows and self._has_room(self._waiting[0]):
            hidden.append(self._admit(self._waiting.popleft()))
        if not hidden:
            return []
        events = self._choose(torch.cat(hidden))
        self._keep([i for i, event in enumerate(events) if event.finish is None])
        return events

    def _has_room(self, request: _Request) -> bool:
        return sum(other.num_slots for other in self._active) + request.num_slots <= self.max_slots

    def _admit(self, request: _Request) -> Tensor:
        width = _round_up(len(request.prompt))
        padded = [*request.prompt, *[self.tokenizer.pad_id] * (width - len(request.prompt))]
        token_1T = torch.tensor([padded], device=self.model.device)
        row = self._make_cache(1, _round_up(max(width, request.num_slots)))
        # Padding is on the right and its keys are written over before a query can see them (see model/cache).
        position_1T = torch.arange(width, device=self.model.device)[None]
        hidden_1TD = self.model.hidden_states(token_1T, position_BT=position_1T, cache=row)
        self._cache = row if self._cache is None else self._cache.join(row)
        self._active.append(request)
        return hidden_1TD[:, len(request.prompt) - 1]

    def _make_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        model = self.model
        return KVCache(model.config, num_rows=num_rows, max_tokens=max_tokens, dtype=model.compute_dtype, device=model.device)

    def _advance(self) -> Tensor:
        assert self._cache is not None
        num_missing = max(0, MIN_ROWS - len(self._active))
        token_B = torch.tensor([request.tokens[-1] for request in self._active] + [0] * num_missing, device=self.model.device)
        position_B = torch.tensor(
            [len(request.prompt) + len(request.tokens) - 1 for request in self._active] + [0] * num_missing, device=self.model.device
        )
        if self._cache.num_rows < len(token_B):
            self._cache = self._cache.join(self._make_cache(len(token_B) - self._cache.num_rows, self._cache.max_tokens))
        hidden_BTD = self.model.hidden_states(token_B[:, None], position_BT=position_B[:, None], cache=self._cache)
        self._cache.keep_rows(torch.arange(len(self._active), device=self.model.device))
        return hidden_BTD[: len(self._active), 0]

    def _choose(self, hidden_BD: Tensor) -> list[Event]:
        num_missing = max(0, MIN_ROWS - len(hidden_BD))
        # Of others' models some have rows beyond the tokenizer's ids, which stand for nothing and must not be said.
        logits_BV = self.model.logits(torch.cat([hidden_BD, hidden_BD.new_zeros(num_missing, hidden_BD.shape[1])]))
        logits_BV = logits_BV[: len(hidden_BD), : self.tokenizer.vocab_size]
        draw_B = torch.tensor([request.draw_T[len(request.tokens)] for request in self._active], dtype=torch.float64)
        seen = [[*request.prompt, *request.tokens] for request in self._active]
        choice = choose(logits_BV, draw_B.to(logits_BV.device), [request.params for request in self._active], seen)
        tokens, logps = choice.token_B.tolist(), choice.logp_B.tolist()
        return [
            Event(request.id, token, logp, top, self._push(request, token))
            for request, token, logp, top in zip(self._active, tokens, logps, choice.tops, strict=True)
        ]

    def _push(self, request: _Request, token: int) -> Finish | None:
        request.tokens.append(token)
        if token == self.tokenizer.end_id:
            return "end"
        if request.text is not None:
            request.text.push(token)
        if token in request.params.stop_tokens or (request.text is not None and request.text.stopped):
            return "stop"
        return "length" if len(request.tokens) == request.limit else None

    def _keep(self, rows: list[int]) -> None:
        if len(rows) == len(self._active):
            return
        self._active = [self._active[i] for i in rows]
        if not rows:
            self._cache = None
        elif self._cache is not None:
            self._cache.keep_rows(torch.tensor(rows, device=self.model.device))


def answer_limit(model: Transformer, prompt: Sequence[int], params: SamplingParams) -> int:
    """The most tokens that an answer can have. Raises DataError for a prompt that cannot be answered."""
    room = model.config.max_positions - len(prompt)
    if not prompt or room < 1:
        raise DataError(f"a prompt of {len(prompt)} tokens: expected 1 to {model.config.max_positions - 1}, with room for an answer")
    if not 0 <= min(prompt) <= max(prompt) < model.config.vocab_size:
        raise DataError(f"a prompt has ids from {min(prompt)} to {max(prompt)}; the model knows 0 to {model.config.vocab_size - 1}")
    return min(params.max_tokens, room)


def _round_up(num_tokens: int) -> int:
    return -(-num_tokens // SLOT_MULTIPLE) * SLOT_MULTIPLE
