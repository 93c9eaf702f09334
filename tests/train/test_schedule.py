"""The learning rate as a function of the step."""

import doctest
import itertools
import math
from typing import Any

import pytest

from bloomery.train import schedule
from bloomery.train.schedule import learning_rate_factor


def factors(
    decay: Any, *, num_steps: int = 100, warmup: float = 0.1, decay_fraction: float = 0.4, final: float = 0.1, shape: Any = "linear"
) -> list[float]:
    numbers = {"warmup_fraction": warmup, "decay_fraction": decay_fraction, "final_fraction": final}
    return [learning_rate_factor(step, num_steps=num_steps, decay=decay, shape=shape, **numbers) for step in range(num_steps)]


@pytest.mark.parametrize("decay", ["wsd", "linear", "cosine", "inverse_sqrt", "constant"])
def test_it_rises_in_a_line_reaches_one_and_never_rises_again(decay: str) -> None:
    found = factors(decay)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[10] >= 0.95 and all(a >= b for a, b in itertools.pairwise(found[9:]))
    assert min(found) > 0.0


def test_each_decay_has_its_shape() -> None:
    wsd, linear, cosine = factors("wsd"), factors("linear"), factors("cosine")
    assert wsd[59] == wsd[60] == 1.0 > wsd[61] and wsd[80] == pytest.approx(0.55)
    assert linear[55] == pytest.approx(0.55) and cosine[55] == pytest.approx(0.55)
    assert cosine[20] > linear[20] and cosine[90] < linear[90]
    assert set(factors("constant")[10:]) == {1.0}
    assert linear[-1] == pytest.approx(0.11)


def test_a_stable_phase_may_end_in_three_shapes() -> None:
    line, root, cosine = ([factors("wsd", shape=shape)[step] for step in (59, 60, 70, 80, 99)] for shape in ("linear", "sqrt", "cosine"))
    assert line == pytest.approx([1.0, 1.0, 0.775, 0.55, 0.1225])
    assert root == pytest.approx([1.0, 1.0, 0.55, 0.1 + 0.9 * (1 - 0.5**0.5), 0.1 + 0.9 * (1 - (39 / 40) ** 0.5)])
    assert cosine == pytest.approx([1.0, 1.0, 0.1 + 0.9 * (0.5 + 0.5 * 0.5**0.5), 0.55, 0.1 + 0.9 * (0.5 - 0.5 * math.cos(math.pi / 40))])


def test_inverse_sqrt_follows_the_first_transformer_and_stops_at_the_floor() -> None:
    found = factors("inverse_sqrt", num_steps=4000, warmup=0.01, final=0.2)
    assert found[39] == 1.0 and found[159] == pytest.approx(0.5) and found[3999] == 0.2


def test_the_decay_begins_after_the_warmup_however_long_both_are() -> None:
    assert factors("wsd", num_steps=10, warmup=0.8, decay_fraction=0.9, final=0.0)[7:] == [1.0, 1.0, 0.5]
    for decay in ("wsd", "linear", "cosine", "inverse_sqrt", "constant"):
        assert factors(decay, num_steps=4, warmup=1.0) == [0.25, 0.5, 0.75, 1.0]
        assert factors(decay, num_steps=1, warmup=0.0, decay_fraction=1.0) == factors(decay, num_steps=1, warmup=1.0) == [1.0]
        assert factors(decay, num_steps=3, warmup=0.0, decay_fraction=0.0)[0] == 1.0


def test_steps_beyond_the_end_stay_at_the_floor() -> None:
    for decay in ("wsd", "linear", "cosine"):
        beyond = learning_rate_factor(12, num_steps=10, warmup_fraction=0.0, decay=decay, decay_fraction=0.5, final_fraction=0.1)
        assert beyond == pytest.approx(0.1)


def test_short_runs_and_no_warmup_are_fine() -> None:
    assert factors("wsd", num_steps=1, warmup=0.0) == [1.0]
    assert factors("linear", num_steps=2, warmup=0.0, final=0.0) == [1.0, 0.5]
    assert factors("cosine", num_steps=3, warmup=1.0) == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(schedule).failed == 0
