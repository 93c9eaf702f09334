import numpy as np
import pytest

from bloomery.evaluate.metrics import bootstrap_mean, bootstrap_ratio, distinct_ngrams, wilson, win_rate


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 20, 0.0, 0.1611),  # Brown, Cai, DasGupta 2001: n = 20, x = 0
        (20, 20, 0.8389, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_equal_the_published_ones(successes: int, count: int, low: float, high: float) -> None:
    interval = wilson(successes, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)
    assert (interval.value, interval.count) == (successes / count, count)


def test_wilson_bounds_are_the_shares_that_a_normal_test_would_just_not_reject() -> None:
    interval = wilson(30, 70)
    for share in (interval.low, interval.high):
        assert abs(30 / 70 - share) / (share * (1 - share) / 70) ** 0.5 == pytest.approx(1.96, abs=1e-4)


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes out of {count}"):
        wilson(successes, count)


def test_bootstrap_intervals_of_95_percent_cover_the_true_mean_about_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        interval = bootstrap_mean(rng.exponential(2.0, size=60).tolist(), seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    assert 87 <= covered <= 100


def test_a_bootstrap_interval_is_about_as_wide_as_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    interval = bootstrap_mean(values.tolist(), seed=0)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_ratio_weighs_documents_by_their_size() -> None:
    interval = bootstrap_ratio([10.0, 1.0], [10.0, 4.0], seed=0)
    assert interval.value == pytest.approx(11 / 14)
    assert (interval.low, interval.high) == (0.25, 1.0)
    assert interval.count == 2


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, 0.5, 1.0, 1.0, 0.0]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean([1.0] * 5, seed=0).record() == {"value": 1.0, "low": 1.0, "high": 1.0, "count": 5}


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 numerators"):
        bootstrap_mean([], seed=0)


def test_a_tie_is_half_a_win() -> None:
    rate = win_rate([2, 1, 0, 2], [1, 1, 2, 0], seed=0)
    assert (rate.wins, rate.ties, rate.losses) == (2, 1, 1)
    assert rate.interval.value == 2.5 / 4
    assert rate.record()["wins"] == 2
    assert rate.record()["count"] == 4


def test_win_rates_of_two_models_against_each_other_add_up_to_one() -> None:
    ours, theirs = [2, 1, 0, 2, 1, 1], [0, 1, 2, 1, 0, 2]
    assert win_rate(ours, theirs, seed=0).interval.value + win_rate(theirs, ours, seed=0).interval.value == 1.0


def test_distinct_bigrams_of_repeated_and_of_different_samples() -> None:
    assert distinct_ngrams([[1, 2, 3], [1, 2, 3]], n=2) == 0.5
    assert distinct_ngrams([[1, 2, 3], [4, 5, 6]], n=2) == 1.0
    assert distinct_ngrams([[1, 1, 1, 1]], n=2) == 1 / 3
    assert distinct_ngrams([[1], []], n=2) is None
