"""Rows to batches: which rows a step sees, and their tensors. The one file of this room that knows torch.

Legend: B rows of the batch, T places of a row.

Both answers are pure functions of (seed, step): a resumed run, or one with other micro-batches, sees the same rows in
the same order. In a row, documents are numbered from 1 and positions start again at 0 with each piece of a document, so
that attention can be kept inside a document.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bloomery.tokens.chat import Rendered
from bloomery.tokens.packing import PackedRows, pack_best_fit
from bloomery.tokens.shards import TokenSet


@dataclass(frozen=True, eq=False)
class Batch:
    """What a training step reads. Weight is float32; all others int64. Padding has document 0, position 0 and weight 0."""

    token_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor
    document_BT: Tensor
    position_BT: Tensor

    @property
    def num_rows(self) -> int:
        """B."""
        return self.token_BT.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()))

    def split(self, num_parts: int) -> list["Batch"]:
        """The rows in `num_parts` runs of nearly equal size (fewer when there are fewer rows)."""
        parts = zip(*(tensor.tensor_split(min(num_parts, self.num_rows)) for tensor in self._tensors()), strict=True)
        return [Batch(*part) for part in parts]

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.token_BT, self.target_BT, self.weight_BT, self.document_BT, self.position_BT)


class Piece(NamedTuple):
    """The inputs, targets and weights of one segment."""

    token: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class RowSource(Protocol):
    """Packed rows, and the pieces of documents that they are made of."""

    @property
    def packed(self) -> PackedRows:
        """The segments of each row."""
        ...

    def piece(self, document: int, start: int, length: int) -> Piece:
        """Places start .. start + length of a document. A place without a next token has target 0 and weight 0."""
        ...


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of documents for pretraining: every token that has one before it in its document is a target, also where a row ends."""

    tokens: TokenSet
    packed: PackedRows

    def piece(self, document: int, start: int, length: int) -> Piece:
        """See RowSource."""
        ids = self.tokens.document(document)[start : start + length + 1]
        return _piece(ids, np.ones(len(ids), dtype=np.float32), length)


@dataclass(frozen=True, eq=False)
class ConversationRows:
    """Rows of whole conversations for fine-tuning: targets are the tokens under the loss mask; make them with `conversation_rows`."""

    ids: np.ndarray
    loss_mask: np.ndarray
    offset: np.ndarray
    packed: PackedRows
    num_cut: int
    """Conversations longer than a row: they end at the row's end, and their last `<|end|>` is not trained."""

    def piece(self, document: int, start: int, length: int) -> Piece:
        """See RowSource."""
        first = int(self.offset[document]) + start
        part = slice(first, min(first + length + 1, int(self.offset[document + 1])))
        return _piece(self.ids[part], self.loss_mask[part], length)


def token_rows(tokens: TokenSet, *, row_tokens: int) -> TokenRows:
    """All documents of a token set, packed."""
    return TokenRows(tokens, pack_best_fit(tokens.lengths, row_tokens=row_tokens))


def conversation_rows(conversations: Sequence[Rendered], *, row_tokens: int) -> ConversationRows:
    """Rendered conversations, packed; one that is longer than a row is cut at the row's end and counted in `num_cut`."""
    kept = [(conversation.ids[:row_tokens], conversation.loss_mask[:row_tokens]) for conversation in conversations]
    lengths = np.array([len(ids) for ids, _ in kept], dtype=np.int64)
    return ConversationRows(
        ids=np.array([i for ids, _ in kept for i in ids], dtype=np.int64),
        loss_mask=np.array([m for _, mask in kept for m in mask], dtype=np.float32),
        offset=np.concatenate([[0], np.cumsum(lengths)]),
        packed=pack_best_fit(lengths, row_tokens=row_tokens),
        num_cut=sum(len(conversation.ids) > row_tokens for conversation in conversations),
    )


def make_batch(source: RowSource, rows: Sequence[int] | np.ndarray) -> Batch:
    """The tensors of these rows of `source`, on the CPU."""
    shape = (len(rows), source.packed.row_tokens)
    token, target, document_number, position = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    weight = np.zeros(shape, dtype=np.float32)
    for b, row in enumerate(rows):
        at = 0
        for number, (document, start, length) in enumerate(source.packed.segments(int(row)), start=1):
            piece, place = source.piece(document, start, length), slice(at, at + length)
            token[b, place], target[b, place], weight[b, place] = piece
            document_number[b, place] = number
            position[b, place] = np.arange(length)
            at += length
    return Batch(*(torch.from_numpy(array) for array in (token, target, weight, document_number, position)))


def rows_of_step(step: int, *, num_rows: int, batch_rows: int, seed: int) -> np.ndarray:
    """The rows that step `step` (from 0) trains on, int64 [batch_rows]: every row once an epoch, each epoch in its own order.

    A batch may reach over the end of an epoch into the next. Raises ValueError if there are no rows.
    """
    if num_rows < 1:
        raise ValueError("there are no rows to train on")
    place = np.arange(step * batch_rows, (step + 1) * batch_rows, dtype=np.int64)
    rows = np.empty(batch_rows, dtype=np.int64)
    for epoch in range(int(place[0]) // num_rows, int(place[-1]) // num_rows + 1):
        inside = place // num_rows == epoch
        rows[inside] = row_order(num_rows, seed=seed, epoch=epoch)[place[inside] % num_rows]
    return rows


@functools.lru_cache(maxsize=4)
def row_order(num_rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..num_rows - 1, keyed by seed and epoch: rows sorted by a hash of (seed, epoch, row). Read-only.

    A hash and not numpy's shuffle, whose stream may change between releases (NEP 19).
    """
    key = _mix(_mix(np.array([seed % 2**64], dtype=np.uint64)) ^ np.uint64(epoch))
    order = np.argsort(_mix(key ^ np.arange(num_rows, dtype=np.uint64)), kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def _mix(value: np.ndarray) -> np.ndarray:
    # splitmix64's finalizer (Steele et al. 2014): one to one on 64 bits, so no two rows share a hash.
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)), dtype=np.uint64)


def _piece(ids: np.ndarray, mask: np.ndarray, length: int) -> Piece:
    # `ids` reaches one token beyond the piece, unless the document ends with it: then the last place has no target.
    target, weight = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.float32)
    target[: len(ids) - 1] = ids[1:]
    weight[: len(ids) - 1] = mask[1:]
    return Piece(ids[:length].astype(np.int64), target, weight)
