"""Rows to batches: the tensors of the rows that a step sees. The one file of this room that knows torch.

Legend: B rows of the batch, T places of a row.

Which rows, is a pure function of (seed, step): a resumed run, or one with other micro-batches, sees the same rows in
the same order. In a row, documents are numbered from 1 and positions start again at 0 with each piece of a document, so
that attention can be kept inside a document.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from bloomery.tokens.chat import Rendered
from bloomery.tokens.kernels import lay_out, shuffled
from bloomery.tokens.packing import PackedRows, pack_best_fit
from bloomery.tokens.packing_index import open_packed
from bloomery.tokens.shards import TokenSet

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """What a training step reads. Weight is float32; all others int64. Padding has document 0, position 0 and weight 0."""

    token_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor
    document_BT: Tensor
    position_BT: Tensor
    source_B: Tensor | None = None
    """The number of the source that a row is from; None where that was not asked for."""
    max_runs: int | None = None
    """A bound on the documents in it, padding counted as one more a row; known once the batch has left for a device."""

    @property
    def num_rows(self) -> int:
        """B."""
        return self.token_BT.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        source_B = None if self.source_B is None else self.source_B.to(device, non_blocking=True)
        token, target, weight, document, position = (tensor.to(device, non_blocking=True) for tensor in self._tensors())
        max_runs = self.max_runs
        if max_runs is None and self.document_BT.device.type == "cpu":
            max_runs = self.num_rows + int((self.document_BT[:, 1:] != self.document_BT[:, :-1]).sum())
        return Batch(token, target, weight, document, position, source_B, max_runs)

    def split(self, num_parts: int) -> list["Batch"]:
        """The rows in `num_parts` runs of nearly equal size (fewer when there are fewer rows)."""
        count = min(num_parts, self.num_rows)
        sources = [None] * count if self.source_B is None else self.source_B.tensor_split(count)
        parts = zip(*(tensor.tensor_split(count) for tensor in self._tensors()), strict=True)
        return [Batch(a, b, c, d, e, source_B) for (a, b, c, d, e), source_B in zip(parts, sources, strict=True)]

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.token_BT, self.target_BT, self.weight_BT, self.document_BT, self.position_BT)


class Spans(NamedTuple):
    """Tokens of several segments, end to end: ids (int64), whether each is trained (float32), and how many there are of each segment."""

    ids: np.ndarray
    mask: np.ndarray
    num_read: np.ndarray


class RowSource(Protocol):
    """Packed rows, and the documents that they are made of."""

    @property
    def packed(self) -> PackedRows:
        """The segments of each row."""
        ...

    def read(self, document: np.ndarray, start: np.ndarray, length: np.ndarray) -> Spans:
        """Of each document the places start .. start + length, and the one after them where the document goes on: the last target."""
        ...


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of documents for pretraining: every token that has one before it in its document is a target, also where a row ends."""

    tokens: TokenSet
    packed: PackedRows

    def read(self, document: np.ndarray, start: np.ndarray, length: np.ndarray) -> Spans:
        """See RowSource."""
        ids, count = self.tokens.read(document, start, start + length + 1)
        return Spans(ids, np.ones(len(ids), dtype=np.float32), count)


@dataclass(frozen=True, eq=False)
class ConversationRows:
    """Rows of whole conversations for fine-tuning: targets are the tokens under the loss mask; make them with `conversation_rows`."""

    ids: np.ndarray
    loss_mask: np.ndarray
    offset: np.ndarray
    packed: PackedRows

    def read(self, document: np.ndarray, start: np.ndarray, length: np.ndarray) -> Spans:
        """See RowSource."""
        first = self.offset[document] + start
        count = np.minimum(first + length + 1, self.offset[document + 1]) - first
        place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        return Spans(self.ids[place], self.loss_mask[place], count)


def token_rows(tokens: TokenSet, *, row_tokens: int, max_padding: float = 1.0) -> TokenRows:
    """All documents of a token set, packed. See `pack_best_fit`."""
    return TokenRows(tokens, pack_best_fit(tokens.lengths, row_tokens=row_tokens, max_padding=max_padding))


def open_rows(tokens: TokenSet, *, row_tokens: int, max_padding: float = 1.0, index: Path) -> TokenRows:
    """All documents of a token set, packed once into the folder `index`. See `packing_index.open_packed`."""
    return TokenRows(tokens, open_packed(tokens, row_tokens=row_tokens, max_padding=max_padding, index=index))


def conversation_rows(conversations: Sequence[Rendered], *, row_tokens: int) -> ConversationRows:
    """Rendered conversations, packed. None may be longer than a row: see `conversation_set.fit_to_row`."""
    lengths = np.array([len(conversation.ids) for conversation in conversations], dtype=np.int64)
    assert lengths.max(initial=0) <= row_tokens
    return ConversationRows(
        ids=np.fromiter(itertools.chain.from_iterable(c.ids for c in conversations), np.int64, int(lengths.sum())),
        loss_mask=np.fromiter(itertools.chain.from_iterable(c.loss_mask for c in conversations), np.float32, int(lengths.sum())),
        offset=np.concatenate([[0], np.cumsum(lengths)]),
        packed=pack_best_fit(lengths, row_tokens=row_tokens),
    )


def make_batch(source: RowSource, rows: Sequence[int] | np.ndarray) -> Batch:
    """The tensors of these rows of `source`, on the CPU."""
    token, target, weight, document, position = _tensors([source], np.zeros(len(rows), dtype=np.int64), np.asarray(rows, dtype=np.int64))
    return Batch(token, target, weight, document, position)


def make_mixed_batch(sources: Sequence[RowSource], source: np.ndarray, row: np.ndarray) -> Batch:
    """The tensors of row row[b] of source source[b] for each b, with `source_B`, on the CPU. All rows have one length."""
    token, target, weight, document, position = _tensors(sources, source, row)
    return Batch(token, target, weight, document, position, torch.from_numpy(np.asarray(source, dtype=np.int64)))


def _tensors(sources: Sequence[RowSource], source: np.ndarray, row: np.ndarray) -> list[Tensor]:
    row_tokens = sources[int(source[0]) if len(source) else 0].packed.row_tokens
    shape = (len(row), row_tokens)
    token, target, document_number, position = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    weight = np.zeros(shape, dtype=np.float32)
    for number in np.unique(source).tolist():
        where = np.flatnonzero(source == number)
        found = sources[number].packed.find(row[where])
        spans = sources[number].read(found.document, found.start, found.length)
        lay_out(
            spans.ids, spans.mask, spans.num_read, found.length, where[found.row] * row_tokens + found.at, found.number,
            token.reshape(-1), target.reshape(-1), weight.reshape(-1), document_number.reshape(-1), position.reshape(-1),
        )  # fmt: skip
    return [torch.from_numpy(array) for array in (token, target, weight, document_number, position)]


def read_ahead(make: Callable[[int], T]) -> Callable[[int], T]:
    """`make`, a function of the step, with a thread that makes the next step's value while this one's is used.

    What is returned is the same; a step that was not expected is made when it is asked for.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    waiting: dict[int, Future[T]] = {}

    def get(step: int) -> T:
        ahead = waiting.pop(step, None)
        waiting.clear()
        value = make(step) if ahead is None else ahead.result()
        waiting[step + 1] = pool.submit(make, step + 1)
        return value

    return get


def rows_of_step(step: int, *, num_rows: int, batch_rows: int, seed: int) -> np.ndarray:
    """The rows that step `step` (from 0) trains on, int64 [batch_rows]: every row once an epoch, each epoch in its own order.

    A batch may reach over the end of an epoch into the next. Raises ValueError if there are no rows.
    """
    if num_rows < 1:
        raise ValueError("there are no rows to train on")
    return shuffled_rows(np.arange(step * batch_rows, (step + 1) * batch_rows, dtype=np.int64), num_rows=num_rows, seed=seed)


def shuffled_rows(place: np.ndarray, *, num_rows: int, seed: int) -> np.ndarray:
    """The rows at these places of an endless stream of epochs, each in its own order. See `kernels.shuffled`.

    A keyed permutation and not numpy's shuffle: it needs no table, and numpy's stream may change between releases (NEP 19).
    """
    same = np.zeros(len(place), dtype=np.int64)
    return np.asarray(shuffled(np.asarray(place, dtype=np.int64), same + num_rows, same, np.uint64(seed % 2**64)), dtype=np.int64)
