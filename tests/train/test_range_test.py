"""The learning-rate range test: what is read off a sweep."""

import math

import pytest

from bloomery.core.errors import DataError
from bloomery.train.range_test import SweepPoint, suggest_rates


def sweep(loss, *, steps: int = 60) -> list[SweepPoint]:
    rates = [1e-5 * 10 ** (6 * i / (steps - 1)) for i in range(steps)]
    return [SweepPoint(rate, loss(rate), loss(rate)) for rate in rates]


def test_the_steepest_place_and_a_tenth_of_the_lowest_are_read_off_a_curve():
    def loss(rate: float) -> float:  # falls around 1e-3, is lowest near 1e-1, and rises
        return 5 - 3 / (1 + math.exp(-3 * math.log(rate / 1e-3))) + (rate / 0.5) ** 2

    found = suggest_rates(sweep(loss), num_steps=60)
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert 0.01 < found.minimum < 0.03 and found.minimum_tenth == pytest.approx(found.minimum / 10)
    assert (found.suggested, found.rule) == (found.steepest, "steepest descent") and found.exploded_at is None
    assert suggest_rates(sweep(loss), num_steps=100).exploded_at == pytest.approx(10.0)


def test_where_a_tenth_of_the_lowest_is_smaller_that_is_suggested():
    found = suggest_rates(sweep(lambda rate: 5 - 3 / (1 + math.exp(-8 * math.log(rate / 0.02))) + (rate / 0.1) ** 2), num_steps=60)
    assert found.suggested == found.minimum_tenth < found.steepest and found.rule == "a tenth of the minimum"


def test_a_loss_that_only_rises_or_breaks_at_once_is_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"never fell.*--from"):
        suggest_rates(sweep(lambda rate: 5 + rate), num_steps=60)
    with pytest.raises(DataError, match=r"ended after 4 steps.*--from"):
        suggest_rates(sweep(lambda rate: 5.0)[:4], num_steps=60)
