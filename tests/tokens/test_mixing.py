"""Every prefix of the stream holds the asked proportions to within one row, for few sources and for a thousand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.tokens.mixing import MAX_PERIOD, Turns, whole_weights


def largest_error(turns: Turns, weights: list[int], num_places: int) -> Fraction:
    """The largest distance, over all sources and prefixes, from the asked share of the prefix; by counting."""
    source, _ = turns.at(np.arange(num_places))
    total, place = sum(weights), np.arange(1, num_places + 1)
    worst = 0
    for i, weight in enumerate(weights):
        worst = max(worst, int(np.abs(np.cumsum(source == i) * total - place * weight).max()))
    return Fraction(worst, total)


@given(weights=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any))
@settings(max_examples=150, deadline=None)
def test_every_prefix_has_the_asked_proportions_to_within_one_row(weights: list[int]) -> None:
    whole = whole_weights([float(w) for w in weights])
    turns = Turns(whole, num_places=10**6)
    assert largest_error(turns, whole, 3 * sum(whole)) < 1


def test_a_thousand_tiny_sources_are_mixed_exactly() -> None:
    weights = np.random.default_rng(0).integers(1, 200, 1000).tolist()
    whole = whole_weights(weights)
    turns = Turns(whole, num_places=10**9)
    total = sum(whole)
    assert turns.count(total).tolist() == whole
    source, _ = turns.at(np.arange(total))
    place, counts = np.arange(1, total + 1), np.zeros(1000, dtype=np.int64)
    for start in range(0, total, 997):  # all thousand at every so many prefixes, a few at every prefix
        assert (np.abs(counts * total - start * np.array(whole)) < total).all()
        counts += np.bincount(source[start : start + 997], minlength=1000)
    for i in (0, 1, 500, 999):
        assert (np.abs(np.cumsum(source == i) * total - place * whole[i]) < total).all()


def test_the_largest_deficit_alone_would_miss_the_bound() -> None:
    weights = [42, 18, 5796, 24, 4, 5, 804, 3088, 202, 17]
    served, total, worst = [0] * 10, sum(weights), Fraction(0)
    for n in range(1, 4000):
        served[max(range(10), key=lambda i: weights[i] * n - served[i] * total)] += 1
        worst = max(worst, *(abs(Fraction(weights[i] * n, total) - served[i]) for i in range(10)))
    assert worst > 1
    assert largest_error(Turns(weights, num_places=10**6), weights, total) < 1


def test_weights_are_taken_as_they_are_written() -> None:
    assert whole_weights([0.7, 0.2, 0.1]) == [7, 2, 1]
    assert whole_weights([1 / 3, 2 / 3]) == [1, 2]
    assert whole_weights([5.0, 0.0]) == [1, 0]


def test_weights_of_a_long_period_are_rounded_but_no_source_vanishes() -> None:
    whole = whole_weights([12_345_678_901, 98_765_432_109, 1])
    assert sum(whole) <= MAX_PERIOD + 1 and whole[2] == 1
    assert whole[0] / sum(whole) == pytest.approx(12_345_678_901 / 111_111_111_010, abs=1e-6)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [float("nan")]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="none negative and not all zero"):
        whole_weights(weights)


def test_a_place_far_away_is_found_without_a_walk() -> None:
    turns = Turns([3, 2], num_places=10**15)
    far = 10**12
    source, turn = turns.at(np.arange(far, far + 5))
    assert np.bincount(source).tolist() == [3, 2]
    assert turn[source == 0].tolist() == [far // 5 * 3 + k for k in range(3)]
    assert turns.count(far).tolist() == [far // 5 * 3, far // 5 * 2]


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=5), allowed=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_the_first_source_to_run_dry_is_found_as_by_walking(weights: list[int], allowed: int) -> None:
    turns, limits = Turns(weights, num_places=10**6), np.arange(allowed, allowed + len(weights))
    source, turn = turns.at(np.arange(600))
    expected = next(n for n in range(600) if turn[n] == limits[source[n]])
    assert turns.first_to_exceed(limits, num_places=10**6) == expected
    assert turns.first_to_exceed(limits, num_places=expected) == expected
