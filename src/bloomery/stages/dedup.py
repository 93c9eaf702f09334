"""dedup: of documents that say the same, one stays. Exact by normalised text, near by MinHash-LSH, over all inputs at once.

Three steps: sign every shard (a map), find the clusters of all signatures (here, in memory: about 0.6 KB a document),
write every shard without what its clusters lost (a map). The ledger names the twin that stayed and how similar it is.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.documents import list_document_files, read_documents
from bloomery.core.files import write_atomically
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.dedup_exact import first_of_equal, hash_texts
from bloomery.curate.flow import Outcome, Shard, drop_documents, map_shards, number_shards
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.minhash import DedupConfig, find_clusters, sign_texts

DECISIONS = pa.schema([("rule", pa.string()), ("kept_id", pa.string()), ("similarity", pa.float64())])
"""What becomes of each document of a shard: all empty for one that stays."""


class Signed(NamedTuple):
    """What the clusters are found from, for the documents of one shard."""

    ids: pa.Array
    num_bytes: np.ndarray[Any, np.dtype[np.int64]]
    exact: np.ndarray[Any, np.dtype[np.uint64]]
    signatures: np.ndarray[Any, np.dtype[np.uint32]]


def dedup(config: DedupConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with one shard for each input file, without duplicates within and between the files."""
    shards = number_shards(list_document_files(documents))
    waiting = [shard for shard in shards if not _signed_path(out, shard).exists()]
    with runtime.progress(len(shards), "shards signed") as bar:
        bar.advance(len(shards) - len(waiting))
        for _ in runtime.pool().map(functools.partial(sign_file, config, out), waiting):
            bar.advance()
    decide(config, shards, out=out)
    return map_shards(functools.partial(drop_decided, out), shards, out=out, runtime=runtime)


def sign_file(config: DedupConfig, out: Path, shard: Shard) -> None:
    """Writes what the clusters need to know of one file to scratch."""
    table = read_documents(shard.source)
    text = table.column("text")
    columns = {
        "id": table.column("id").combine_chunks(),
        "bytes": pc.fill_null(pc.binary_length(text), 0).cast(pa.int64()).combine_chunks(),
        "exact": _fixed_rows(hash_texts(text.to_pylist())),
        "signature": _fixed_rows(sign_texts(text, config)),
    }
    with write_atomically(_signed_path(out, shard)) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="none")


def decide(config: DedupConfig, shards: Sequence[Shard], *, out: Path) -> None:
    """Finds the clusters of all documents, and writes to scratch what becomes of each document of each shard."""
    signed = [_read_signed(_signed_path(out, shard)) for shard in shards]
    ids = pa.chunked_array([s.ids for s in signed], pa.string())
    num_bytes = np.concatenate([s.num_bytes for s in signed])
    order = np.argsort(-num_bytes, kind="stable") if config.keep == "longest" else np.arange(len(num_bytes))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    unique = first_of_equal(np.concatenate([s.exact for s in signed]), rank)
    clusters = find_clusters(np.concatenate([s.signatures for s in signed]), config, rank=rank)
    stays = clusters.keeper == np.arange(len(rank))
    rules = [None if stay else "near_duplicate" if best else "exact_duplicate" for stay, best in zip(stays, unique, strict=True)]
    table = pa.table(
        {
            "rule": pa.array(rules, pa.string()),
            "kept_id": pc.if_else(pa.array(stays), pa.scalar(None, pa.string()), ids.take(pa.array(clusters.keeper))),
            "similarity": pc.if_else(pa.array(stays), pa.scalar(None, pa.float64()), pa.array(clusters.similarity)),
        },
        schema=DECISIONS,
    )
    start = 0
    for shard, part in zip(shards, signed, strict=True):
        with write_atomically(_decisions_path(out, shard)) as temporary:
            pq.write_table(table.slice(start, len(part.ids)), temporary)
        start += len(part.ids)


def drop_decided(out: Path, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file that stay, and the ledger of those whose twin stays."""

    all_decisions = pq.read_table(_decisions_path(out, shard))

    def drop(table: pa.Table, first_row: int) -> tuple[pa.Array, pa.Table]:
        decisions = all_decisions.slice(first_row, len(table))
        keep = pc.is_null(decisions.column("rule")).combine_chunks()
        gone = pc.invert(keep)
        facts = decisions.filter(gone).to_pylist()
        documents = table.select(["id", "url", "text"]).filter(gone).to_pylist()
        rows = [
            ledger_row(stage="dedup", rule=fact["rule"], value=fact["similarity"], kept_id=fact["kept_id"], **document)
            for document, fact in zip(documents, facts, strict=True)
        ]
        return keep, ledger_table(rows)

    return drop_documents(shard.source, drop)


def _signed_path(out: Path, shard: Shard) -> Path:
    return out / ".scratch" / "signed" / f"{shard.index:05d}.parquet"


def _decisions_path(out: Path, shard: Shard) -> Path:
    return out / ".scratch" / "decisions" / f"{shard.index:05d}.parquet"


def _fixed_rows(matrix: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _read_signed(path: Path) -> Signed:
    table = pq.read_table(path).combine_chunks()
    matrices = []
    for name in ("exact", "signature"):
        column = table.column(name)
        width = column.type.list_size
        values = [chunk.flatten().to_numpy() for chunk in column.chunks]
        matrices.append((np.concatenate(values) if values else np.zeros(0, column.type.value_type.to_pandas_dtype())).reshape(-1, width))
    ids = table.column("id")
    return Signed(
        pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string()), table.column("bytes").to_numpy(), *matrices
    )


STAGE = Stage(
    name="dedup",
    config_type=DedupConfig,
    run=dedup,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
