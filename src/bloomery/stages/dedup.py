"""dedup: of documents that say the same, one stays. Exact by normalised text, near by MinHash-LSH, over all inputs at once.

sign      every shard (a map): per document its exact hash, a sketch, and the keys that duplicates would share
group     who shares a key (two maps through core/shuffle): stars, local union-finds, spanning forests
decide    one union-find over all forests, on arrays mapped from disk; of each cluster the best document stays
write     every shard without what its clusters lost (a map); the ledger names the twin that stayed, and how similar it is

Text is in memory by the batch, keys by the partition; what is held for all documents is 28 bytes each, on disk. With
`existing`, new documents are compared with the band tables of earlier runs as well, and give way to what these kept.
"""

import functools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.shuffle import choose_partitions, gather, is_scattered, scatter
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.clusters import choose_kept, flatten, gather_buckets, gather_similar, join, span
from bloomery.curate.dedup_exact import hash_texts
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.minhash import (
    SIGNATURE_VERSION,
    DedupConfig,
    document_keys,
    estimate_from_sketches,
    least_equal,
    rank_documents,
    sign_texts,
    sketch,
)
from bloomery.curate.signed import Signed, count_batches, look_up, read_batch, read_signed, write_signed

I64 = np.ndarray[Any, np.dtype[np.int64]]

BATCHES_PER_UNIT = 8
"""Batches of documents whose keys are grouped in memory together: at most 131,072 documents, 2 million keys."""

ROWS_PER_ROUND = 1 << 31
"""Keys that lie on disk for grouping at a time (24 bytes each); more are grouped some bands after the others."""

NUM_BUCKETS_KEPT = 100
LARGEST = "bands/largest.parquet"
SETTINGS = b"bloomery.minhash"
"""Metadata of a band table: keys of other settings say nothing."""


@dataclass(frozen=True)
class Source:
    """A file of documents, or of an earlier run's bands. Sources are numbered; the existing come first."""

    index: int
    path: Path
    exists: bool


class Numbering(NamedTuple):
    """Where all documents are: source s has numbers starts[s] to starts[s + 1]; the first `num_existing` were there before."""

    paths: list[Path]
    starts: I64
    num_existing: int


@dataclass(frozen=True)
class Unit:
    """Some batches of one source, from document number `first` on."""

    index: int
    path: Path
    batches: range
    first: int


@dataclass(frozen=True)
class Round:
    """Some columns of the keys, to be grouped in so many partitions."""

    index: int
    columns: slice
    num_partitions: int


def dedup(config: DedupConfig, *, documents: list[Path], existing: Sequence[Path] = (), out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with one shard for each input file, without duplicates within and between the files and of `existing`."""
    shards, tables = number_shards(list_document_files(documents)), list_band_tables(existing, config)
    paths = [(path, True) for path in tables] + [(shard.source, False) for shard in shards]
    sources = [Source(index, path, exists) for index, (path, exists) in enumerate(paths)]
    scratch = out / ".scratch" / "dedup"
    waiting = [source for source in sources if not _signed_path(scratch, source.index).exists()]
    with runtime.progress(len(sources), "shards signed") as bar:
        bar.advance(len(sources) - len(waiting))
        for _ in runtime.pool().map(functools.partial(sign_source, config, scratch), waiting):
            bar.advance()
    numbering, units = number_documents(scratch, num_sources=len(sources), num_tables=len(tables))
    rounds = plan_rounds(config, num_documents=int(numbering.starts[-1]))
    if not _kept_path(scratch).exists():
        for turn in rounds:
            group(config, scratch, numbering, units, turn, runtime)
        # In a worker: there the compiled loops are loaded already.
        list(runtime.pool().map(functools.partial(decide, scratch), [numbering]))
    if not (out / LARGEST).exists():
        write_buckets(out, numbering, rounds)
    return map_shards(functools.partial(drop_decided, config, out, numbering, len(tables)), shards, out=out, runtime=runtime)


def list_band_tables(existing: Sequence[Path], config: DedupConfig) -> list[Path]:
    """The band tables of earlier runs. Raises DataError if one has none, or of other settings."""
    found = []
    for folder in existing:
        paths = sorted((folder / "bands").glob("[0-9]*.parquet"))
        if not paths:
            raise DataError(f"{folder}: no bands/ there; `existing` is the output of dedup with keep_bands = true")
        for path in paths:
            settings = (pq.read_schema(path).metadata or {}).get(SETTINGS, b"unknown settings").decode()
            if settings != _settings(config):
                raise DataError(f"{path}: made with {settings}; this run has {_settings(config)}. Use the same settings, or make it again")
        found += paths
    return found


def sign_source(config: DedupConfig, scratch: Path, source: Source) -> None:
    """Writes to scratch what the clusters need to know of one file."""
    path = _signed_path(scratch, source.index)
    if source.exists:
        write_signed(path, read_band_table(source.path))
    else:
        write_signed(path, (sign_table(table, config, source.path) for table in read_document_batches(source.path)))


def sign_table(table: pa.Table, config: DedupConfig, path: Path) -> Signed:
    """What the clusters need to know of a batch of documents."""
    text = table.column("text")
    signatures, exact = sign_texts(text, config), hash_texts(text)
    ids = table.column("id").combine_chunks()
    return Signed(
        ids, rank_documents(table, config, path), exact.view(np.uint8), sketch(signatures), document_keys(signatures, exact, config)
    )


def read_band_table(path: Path) -> Iterator[Signed]:
    """The documents that one band table names."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for batch in [*file.iter_batches(batch_size=16_384), pa.RecordBatch.from_pylist([], schema=schema)]:
            ranked = batch.append_column("rank", pa.array(np.zeros(len(batch), np.int64)))
            yield Signed.from_record_batch(ranked)


def number_documents(scratch: Path, *, num_sources: int, num_tables: int) -> tuple[Numbering, list[Unit]]:
    """Numbers all documents, and cuts the sources into units."""
    paths = [_signed_path(scratch, index) for index in range(num_sources)]
    starts, first = np.zeros(num_sources + 1, np.int64), 0
    units: list[Unit] = []
    for index, path in enumerate(paths):
        rows = count_batches(path)
        for at in range(0, len(rows), BATCHES_PER_UNIT):
            stop = min(at + BATCHES_PER_UNIT, len(rows))
            units.append(Unit(len(units), path, range(at, stop), first))
            first += sum(rows[at:stop])
        starts[index + 1] = first
    return Numbering(paths, starts, int(starts[num_tables])), units


def plan_rounds(config: DedupConfig, *, num_documents: int) -> list[Round]:
    """In how many turns the keys are grouped, so that those of one turn fit on the disk."""
    num_columns = config.bands + 1
    num_rounds = min(num_columns, -(-num_documents * num_columns // ROWS_PER_ROUND) or 1)
    per_round = -(-num_columns // num_rounds)
    return [Round(r, slice(r, None, num_rounds), choose_partitions(num_documents * per_round)) for r in range(num_rounds)]


def group(config: DedupConfig, scratch: Path, numbering: Numbering, units: list[Unit], turn: Round, runtime: Runtime) -> None:
    """Writes to scratch the spanning forests of the documents that share a key of this turn."""
    keys = _keys_folder(scratch, turn)
    partitions = [p for p in range(turn.num_partitions) if not _forest_path(scratch, turn, "partition", p).exists()]
    if partitions:
        waiting = [unit for unit in units if not is_scattered(keys, unit.index)]
        with runtime.progress(len(waiting) + len(partitions), f"pieces of keys, turn {turn.index}") as bar:
            for _ in runtime.pool().map(functools.partial(scatter_unit, config, scratch, turn), waiting):
                bar.advance()
            for _ in runtime.pool().map(functools.partial(reduce_partition, config, scratch, numbering, turn), partitions):
                bar.advance()
    shutil.rmtree(keys, ignore_errors=True)


def scatter_unit(config: DedupConfig, scratch: Path, turn: Round, unit: Unit) -> None:
    """Sends the keys of some documents to their partitions, each key once: who shares it here is joined here.

    So a key of half the corpus (an empty text, an error page) is no more rows in its partition than there are units.
    """
    keys = np.concatenate([read_batch(unit.path, i).keys[:, turn.columns] for i in unit.batches])
    documents = np.repeat(np.arange(unit.first, unit.first + len(keys)), keys.shape[1])
    flat, counts = keys.reshape(-1), np.ones(keys.size, np.int64)
    edges = np.zeros((0, 2), np.int64)
    if config.min_similarity == 0:  # else the documents themselves must be compared, all in one place
        flat, documents, counts, edges = gather_buckets(flat, documents)
    _write_array(_forest_path(scratch, turn, "unit", unit.index), span(edges))
    table = pa.table({"key": pa.array(flat), "document": pa.array(documents), "count": pa.array(counts)})
    scatter(_keys_folder(scratch, turn), unit.index, table, key="key", num_partitions=turn.num_partitions)


def reduce_partition(config: DedupConfig, scratch: Path, numbering: Numbering, turn: Round, partition: int) -> None:
    """Writes the spanning forest of one partition, and its largest buckets."""
    table = gather(_keys_folder(scratch, turn), partition)
    keys, documents, counts = (table.column(name).to_numpy() for name in ("key", "document", "count"))
    if config.min_similarity == 0:
        buckets = gather_buckets(keys, documents, counts)
    else:
        buckets = gather_similar(
            keys,
            documents,
            sketches_of=lambda wanted: look_up(numbering.paths, numbering.starts, wanted).sketches,
            min_equal=least_equal(config.min_similarity, config.num_hashes),
        )
    largest = np.lexsort((buckets.keys, -buckets.counts))[:NUM_BUCKETS_KEPT]
    rows = [[int(buckets.counts[i]), int(buckets.keys[i]), int(buckets.documents[i])] for i in largest if buckets.counts[i] > 1]
    write_json(_buckets_path(scratch, turn, partition), rows)
    _write_array(_forest_path(scratch, turn, "partition", partition), span(buckets.edges))


def decide(scratch: Path, numbering: Numbering) -> None:
    """Joins all forests, and writes to scratch which document each one's cluster keeps, and how many that has."""
    num_documents = int(numbering.starts[-1])
    root, rank = (_map(scratch / f"{name}.tmp", np.int64, num_documents, mode="w+") for name in ("root", "rank"))
    root[:] = np.arange(num_documents)
    for path in sorted((scratch / "forest").glob("*/*.npy")):
        join(root, np.load(path))
    flatten(root)
    at = 0
    for path in numbering.paths:
        for signed in read_signed(path):
            rank[at : at + len(signed.rank)] = signed.rank
            at += len(signed.rank)
    # Renamed in the opposite order: where `kept` is, `sizes` is too.
    with write_atomically(_kept_path(scratch)) as kept_path, write_atomically(_sizes_path(scratch)) as sizes_path:
        kept = _map(kept_path, np.int64, num_documents, mode="w+")
        sizes = _map(sizes_path, np.int32, num_documents, mode="w+")
        choose_kept(root, rank, numbering.num_existing, kept, sizes)
        del kept, sizes
    for name in ("root", "rank"):
        (scratch / f"{name}.tmp").unlink()


def write_buckets(out: Path, numbering: Numbering, rounds: Sequence[Round]) -> None:
    """The keys that most documents share, and the first that has each: boilerplate, often."""
    scratch = out / ".scratch" / "dedup"
    rows = [tuple(row) for turn in rounds for p in range(turn.num_partitions) for row in read_json(_buckets_path(scratch, turn, p))]
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))[:NUM_BUCKETS_KEPT]
    ids = look_up(numbering.paths, numbering.starts, np.array([row[2] for row in rows], np.int64)).ids
    columns = {"key": pa.array([row[1] for row in rows], pa.uint64()), "documents": pa.array([row[0] for row in rows], pa.int64())}
    with write_atomically(out / LARGEST) as temporary:
        pq.write_table(pa.table(columns | {"first_id": ids}), temporary)


def drop_decided(config: DedupConfig, out: Path, numbering: Numbering, first_shard: int, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file that stay, the ledger of those whose twin stays, and the clusters of both."""
    scratch = out / ".scratch" / "dedup"
    source = first_shard + shard.index
    num_documents, at = int(numbering.starts[-1]), int(numbering.starts[source])
    all_kept = _map(_kept_path(scratch), np.int64, num_documents, mode="r")
    all_sizes = _map(_sizes_path(scratch), np.int32, num_documents, mode="r")
    for table, signed in zip(read_document_batches(shard.source), read_signed(numbering.paths[source]), strict=True):
        kept, sizes = all_kept[at : at + len(table)], all_sizes[at : at + len(table)]
        gone = np.flatnonzero(kept != np.arange(at, at + len(table)))
        at += len(table)
        yield _outcome(config, table, signed, gone, look_up(numbering.paths, numbering.starts, kept[gone]), sizes)


def _outcome(config: DedupConfig, table: pa.Table, signed: Signed, gone: I64, twins: Signed, sizes: np.ndarray[Any, Any]) -> Outcome:
    # `gone` are the rows to drop; `twins` are the documents that stay in their places.
    stays = np.ones(len(table), np.bool_)
    stays[gone] = False
    is_equal = (signed.exact[gone] == twins.exact).all(axis=1)
    similarity = estimate_from_sketches(signed.sketches[gone], twins.sketches)
    documents = table.select(["id", "url", "text"]).take(pa.array(gone)).to_pylist()
    rows = [
        ledger_row(stage="dedup", rule="exact_duplicate" if equal else "near_duplicate", value=value, kept_id=kept_id, **document)
        for document, equal, value, kept_id in zip(documents, is_equal, similarity.tolist(), twins.ids.to_pylist(), strict=True)
    ]
    place = np.zeros(len(table), np.int64)
    place[gone] = np.arange(len(gone))
    is_gone, place = pa.array(~stays), pa.array(place, mask=stays)
    kept_ids = pc.if_else(is_gone, twins.ids.take(place), signed.ids)
    clusters = {
        "id": signed.ids,
        "cluster": kept_ids,
        "cluster_size": pa.array(sizes.astype(np.int64)),
        "kept": pa.array(stays),
        "similarity": pa.array(similarity).take(place),
    }
    extra = {"clusters": pa.table(clusters)}
    if config.keep_bands:
        extra["bands"] = _band_rows(config, signed, kept_ids, gone, twins, is_equal)
    heads = int((stays & (sizes > 1)).sum())
    return Outcome(table.filter(pa.array(stays)), ledger_table(rows), len(table), text_bytes(table), {"clusters": heads}, extra, table)


def _band_rows(config: DedupConfig, signed: Signed, kept_ids: pa.Array, gone: I64, twins: Signed, is_equal: Any) -> pa.Table:
    # Who is like a dropped document is like its twin: the dropped one's keys stand for that too, unless they are the same.
    exact, sketches = signed.exact.copy(), signed.sketches.copy()
    exact[gone], sketches[gone] = twins.exact, twins.sketches
    named = Signed(kept_ids, signed.rank, exact, sketches, signed.keys).to_record_batch()
    wanted = np.ones(len(signed.rank), np.bool_)
    wanted[gone[is_equal]] = False
    table = pa.Table.from_batches([named]).drop_columns(["rank"]).filter(pa.array(wanted))
    return table.replace_schema_metadata({SETTINGS: _settings(config).encode()})


def _settings(config: DedupConfig) -> str:
    names = ("ngram_words", "num_hashes", "bands")
    return json.dumps({"signature_version": SIGNATURE_VERSION} | {name: getattr(config, name) for name in names})


def _write_array(path: Path, array: I64) -> None:
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _map(path: Path, dtype: Any, size: int, *, mode: Any) -> np.ndarray[Any, Any]:
    if size:
        return np.memmap(path, dtype, mode, shape=(size,))
    path.touch()  # an empty file cannot be mapped
    return np.zeros(0, dtype)


def _signed_path(scratch: Path, index: int) -> Path:
    return scratch / "signed" / f"{index:06d}.arrow"


def _keys_folder(scratch: Path, turn: Round) -> Path:
    return scratch / "keys" / f"{turn.index:02d}"


def _forest_path(scratch: Path, turn: Round, piece: str, index: int) -> Path:
    return scratch / "forest" / f"{turn.index:02d}" / f"{piece}-{index:06d}.npy"


def _buckets_path(scratch: Path, turn: Round, partition: int) -> Path:
    return scratch / "buckets" / f"{turn.index:02d}" / f"{partition:06d}.json"


def _kept_path(scratch: Path) -> Path:
    return scratch / "kept.i64"


def _sizes_path(scratch: Path) -> Path:
    return scratch / "sizes.i32"


STAGE = Stage(
    name="dedup",
    config_type=DedupConfig,
    run=dedup,
    inputs={"documents": Slot("documents", many=True), "existing": Slot("documents", many=True, optional=True)},
    output="documents",
    version=2,
)
