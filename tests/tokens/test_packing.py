"""Packing loses nothing, keeps to the row's length, and fits as tightly as a plain best-fit that looks at every row."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.tokens.packing import pack_best_fit


def brute_force_row_fills(lengths: list[int], row_tokens: int) -> list[int]:
    """The fills of the rows that best-fit decreasing makes when it looks at every row for every piece."""
    parts = [min(row_tokens, length - start) for length in lengths for start in range(0, length, row_tokens)]
    rooms: list[int] = []
    for part in sorted(parts, reverse=True):
        fitting = [r for r, room in enumerate(rooms) if room >= part]
        if fitting:
            rooms[min(fitting, key=lambda r: rooms[r])] -= part
        else:
            rooms.append(row_tokens - part)
    return sorted(row_tokens - room for room in rooms)


@given(lengths=st.lists(st.integers(0, 40), max_size=60), row_tokens=st.integers(1, 17))
@settings(max_examples=300, deadline=None)
def test_every_token_lies_in_exactly_one_segment_and_no_row_overflows(lengths: list[int], row_tokens: int) -> None:
    packed = pack_best_fit(lengths, row_tokens=row_tokens)
    seen = [(d, place) for row in range(packed.num_rows) for d, start, n in packed.segments(row) for place in range(start, start + n)]
    assert sorted(seen) == [(d, place) for d, length in enumerate(lengths) for place in range(length)]
    fills = [sum(n for _, _, n in packed.segments(row)) for row in range(packed.num_rows)]
    assert all(0 < fill <= row_tokens for fill in fills)
    assert sorted(fills) == brute_force_row_fills(lengths, row_tokens)
    assert packed.num_tokens == sum(lengths)


def test_the_padding_fraction_is_the_share_of_empty_places() -> None:
    packed = pack_best_fit([3, 3], row_tokens=4)
    assert packed.num_rows == 2
    assert packed.padding_fraction == 0.25


def test_a_document_longer_than_a_row_is_cut_into_whole_rows_and_a_rest() -> None:
    packed = pack_best_fit([10, 2], row_tokens=4)
    assert [packed.segments(row) for row in range(packed.num_rows)] == [[(0, 0, 4)], [(0, 4, 4)], [(0, 8, 2), (1, 0, 2)]]


def test_no_documents_make_no_rows() -> None:
    packed = pack_best_fit([], row_tokens=8)
    assert (packed.num_rows, packed.num_tokens, packed.padding_fraction) == (0, 0, 0.0)
    assert pack_best_fit([0, 0], row_tokens=8).num_rows == 0


def test_two_hundred_thousand_documents_are_packed_with_hardly_any_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.0, 200_000).astype(np.int64)
    packed = pack_best_fit(lengths, row_tokens=2048)
    assert packed.num_tokens == lengths.sum()
    assert packed.padding_fraction < 0.001


def test_the_same_lengths_give_the_same_rows() -> None:
    lengths = [5, 5, 3, 8, 1, 5, 2]
    first, second = (pack_best_fit(lengths, row_tokens=8) for _ in range(2))
    assert [first.segments(r) for r in range(first.num_rows)] == [second.segments(r) for r in range(second.num_rows)]


def test_a_row_without_places_is_refused() -> None:
    with pytest.raises(ValueError, match="row_tokens = 0"):
        pack_best_fit([1], row_tokens=0)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=60), row_tokens=st.integers(1, 17), max_padding=st.sampled_from([0.0, 0.004, 0.05, 0.3])
)
@settings(max_examples=300, deadline=None)
def test_with_a_limit_on_padding_every_token_is_kept_and_the_limit_is_met(lengths: list[int], row_tokens: int, max_padding: float) -> None:
    packed = pack_best_fit(lengths, row_tokens=row_tokens, max_padding=max_padding)
    seen = Counter(
        (d, place) for row in range(packed.num_rows) for d, start, n in packed.segments(row) for place in range(start, start + n)
    )
    assert set(seen) == {(d, place) for d, length in enumerate(lengths) for place in range(length)}
    assert seen.total() == sum(lengths) + packed.num_repeated
    fills = [sum(n for _, _, n in packed.segments(row)) for row in range(packed.num_rows)]
    assert all(0 < fill <= row_tokens for fill in fills)
    assert packed.padding_fraction == pytest.approx(1 - sum(fills) / (packed.num_rows * row_tokens) if fills else 0)
    assert packed.padding_fraction <= max_padding + 1e-12
    # Less than a row is repeated, first tokens first and none a third time before all have come twice.
    assert packed.num_repeated < row_tokens
    in_order = [seen[d, place] for d, length in enumerate(lengths) for place in range(length)]
    assert in_order == sorted(in_order, reverse=True) and (not in_order or in_order[0] - in_order[-1] <= 1)


def test_a_source_of_less_than_a_row_fills_it_and_the_row_counts_as_so_many_epochs() -> None:
    packed = pack_best_fit([3, 2], row_tokens=16, max_padding=0.004)
    assert packed.segments(0) == [(0, 0, 3), (1, 0, 2), (0, 0, 3), (1, 0, 2), (0, 0, 3), (1, 0, 2), (0, 0, 1)]
    assert (packed.num_tokens, packed.num_repeated, packed.rows_an_epoch) == (5, 11, Fraction(5, 16))


def test_documents_that_fit_together_badly_are_cut_no_more_than_the_limit_asks() -> None:
    lengths = np.random.default_rng(0).integers(140, 300, 20_000)  # most are more than half a row, or a little more than a row
    plain, tight = pack_best_fit(lengths, row_tokens=256), pack_best_fit(lengths, row_tokens=256, max_padding=0.004)
    assert plain.padding_fraction > 0.1
    assert 0.0035 < tight.padding_fraction <= 0.004
    assert len(tight.length) < 1.5 * len(plain.length)
