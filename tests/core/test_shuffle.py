"""core/shuffle: rows of one key meet, in order, whatever the number of sources and partitions."""

import random

import pyarrow as pa
import pytest

from bloomery.core.errors import DataError
from bloomery.core.shuffle import choose_partitions, gather, is_scattered, scatter


def rows_of_sources(num_sources: int) -> list[list[tuple[int, int, int]]]:
    draw = random.Random("shuffle")
    return [
        [(draw.randrange(2**64) if draw.random() < 0.5 else draw.randrange(9) << 60, s, r) for r in range(200)] for s in range(num_sources)
    ]


def to_table(rows: list[tuple[int, int, int]]) -> pa.Table:
    key, source, row = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table({"key": pa.array(key, pa.uint64()), "source": pa.array(source, pa.int64()), "row": pa.array(row, pa.int64())})


@pytest.mark.parametrize("num_partitions", [1, 2, 16, 64])
def test_every_row_arrives_once_in_the_partition_of_its_key_in_order_of_sources_and_rows(tmp_path, num_partitions):
    sources = rows_of_sources(3)
    for index in (2, 0, 1):  # the order of scattering does not count
        scatter(tmp_path, index, to_table(sources[index]), key="key", num_partitions=num_partitions)
    arrived = []
    for partition in range(num_partitions):
        table = gather(tmp_path, partition)
        rows = list(zip(*(table.column(name).to_pylist() for name in ("key", "source", "row")), strict=True))
        assert all(key * num_partitions >> 64 == partition for key, _, _ in rows)
        assert rows == sorted(rows, key=lambda row: row[1:])
        arrived += rows
    assert sorted(arrived) == sorted(row for rows in sources for row in rows)


def test_rows_that_come_sorted_by_key_are_parted_the_same(tmp_path):
    rows = sorted(rows_of_sources(1)[0])
    shuffled = random.Random(1).sample(rows, len(rows))
    for name, some in (("sorted", rows), ("shuffled", shuffled)):
        scatter(tmp_path / name, 0, to_table(some), key="key", num_partitions=8)
    for partition in range(8):
        first, second = (gather(tmp_path / name, partition).to_pylist() for name in ("sorted", "shuffled"))
        assert first == sorted(second, key=lambda row: (row["key"], row["source"], row["row"]))


def test_a_source_without_rows_is_scattered_all_the_same(tmp_path):
    assert not is_scattered(tmp_path, 0)
    scatter(tmp_path, 0, to_table([]), key="key", num_partitions=4)
    assert is_scattered(tmp_path, 0)
    assert len(gather(tmp_path, 3)) == 0


def test_a_damaged_file_is_named(tmp_path):
    scatter(tmp_path, 0, to_table([(1, 0, 0)]), key="key", num_partitions=1)
    path = next(tmp_path.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000000\.arrow"):
        gather(tmp_path, 0)


def test_partitions_are_a_power_of_two_and_grow_with_the_rows():
    assert [choose_partitions(n) for n in (0, 1, 4 << 20, (4 << 20) + 1, 40 << 20)] == [1, 1, 1, 2, 16]
