"""documents + tokenizer -> tokens: every document as ids, in memory-mapped shards with a manifest.

One shard a document file, so that the work spreads over a pool and a killed run keeps what is finished. A mix comes
with its split (`train/`, `validation/`); plain documents are split here, by a hash of the document's id. The data card
says what the training tokens are made of.
"""

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from bloomery.core.config import Config
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.data_card import CARD, count_documents, sum_counts, write_data_card
from bloomery.tokens.shards import SPLITS, Split, open_shard, write_manifest
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer


class TokenizeConfig(Config):
    """Ids of documents."""

    validation_fraction: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Share of the documents held out, where the input is not split already."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One document file, and the shard of each split that it fills."""

    path: Path
    out: Path
    tokenizer: Path
    tokenizer_sha256: str
    shard_of_split: dict[Split, int]
    validation_fraction: float


def tokenize(config: TokenizeConfig, *, documents: Sequence[Path], tokenizer: Path, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Fills `out` with shards and manifest.json. Raises DataError if the documents hold no training token."""
    loaded = load_tokenizer(tokenizer)
    tasks = _make_tasks(config, documents, tokenizer, loaded.sha256, out)
    with runtime.progress(len(tasks), "files") as bar:
        for _ in runtime.pool().map(_tokenize_file, tasks):
            bar.advance()
    text_bytes: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for task in tasks:
            if split in task.shard_of_split:
                text_bytes[split].append(read_json(_count_path(task, split))["bytes"])
    if not (out / CARD).exists():
        train = [read_json(_count_path(task, "train")) for task in tasks if "train" in task.shard_of_split]
        write_data_card(out, sum_counts(train), title="Training tokens")
    manifest = write_manifest(out, tokenizer_sha256=loaded.sha256, vocab_size=loaded.vocab_size, text_bytes=text_bytes)
    metrics: dict[str, Any] = {}
    for split in SPLITS:
        totals = manifest["splits"][split]
        metrics |= {f"{split}_{name}": totals[name] for name in ("documents", "tokens", "bytes")}
        metrics[f"{split}_bytes_per_token"] = round(totals["bytes"] / max(totals["tokens"], 1), 4)
    if not metrics["train_tokens"]:
        held_out = metrics["validation_documents"]
        remedy = f"all {held_out} are held out: set validation_fraction = 0, or add documents" if held_out else "none of them holds text"
        raise DataError(f"{', '.join(map(str, documents))}: no training document in {len(tasks)} files; {remedy}")
    return metrics


def _make_tasks(config: TokenizeConfig, documents: Sequence[Path], tokenizer: Path, sha256: str, out: Path) -> list[_Task]:
    tasks, next_shard = [], Counter[Split]()
    for source in documents:
        split_here = (source / "train").is_dir()
        for split in SPLITS if split_here else (None,):
            folder = source if split is None else source / split
            if split == "validation" and not folder.is_dir():
                continue
            for path in list_document_files(folder):
                splits: tuple[Split, ...] = SPLITS if split is None else (split,)
                task = _Task(
                    path=path,
                    out=out,
                    tokenizer=tokenizer,
                    tokenizer_sha256=sha256,
                    shard_of_split={s: next_shard[s] for s in splits},
                    validation_fraction=config.validation_fraction,
                )
                tasks.append(task)
                next_shard.update(splits)
    return tasks


def _tokenize_file(task: _Task) -> None:
    if all(_stem(task, split).with_suffix(".bin").exists() for split in task.shard_of_split):
        return
    tokenizer = _cached_tokenizer(task.tokenizer, task.tokenizer_sha256)
    cards: dict[Split, list[Mapping[str, Any]]] = {split: [] for split in task.shard_of_split}
    only = next(iter(task.shard_of_split)) if len(task.shard_of_split) == 1 else None
    with contextlib.ExitStack() as stack:
        shards = {split: stack.enter_context(open_shard(_stem(task, split), vocab_size=tokenizer.vocab_size)) for split in cards}
        for table in read_document_batches(task.path):
            table = table.filter(pc.greater(pc.fill_null(pc.binary_length(table.column("text")), 0), 0))
            splits = [only or _split_of(name, task.validation_fraction) for name in table.column("id").to_pylist()]
            lengths = []
            # One document's ids at a time are in memory; what a batch leaves there is how long they were.
            for split, text in zip(splits, table.column("text"), strict=True):
                found = tokenizer.encode_to_array(text.as_py())
                ids = np.concatenate([tokenizer.begin, found, [tokenizer.end_id]], dtype=np.uint32, casting="unsafe")
                shards[split].append([ids])
                lengths.append(len(ids))
            for split, counts in cards.items():
                rows = [i for i, chosen in enumerate(splits) if chosen == split]
                counts.append(count_documents(table.take(pa.array(rows, pa.int64())), tokens=[lengths[i] for i in rows]))
        for split, counts in cards.items():  # before the shards get their names: where a .bin is, everything about it is there
            write_json(_count_path(task, split), sum_counts(counts))


def _split_of(name: str, validation_fraction: float) -> Split:
    digest = hashlib.blake2b(f"validation\x00{name}".encode("utf-8", "replace"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "little") < validation_fraction * 2**64 else "train"


def _stem(task: _Task, split: Split) -> Path:
    return task.out / split / f"{task.shard_of_split[split]:05d}"


def _count_path(task: _Task, split: Split) -> Path:
    return task.out / ".scratch" / f"{split}-{task.shard_of_split[split]:05d}.json"


@functools.lru_cache(maxsize=1)
def _cached_tokenizer(folder: Path, sha256: str) -> Tokenizer:  # the sha256 keeps a remade tokenizer from being mistaken for the old
    return load_tokenizer(folder)


STAGE = Stage(
    name="tokenize",
    config_type=TokenizeConfig,
    run=tokenize,
    inputs={"documents": Slot("documents", many=True), "tokenizer": Slot("tokenizer")},
    output="tokens",
    version=2,
)
