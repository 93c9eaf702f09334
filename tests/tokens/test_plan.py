"""The rows of a step are a pure function of plan, seed and step: across stages, epochs, and any number of processes."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from bloomery.core.errors import ConfigError
from bloomery.tokens.plan import Phase, Plan, make_plan

ROWS = {32: [10, 7, 40], 64: [5, 4, 20]}


def curriculum(*, seed: int = 3, max_epochs: float = 0.0) -> Plan:
    phases = [
        Phase(num_steps=6, batch_rows=8, row_tokens=32, weights=[0.5, 0.25, 0.25]),
        Phase(num_steps=4, batch_rows=12, row_tokens=32, weights=[0.1, 0.1, 0.8]),
        Phase(num_steps=5, batch_rows=4, row_tokens=64, weights=[0, 1, 3]),
    ]
    return make_plan(phases, ROWS, seed=seed, max_epochs=max_epochs)


def stream(plan: Plan, steps: range) -> list[tuple[int, int, int]]:
    """(row length, source, row) of every row, in order."""
    draws = [plan.draw(step) for step in steps]
    return [(draw.row_tokens, *pair) for draw in draws for pair in zip(draw.source.tolist(), draw.row.tolist(), strict=True)]


def test_a_step_asked_for_alone_has_the_rows_it_has_in_the_whole_run() -> None:
    whole = [stream(curriculum(), range(step, step + 1)) for step in range(15)]
    for step in (14, 5, 0, 6, 9, 10):
        assert stream(curriculum(), range(step, step + 1)) == whole[step]
    assert [len(rows) for rows in whole] == [8] * 6 + [12] * 4 + [4] * 5


def test_one_process_then_two_then_four_read_the_rows_that_one_would_have_read() -> None:
    # Two go on inside the first epoch of a source, four inside the second stage; the third begins at step 10.
    read: list[tuple[int, int, int]] = []
    for world_size, steps in ((1, range(4)), (2, range(4, 8)), (4, range(8, 15))):
        plan = curriculum()  # as a new run makes it
        for step in steps:
            draw = plan.draw(step)
            for share in np.array_split(np.arange(len(draw.row)), world_size):
                read += [(draw.row_tokens, *pair) for pair in zip(draw.source[share].tolist(), draw.row[share].tolist(), strict=True)]
    assert read == stream(curriculum(), range(15))


def test_each_stage_has_its_mixture_and_its_epochs_go_on_from_the_stage_before() -> None:
    plan = curriculum()
    first = Counter(source for _, source, _ in stream(plan, range(6)))
    assert first == {0: 24, 1: 12, 2: 12}
    second = Counter(source for _, source, _ in stream(plan, range(6, 10)))
    assert all(abs(second[i] - 48 * w) < 1 for i, w in enumerate([0.1, 0.1, 0.8]))
    assert Counter(source for _, source, _ in stream(plan, range(10, 15))) == {1: 5, 2: 15}
    # Of source 2, 12 rows and then 38: the first 40 are each row once, whatever the stage.
    rows = [row for length, source, row in stream(plan, range(10)) if (length, source) == (32, 2)]
    assert sorted(rows[:40]) == list(range(40)) and len(rows) > 40


def test_counts_before_a_step_are_those_of_the_rows_drawn() -> None:
    plan = curriculum()
    for step in range(16):
        drawn = Counter((length, source) for length, source, _ in stream(plan, range(min(step, 15))))
        counts = plan.rows_drawn(step)
        assert {(length, i): int(n) for length, rows in counts.items() for i, n in enumerate(rows) if n} == drawn
        assert plan.places_drawn(step).sum() == sum(length * n for (length, _), n in drawn.items())


def test_the_epochs_that_begin_in_a_step_are_named() -> None:
    plan = curriculum()
    found = [(step, *pair) for step in range(15) for pair in plan.new_epochs(plan.draw(step))]
    assert found[:3] == [(2, 0, 2), (3, 1, 2), (5, 0, 3)]


def test_a_source_that_is_used_up_leaves_its_part_to_the_others() -> None:
    phases = [Phase(num_steps=10, batch_rows=10, row_tokens=32, weights=[0.5, 0.3, 0.2])]
    plan = make_plan(phases, {32: [10, 40, 100]}, seed=0, max_epochs=2.0)
    assert [(used.source, plan.rows_drawn(used.step)[32][0]) for used in plan.used_up] == [(0, 20)]
    assert plan.rows_drawn(10)[32].tolist() == [20, 48, 32]
    rows = Counter(row for _, source, row in stream(plan, range(10)) if source == 0)
    assert rows == dict.fromkeys(range(10), 2)


def test_too_few_documents_for_the_cap_are_said_before_the_first_step() -> None:
    phases = [Phase(num_steps=10, batch_rows=10, row_tokens=32, weights=[1, 1])]
    with pytest.raises(ConfigError, match=r"asks for 3,200 tokens, but its sources hold 1,600 more with max_epochs = 1.0"):
        make_plan(phases, {32: [30, 20]}, seed=0, max_epochs=1.0)


def test_the_cap_holds_over_rows_of_several_lengths() -> None:
    phases = [
        Phase(num_steps=1, batch_rows=15, row_tokens=32, weights=[1, 0]),
        Phase(num_steps=1, batch_rows=10, row_tokens=64, weights=[1, 1]),
    ]
    plan = make_plan(phases, {32: [20, 20], 64: [10, 10]}, seed=0, max_epochs=1.0)
    assert plan.rows_drawn(2)[64].tolist() == [2, 8]  # three quarters of the first source were read in short rows
    assert plan.epochs(2).tolist() == pytest.approx([0.95, 0.8])


def test_the_cap_counts_tokens_that_fill_a_row_a_second_time() -> None:
    # Two and a half rows of tokens lie in three, a tenth of a row fills a whole one.
    whole = {32: [Fraction(5, 2), Fraction(1, 10), Fraction(100)]}
    phases = [Phase(num_steps=10, batch_rows=10, row_tokens=32, weights=[1, 1, 1])]
    plan = make_plan(phases, {32: [3, 1, 100]}, seed=0, max_epochs=4.0, rows_an_epoch=whole)
    assert plan.rows_drawn(10)[32].tolist() == [10, 1, 89]  # of the smallest source one row, though that is ten times its tokens
    assert plan.epochs(10).tolist() == pytest.approx([4, 10, 0.89])


def test_beyond_the_end_the_last_mixture_goes_on() -> None:
    draw = curriculum().draw(40)
    assert len(draw.row) == 4 and set(draw.source.tolist()) <= {1, 2} and (draw.row < 20).all()


def test_another_seed_gives_other_rows_in_the_same_proportions() -> None:
    one, other = stream(curriculum(seed=1), range(15)), stream(curriculum(seed=2), range(15))
    assert one != other
    assert [row[:2] for row in one] == [row[:2] for row in other]


def test_a_step_far_away_is_found_without_a_walk() -> None:
    plan = make_plan([Phase(num_steps=10**9, batch_rows=10, row_tokens=32, weights=[0.7, 0.2, 0.1])], {32: [10, 7, 40]}, seed=0)
    assert np.bincount(plan.draw(10**9 - 1).source).tolist() == [7, 2, 1]
    assert plan.rows_drawn(10**9)[32].tolist() == [7 * 10**9, 2 * 10**9, 10**9]
