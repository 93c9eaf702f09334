"""mix: all documents into one shuffled training set, and a validation set beside it that no mixture trains on.

Two maps: every input file is cut into pieces, one for each output shard; every output shard is put together from its
pieces and sorted by hash. So no more than two shards are in memory, and the result does not depend on the workers.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.documents import SCHEMA, list_document_files, read_documents, shard_name, write_documents
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import text_bytes
from bloomery.curate.mixture import MixConfig, epochs_of_inputs, is_validation, num_copies, place_document


@dataclass(frozen=True)
class Source:
    """One input file: its number among all, and the input that it belongs to."""

    index: int
    input: int
    path: Path


class Plan(NamedTuple):
    """What the two maps need to know: where, how often each input is repeated, how many training shards."""

    out: Path
    config: MixConfig
    epochs: tuple[float, ...]
    num_shards: int


def mix(config: MixConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with train/NNNNN.parquet and validation/NNNNN.parquet; counts are reported for each input, by its number."""
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
    return _count(sources, targets, num_inputs=len(documents), out=out)


def measure_source(config: MixConfig, out: Path, source: Source) -> None:
    """Writes to scratch how much of one file is for training."""
    table = read_documents(source.path)
    train = [not is_validation(id, fraction=config.validation_fraction) for id in table.column("id").to_pylist()]
    sizes = {
        "documents_in": len(table),
        "bytes_in": text_bytes(table),
        "train_bytes": text_bytes(table.filter(pa.array(train, pa.bool_()))),
    }
    write_json(_sizes_path(out, source), sizes)


def scatter_source(plan: Plan, source: Source) -> None:
    """Cuts one file into pieces, one for each output shard that gets something, in scratch."""
    table = read_documents(source.path)
    rows: dict[str, list[int]] = {}
    keys: dict[str, list[tuple[int, int]]] = {}
    for row, id in enumerate(table.column("id").to_pylist()):
        copies = num_copies(id, epochs=plan.epochs[source.input], seed=plan.config.seed)
        for place in place_document(id, copies=copies, config=plan.config, num_shards=plan.num_shards):
            target = f"{place.split}/{shard_name(place.shard)}"
            rows.setdefault(target, []).append(row)
            keys.setdefault(target, []).append((place.key, place.copy))
    for target in sorted(rows):
        piece = table.select(SCHEMA.names).take(pa.array(rows[target], pa.int64()))
        piece = piece.append_column("key", pa.array([key for key, _ in keys[target]], pa.uint64()))
        with write_atomically(_piece_path(plan.out, source, target)) as temporary:
            pq.write_table(piece, temporary, compression="zstd", compression_level=1)
    counts = {split: sum(len(r) for target, r in rows.items() if target.startswith(split)) for split in ("train", "validation")}
    num_bytes = pc.binary_length(table.column("text")).to_pylist()
    written = sum(num_bytes[row] or 0 for taken in rows.values() for row in taken)
    write_json(_scattered_path(plan.out, source), {**counts, "bytes_out": written, "targets": sorted(rows)})


def gather_target(plan: Plan, sources: Sequence[Source], target: str) -> None:
    """Puts one output shard together from its pieces, in order of keys."""
    pieces = [_piece_path(plan.out, s, target) for s in sources if target in read_json(_scattered_path(plan.out, s))["targets"]]
    tables = [pq.read_table(path) for path in pieces]
    table = pa.concat_tables(tables) if tables else pa.schema([*SCHEMA, ("key", pa.uint64())]).empty_table()
    # Two inputs may hold the same document: with the id and the text, even then there is only one order.
    table = table.sort_by([("key", "ascending"), ("id", "ascending"), ("source", "ascending")])
    write_documents(plan.out / target, table.select(SCHEMA.names))


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
    total = sum(size * count for size, count in zip(train_bytes, epochs, strict=True))
    return Plan(out, config, tuple(epochs), max(1, round(total / config.shard_bytes)))


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
    version=1,
)
