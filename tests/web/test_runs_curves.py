"""What a curve shows is what a plain loop over the rows would keep, and no spike of it is lost."""

import csv
import io
import json

import numpy as np
import pytest

from bloomery.web.runs.columns import MetricsReader
from bloomery.web.runs.curves import FLOPS_PER_TOKEN, Curve, downsample, make_curves, marks, rounded, within
from bloomery.web.runs.export import csv_lines
from bloomery.web.runs.view import cursor_of, new_points


def read(path, rows, names=("train/loss", "validation/loss")):
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return MetricsReader().read(path, [*names, FLOPS_PER_TOKEN])


def row(step, loss, **more):
    return {"time": 1000.0 + step, "step": step, "tokens": 10 * step, "train/loss": loss, **more}


def points(columns, metric, axis="step"):
    curve = make_curves(columns, [metric], axis)[metric]
    return list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_what_a_rollback_or_a_resumed_run_has_undone_is_not_shown(path):
    rows = [row(step, step) for step in (1, 2, 3, 4)]
    rows += [{"time": 1, "step": 2, "tokens": 20, "rollback/from_step": 4, "rollback/to_step": 2}, row(3, 30), row(3, 33)]
    rows += [{"time": 2, "step": 3, "tokens": 30, "validation/loss": 7}]
    columns = read(path, rows)
    assert points(columns, "train/loss") == [(1, 1), (2, 2), (3, 33)]
    assert points(columns, "validation/loss") == [(3, 7)]
    assert [(mark["kind"], mark["x"]) for mark in marks(columns, "step")] == [("rollback", 2.0)]


def test_axes_are_steps_tokens_seconds_and_flops_summed_over_lengths_that_change(path):
    rows = [{"time": 999.0, "step": 0, "tokens": 0, "validation/loss": 9}]
    rows += [row(1, 5, **{FLOPS_PER_TOKEN: 100}), row(2, 4, **{FLOPS_PER_TOKEN: 300})]
    columns = read(path, rows)
    assert points(columns, "train/loss", "tokens") == [(10, 5), (20, 4)]
    assert points(columns, "train/loss", "time") == [(2, 5), (3, 4)]
    assert points(columns, "train/loss", "flops") == [(1000, 5), (1000 + 3000, 4)]
    assert points(columns, "validation/loss", "flops") == [(0, 9)]


def test_without_flops_per_token_the_axis_says_so_and_invents_nothing(path):
    curve = make_curves(read(path, [row(1, 5)]), ["train/loss"], "flops")["train/loss"]
    assert len(curve.x) == 0 and FLOPS_PER_TOKEN in curve.problem


@pytest.mark.parametrize("log_x", [False, True])
def test_every_bucket_keeps_its_extremes_and_its_mean(log_x):
    generator = np.random.default_rng(0)
    x, y = np.arange(1.0, 20_001.0), generator.normal(size=20_000)
    y[[777, 13_000]] = 50.0, -50.0
    few = downsample(Curve(x, y), 100, log_x=log_x)
    assert len(few.extremes.x) <= 202 and (np.diff(few.extremes.x) > 0).all()
    assert few.extremes.x[0] == 1 and few.extremes.x[-1] == 20_000
    place = np.log(x) if log_x else x
    bucket = np.minimum((place - place[0]) / (place[-1] - place[0]) * 100, 99).astype(int)
    for number in np.unique(bucket):
        mine = y[bucket == number]
        assert {mine.min(), mine.max()} <= set(few.extremes.y.tolist())
    np.testing.assert_allclose(few.means.y, [y[bucket == number].mean() for number in np.unique(bucket)])


def test_a_zoom_has_one_more_point_on_each_side():
    curve = within(Curve(np.arange(10.0), np.arange(10.0)), 3.5, 5.5)
    assert curve.x.tolist() == [3, 4, 5, 6]


def test_rounding_keeps_the_digits_that_are_asked_for():
    values = np.array([3.14159265, -0.000123456, 1.5e12, 0.0])
    assert rounded(values, 3) == [3.14, -0.000123, 1.5e12, 0.0]


def test_new_points_are_those_since_the_cursor_and_a_past_undone_asks_for_all(path):
    before = read(path, [row(1, 5), row(2, 4)])
    assert new_points(before, ["train/loss"], "step", cursor_of(before)) is None
    grown = read(path, [row(3, 3)])
    assert new_points(grown, ["train/loss"], "step", cursor_of(before))["curves"]["train/loss"] == {"x": [3.0], "y": [3.0]}
    undone = read(path, [row(2, 9)])
    assert new_points(undone, ["train/loss"], "step", cursor_of(grown))["reload"]
    assert new_points(undone, ["train/loss"], "step", "7.2")["reload"]
    assert new_points(undone, ["train/loss"], "step", "nonsense")["reload"]


def test_the_csv_has_every_true_row_and_no_formula(path):
    columns = read(path, [row(1, 5.25, **{FLOPS_PER_TOKEN: 2}), row(2, -4), row(2, 3)], names=("train/loss", "=HYPERLINK(1)"))
    text = b"".join(csv_lines({("-run", "@base"): columns}, ["train/loss", "=HYPERLINK(1)"])).decode()
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["run", "stage", "step", "tokens", "seconds", "flops", "train/loss", "'=HYPERLINK(1)"]
    assert lines[1] == ["'-run", "'@base", "1", "10", "0", "20", "5.25", ""]
    assert lines[2][2:7] == ["2", "20", "1", "40", "3"] and len(lines) == 3
