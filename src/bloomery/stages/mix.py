"""mix: all documents into one shuffled training set, a validation set beside it that no mixture trains on, and a data card.

Three maps: every input file is measured; then cut into pieces, one for each output shard; then every output shard is put
together from its pieces and sorted by hash. So no more than a batch and a shard are in memory, and the result does not
depend on the workers.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.documents import SCHEMA, list_document_files, read_document_batches, shard_name, write_documents
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.data_card import CARD, count_documents, sum_counts, write_data_card
from bloomery.curate.flow import text_bytes
from bloomery.curate.mixture import (
    MixConfig,
    choose_limit,
    copy_key,
    epochs_of_inputs,
    is_validation,
    num_copies,
    place_document,
)


@dataclass(frozen=True)
class Source:
    """One input file: its number among all, and the input that it belongs to."""

    index: int
    input: int
    path: Path


class Plan(NamedTuple):
    """What the maps need to know: where, how often each input is repeated (and below which key once more), how many shards."""

    out: Path
    config: MixConfig
    epochs: tuple[float, ...]
    limits: tuple[int, ...]
    num_shards: int


def mix(config: MixConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with train/NNNNN.parquet and validation/NNNNN.parquet; counts are reported for each input, by its number.

    Not the command `bloomery mix`, which looks for the proportions of tokens inputs of a `pretrain` (docs/mix.md).
    """
    if config.weights and len(config.weights) != len(documents):
        raise ConfigError(f"weights: {len(config.weights)} weights for {len(documents)} inputs; give one for each, in their order")
    sources = _list_sources(documents)
    pool = runtime.pool()
    for _ in pool.map(functools.partial(measure_source, config, out), [s for s in sources if not _sizes_path(out, s).exists()]):
        pass
    plan = _make_plan(config, sources, num_inputs=len(documents), out=out)
    waiting = [source for source in sources if not _scattered_path(out, source).exists()]
    targets = [*(f"train/{shard_name(i)}" for i in range(plan.num_shards)), f"validation/{shard_name(0)}"]
    with runtime.progress(len(sources) + len(targets), "shards") as bar:
        bar.advance(len(sources) - len(waiting))
        for _ in pool.map(functools.partial(scatter_source, plan), waiting):
            bar.advance()
        missing = [target for target in targets if not (out / target).exists()]
        bar.advance(len(targets) - len(missing))
        for _ in pool.map(functools.partial(gather_target, plan, sources), missing):
            bar.advance()
    for split in ("train", "validation"):
        if (_card_folder(out, split) / CARD).exists():
            continue
        parts = [read_json(_card_path(out, target)) for target in targets if target.startswith(split)]
        write_data_card(_card_folder(out, split), sum_counts(parts), title=f"Documents for {split}")
    return _count(sources, targets, num_inputs=len(documents), out=out)


def measure_source(config: MixConfig, out: Path, source: Source) -> None:
    """Writes to scratch how much of one file is for training; with shares, also each document's key and size."""
    sizes = Counter({"documents_in": 0, "bytes_in": 0, "train_bytes": 0})
    keys: list[int] = []
    num_bytes: list[int] = []
    for table in read_document_batches(source.path):
        lengths = pc.fill_null(pc.binary_length(table.column("text")), 0).to_pylist()
        sizes.update({"documents_in": len(table), "bytes_in": text_bytes(table)})
        for id, length in zip(table.column("id").to_pylist(), lengths, strict=True):
            if is_validation(id, fraction=config.validation_fraction):
                continue
            sizes["train_bytes"] += length
            if config.has_shares:
                keys.append(copy_key(id, seed=config.seed))
                num_bytes.append(length)
    with write_atomically(_keys_path(out, source)) as temporary:
        pq.write_table(pa.table({"key": pa.array(keys, pa.uint64()), "bytes": pa.array(num_bytes, pa.int64())}), temporary)
    write_json(_sizes_path(out, source), dict(sizes))


def scatter_source(plan: Plan, source: Source) -> None:
    """Cuts one file into pieces, one for each output shard that gets something, in scratch."""
    writers: dict[str, pq.ParquetWriter] = {}
    counts = Counter({"train": 0, "validation": 0, "bytes_out": 0})
    folder = plan.out / ".scratch" / "pieces" / f"{source.index:05d}"
    for table in read_document_batches(source.path):
        rows: dict[str, list[int]] = {}
        keys: dict[str, list[int]] = {}
        for row, id in enumerate(table.column("id").to_pylist()):
            copies = num_copies(id, epochs=plan.epochs[source.input], limit=plan.limits[source.input], seed=plan.config.seed)
            for place in place_document(id, copies=copies, config=plan.config, num_shards=plan.num_shards):
                target = f"{place.split}/{shard_name(place.shard)}"
                rows.setdefault(target, []).append(row)
                keys.setdefault(target, []).append(place.key)
        for target in sorted(rows):
            piece = table.select(SCHEMA.names).take(pa.array(rows[target], pa.int64()))
            piece = piece.append_column("key", pa.array(keys[target], pa.uint64()))
            if target not in writers:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                writers[target] = pq.ParquetWriter(folder / target, piece.schema, compression="zstd", compression_level=1)
            writers[target].write_table(piece)
            counts.update({target.partition("/")[0]: len(piece), "bytes_out": text_bytes(piece)})
    for writer in writers.values():
        writer.close()
    # Pieces are whole from here on: a killed map leaves no file of this name, and its pieces are written anew.
    write_json(_scattered_path(plan.out, source), {**counts, "targets": sorted(writers)})


def gather_target(plan: Plan, sources: Sequence[Source], target: str) -> None:
    """Puts one output shard together from its pieces, in order of keys."""
    pieces = [_piece_path(plan.out, s, target) for s in sources if target in read_json(_scattered_path(plan.out, s))["targets"]]
    tables = [pq.read_table(path) for path in pieces]
    table = pa.concat_tables(tables) if tables else pa.schema([*SCHEMA, ("key", pa.uint64())]).empty_table()
    # Two inputs may hold the same document: with the id and the text, even then there is only one order.
    table = table.sort_by([("key", "ascending"), ("id", "ascending"), ("source", "ascending")])
    table = table.select(SCHEMA.names)
    write_json(_card_path(plan.out, target), count_documents(table))
    write_documents(plan.out / target, table)


def _list_sources(documents: Sequence[Path]) -> list[Source]:
    sources: list[Source] = []
    for number, path in enumerate(documents):
        for file in list_document_files(path):
            sources.append(Source(len(sources), number, file))
    return sources


def _make_plan(config: MixConfig, sources: Sequence[Source], *, num_inputs: int, out: Path) -> Plan:
    train_bytes = [0] * num_inputs
    for source in sources:
        train_bytes[source.input] += read_json(_sizes_path(out, source))["train_bytes"]
    epochs = epochs_of_inputs(train_bytes, config)
    limits = [_limit(sources, number, count, out=out) if count % 1 else 0 for number, count in enumerate(epochs)]
    total = sum(size * count for size, count in zip(train_bytes, epochs, strict=True))
    return Plan(out, config, tuple(epochs), tuple(limits), max(1, round(total / config.shard_bytes)))


def _limit(sources: Sequence[Source], number: int, epochs: float, *, out: Path) -> int:
    tables = [pq.read_table(_keys_path(out, source)) for source in sources if source.input == number]
    table = pa.concat_tables(tables)
    return choose_limit(np.asarray(table.column("key")), np.asarray(table.column("bytes")), epochs=epochs)


def _count(sources: Sequence[Source], targets: Sequence[str], *, num_inputs: int, out: Path) -> dict[str, int]:
    names = ("documents_in", "documents_out", "bytes_in", "bytes_out")
    total = dict.fromkeys((*names, "train_documents", "validation_documents"), 0)
    by_input = [dict.fromkeys(names, 0) for _ in range(num_inputs)]
    for source in sources:
        sizes, scattered = read_json(_sizes_path(out, source)), read_json(_scattered_path(out, source))
        values = {
            "documents_in": sizes["documents_in"],
            "documents_out": scattered["train"] + scattered["validation"],
            "bytes_in": sizes["bytes_in"],
            "bytes_out": scattered["bytes_out"],
        }
        for name in names:
            total[name] += values[name]
            by_input[source.input][name] += values[name]
        total["train_documents"] += scattered["train"]
        total["validation_documents"] += scattered["validation"]
    return {**total, **{f"inputs/{i}/{name}": count for i, counts in enumerate(by_input) for name, count in counts.items()}}


def _sizes_path(out: Path, source: Source) -> Path:
    return out / ".scratch" / "sizes" / f"{source.index:05d}.json"


def _card_folder(out: Path, split: str) -> Path:
    return out / split if split == "validation" else out


def _keys_path(out: Path, source: Source) -> Path:
    return out / ".scratch" / "sizes" / f"{source.index:05d}.parquet"


def _card_path(out: Path, target: str) -> Path:
    return out / ".scratch" / "cards" / f"{target}.json"


def _scattered_path(out: Path, source: Source) -> Path:
    return out / ".scratch" / "scattered" / f"{source.index:05d}.json"


def _piece_path(out: Path, source: Source, target: str) -> Path:
    return out / ".scratch" / "pieces" / f"{source.index:05d}" / target


STAGE = Stage(
    name="mix",
    config_type=MixConfig,
    run=mix,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=2,
)
