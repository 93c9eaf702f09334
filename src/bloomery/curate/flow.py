"""How every data stage moves over its shards: one input, one output shard, one ledger shard, one row of counts.

The unit of work, of retry and of resume is a shard. Its files are written in a fixed order, documents last: a shard
whose documents are there is whole and is never made again. Counts stay in `.scratch/` until the artifact is committed,
so that a resumed run returns the same metrics as an unbroken one.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bloomery.core.documents import read_documents, shard_name, write_documents
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime
from bloomery.curate.ledger import FOLDER, count_rules, write_ledger


@dataclass(frozen=True)
class Shard:
    """One unit of work: input file `source`, number `index` among all inputs."""

    index: int
    source: Path


class Outcome(NamedTuple):
    """What became of a shard: the documents kept, the ledger of those dropped, and what came in."""

    kept: pa.Table
    ledger: pa.Table
    documents_in: int
    bytes_in: int


def number_shards(paths: Sequence[Path]) -> list[Shard]:
    """The shards of a stage: its input files, numbered in their order."""
    return [Shard(index, path) for index, path in enumerate(paths)]


def map_shards(work: Callable[[Shard], Outcome], shards: Sequence[Shard], *, out: Path, runtime: Runtime) -> dict[str, int]:
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
    """The counts of finished shards, summed: documents_in, documents_out, bytes_in, bytes_out, dropped/<rule>."""
    total = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
    for shard in shards:
        for name, count in read_json(_counts_path(out, shard.index)).items():
            total[name] = total.get(name, 0) + count
    head = ["documents_in", "documents_out", "bytes_in", "bytes_out"]
    return {name: total[name] for name in [*head, *sorted(set(total) - set(head))]}


def text_bytes(table: pa.Table) -> int:
    """UTF-8 bytes of all texts of a document table."""
    return pc.sum(pc.binary_length(table.column("text"))).as_py() or 0


def drop_documents(source: Path, drop: Callable[[pa.Table], tuple[pa.Array, pa.Table]]) -> Outcome:
    """The outcome of a stage that only drops rows: `drop` gives a keep mask for a table, and the ledger of the rest."""
    table = read_documents(source)
    keep, ledger = drop(table)
    kept = table.filter(keep)
    assert len(kept) + len(ledger) == len(table), "every dropped document must be in the ledger"
    return Outcome(kept, ledger, len(table), text_bytes(table))


def _finish_shard(work: Callable[[Shard], Outcome], out: Path, shard: Shard) -> int:
    outcome = work(shard)
    counts = {
        "documents_in": outcome.documents_in,
        "documents_out": len(outcome.kept),
        "bytes_in": outcome.bytes_in,
        "bytes_out": text_bytes(outcome.kept),
        **count_rules(outcome.ledger),
    }
    write_ledger(out / FOLDER / shard_name(shard.index), outcome.ledger)
    write_json(_counts_path(out, shard.index), counts)
    write_documents(out / shard_name(shard.index), outcome.kept)  # last: its presence says that the shard is whole
    return outcome.documents_in


def _counts_path(out: Path, index: int) -> Path:
    return out / ".scratch" / f"{index:05d}.json"
