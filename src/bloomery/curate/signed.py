"""What deduplication knows of a document once its text is closed: id, rank, exact hash, sketch, keys.

One Arrow file a source, uncompressed and read through the page cache, so that the rows of any documents can be looked
up without reading the rest. Documents are numbered through all sources, in order of sources and rows.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa

from bloomery.core.errors import DataError
from bloomery.core.files import write_atomically

U8 = np.ndarray[Any, np.dtype[np.uint8]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


class Signed(NamedTuple):
    """Some documents. `keys` are uint64, documents x (bands + 1), the last of the exact hash; `exact` is uint8, documents x 16."""

    ids: pa.Array
    rank: I64
    exact: U8
    sketches: U8
    keys: U64

    def to_record_batch(self) -> pa.RecordBatch:
        """The columns id, rank, exact, sketch and keys."""
        keys = pa.FixedSizeListArray.from_arrays(pa.array(self.keys.reshape(-1)), self.keys.shape[1])
        columns = [self.ids, pa.array(self.rank), _fixed_bytes(self.exact), _fixed_bytes(self.sketches), keys]
        return pa.record_batch(columns, names=["id", "rank", "exact", "sketch", "keys"])

    @staticmethod
    def from_record_batch(batch: pa.RecordBatch) -> "Signed":
        """The inverse of to_record_batch, without copying."""
        keys = batch.column("keys")
        return Signed(
            batch.column("id"),
            batch.column("rank").to_numpy(),
            _bytes_of(batch.column("exact")),
            _bytes_of(batch.column("sketch")),
            keys.flatten().to_numpy().reshape(-1, keys.type.list_size),
        )


def write_signed(path: Path, batches: Iterable[Signed]) -> None:
    """Writes one source, batch by batch; there is at least one, which may be empty."""
    with write_atomically(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        writer = None
        for batch in batches:
            record = batch.to_record_batch()
            writer = writer or pa.ipc.new_file(sink, record.schema)
            writer.write_batch(record)
        assert writer is not None, "a source has at least one batch"
        writer.close()


def read_signed(path: Path) -> Iterator[Signed]:
    """The batches of one source."""
    with _open(path) as reader:
        for i in range(reader.num_record_batches):
            yield Signed.from_record_batch(reader.get_batch(i))


def read_batch(path: Path, number: int) -> Signed:
    """One batch of a source."""
    with _open(path) as reader:
        return Signed.from_record_batch(reader.get_batch(number))


def count_batches(path: Path) -> list[int]:
    """How many documents each batch of a source has."""
    with _open(path) as reader:
        return [len(reader.get_batch(i)) for i in range(reader.num_record_batches)]


def look_up(paths: Sequence[Path], starts: I64, documents: I64) -> Signed:
    """Documents by number, in the order asked for; `starts[s]` is the number of the first of source s.

    Only the sources that hold one of them are opened.
    """
    unique, places = np.unique(documents, return_inverse=True)
    sources = np.searchsorted(starts, unique, side="right") - 1
    found: list[pa.RecordBatch] = []
    for source in np.unique(sources):
        found += _take(paths[source], unique[sources == source] - starts[source])
    if not found:  # no document: the columns of any source will do
        with _open(paths[0]) as reader:
            found = [pa.RecordBatch.from_pylist([], schema=reader.schema)]
    ids, rank, exact, sketches, keys = Signed.from_record_batch(pa.concat_batches(found))
    return Signed(ids.take(pa.array(places)), rank[places], exact[places], sketches[places], keys[places])


def _take(path: Path, rows: I64) -> list[pa.RecordBatch]:
    # Batch by batch: taken from a table, its chunks would be copied together first.
    found, first = [], 0
    with _open(path) as reader:
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            here = rows[(rows >= first) & (rows < first + len(batch))]
            if len(here):
                found.append(batch.take(pa.array(here - first)))
            first += len(batch)
    return found


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    # The map itself lives as long as an array that looks into it.
    try:
        with pa.memory_map(str(path)) as source:
            yield pa.ipc.open_file(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable, delete it and run the same command again: {error}") from error


def _fixed_bytes(matrix: U8) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(matrix.shape[1]), len(matrix), [None, pa.py_buffer(np.ascontiguousarray(matrix))])


def _bytes_of(array: pa.Array) -> U8:
    width, end = array.type.byte_width, array.offset + len(array)
    data = np.frombuffer(array.buffers()[1], np.uint8, count=end * width) if len(array) else np.zeros(0, np.uint8)
    return data[array.offset * width * (len(array) > 0) :].reshape(-1, width)
