"""dedup_paragraphs: paragraphs or lines that several documents have are removed from all of them, or all but the first.

Shards state their units by hash, partitions of the hashes judge them, shards are written without the removed ones
(`curate/regroup.py`). `frequent.json` shows the hundred removed units that most documents had.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any  # Any: a row of JSON

import numpy as np
import pyarrow as pa

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.files import read_json, write_json
from bloomery.core.shuffle import choose_partitions
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.paragraphs import (
    DedupParagraphsConfig,
    choose_removed,
    find_units,
    judge_units,
    list_frequent,
    merge_frequent,
    remove_units,
    state_units,
)
from bloomery.curate.regroup import regroup, verdicts

SIGNAL = "signal_duplicate_unit_fraction"

BYTES_PER_ROW = {"exact": 20, "ngrams": 2}
"""Bytes of (compressed) input for each stated row, or fewer: sets how many partitions there are."""


def dedup_paragraphs(config: DedupParagraphsConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with one shard for each input file, without units that are duplicates within and between the files."""
    shards = number_shards(list_document_files(documents))
    num_rows = sum(shard.source.stat().st_size for shard in shards) // BYTES_PER_ROW[config.match]
    regroup(
        functools.partial(state_file, config),
        functools.partial(judge_units, config),
        shards,
        folder=out / ".scratch" / "units",
        num_partitions=choose_partitions(num_rows),
        runtime=runtime,
        verb="units",
    )
    work = functools.partial(remove_from_file, config, out, len(shards))
    counts = map_shards(work, shards, out=out, runtime=runtime)
    if not (out / "frequent.json").exists():
        found = (row for shard in shards for row in read_json(_frequent_path(out, shard)))
        write_json(out / "frequent.json", merge_frequent(found))
    return counts


def state_file(config: DedupParagraphsConfig, shard: Shard) -> pa.Table:
    """The rows that one file states; see `state_units`."""
    return state_units(config, shard.source, shard.index)


def remove_from_file(config: DedupParagraphsConfig, out: Path, num_shards: int, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file without the units that were judged duplicates, and the ledger of those left with nothing."""
    judged = verdicts(out / ".scratch" / "units", shard, num_shards=num_shards)
    frequent: list[dict[str, Any]] = []
    first_unit = 0
    for table in read_document_batches(shard.source):
        units = find_units(table.column("text"), config)
        removed = choose_removed(units, judged, first_unit, config)
        if config.match == "exact":
            frequent = merge_frequent([*frequent, *list_frequent(units, judged, first_unit)])
        first_unit += len(units.spans)
        total = np.bincount(units.spans[:, 0], minlength=len(table))
        gone = np.bincount(units.spans[removed, 0], minlength=len(table))
        fraction = gone / np.maximum(total, 1)
        texts, dropped, stays = table.column("text").to_pylist(), [], np.ones(len(table), np.bool_)
        counts = {"edited_documents": 0, "removed_units": 0, "removed_bytes": 0}
        numbers = np.flatnonzero(removed)
        bounds = np.searchsorted(units.spans[numbers, 0], np.arange(len(table) + 1))
        for i in np.flatnonzero(gone).tolist():
            text = texts[i] or ""
            texts[i] = remove_units(text, units, numbers[bounds[i] : bounds[i + 1]], i).text
            if len(texts[i]) < config.min_characters_left:
                stays[i] = False
                what = f"{gone[i]} of {total[i]} {config.unit}s are in other documents; {len(texts[i])} of {len(text)} characters are left"
                facts = {"value": float(fraction[i]), "detail": what}
                url = table.column("url")[i].as_py()
                row = ledger_row(
                    stage="dedup_paragraphs", rule="all_duplicate", id=table.column("id")[i].as_py(), url=url, text=text, **facts
                )
                dropped.append(row)
            else:
                size = len(text.encode()) - len(texts[i].encode())
                for name, count in (("edited_documents", 1), ("removed_units", int(gone[i])), ("removed_bytes", size)):
                    counts[name] += count
        kept = table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.large_string()))
        kept = (kept.drop_columns([SIGNAL]) if SIGNAL in kept.column_names else kept).append_column(SIGNAL, pa.array(fraction))
        yield Outcome(kept.filter(pa.array(stays)), ledger_table(dropped), len(table), text_bytes(table), counts=counts, came=table)
    # Before the shard itself gets its name: a finished shard has its frequent units.
    write_json(_frequent_path(out, shard), frequent)


def _frequent_path(out: Path, shard: Shard) -> Path:
    return out / ".scratch" / "frequent" / f"{shard.index:05d}.json"


STAGE = Stage(
    name="dedup_paragraphs",
    config_type=DedupParagraphsConfig,
    run=dedup_paragraphs,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
