"""Pools give results in the order of the items, whatever the number of workers and however many of them die."""

import functools
import hashlib
import importlib
import os
from pathlib import Path

import pytest

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.pool import LocalPool
from bloomery.core.stage import Runtime


@pytest.fixture
def tasks(monkeypatch):
    """tests/core/pool_tasks.py, importable by workers too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("pool_tasks")


@pytest.fixture
def pool():
    pool = LocalPool(2)
    yield pool
    pool.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items_also_when_the_first_takes_longest(tmp_path, workers):
    contents = [b"x" * 20_000_000, *(bytes([i]) for i in range(9))]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    found = list(LocalPool(workers).map(sha256_file, [tmp_path / str(i) for i in range(10)]))
    assert found == [hashlib.sha256(content).hexdigest() for content in contents]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_raised_here(tmp_path, workers):
    (tmp_path / "a.json").write_text("1")
    results = LocalPool(workers).map(read_json, [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "a.json"])
    assert next(results) == 1
    with pytest.raises(DataError, match=r"b\.json: no such file"):
        list(results)


def test_items_of_workers_that_die_are_done_again_and_results_keep_their_order(tmp_path, tasks, pool):
    found = list(pool.map(functools.partial(tasks.square_but_die_first, tmp_path), range(12)))
    assert found == [number * number for number in range(12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "6", "9"]


def test_an_item_that_kills_every_worker_is_named_and_its_neighbours_are_not_blamed(tasks, pool):
    results = pool.map(functools.partial(tasks.die_on, 5), range(8))
    with pytest.raises(DataError, match=r"died 3 times on 5: .*fewer --workers .*take that file out"):
        list(results)
    assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_all_maps_of_a_stage_share_their_workers(tasks):
    runtime = Runtime(workers=2)
    assert runtime.pool() is runtime.pool()
    processes = {*runtime.pool().map(tasks.process_id, [0.05] * 4), *runtime.pool().map(tasks.process_id, [0.05] * 4)}
    assert len(processes) <= 2 and os.getpid() not in processes
    runtime.close()
    assert processes.isdisjoint(runtime.pool().map(tasks.process_id, [0.0] * 2))
    runtime.close()


def test_a_runtime_reports_the_memory_of_its_largest_worker(tmp_path, tasks):
    assert Runtime(workers=2).close() == 0
    runtime = Runtime(workers=2, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    assert list(runtime.pool().map(tasks.fill_memory, [300 << 20, 1])) == [300 << 20, 1]
    peak = runtime.close()
    assert 300 << 20 < peak < 1500 << 20
    assert [row["curate/worker_peak_bytes"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [peak]


def test_items_are_taken_from_the_source_only_as_they_are_needed(pool):
    taken = []

    def source():
        for number in range(100):
            taken.append(number)
            yield number

    results = pool.map(abs, source())
    assert next(results) == 0
    assert len(taken) <= 5
    assert list(results) == list(range(1, 100))
