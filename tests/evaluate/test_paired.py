"""Differences over seeds and rows: against scipy's tests, simulations with known answers, and loops."""

import numpy as np
import pytest
from scipy import stats

from bloomery.evaluate.paired import (
    LEVEL,
    combine,
    compare,
    detectable,
    holm,
    t_range,
    variance_over_rows,
)


def draw(generator, *, num_seeds: int, num_rows: int, effect: float = 0.0, seed_sd: float = 0.05, row_sd: float = 0.5):
    """Two arms [S, N] whose difference has an effect, a part of each seed and a part of each row."""
    theirs = generator.normal(size=(num_seeds, num_rows))
    seeds, rows = generator.normal(0, seed_sd, (num_seeds, 1)), generator.normal(0, row_sd, (1, num_rows))
    return theirs + effect + seeds + rows, theirs


def test_the_test_over_seeds_is_scipys_paired_t_test():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(5, 40)), generator.normal(size=(5, 40))
    found = compare(ours, theirs, np.ones(40)).seeds
    expected = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1))
    interval = expected.confidence_interval(0.95)
    assert found == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_with_one_seed_the_test_over_rows_is_scipys_paired_t_test_and_there_is_none_over_seeds():
    generator = np.random.default_rng(1)
    ours, theirs = generator.normal(size=(1, 60)), generator.normal(size=(1, 60))
    found, expected = compare(ours, theirs, np.ones(60)), stats.ttest_rel(ours[0], theirs[0])
    assert (found.p, found.seeds, found.over) == (pytest.approx(expected.pvalue), None, "rows")
    assert [degrees for _, degrees in found.errors] == [pytest.approx(59)]


def test_the_interval_over_rows_is_scipys_paired_bootstrap_but_for_its_draws():
    generator = np.random.default_rng(2)
    ours, theirs = generator.normal(0.3, 1, (3, 80)), generator.normal(size=(3, 80))
    found = compare(ours, theirs, np.ones(80)).rows
    expected = stats.bootstrap(((ours - theirs).mean(axis=0),), np.mean, n_resamples=4000, method="percentile", rng=5).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_combined_test_is_clarks_min_f():
    generator = np.random.default_rng(3)
    ours, theirs = draw(generator, num_seeds=4, num_rows=30, effect=0.2, seed_sd=0.2)
    found, difference = compare(ours, theirs, np.ones(30)), ours - theirs
    by_seed = stats.ttest_1samp(difference.mean(axis=1), 0).statistic ** 2
    by_row = stats.ttest_1samp(difference.mean(axis=0), 0).statistic ** 2
    min_f = by_seed * by_row / (by_seed + by_row)
    degrees = (by_seed + by_row) ** 2 / (by_seed**2 / 29 + by_row**2 / 3)
    (error, of_both), (_, of_seeds) = found.errors
    assert (found.value / error) ** 2 == pytest.approx(min_f) and of_both == pytest.approx(degrees) and of_seeds == 3
    assert found.p == pytest.approx(max(stats.f.sf(min_f, 1, degrees), stats.f.sf(by_seed, 1, 3)))
    assert found.low <= min(found.seeds.low, found.rows.low) and found.high >= max(found.seeds.high, found.rows.high)


@pytest.mark.parametrize("seed_sd", [0.0, 0.05, 0.3])
def test_at_small_levels_too_there_are_not_many_more_false_alarms_than_the_level_says(seed_sd):
    # What compare() does, of its two variances as they are distributed; min F' alone has three times as many in the last case.
    generator, level, num_seeds, num_rows, row_variance = np.random.default_rng(9), 0.01, 3, 60, 0.5**2 / 60
    alarms, alone = 0, 0
    for _ in range(3000):
        by_seed = generator.normal(0, seed_sd, num_seeds)
        value = by_seed.mean() + generator.normal(0, np.sqrt(row_variance))
        over_seeds = (by_seed.var(ddof=1) / num_seeds, num_seeds - 1)
        over_rows = (row_variance * generator.chisquare(num_rows - 1) / (num_rows - 1), num_rows - 1)
        p = [t_range(value, *error).p for error in (*combine([over_seeds, over_rows]), *combine([over_seeds]))]
        alarms += max(p) < level
        alone += p[0] < level
    assert alarms / 3000 < 1.5 * level
    assert seed_sd < 0.3 or alone / 3000 > 2 * level


def test_a_ratio_over_rows_of_different_weight_is_bits_over_bytes_and_its_variance_that_of_many_draws():
    generator = np.random.default_rng(4)

    def corpus(size: int):
        weight = generator.integers(20, 400, size).astype(float)
        return weight * generator.normal(0.1, 0.05, size) + generator.normal(0, 3, size), weight

    difference, weight = corpus(100)
    assert compare(difference[None], np.zeros((1, 100)), weight).value == difference.sum() / weight.sum()
    ratios = [d.sum() / w.sum() for d, w in (corpus(100) for _ in range(4000))]
    estimates = [variance_over_rows(*corpus(100)) for _ in range(200)]
    assert np.mean(estimates) == pytest.approx(np.var(ratios), rel=0.1)
    plain = generator.normal(size=50)
    assert variance_over_rows(plain, np.ones(50)) == pytest.approx(plain.var(ddof=1) / 50)


@pytest.mark.parametrize(("seed_sd", "row_sd"), [(0.05, 0.5), (0.3, 0.2), (0.0, 1.0)])
def test_the_interval_holds_the_truth_in_93_of_100_experiments_or_more(seed_sd, row_sd):
    generator = np.random.default_rng(5)
    found = [
        compare(*draw(generator, num_seeds=3, num_rows=60, effect=0.1, seed_sd=seed_sd, row_sd=row_sd), np.ones(60)) for _ in range(400)
    ]
    false = np.mean([not one.low <= 0.1 <= one.high for one in found])
    assert false < 0.07


def test_either_test_alone_calls_chance_a_difference_where_the_other_kind_of_chance_is():
    generator = np.random.default_rng(6)
    found = [compare(*draw(generator, num_seeds=3, num_rows=30, seed_sd=0.0, row_sd=1.0), np.ones(30)) for _ in range(200)]
    assert np.mean([one.seeds.p is None or one.seeds.p < LEVEL for one in found]) > 0.5
    assert np.mean([one.p < LEVEL for one in found]) < 0.08


def test_the_detectable_difference_is_found_four_times_in_five():
    generator = np.random.default_rng(7)
    true_error = np.sqrt(0.2**2 / 5)
    effect = detectable([(true_error, 4)])
    found = [t_range(m.mean(), m.std(ddof=1) / np.sqrt(5), 4).p < LEVEL for m in generator.normal(effect, 0.2, (2000, 5))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert detectable([(true_error, 4)], num_tests=10) > effect


def test_holms_correction_is_that_of_the_step_down_loop():
    generator = np.random.default_rng(8)
    for _ in range(20):
        p = generator.uniform(0, 0.2, 7)
        expected, largest = {}, 0.0
        for rank, i in enumerate(np.argsort(p)):
            largest = max(largest, min(1.0, p[i] * (7 - rank)))
            expected[int(i)] = largest
        assert holm(p.tolist()) == [expected[i] for i in range(7)]
    assert holm([]) == []


def test_equal_figures_are_no_test_and_shapes_must_fit():
    same = np.full((3, 10), 0.1)
    found = compare(same, same, np.ones(10))
    assert (found.value, found.p, found.low, found.high) == (0.0, None, 0.0, 0.0)
    assert compare(same + 0.2, same, np.ones(10)).p is None  # always the same difference: rounding is no variance
    assert combine([]) == () and detectable([]) == 0.0
    with pytest.raises(ValueError, match="shapes must fit"):
        compare(same, same[:2], np.ones(10))
