"""Columns of metrics.jsonl equal what Python's own json reads, however the file grows."""

import json

import numpy as np
import pytest

from bloomery.web.runs.columns import SMALL_BLOCK_BYTES, MetricsReader


def write_rows(path, steps, *, mode="a", **more):
    with path.open(mode) as file:
        for step in steps:
            file.write(json.dumps({"time": 100.0 + step, "step": step, "tokens": 10 * step, "train/loss": 5 / (1 + step), **more}) + "\n")


def loss(reader, path):
    return reader.read(path, ["train/loss"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_a_large_file_reads_as_json_reads_it(path):
    write_rows(path, range(3000))
    with path.open("a") as file:
        file.write('{"time": 1, "step": 3000, "validation/loss": 2.5}\n{"time": 2, "pretrain/steps": 7}\n')
    assert path.stat().st_size > SMALL_BLOCK_BYTES
    columns = MetricsReader().read(path, ["train/loss", "validation/loss"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for name in ("step", "tokens", "time"):
        np.testing.assert_array_equal(columns.axes[name], [row.get(name, np.nan) for row in rows])
    for name in ("train/loss", "validation/loss"):
        np.testing.assert_array_equal(columns.values[name], np.array([row.get(name, np.nan) for row in rows], np.float32))
    assert columns.names == {"train/loss", "validation/loss"}


def test_a_line_that_is_half_written_is_read_when_it_is_whole(path):
    reader = MetricsReader()
    write_rows(path, [1, 2])
    with path.open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert loss(reader, path).rows == 2
    with path.open("a") as file:
        file.write('ss": 0.5}\n')
    assert loss(reader, path).values["train/loss"].tolist() == pytest.approx([2.5, 5 / 3, 0.5])


def test_a_column_asked_for_later_has_the_rows_from_before(path):
    reader = MetricsReader()
    write_rows(path, range(2000), **{"train/mfu": 0.25})
    loss(reader, path)
    write_rows(path, [2000], **{"train/mfu": 0.5})
    columns = reader.read(path, ["train/mfu"])
    assert columns.rows == 2001 and columns.generation == 0
    assert columns.values["train/mfu"][[0, -1]].tolist() == [0.25, 0.5]


@pytest.mark.parametrize("way", ["truncated", "replaced", "written over"])
def test_a_file_that_was_begun_anew_is_read_anew(path, way):
    reader = MetricsReader()
    write_rows(path, range(10))
    assert loss(reader, path).generation == 0
    if way == "replaced":
        write_rows(path.with_name("other"), range(20, 40))
        path.with_name("other").replace(path)
    else:
        write_rows(path, range(20, 40) if way == "written over" else range(20, 22), mode="w")
    columns = loss(reader, path)
    assert columns.generation == 1 and columns.axes["step"][0] == 20 and columns.rows == len(path.read_text().splitlines())


@pytest.mark.parametrize("size", [3, 3000])
def test_lines_that_are_no_rows_and_values_that_are_no_numbers_do_no_harm(path, size):
    write_rows(path, range(size))
    with path.open("a") as file:
        file.write('garbage\n[1]\n{"step": "x", "train/loss": "y"}\n{"step": 9, "train/loss": NaN}\n{"step": 9, "train/loss": 1e999}\n')
    columns = loss(MetricsReader(), path)
    assert columns.rows == size + 3
    assert np.isfinite(columns.values["train/loss"]).sum() == size


def test_a_missing_file_has_no_rows_and_an_unknown_column_no_values(path):
    columns = MetricsReader().read(path, ["train/loss"])
    assert columns.rows == 0 and len(columns.values["train/loss"]) == 0
    write_rows(path, [1])
    assert np.isnan(MetricsReader().read(path, ["none"]).values["none"]).all()


def test_what_was_asked_for_longest_ago_leaves_when_memory_is_short(tmp_path):
    reader = MetricsReader(budget_bytes=70_000)
    paths = [tmp_path / f"{i}.jsonl" for i in range(4)]
    for path in paths:
        write_rows(path, range(1000))  # 28 bytes a row: 28,000 each
        assert loss(reader, path).rows == 1000
    assert reader.num_bytes <= 70_000
    assert loss(reader, paths[0]).rows == 1000 and reader.num_bytes <= 70_000


def test_events_of_a_training_are_kept_with_their_words(path):
    write_rows(path, range(3000))
    with path.open("a") as file:
        file.write('{"step": 7, "tokens": 70, "spike/data_step": 6, "spike/reason": "loss 9 is above 5"}\n')
    assert [event["spike/reason"] for event in loss(MetricsReader(), path).events] == ["loss 9 is above 5"]
