"""decontaminate: what documents share with rows of the evaluation goes, so that its figures mean something.

The held-out prompts come as artifacts of `synthesize` (their test.jsonl.gz) or as JSONL files of any benchmark; held-out
documents, of which no run of words may be trained on either, as documents (of a mix: its validation side). A document
goes as a whole, or the passages of it that were leaked. Every passage found stands in `ledger/hits/NNNNN.parquet` with
task, row and span; `contamination.json` says for each task how many of its rows were found in how many documents.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.documents import list_document_files, list_held_out_files, read_document_batches, shard_name
from bloomery.core.files import write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate import ledger
from bloomery.curate.decontaminate import (
    Cleaned,
    DecontaminateConfig,
    Hit,
    Prompt,
    PromptIndex,
    cut_hits,
    describe_hits,
    find_contaminated,
    hits_table,
    index_prompts,
    list_prompt_files,
    name_tasks,
    read_held_out,
    read_index,
    read_prompts,
    summarise_hits,
    write_index,
)
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_row, ledger_table

HITS_FOLDER = f"{ledger.FOLDER}/hits"


def decontaminate(
    config: DecontaminateConfig,
    *,
    documents: list[Path],
    prompts: Sequence[Path] = (),
    held_out: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, int]:
    """Fills `out` with the documents that share nothing with prompts and held-out documents, one shard for each input file."""
    index_path = out / ".scratch" / "prompts.npz"
    if not index_path.exists():
        write_index(index_path, index_prompts(_searched_for(prompts, held_out), config))
    index = read_index(index_path)
    shards = number_shards(list_document_files(documents))
    counts = map_shards(functools.partial(decontaminate_file, config, index_path), shards, out=out, runtime=runtime)
    hits = pa.concat_tables([pq.read_table(out / HITS_FOLDER / shard_name(shard.index)) for shard in shards])
    summary = summarise_hits(index, hits)
    if not (out / "contamination.json").exists():
        write_json(out / "contamination.json", summary)
    rows = {f"prompts{suffix}": sum(task[f"rows{suffix}"] for task in summary.values()) for suffix in ("", "_searched", "_hit")}
    return {**counts, **rows}


def _searched_for(prompts: Sequence[Path], held_out: Sequence[Path]) -> Iterator[Prompt]:
    files = list_prompt_files(prompts)
    texts = list_held_out_files(held_out)
    names = name_tasks([*files, *texts])
    for path, task in zip(files, names, strict=False):
        yield from read_prompts(path, task)
    for path, task in zip(texts, names[len(files) :], strict=True):
        yield from read_held_out(path, task)


def decontaminate_file(config: DecontaminateConfig, index_path: Path, shard: Shard) -> Iterator[Outcome]:
    """What is left of the documents of one file, and the ledger of those that are dropped."""
    index = read_index(index_path)
    for table in read_document_batches(shard.source):
        yield _decontaminate_batch(config, index, table)


def _decontaminate_batch(config: DecontaminateConfig, index: PromptIndex, table: pa.Table) -> Outcome:
    hits = find_contaminated(table.column("text"), index)
    texts = table.column("text").to_pylist() if any(hits) else [None] * len(table)
    cleaned = [
        None if not found else cut_hits(text or "", found, config) if config.mode == "passage" else Cleaned(None, 0, 0)
        for text, found in zip(texts, hits, strict=True)
    ]
    stays = [clean is None or clean.text is not None for clean in cleaned]
    dropped: list[dict[str, object]] = []
    hit_rows: list[dict[str, object]] = []
    for i in (i for i, found in enumerate(hits) if found):
        document = {name: table.column(name)[i].as_py() for name in ("id", "url", "text")}
        action = "cut" if stays[i] else "dropped"
        hit_rows.extend({"id": document["id"], "action": action, **hit._asdict()} for hit in hits[i])
        if not stays[i]:
            dropped.append(_ledger_row(config, document, hits[i], cleaned[i]))
    counts = {"hits": len(hit_rows)}
    kept = table.filter(pa.array(stays, pa.bool_()))
    if config.mode == "passage":
        bytes_before = text_bytes(kept)
        num_cuts = np.array([clean.num_cuts if clean else 0 for clean, stay in zip(cleaned, stays, strict=True) if stay], np.float64)
        if num_cuts.any():
            new = [clean.text if clean else text for text, clean, stay in zip(texts, cleaned, stays, strict=True) if stay]
            kept = kept.set_column(kept.schema.get_field_index("text"), "text", pa.array(new, pa.large_string()))
        name = "signal_contaminated_passages"
        kept = (kept.drop_columns([name]) if name in kept.column_names else kept).append_column(name, pa.array(num_cuts))
        counts |= {
            "cut_documents": int((num_cuts > 0).sum()),
            "cut_passages": int(num_cuts.sum()),
            "cut_bytes": bytes_before - text_bytes(kept),
        }
    extra = {HITS_FOLDER: hits_table(hit_rows)}
    return Outcome(kept, ledger_table(dropped), len(table), text_bytes(table), counts=counts, extra=extra, came=table)


def _ledger_row(
    config: DecontaminateConfig, document: Mapping[str, str | None], hits: Sequence[Hit], clean: Cleaned | None
) -> dict[str, object]:
    rule, value, threshold = "contaminated", float(len(hits)), 0.0
    if config.mode == "passage" and clean is not None:
        if clean.num_cuts > config.max_cuts:
            rule, value, threshold = "contaminated_too_often", float(clean.num_cuts), float(config.max_cuts)
        else:
            rule, value, threshold = "contaminated_as_a_whole", float(clean.words_left), float(config.min_words_left)
    row: dict[str, object] = ledger_row(
        stage="decontaminate",
        rule=rule,
        id=document["id"] or "",
        url=document["url"],
        text=document["text"],
        value=value,
        threshold=threshold,
        detail=describe_hits(document["text"] or "", hits),
    )
    return row


STAGE = Stage(
    name="decontaminate",
    config_type=DecontaminateConfig,
    run=decontaminate,
    inputs={
        "documents": Slot("documents", many=True),
        "prompts": Slot("conversations", many=True, optional=True),
        "held_out": Slot("documents", many=True, optional=True),
    },
    output="documents",
    version=2,
    one_of=("prompts", "held_out"),
)
