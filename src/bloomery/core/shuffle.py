"""Grouping across shards: rows that share a key meet in one partition, whatever files they come from.

Two maps over the pool with files between them. `scatter` writes the rows of one source, parted by their keys, as one
Arrow file with a record batch for each partition; `gather` reads one partition of all sources. What is made of a
partition (the first row of each key, counts, edges) is the caller's own function. Only ids, keys and numbers are moved,
never text; files on the (shared) disk are all that passes between the steps, so it runs the same on one machine and on
a cluster, a killed step is repeated alone, and memory is bounded by the number of partitions.

A dataframe engine was planned here. Two maps turned out to be faster on one machine (`bench/shuffle.py`), to need no
further dependency, and to be restarted by the shard like everything else.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa

from bloomery.core.errors import DataError
from bloomery.core.files import write_atomically

ROWS_PER_PARTITION = 4 << 20
"""Rows that one reduce step holds at once; at 32 bytes each, and sorted, under 1 GB."""


def choose_partitions(num_rows: int) -> int:
    """Partitions for so many rows, a power of two: each is worked on in memory."""
    return 1 << max(0, (max(num_rows, 1) - 1) // ROWS_PER_PARTITION).bit_length()


def scatter(folder: Path, index: int, table: pa.Table, *, key: str, num_partitions: int) -> None:
    """Writes the rows of source number `index`, parted by the top bits of the uint64 column `key`.

    Rows keep their order within a partition. `num_partitions` is a power of two, the same for all sources.
    """
    assert num_partitions & (num_partitions - 1) == 0, "partitions are a power of two"
    keys = table.column(key).to_numpy()
    shift = 64 - (num_partitions.bit_length() - 1)
    # Numbers of 16 bits are sorted by radix; rows that come sorted by key need no sorting at all.
    kind = np.uint16 if num_partitions <= 1 << 16 else np.int64
    partition: np.ndarray[Any, Any] = (keys >> np.uint64(shift)).astype(kind) if num_partitions > 1 else np.zeros(len(keys), kind)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(partition, minlength=num_partitions))])
    is_sorted = bool(np.all(partition[1:] >= partition[:-1]))
    ordered = (table if is_sorted else table.take(pa.array(np.argsort(partition, kind="stable")))).combine_chunks()
    with (
        write_atomically(_path(folder, index)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for p in range(num_partitions):
            part = ordered.slice(bounds[p], bounds[p + 1] - bounds[p])
            writer.write_batch(pa.record_batch([_one_chunk(column) for column in part.columns], schema=table.schema))


def is_scattered(folder: Path, index: int) -> bool:
    """Whether source number `index` has been scattered."""
    return _path(folder, index).exists()


def gather(folder: Path, partition: int) -> pa.Table:
    """The rows of one partition, in order of the sources and of the rows in each. Raises DataError for a damaged file."""
    batches = list(_read_partition(folder, partition))
    return pa.Table.from_batches(batches)


def _read_partition(folder: Path, partition: int) -> Iterator[pa.RecordBatch]:
    for path in sorted(folder.glob("[0-9]*.arrow")):
        try:
            with pa.memory_map(str(path)) as source:
                yield pa.ipc.open_file(source).get_batch(partition)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not readable, delete it and run the same command again: {error}") from error


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.arrow"


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )
