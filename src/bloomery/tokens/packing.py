"""Best-fit packing (Ding et al. 2024, arXiv:2404.10830): documents into rows of equal length, nothing thrown away.

A document longer than a row is cut into whole rows and a rest; rests and shorter documents go, longest first, each into
the row where it leaves the least room. The result is a list of segments, so that a row can be built at any time, by any
process, from the token files: there is no buffer whose state a resumed run would have to restore.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Segments in the order of rows: segment s is tokens start[s] .. start[s] + length[s] of document[s].

    Row r holds the segments row_offset[r] .. row_offset[r + 1]. All arrays are int64.
    """

    row_tokens: int
    row_offset: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_offset) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, padding not counted."""
        return int(self.length.sum())

    @property
    def padding_fraction(self) -> float:
        """The share of all places that holds no token."""
        return 1.0 - self.num_tokens / (self.num_rows * self.row_tokens) if self.num_rows else 0.0

    def segments(self, row: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of each segment of `row`."""
        part = slice(self.row_offset[row], self.row_offset[row + 1])
        return list(zip(self.document[part].tolist(), self.start[part].tolist(), self.length[part].tolist(), strict=True))


def pack_best_fit(lengths: np.ndarray | Sequence[int], *, row_tokens: int) -> PackedRows:
    """Rows of `row_tokens` places that hold every token of documents with these lengths once. Empty documents get no segment.

    >>> pack_best_fit([3, 6, 2, 4], row_tokens=4).segments(0)
    [(1, 0, 4)]
    >>> pack_best_fit([3, 6, 2, 4], row_tokens=4).padding_fraction
    0.0625
    Raises ValueError if row_tokens is not positive.
    """
    if row_tokens < 1:
        raise ValueError(f"row_tokens = {row_tokens} must be at least 1")
    length_of = np.asarray(lengths, dtype=np.int64)
    document, start, length = _cut(length_of, row_tokens)
    # Longest first; stable, so that documents of one length keep their order and equal inputs give equal rows.
    order = np.argsort(-length, kind="stable")
    row = np.empty(len(order), dtype=np.int64)
    row[order] = _assign_rows(length[order].tolist(), row_tokens)
    by_row = order[np.argsort(row[order], kind="stable")]
    num_rows = int(row.max()) + 1 if len(row) else 0
    row_offset = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_rows))]).astype(np.int64)
    return PackedRows(row_tokens, row_offset, document[by_row], start[by_row], length[by_row])


def _cut(length_of: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pieces = -(-length_of // row_tokens)
    document = np.repeat(np.arange(len(length_of), dtype=np.int64), pieces)
    first = np.cumsum(pieces) - pieces
    start = (np.arange(len(document), dtype=np.int64) - np.repeat(first, pieces)) * row_tokens
    return document, start, np.minimum(length_of[document] - start, row_tokens)


def _assign_rows(lengths: list[int], row_tokens: int) -> list[int]:
    rooms: list[list[int]] = [[] for _ in range(row_tokens + 1)]  # rooms[r] = the rows with r places left
    occupied = 0  # bit r is set while rooms[r] is not empty: the tightest fit is then one shift away, not a scan
    rows: list[int] = []
    num_rows = 0
    for length in lengths:
        fitting = occupied >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rooms[room].pop()
            if not rooms[room]:
                occupied ^= 1 << room
        else:
            room, row, num_rows = row_tokens, num_rows, num_rows + 1
        rows.append(row)
        left = room - length
        if left:
            rooms[left].append(row)
            occupied |= 1 << left
    return rows
