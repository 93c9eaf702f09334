"""url_filter: what an address alone tells. Drops pages without a valid one, pages on blocklists, and pages seen before.

Three steps: judge the addresses of every shard (a map), find the first or newest document of each address across all
shards (`core/shuffle.py`: keys and numbers move, never text), write every shard without what was dropped (a map).
A blocked page never stands for its duplicates: only documents that pass the lists are compared.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal  # Any: a row of a ledger

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.files import write_atomically
from bloomery.core.remote import file_bytes
from bloomery.core.shuffle import choose_partitions, gather, is_scattered, scatter
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.blocklists import Blocklists, ListKind, compile_lists, load_lists
from bloomery.curate.flow import Outcome, Shard, drop_documents, map_shards, number_shards
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.urls import Url, canonical_url, parse_url


class UrlFilterConfig(Config):
    """Which addresses are dropped. Blocklists come through the input `lists`: hosts files, domains, URLs, words, UT1."""

    categories: list[str] = Field(default=[])
    """Which categories to take of lists that have them (UT1); "*" for all. UT1 has harmless ones too (press, bank)."""
    kinds: dict[str, ListKind] = Field(default={})
    """What a list holds, by its name (the file's, without suffixes), where neither its name nor its lines say so."""
    words: list[str] = Field(default=[])
    """Further words that no address may have, as whole words."""
    subwords: list[str] = Field(default=[])
    """Further words that no address may have, also in the middle of its letters and digits."""
    soft_words: list[str] = Field(default=[])
    """Further words of which an address may have fewer than `min_soft_words`."""
    min_soft_words: PositiveInt = 2
    """So many different soft words in one address block it."""
    allowed_domains: list[str] = Field(default=[])
    """Domains that no list blocks, with everything below them."""
    keep: Literal["first", "newest", "all"] = "first"
    """Which document of an address stays: the first in order of the inputs, that of the newest date, or all of them."""
    ignored_parameters: list[str] = Field(default=[])
    """Further query parameters that do not tell pages apart, beside those that only name campaigns and visitors."""
    without_url: Literal["keep", "drop"] = "keep"
    """What becomes of documents that have no address at all; they have no duplicates here."""
    address: Literal["found", "canonical"] = "found"
    """What stands in `url` afterwards: the address as it was found, or its canonical form."""


VERDICTS = pa.schema(
    [("row", pa.int64()), ("rule", pa.string()), ("value", pa.float64()), ("threshold", pa.float64()), ("detail", pa.string())]
)
"""The documents of a shard that are dropped for their address alone."""

ADDRESSES = pa.schema(
    [("key", pa.uint64()), ("check", pa.uint64()), ("shard", pa.int64()), ("row", pa.int64()), ("time", pa.int64()), ("id", pa.string())]
)
"""One row for each document that is left: 128 bits of its address, where it stands, and its date in microseconds."""

DUPLICATES = pa.schema([("to", pa.uint64()), ("row", pa.int64()), ("kept_id", pa.string())])

_ROWS_PER_BYTE = 1 / 128  # more than documents have, so that a partition of addresses is never too large for memory
_NO_DATE = -(2**63)


@dataclass(frozen=True)
class Work:
    """What the steps share: the config, the output folder, and how many partitions each shuffle has."""

    config: UrlFilterConfig
    out: Path
    num_address_partitions: int
    num_shard_partitions: int

    @property
    def lists(self) -> Path:
        """Where the compiled blocklists are."""
        return self.out / ".scratch" / "lists"

    @property
    def addresses(self) -> Path:
        """The first shuffle: documents by address."""
        return self.out / ".scratch" / "addresses"

    @property
    def duplicates(self) -> Path:
        """The second shuffle: duplicates by shard."""
        return self.out / ".scratch" / "duplicates"

    def verdicts(self, shard: Shard) -> Path:
        """The file of a shard's documents that are dropped for their address alone."""
        return self.out / ".scratch" / "verdicts" / f"{shard.index:05d}.parquet"


def url_filter(
    config: UrlFilterConfig, *, documents: list[Path], lists: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, int]:
    """Fills `out` with one shard for each input file, without documents whose address is invalid, blocked or a repeat."""
    shards = number_shards(list_document_files(documents))
    num_rows = int(sum(file_bytes(shard.source) for shard in shards) * _ROWS_PER_BYTE)
    work = Work(config, out, choose_partitions(num_rows), 1 << (max(len(shards), 1) - 1).bit_length())
    if not (work.lists / "words.json").exists():
        inline: dict[ListKind, list[str]] = {"words": config.words, "subwords": config.subwords, "soft_words": config.soft_words}
        compile_lists(lists, work.lists, categories=config.categories, kinds=config.kinds, inline=inline)
    _map_missing(judge_file, work, shards, [is_scattered(work.addresses, shard.index) for shard in shards], runtime, unit="shards judged")
    if config.keep != "all":
        partitions = range(work.num_address_partitions)
        made = [is_scattered(work.duplicates, partition) for partition in partitions]
        _map_missing(find_duplicates, work, partitions, made, runtime, unit="address partitions")
    return map_shards(functools.partial(drop_judged, work), shards, out=out, runtime=runtime)


def judge_file(work: Work, shard: Shard) -> None:
    """Writes to scratch which documents of a file are dropped for their address, and the addresses of the others."""
    lists = load_lists(work.lists)
    verdicts: list[dict[str, Any]] = []
    parts: list[pa.Table] = []
    row = 0
    for table in read_document_batches(shard.source):
        found, urls = judge_urls(work.config, lists, table.column("url").to_pylist())
        verdicts.extend({"row": row + at, **verdict} for at, verdict in found.items())
        if work.config.keep != "all":
            parts.append(_addresses(work.config, table, urls, shard=shard.index, first_row=row))
        row += len(table)
    with write_atomically(work.verdicts(shard)) as temporary:
        pq.write_table(pa.Table.from_pylist(verdicts, schema=VERDICTS), temporary)
    addresses = pa.concat_tables(parts) if parts else ADDRESSES.empty_table()
    scatter(work.addresses, shard.index, addresses, key="key", num_partitions=work.num_address_partitions)


def judge_urls(
    config: UrlFilterConfig, lists: Blocklists, texts: Sequence[str | None]
) -> tuple[dict[int, dict[str, Any]], list[Url | None]]:
    """Which of these addresses are dropped and why (rule, value, threshold, detail, by their number), and the others, parsed."""
    ignored = frozenset(name.lower() for name in config.ignored_parameters)
    urls = [parse_url(text, ignored_parameters=ignored) if text else None for text in texts]
    verdicts: dict[int, dict[str, Any]] = {}
    for number, (text, url) in enumerate(zip(texts, urls, strict=True)):
        if not text and config.without_url == "drop":
            verdicts[number] = {"rule": "without_url"}
        elif text and url is None:
            verdicts[number] = {"rule": "invalid_url"}
    if not lists.is_empty:
        allowed = tuple(domain.lower() for domain in config.allowed_domains)
        tried = [None if url is None or _is_below(url.host, allowed) else url for url in urls]
        for number, hit in enumerate(lists.find_hits(tried, min_soft_words=config.min_soft_words)):
            if hit is not None:
                threshold = None if hit.value is None else float(config.min_soft_words)
                detail = f"{hit.list}: {hit.entry}"
                verdicts[number] = {"rule": hit.rule, "value": hit.value, "threshold": threshold, "detail": detail}
    return verdicts, [None if number in verdicts else url for number, url in enumerate(urls)]


def find_duplicates(work: Work, partition: int) -> None:
    """Writes to scratch, parted by shard, every document of one partition of addresses whose twin stays."""
    table = gather(work.addresses, partition).combine_chunks()
    key, check, shard, row, time = (table.column(name).to_numpy() for name in ("key", "check", "shard", "row", "time"))
    # Ties go to the first in order of the inputs: gather keeps that order, and lexsort keeps the order of equals.
    order = np.lexsort((-time if work.config.keep == "newest" else np.zeros(len(key), np.int64), check, key))
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (key[order][1:] != key[order][:-1]) | (check[order][1:] != check[order][:-1])
    keeper = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    gone = np.flatnonzero(~is_first)
    gone = gone[np.lexsort((row[order[gone]], shard[order[gone]]))]
    bits = work.num_shard_partitions.bit_length() - 1
    columns = [
        pa.array(shard[order[gone]].astype(np.uint64) << np.uint64(64 - bits) if bits else np.zeros(len(gone), np.uint64)),
        pa.array(row[order[gone]]),
        table.column("id").take(pa.array(keeper[gone])),
    ]
    scatter(work.duplicates, partition, pa.table(columns, schema=DUPLICATES), key="to", num_partitions=work.num_shard_partitions)


def drop_judged(work: Work, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file that stay, and the ledger of the others."""
    fates: dict[int, dict[str, Any]] = {}
    for verdict in pq.read_table(work.verdicts(shard)).to_pylist():
        fates[verdict.pop("row")] = verdict
    if work.config.keep != "all":
        for fact in gather(work.duplicates, shard.index).to_pylist():
            fates[fact["row"]] = {"rule": "duplicate_url", "kept_id": fact["kept_id"]}

    def drop(table: pa.Table, first_row: int) -> tuple[pa.Array, pa.Table]:
        gone = [at for at in range(len(table)) if first_row + at in fates]
        keep = np.ones(len(table), dtype=np.bool_)
        keep[gone] = False
        documents = table.select(["id", "url", "text"]).take(pa.array(gone, pa.int64())).to_pylist()
        rows = [ledger_row(stage="url_filter", **fates[first_row + at], **document) for at, document in zip(gone, documents, strict=True)]
        return pa.array(keep), ledger_table(rows)

    for outcome in drop_documents(shard.source, drop):
        yield outcome._replace(kept=_with_canonical_urls(outcome.kept)) if work.config.address == "canonical" else outcome


def _with_canonical_urls(table: pa.Table) -> pa.Table:
    urls = [text and canonical_url(text) for text in table.column("url").to_pylist()]
    return table.set_column(table.column_names.index("url"), "url", pa.array(urls, pa.string()))


def _addresses(config: UrlFilterConfig, table: pa.Table, urls: Sequence[Url | None], *, shard: int, first_row: int) -> pa.Table:
    at = [number for number, url in enumerate(urls) if url is not None]
    digests = b"".join(blake2b(url.key.encode(), digest_size=16).digest() for url in urls if url is not None)
    halves = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    part = table.select(["id", "date"]).take(pa.array(at, pa.int64()))
    times = [_microseconds(date) for date in part.column("date").to_pylist()] if config.keep == "newest" else [0] * len(at)
    columns = {
        "key": pa.array(halves[:, 0]),
        "check": pa.array(halves[:, 1]),
        "shard": pa.array([shard] * len(at), pa.int64()),
        "row": pa.array([first_row + number for number in at], pa.int64()),
        "time": pa.array(times, pa.int64()),
        "id": part.column("id"),
    }
    return pa.table(columns, schema=ADDRESSES)


def _microseconds(date: str | None) -> int:
    # ISO 8601, as in WARC, and the 14 digits of ARC; a document without a date is older than all others.
    try:
        moment = (
            datetime.strptime(date, "%Y%m%d%H%M%S") if date and date.isdecimal() and len(date) == 14 else datetime.fromisoformat(date or "")
        )
    except ValueError:
        return _NO_DATE + 1
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def _is_below(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _map_missing(function: Any, work: Work, items: Sequence[Any], made: Sequence[bool], runtime: Runtime, *, unit: str) -> None:
    waiting = [item for item, is_made in zip(items, made, strict=True) if not is_made]
    with runtime.progress(len(items), unit) as bar:
        bar.advance(len(items) - len(waiting))
        for _ in runtime.pool().map(functools.partial(function, work), waiting):
            bar.advance()


STAGE = Stage(
    name="url_filter",
    config_type=UrlFilterConfig,
    run=url_filter,
    inputs={"documents": Slot("documents", many=True), "lists": Slot("lists", many=True, optional=True)},
    output="documents",
    version=1,
)
