"""The learning rate as a function of the step."""

import doctest
import itertools
from typing import Any

import pytest

from bloomery.train import schedule
from bloomery.train.schedule import learning_rate_factor


def factors(decay: Any, *, num_steps: int = 100, warmup: float = 0.1, decay_fraction: float = 0.4, final: float = 0.1) -> list[float]:
    return [
        learning_rate_factor(
            step, num_steps=num_steps, warmup_fraction=warmup, decay=decay, decay_fraction=decay_fraction, final_fraction=final
        )
        for step in range(num_steps)
    ]


@pytest.mark.parametrize("decay", ["wsd", "linear", "cosine", "constant"])
def test_it_rises_in_a_line_reaches_one_and_never_rises_again(decay: str) -> None:
    found = factors(decay)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[10] == 1.0 and all(a >= b for a, b in itertools.pairwise(found[10:]))
    assert min(found) > 0.0


def test_each_decay_has_its_shape() -> None:
    wsd, linear, cosine = factors("wsd"), factors("linear"), factors("cosine")
    assert wsd[59] == wsd[60] == 1.0 > wsd[61] and wsd[80] == pytest.approx(0.55)
    assert linear[55] == pytest.approx(0.55) and cosine[55] == pytest.approx(0.55)
    assert cosine[20] > linear[20] and cosine[90] < linear[90]
    assert set(factors("constant")[10:]) == {1.0}
    assert linear[-1] == pytest.approx(0.11)


def test_short_runs_and_no_warmup_are_fine() -> None:
    assert factors("wsd", num_steps=1, warmup=0.0) == [1.0]
    assert factors("linear", num_steps=2, warmup=0.0, final=0.0) == [1.0, 0.5]
    assert factors("cosine", num_steps=3, warmup=1.0) == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(schedule).failed == 0
