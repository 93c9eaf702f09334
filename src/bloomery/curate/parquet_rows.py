"""A few rows out of large Parquet files: only the row groups that hold them are read, a few hundred rows at a time.

Ids are hashes, so statistics of row groups say nothing: to find a document means to read the column of ids, and no text.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: values of a row

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.errors import DataError

BATCH_ROWS = 256
"""Rows held at once while one is looked for: a row group of texts may have 40 MB and more."""


class Place(NamedTuple):
    """Row `row` of a file."""

    path: Path
    row: int


def count_rows(path: Path) -> int:
    """How many rows a file has, from its footer. Raises DataError if it is not Parquet."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def read_column(path: Path, column: str) -> pa.ChunkedArray:
    """One column of a file; nulls where there is none of this name."""
    try:
        with pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                return pa.chunked_array([pa.nulls(file.metadata.num_rows)])
            return file.read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def read_rows(path: Path, rows: Sequence[int], *, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows with these numbers, in the order of `rows`; `columns` that the file does not have are left out."""
    found: dict[int, dict[str, Any]] = {}
    try:
        with pq.ParquetFile(path) as file:
            names = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            first = 0
            for group in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                wanted = sorted({row for row in rows if first <= row < first + size})
                if wanted:
                    found |= _read_group(file, group, wanted, first=first, columns=names)
                first += size
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    return [found[row] for row in rows]


def read_places(places: Sequence[Place], *, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows at `places`, in their order; each file is opened once."""
    found: dict[Place, dict[str, Any]] = {}
    for path in dict.fromkeys(place.path for place in places):
        mine = [place for place in places if place.path == path]
        found |= zip(mine, read_rows(path, [place.row for place in mine], columns=columns), strict=True)
    return [found[place] for place in places]


def find_ids(paths: Iterable[Path], ids: Sequence[str]) -> dict[str, Place]:
    """Where each of `ids` stands first; reads columns of ids alone, and no more files than it must."""
    found: dict[str, Place] = {}
    for path in paths:
        wanted = [id for id in dict.fromkeys(ids) if id not in found]
        if not wanted:
            break
        column = read_column(path, "id")
        for row in np.flatnonzero(pc.is_in(column, pa.array(wanted, column.type)).to_numpy()).tolist():
            found.setdefault(column[row].as_py(), Place(path, row))
    return found


def named_first(paths: Sequence[Path], names: Iterable[str]) -> list[Path]:
    """`paths` with those of these file names before the others: most stages make one shard of each, so a document that
    was in shard 7 is most likely in shard 7."""
    wanted = set(names)
    return sorted(paths, key=lambda path: path.name not in wanted)


def unreadable(path: Path, error: Exception) -> DataError:
    """What is said of a file that is not Parquet."""
    return DataError(f"{path}: not a readable Parquet file: {error}")


def _read_group(
    file: pq.ParquetFile, group: int, wanted: Sequence[int], *, first: int, columns: list[str] | None
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for start, batch in _batches(file, group, first, columns):
        here = [row for row in wanted if start <= row < start + len(batch)]
        if here:
            found |= zip(here, batch.take(pa.array([row - start for row in here])).to_pylist(), strict=True)
        if start + len(batch) > wanted[-1]:
            break
    return found


def _batches(file: pq.ParquetFile, group: int, first: int, columns: list[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
        yield first, batch
        first += len(batch)
