"""crawl: where raw pages come from. The first stage of every life.

    pydoc   the documentation of the running Python environment, rendered as web pages: needs no network and no files
    warc    the user's own WARC, ARC and WET files, taken over as they are
    html    a folder of .html files, written as WARC
    text    Parquet, JSONL or .txt files of documents, taken over as Parquet
    common_crawl   archives of Common Crawl, or single records of them by its index: from the web

Pages land as `NNNNN*.warc.gz` (or `.parquet`) in the folder; modules that could not be rendered are named in the ledger.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import document_id, list_document_files, read_document_batches
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import expand, read_json, write_atomically, write_json
from bloomery.core.remote import FetchError, local_copy
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.common_crawl import (
    NUM_FAILED_IN_A_ROW,
    CommonCrawlConfig,
    IndexEntry,
    download_archive,
    fetch_record,
    list_archives,
    query_index,
    read_index,
)
from bloomery.curate.flow import text_bytes
from bloomery.curate.ledger import FOLDER, count_rules, ledger_row, ledger_table, write_ledger
from bloomery.curate.pydoc_pages import URL, Page, environment_facts, list_modules, render_pages
from bloomery.curate.warc import ARCHIVE_SUFFIXES, WrittenPage, write_warc

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
SHARD_BYTES = 256 << 20
"""Text of a shard that a large file of documents is cut into, about: so that the stages after it can share the work."""

INDEX_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".cdxj", ".cdxj.gz", ".parquet")


class CrawlConfig(Config):
    """Where pages come from. The settings below `source` are for "pydoc" only, but for `num_shards` and `common_crawl`."""

    source: Literal["pydoc", "warc", "html", "text", "common_crawl"]
    num_shards: PositiveInt = 16
    """Files to write, for "pydoc", "html" and single records of "common_crawl"."""
    common_crawl: CommonCrawlConfig = Field(default_factory=CommonCrawlConfig)
    """What to take, for "common_crawl"."""
    scope: Literal["environment", "stdlib"] = "environment"
    """Modules of the standard library and of every installed package, or of the standard library alone."""
    include: list[str] = Field(default=[])
    """With scope "stdlib": installed packages to take as well."""
    exclude: list[str] = Field(default=["bloomery"])
    """Packages and modules to leave out. bloomery itself changes without changing its version, so it is left out."""
    seconds_per_module: PositiveFloat = 10.0
    """CPU time a module may use; three times as much on the clock."""
    max_modules: NonNegativeInt = 0
    """Take only so many modules, evenly from all; 0 means all."""


@dataclass(frozen=True)
class Task:
    """One output file: its number and name, and what goes into it (module names, or paths)."""

    index: int
    name: str
    items: tuple[str, ...]


def crawl(config: CrawlConfig, *, pages: Sequence[Path] = (), out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with pages. `pages` are the user's files, for every source but "pydoc"; for "common_crawl", index files."""
    if config.source == "common_crawl":
        return crawl_common(config, pages, out=out, runtime=runtime)
    if config.source == "pydoc":
        if pages:
            raise ConfigError('pages: files are given, but source = "pydoc" reads none; use source = "warc", "html" or "text"')
        modules = choose_modules(config)
        work: Callable[[Task], int] = functools.partial(crawl_modules, config, out)
        tasks = _deal(modules, config.num_shards)
    else:
        if not pages:
            raise ConfigError(f'pages: source = "{config.source}" needs files; connect the input `pages` to some')
        works = {"warc": take_archive, "html": pack_html, "text": take_documents}
        work = functools.partial(works[config.source], out)
        tasks = _list_tasks(config, pages)
    waiting = [task for task in tasks if not (out / task.name).exists()]
    with runtime.progress(len(tasks), "files") as bar:
        bar.advance(len(tasks) - len(waiting))
        for _ in runtime.pool().map(work, waiting):
            bar.advance()
    return _sum_counts(tasks, out=out)


def crawl_common(config: CrawlConfig, pages: Sequence[Path], *, out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` from Common Crawl: whole archives, or records by index. One request at a time, so not over the pool."""
    wanted, scratch = config.common_crawl, out / ".scratch"
    if not wanted.crawl and not pages:
        raise ConfigError(
            'common_crawl.crawl: required with source = "common_crawl", as "CC-MAIN-2024-10"; or connect index files to `pages`'
        )
    if pages or wanted.url:
        entries = (
            read_index(expand(pages, suffixes=INDEX_SUFFIXES), max_records=wanted.max_records) if pages else query_index(wanted, scratch)
        )
        if not entries:
            raise DataError(f"the index has no record for {wanted.url or ', '.join(map(str, pages))}")
        tasks = _deal([json.dumps(entry) for entry in entries], config.num_shards)
        work = take_records
    else:
        names = list_archives(wanted, scratch)
        tasks = [Task(i, f"{i:05d}-{Path(name).name}", (name,)) for i, name in enumerate(names)]
        work = take_listed_archive
    waiting = [task for task in tasks if not (out / task.name).exists()]
    with runtime.progress(len(tasks), "files") as bar:
        bar.advance(len(tasks) - len(waiting))
        for task in waiting:
            work(wanted, out, task)
            bar.advance()
    if work is take_listed_archive:
        write_json(out / "sources.json", [read_json(_facts_path(out, task)) for task in tasks])
    return _sum_counts(tasks, out=out)


def take_listed_archive(config: CommonCrawlConfig, out: Path, task: Task) -> None:
    """Downloads one archive; what a killed run fetched of it is not fetched again."""
    part = out / ".scratch" / "parts" / task.name
    part.parent.mkdir(parents=True, exist_ok=True)
    facts = download_archive(config, task.items[0], part)
    write_json(_facts_path(out, task), {"file": task.name, **facts._asdict()})
    write_json(_counts_path(out, task), dict(zip(_COUNTS, (0, 0, facts.num_bytes, facts.num_bytes), strict=True)))
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(out / task.name)
    part.with_name(f"{part.name}.validator").unlink(missing_ok=True)


def take_records(config: CommonCrawlConfig, out: Path, task: Task) -> None:
    """Fetches the records of one task into one archive, byte for byte; a record that cannot be had is a row of the ledger."""
    rows, num_bytes, num_kept, failed_in_a_row = [], 0, 0, 0
    with write_atomically(out / task.name) as temporary, temporary.open("wb") as sink:
        for item in task.items:
            entry = IndexEntry(*json.loads(item))
            try:
                sink.write(fetch_record(config, entry))
                num_bytes, num_kept, failed_in_a_row = num_bytes + entry.num_bytes, num_kept + 1, 0
            except FetchError as error:
                id = document_id(entry.archive, entry.offset)
                row = ledger_row(stage="crawl", rule="fetch_failed", id=id, url=entry.url, value=error.status, detail=str(error))
                rows.append(row)
                failed_in_a_row += 1
                if failed_in_a_row == NUM_FAILED_IN_A_ROW:
                    message = f"{NUM_FAILED_IN_A_ROW} records one after another could not be had, the last: {error}."
                    raise DataError(f"{message} Finished files are kept: run the same command again, later.") from error
        ledger = ledger_table(rows)
        write_ledger(out / FOLDER / f"{task.index:05d}.parquet", ledger)
        counts = dict(zip(_COUNTS, (len(task.items), num_kept, num_bytes, num_bytes), strict=True))
        write_json(_counts_path(out, task), {**counts, **count_rules(ledger)})


def choose_modules(config: CrawlConfig) -> list[str]:
    """The modules to render, sorted."""
    modules = list_modules(scope=config.scope, include=config.include, exclude=config.exclude)
    count = config.max_modules
    return modules if not 0 < count < len(modules) else [modules[i * len(modules) // count] for i in range(count)]


def facts(config: CrawlConfig) -> Mapping[str, str]:
    """What pydoc's pages depend on outside of the config: the interpreter and the installed distributions."""
    return environment_facts(scope=config.scope, include=config.include) if config.source == "pydoc" else {}


def crawl_modules(config: CrawlConfig, out: Path, task: Task) -> int:
    """Renders the modules of one task into one WARC file; returns their number."""
    pages, dropped = [], []
    for item in render_pages(task.items, seconds_per_module=config.seconds_per_module):
        url = URL.format(module=item.module)
        if isinstance(item, Page):
            pages.append(WrittenPage(url, item.html.encode("utf-8", "replace")))
        else:
            rule = item.reason.replace(" ", "_")
            dropped.append(ledger_row(stage="crawl", rule=rule, id=item.module, url=url, detail=item.detail))
    ledger = ledger_table(dropped)
    num_bytes = sum(len(page.html) for page in pages)
    counts = {"documents_in": len(task.items), "documents_out": len(pages), "bytes_in": num_bytes, "bytes_out": num_bytes}
    write_ledger(out / FOLDER / f"{task.index:05d}.parquet", ledger)
    write_json(_counts_path(out, task), {**counts, **count_rules(ledger)})
    write_warc(out / task.name, pages)
    return len(task.items)


def take_archive(out: Path, task: Task) -> int:
    """Takes one archive over as it is: by a hard link where that is possible, else by a copy."""
    with local_copy(Path(task.items[0])) as source, write_atomically(out / task.name) as temporary:
        size = source.stat().st_size
        write_json(_counts_path(out, task), {"documents_in": 0, "documents_out": 0, "bytes_in": size, "bytes_out": size})
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, temporary)
    return 1


def pack_html(out: Path, task: Task) -> int:
    """Writes HTML files as records of one WARC file, with file: addresses that start at the folder the user named."""
    pages = []
    for item in task.items:
        url, _, path = item.partition("\n")
        with local_copy(Path(path)) as local:
            pages.append(WrittenPage(url, local.read_bytes()))
    num_bytes = sum(len(page.html) for page in pages)
    write_json(_counts_path(out, task), dict(zip(_COUNTS, (len(pages), len(pages), num_bytes, num_bytes), strict=True)))
    # No charset: the files' own declarations count.
    write_warc(out / task.name, pages, media_type="text/html")
    return len(pages)


def take_documents(out: Path, task: Task) -> int:
    """Writes one file of documents as Parquet; of a file with more than SHARD_BYTES of text, several."""
    counts = dict.fromkeys(_COUNTS, 0)
    later: list[Path] = []
    # The first shard reaches its name last: where it is, all shards of the file are.
    with write_atomically(out / task.name) as first:
        writer, held = None, 0
        for table in read_document_batches(Path(task.items[0])):
            if writer is not None and held >= SHARD_BYTES:
                writer.close()
                later.append(out / f"{task.index:05d}_{len(later) + 1:05d}.parquet")
                writer, held = None, 0
            if writer is None:
                path = first if not later else later[-1]
                writer = pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=3)
            writer.write_table(table.combine_chunks(), row_group_size=8192)
            held += text_bytes(table)
            for name, count in zip(_COUNTS, (len(table), len(table), text_bytes(table), text_bytes(table)), strict=True):
                counts[name] += count
        if writer is not None:
            writer.close()
        write_json(_counts_path(out, task), counts)
    return counts["documents_in"]


_COUNTS = ("documents_in", "documents_out", "bytes_in", "bytes_out")


def _deal(modules: Sequence[str], num_shards: int) -> list[Task]:
    # Neighbours stay together: the modules of one package share the import of that package.
    count = max(1, min(num_shards, len(modules)))
    bounds = [i * len(modules) // count for i in range(count + 1)]
    return [Task(i, f"{i:05d}.warc.gz", tuple(modules[bounds[i] : bounds[i + 1]])) for i in range(count)]


def _list_tasks(config: CrawlConfig, pages: Sequence[Path]) -> list[Task]:
    if config.source == "warc":
        files = expand(pages, suffixes=ARCHIVE_SUFFIXES)
        return [Task(i, f"{i:05d}-{path.name}", (str(path),)) for i, path in enumerate(files)]
    if config.source == "text":
        return [Task(i, f"{i:05d}.parquet", (str(path),)) for i, path in enumerate(list_document_files(pages))]
    named: dict[str, Path] = {}
    for folder in pages:
        for path in expand(folder, suffixes=HTML_SUFFIXES):
            name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
            named.setdefault(f"file:///{quote(name)}", path)
    return _deal([f"{url}\n{path}" for url, path in sorted(named.items())], config.num_shards)


def _sum_counts(tasks: Sequence[Task], *, out: Path) -> dict[str, int]:
    total = dict.fromkeys(_COUNTS, 0)
    for task in tasks:
        for name, count in read_json(_counts_path(out, task)).items():
            total[name] = total.get(name, 0) + count
    return {name: total[name] for name in (*_COUNTS, *sorted(set(total) - set(_COUNTS)))}


def _facts_path(out: Path, task: Task) -> Path:
    return out / ".scratch" / f"{task.index:05d}.source.json"


def _counts_path(out: Path, task: Task) -> Path:
    return out / ".scratch" / f"{task.index:05d}.json"


STAGE = Stage(
    name="crawl",
    config_type=CrawlConfig,
    run=crawl,
    inputs={"pages": Slot("pages", many=True, optional=True)},
    output="pages",
    version=1,
    facts=facts,
)
