"""extract: pages to documents. The first thing a page becomes is text with an address, a date and a language.

Archives (WARC, ARC, WET) are read record by record; documents that are text already (Parquet, JSONL, .txt) pass
through and get the language they lack. One input file gives one output shard; every record without a document is named
in the ledger with its reason.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any  # Any: a row of a document table

import pyarrow as pa

from bloomery.core.documents import BATCH_BYTES, DOCUMENT_SUFFIXES, document_id, document_table, read_document_batches
from bloomery.core.files import expand
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.blocks import SHIPPED_MODEL, load_block_model
from bloomery.curate.extract import ExtractConfig, Refused, extract_page, load_trafilatura, prepare_extractor
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.language import identify_language
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.normalize import normalize_text
from bloomery.curate.warc import ARCHIVE_SUFFIXES, Capture, Damage, read_captures


def extract(config: ExtractConfig, *, pages: list[Path], model: Path | None = None, out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with one document shard for each input file. Counts are of records that hold, or should hold, a page.

    `model` is a block classifier made by `train_extractor`, in place of the one that comes with the package.
    """
    if config.extractor == "trafilatura":
        load_trafilatura()
    elif config.extractor == "blocks":
        load_block_model(model or SHIPPED_MODEL)
    files = expand(pages, suffixes=ARCHIVE_SUFFIXES + DOCUMENT_SUFFIXES)
    return map_shards(functools.partial(extract_file, config, model or SHIPPED_MODEL), number_shards(files), out=out, runtime=runtime)


def extract_file(config: ExtractConfig, model: Path, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file of pages, and the ledger of the rest."""
    if shard.source.name.endswith(DOCUMENT_SUFFIXES):
        yield from _pass_through(config, shard.source)
        return
    prepare_extractor(config, model=model)
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    bytes_in, held = 0, 0
    for item in read_captures(shard.source, max_record_bytes=config.max_record_bytes):
        id = document_id(shard.source.name, item.offset)
        if isinstance(item, Damage):
            dropped.append(ledger_row(stage="extract", rule=item.rule, id=id, url=item.url, value=item.value, detail=item.detail))
            continue
        bytes_in += len(item.body)
        result = extract_page(item, config, model=model)
        if isinstance(result, Refused):
            dropped.append(_refusal(result, id=id, url=item.url))
        else:
            meta = {"encoding": result.encoding, "offset": item.offset, "title": result.title}
            meta |= {name: value for name, value in (("author", result.author), ("published", result.published)) if value}
            rows.append(_document(item, id=id, source=shard.source.name, text=result.text, meta=meta))
            held += len(result.text)
        if held >= BATCH_BYTES:
            yield _batch(rows, dropped, bytes_in)
            rows, dropped, bytes_in, held = [], [], 0, 0
    yield _batch(rows, dropped, bytes_in)


def _batch(rows: list[dict[str, Any]], dropped: list[dict[str, Any]], bytes_in: int) -> Outcome:
    # Languages are named here, one text after another: between two pages the 100 MB of tables would leave the caches.
    for row in rows:
        row["language"], row["language_score"] = identify_language(row["text"])
    return Outcome(document_table(rows), ledger_table(dropped), len(rows) + len(dropped), bytes_in)


def _refusal(refused: Refused, *, id: str, url: str | None, text: str | None = None) -> dict[str, Any]:
    facts = refused._asdict()
    return ledger_row(stage="extract", rule=facts.pop("rule"), id=id, url=url, text=text, **facts)


def _document(capture: Capture, *, id: str, source: str, text: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": id,
        "text": text,
        "url": capture.url,
        "source": source,
        "date": capture.date,
        "meta": json.dumps(meta, sort_keys=True, ensure_ascii=False),
    }


def _pass_through(config: ExtractConfig, source: Path) -> Iterator[Outcome]:
    for table in read_document_batches(source):
        yield _tidy_batch(config, table)


def _tidy_batch(config: ExtractConfig, table: pa.Table) -> Outcome:
    rows, dropped = [], []
    for row in _identify_missing(config, table):
        if len(row["text"]) < config.min_characters:
            refused = Refused("no_text", len(row["text"]), config.min_characters)
            dropped.append(_refusal(refused, id=row["id"], url=row["url"], text=row["text"]))
        else:
            rows.append(row)
    return Outcome(document_table(rows), ledger_table(dropped), len(table), text_bytes(table), came=table)


def _identify_missing(config: ExtractConfig, table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        row["text"] = normalize_text(row["text"] or "", config.normalize)
        if row["language"] is None:
            row["language"], row["language_score"] = identify_language(row["text"])
        yield row


STAGE = Stage(
    name="extract",
    config_type=ExtractConfig,
    run=extract,
    inputs={"pages": Slot("pages", many=True), "model": Slot("scorer", optional=True)},
    output="documents",
    version=3,
)
