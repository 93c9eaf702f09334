"""Best-fit packing (Ding et al. 2024, arXiv:2404.10830): documents into rows of equal length, nothing thrown away.

A document longer than a row is cut into whole rows and a rest; rests and shorter documents go, longest first, each into
the row where it leaves the least room. The result is a list of segments, so that a row can be built at any time, by any
process, from the token files: there is no buffer whose state a resumed run would have to restore.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np

from bloomery.tokens.kernels import best_fit_rows, cut_documents, group_by_row, longest_first, pour

MAX_PADDING = 0.004
"""Of the places of rows for pretraining. Best fit alone leaves far less for documents of many lengths, but 10 % and more where
most are a little longer than a row or half a row."""


class Segments(NamedTuple):
    """Segments of some rows, int64 [N] each: tokens start .. start + length of `document`.

    `row` is the place in the list of rows that was asked for, `at` the segment's first place in that row, `number` its
    number in the row, from 1.
    """

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    row: np.ndarray
    at: np.ndarray
    number: np.ndarray


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Segments in the order of rows: segment s is tokens start[s] .. start[s] + length[s] of document[s].

    Row r holds the segments row_offset[r] .. row_offset[r + 1]. All arrays are of whole numbers, and may lie in files.
    """

    row_tokens: int
    num_tokens: int
    """Tokens of all documents, each of which lies in one row."""
    num_repeated: int
    """Tokens that lie in a row a second time, to fill it."""
    row_offset: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_offset) - 1

    @property
    def padding_fraction(self) -> float:
        """The share of all places that holds no token."""
        return 1.0 - (self.num_tokens + self.num_repeated) / (self.num_rows * self.row_tokens) if self.num_rows else 0.0

    @property
    def rows_an_epoch(self) -> Fraction:
        """How many rows hold as many tokens as all documents: the number of rows, but where some tokens lie in two."""
        return Fraction(self.num_rows * self.num_tokens, (self.num_tokens + self.num_repeated) or 1)

    def segments(self, row: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of each segment of `row`."""
        part = slice(self.row_offset[row], self.row_offset[row + 1])
        return list(zip(self.document[part].tolist(), self.start[part].tolist(), self.length[part].tolist(), strict=True))

    def find(self, rows: Sequence[int] | np.ndarray) -> Segments:
        """The segments of many rows, row after row."""
        asked = np.asarray(rows, dtype=np.int64)
        first, count = self.row_offset[asked].astype(np.int64), (self.row_offset[asked + 1] - self.row_offset[asked]).astype(np.int64)
        before = np.cumsum(count) - count
        row = np.repeat(np.arange(len(asked), dtype=np.int64), count)
        inside = np.arange(len(row), dtype=np.int64) - before[row]
        index = first[row] + inside
        length = self.length[index].astype(np.int64)
        ahead = np.cumsum(length) - length
        at = ahead - ahead[before[row]]
        return Segments(self.document[index].astype(np.int64), self.start[index].astype(np.int64), length, row, at, inside + 1)


class _Placed(NamedTuple):
    """Segments and the row of each."""

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    row: np.ndarray


def pack_best_fit(lengths: np.ndarray | Sequence[int], *, row_tokens: int, max_padding: float = 1.0) -> PackedRows:
    """Rows of `row_tokens` places that hold every token of documents with these lengths once. Empty documents get no segment.

    Where more than `max_padding` of all places would stay empty (documents a little longer than half a row fit together
    badly), the emptiest rows are taken apart again and their documents cut to fill the gaps of others. Of few rows the
    empty end of one may still be more: it is filled with documents that come a second time, from the first one on.

    >>> pack_best_fit([3, 6, 2, 4], row_tokens=4).segments(0)
    [(1, 0, 4)]
    >>> pack_best_fit([3, 6, 2, 4], row_tokens=4).padding_fraction
    0.0625
    >>> pack_best_fit([3, 3, 3, 3], row_tokens=4, max_padding=0.1).padding_fraction
    0.0
    >>> pack_best_fit([3, 2], row_tokens=4, max_padding=0.1).segments(1)
    [(1, 0, 2), (0, 0, 2)]

    Raises ValueError if row_tokens is not positive.
    """
    if row_tokens < 1:
        raise ValueError(f"row_tokens = {row_tokens} must be at least 1")
    length_of = np.ascontiguousarray(lengths, dtype=np.int64)
    num_tokens = int(length_of.sum())
    num_pieces = int((-(-length_of // row_tokens)).sum())
    document = np.empty(num_pieces, dtype=smallest_type(len(length_of)))
    start = np.empty(num_pieces, dtype=smallest_type(int(length_of.max(initial=0))))
    length = np.empty(num_pieces, dtype=smallest_type(row_tokens))
    cut_documents(length_of, row_tokens, document, start, length)
    order = longest_first(length, row_tokens)
    row_of, num_rows = best_fit_rows(length, order, row_tokens)
    # No fewer rows than hold all tokens: of a few rows the last one's empty end may be more than the limit.
    wanted_rows = max(-(-num_tokens // row_tokens), int(num_tokens / (row_tokens * (1 - max_padding)))) if max_padding < 1 else num_rows
    if wanted_rows < num_rows:
        placed = _close_gaps(_Placed(document[order], start[order], length[order], row_of[order]), num_rows, wanted_rows, row_tokens)
        document, start, length, row_of, num_rows = *placed, wanted_rows
        order = np.arange(len(length), dtype=np.int64)
    num_empty = num_rows * row_tokens - num_tokens
    num_repeated = num_empty if num_empty > max_padding * num_rows * row_tokens else 0
    if num_repeated:
        again = _fill(length_of, row_tokens - _fill_of_rows(length, row_of, num_rows))
        order = np.concatenate([order, len(length) + np.arange(len(again.length))])
        document, start, length, row_of = (_join(old, new) for old, new in zip((document, start, length, row_of), again, strict=True))
    row_offset = np.zeros(num_rows + 1, dtype=np.int64)
    by_row = group_by_row(row_of, order, row_offset)
    return PackedRows(row_tokens, num_tokens, num_repeated, row_offset, document[by_row], start[by_row], length[by_row])


def _close_gaps(placed: _Placed, num_rows: int, wanted_rows: int, row_tokens: int) -> _Placed:
    fill = _fill_of_rows(placed.length, placed.row, num_rows)
    emptiest_first = np.argsort(fill, kind="stable")
    is_kept = np.ones(num_rows, dtype=bool)
    is_kept[emptiest_first[: num_rows - wanted_rows]] = False
    new_row = np.cumsum(is_kept) - 1
    # The largest gaps first: so documents are cut as seldom as can be.
    receivers = emptiest_first[num_rows - wanted_rows :]
    stays = is_kept[placed.row]
    loose = np.flatnonzero(~stays)
    piece, first, taken, gap = pour(placed.length[loose].astype(np.int64), row_tokens - fill[receivers])
    source = loose[piece]
    return _Placed(
        _join(placed.document[stays], placed.document[source]),
        _join(placed.start[stays], placed.start[source] + first),
        _join(placed.length[stays], taken),
        _join(new_row[placed.row[stays]], new_row[receivers[gap]]),
    )


def _fill(length_of: np.ndarray, gap_of_row: np.ndarray) -> _Placed:
    """Documents from the first one on, over and over, until no row has a gap."""
    rows, missing = np.flatnonzero(gap_of_row), int(gap_of_row.sum())
    times = -(-missing // int(length_of.sum()))
    ends = np.minimum(np.cumsum(np.tile(length_of, times)), missing)
    piece, first, taken, gap = pour(np.diff(ends, prepend=0), gap_of_row[rows])
    return _Placed(piece % len(length_of), first, taken, rows[gap])


def _fill_of_rows(length: np.ndarray, row: np.ndarray, num_rows: int) -> np.ndarray:
    return np.bincount(row, weights=length, minlength=num_rows).astype(np.int64)


def _join(kept: np.ndarray, added: np.ndarray) -> np.ndarray:
    return np.concatenate([kept, added.astype(kept.dtype)])


def smallest_type(largest: int) -> np.dtype[Any]:
    """int32 where it holds `largest`, else int64: an index of billions of tokens is half as large."""
    return np.dtype(np.int32) if largest < 2**31 else np.dtype(np.int64)
