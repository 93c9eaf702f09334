"""Planted gains: what is said of held-out runs that use the text before them, and of those that do not."""

import numpy as np
import pytest

from bloomery.scaling.context import MARGIN_NATS, compare_gains, mean_range

NOISE_N = np.random.default_rng(0).normal(0, 0.5, 400)
"""What rows differ by whatever the model: far more than the models do."""


def planted(*gains: float, seed: int = 1) -> np.ndarray:
    """A row for each model: its gain, each row's own level, and a little of the model's own."""
    own_MN = np.random.default_rng(seed).normal(0, 0.05, (len(gains), len(NOISE_N)))
    return np.array(gains)[:, None] + NOISE_N + own_MN


def test_a_held_out_run_that_alone_uses_its_context_is_named_with_how_much_more_it_gains():
    told = compare_gains(planted(-0.01, 0.0, 0.01), planted(0.0, 0.01, 0.10, seed=2))
    assert told.startswith("1 of 3 held-out runs gain more from the text before them than any run of the fit")
    low, high = map(float, told.split("[")[1].split("]")[0].split(", "))
    assert low < 0.09 < high and high - low < 0.05


@pytest.mark.parametrize("fitted", [(0.0, 0.10), (0.08, 0.10)])
def test_where_a_run_of_the_fit_gains_as_much_or_little_is_gained_nothing_is_new(fitted):
    assert (
        compare_gains(planted(*fitted), planted(0.1, seed=2))
        == "No held-out run gains more from the text before it than the runs of the fit do."
    )
    assert "No held-out run" in compare_gains(planted(0.0), planted(MARGIN_NATS, seed=2))
    assert compare_gains(planted(*fitted), np.zeros((0, len(NOISE_N)))) == ""


def test_the_interval_of_a_mean_holds_it_nineteen_times_in_twenty():
    draws = np.random.default_rng(2).normal(0.3, 1.0, (2000, 100))
    inside = [one.low < 0.3 < one.high for one in map(mean_range, draws)]
    assert 0.93 < np.mean(inside) < 0.96
