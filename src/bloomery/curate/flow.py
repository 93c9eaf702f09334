"""How every data stage moves over its shards: one input, one output shard, one ledger shard, one row of counts.

The unit of work, of retry and of resume is a shard; the unit of memory is a batch of its documents (about 32 MB of
text), so that a shard may be larger than memory. The files of a shard appear in a fixed order, documents last: a shard
whose documents are there is whole and is never made again. Counts stay in `.scratch/` until the artifact is committed,
so that a resumed run returns the same metrics as an unbroken one.
"""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.documents import SCHEMA, read_document_batches, shard_name
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.stage import Runtime
from bloomery.curate import ledger


@dataclass(frozen=True)
class Shard:
    """One unit of work: input file `source`, number `index` among all inputs."""

    index: int
    source: Path


class Outcome(NamedTuple):
    """What became of a batch of documents: those kept, the ledger of those dropped, and what came in.

    `counts` are summed over all batches into the stage's metrics; each table of `extra` is appended to the file of the
    same number in the output's folder of that name. `came` are the documents as they came in, where they have texts: what each
    rule dropped is then counted in bytes, too.
    """

    kept: pa.Table
    ledger: pa.Table
    documents_in: int
    bytes_in: int
    counts: Mapping[str, int] = MappingProxyType({})
    extra: Mapping[str, pa.Table] = MappingProxyType({})
    came: pa.Table | None = None


Work = Callable[[Shard], Iterator[Outcome]]
"""What a stage does with one shard, batch by batch."""


def number_shards(paths: Sequence[Path]) -> list[Shard]:
    """The shards of a stage: its input files, numbered in their order."""
    return [Shard(index, path) for index, path in enumerate(paths)]


def map_shards(work: Work, shards: Sequence[Shard], *, out: Path, runtime: Runtime) -> dict[str, int]:
    """Runs `work` over every shard that is not finished in `out`, and returns the summed counts of all of them.

    `work` is a module-level function, or a functools.partial of one: it travels to worker processes.
    """
    waiting = [shard for shard in shards if not (out / shard_name(shard.index)).exists()]
    started, done = time.monotonic(), 0
    with runtime.progress(len(shards), "shards") as bar:
        bar.advance(len(shards) - len(waiting))
        for documents in runtime.pool().map(functools.partial(_finish_shard, work, out), waiting):
            done += documents
            bar.advance(note=f"{done / (time.monotonic() - started):,.0f} documents/s")
    seconds = time.monotonic() - started
    runtime.metrics.write(
        {"curate/shards": len(waiting), "curate/documents": done, "curate/documents_per_second": done / max(seconds, 1e-9)}
    )
    return sum_counts(shards, out=out)


def sum_counts(shards: Sequence[Shard], *, out: Path) -> dict[str, int]:
    """The counts of finished shards, summed: documents_in, documents_out, bytes_in, bytes_out, dropped/<rule>, dropped_bytes/<rule>."""
    total = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
    for shard in shards:
        for name, count in read_json(_counts_path(out, shard.index)).items():
            total[name] = total.get(name, 0) + count
    head = ["documents_in", "documents_out", "bytes_in", "bytes_out"]
    return {name: total[name] for name in [*head, *sorted(set(total) - set(head))]}


def text_bytes(table: pa.Table) -> int:
    """UTF-8 bytes of all texts of a document table."""
    return pc.sum(pc.binary_length(table.column("text"))).as_py() or 0


def drop_documents(source: Path, drop: Callable[[pa.Table, int], tuple[pa.Array, pa.Table]]) -> Iterator[Outcome]:
    """The outcomes of a stage that only drops rows.

    `drop` is given a table and the number of its first row in the file, and gives a keep mask and the ledger of the rest.
    """
    first_row = 0
    for table in read_document_batches(source):
        keep, dropped = drop(table, first_row)
        kept = table.filter(keep)
        assert len(kept) + len(dropped) == len(table), "every dropped document must be in the ledger"
        yield Outcome(kept, dropped, len(table), text_bytes(table), came=table)
        first_row += len(table)


def _finish_shard(work: Work, out: Path, shard: Shard) -> int:
    counts: Counter[str] = Counter({"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0})
    with contextlib.ExitStack() as stack:
        # Entered first, so renamed last: its presence says that the shard is whole.
        documents = stack.enter_context(_Appender.open(out / shard_name(shard.index), SCHEMA))
        dropped = stack.enter_context(_Appender.open(out / ledger.FOLDER / shard_name(shard.index), ledger.SCHEMA))
        extra: dict[str, _Appender] = {}
        for outcome in work(shard):
            documents.append(outcome.kept)
            dropped.append(outcome.ledger.cast(ledger.SCHEMA))
            for folder, table in outcome.extra.items():
                if folder not in extra:
                    extra[folder] = stack.enter_context(_Appender.open(out / folder / shard_name(shard.index), table.schema))
                extra[folder].append(table)
            sizes = {"documents_in": outcome.documents_in, "documents_out": len(outcome.kept)}
            counts.update(sizes | {"bytes_in": outcome.bytes_in, "bytes_out": text_bytes(outcome.kept)})
            counts.update(ledger.count_rules(outcome.ledger))
            if outcome.came is not None:
                counts.update(ledger.count_bytes(outcome.ledger.cast(ledger.SCHEMA), outcome.came))
            counts.update(outcome.counts)
        write_json(_counts_path(out, shard.index), dict(counts))
    return counts["documents_in"]


class _Appender:
    """A Parquet file that tables are appended to; it reaches its name whole, when the context ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._writer: pq.ParquetWriter | None = None

    @staticmethod
    @contextlib.contextmanager
    def open(path: Path, schema: pa.Schema) -> "Iterator[_Appender]":
        """`schema` is that of a file without rows; else the first table's."""
        with write_atomically(path) as temporary:
            appender = _Appender(temporary, schema)
            try:
                yield appender
                appender._start(schema)
            finally:
                if appender._writer is not None:
                    appender._writer.close()

    def append(self, table: pa.Table) -> None:
        writer = self._start(table.schema)
        if unknown := set(table.column_names) - set(writer.schema.names):
            names = ", ".join(sorted(unknown))
            raise DataError(f"{self._path}: columns {names} are missing from the file's first rows; give every row the same columns")
        columns = [table.column(f.name) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in writer.schema]
        writer.write_table(pa.table(columns, schema=writer.schema).combine_chunks(), row_group_size=8192)

    def _start(self, schema: pa.Schema) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd", compression_level=3)
        return self._writer


def _counts_path(out: Path, index: int) -> Path:
    return out / ".scratch" / f"{index:05d}.json"
