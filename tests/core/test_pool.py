"""Pools give results in the order of the items, whatever the number of workers."""

import hashlib
import os

import pytest

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file
from bloomery.core.pool import LocalPool


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


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(DataError, match=r"a worker process died .*fewer --workers"):
        list(LocalPool(2).map(os._exit, [1, 1, 1]))


def test_items_are_taken_from_the_source_only_as_they_are_needed():
    taken = []

    def source():
        for number in range(100):
            taken.append(number)
            yield number

    results = LocalPool(2).map(abs, source())
    assert next(results) == 0
    assert len(taken) <= 5
    assert list(results) == list(range(1, 100))
