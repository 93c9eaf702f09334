"""Common Crawl (https://commoncrawl.org): whole archives by its listings, or single records by its index.

    <base>/crawl-data/<crawl>/warc.paths.gz        names of all archives of a crawl, one a line -> `list_archives`
    <base>/<name>                                  an archive of about 1 GB, one gzip member a record -> `download_archive`
    <index>/<crawl>-index?url=...&output=json      where the records of an address are -> `query_index`
    <base>/<name>, bytes offset..offset+length-1   one record -> `fetch_record`

What comes is checked: an archive for its length and every member's CRC, a record for being one whole member, of the
address, with the digests that it and the index give. One connection at a time, a pause between requests, longer waits
after failures, as long as the server asks. Nothing here decides what is worth having; that is the index query's part.
"""

import base64
import functools
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of an index
from urllib.parse import quote, urlencode

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from bloomery.core.config import Config
from bloomery.core.errors import DataError
from bloomery.core.files import open_text, sha256_file, write_text
from bloomery.core.remote import Manners, download, fetch, local_copy
from bloomery.curate.warc import find_gzip_damage

DATA_MANNERS = Manners(pause_seconds=0.2)
INDEX_MANNERS = Manners(pause_seconds=1.5)
"""The index server is small and shared: Common Crawl asks for one request at a time, and blocks those who do not hear."""

CONTACT = "BLOOMERY_CONTACT"
"""Environment variable: an e-mail address or a page that servers are told, so that they can write before they block."""

MAX_LISTING_BYTES = 256 << 20
MAX_INDEX_PAGE_BYTES = 256 << 20
NUM_FAILED_IN_A_ROW = 5
"""So many records one after another that cannot be had are the server's trouble, not the records'."""


class CommonCrawlConfig(Config):
    """What to take from Common Crawl: whole archives of a crawl, or with `url` (or index files as `pages`) single records."""

    crawl: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    """Name of the crawl, as "CC-MAIN-2024-10". Not needed where index files are given."""
    kind: Literal["warc", "wet"] = "warc"
    """Archives of pages, or of texts that Common Crawl extracted."""
    first_file: NonNegativeInt = 0
    """Number of the first archive in the crawl's listing."""
    num_files: PositiveInt = 1
    """How many archives to take."""
    url: str = ""
    """Take single records of these addresses instead: "example.com/*", "*.example.com", as the index server reads them."""
    filters: list[str] = Field(default=[])
    """Conditions of the index server on the records: "=status:200", "=mime-detected:text/html", "~languages:deu"."""
    max_records: NonNegativeInt = 0
    """Take only so many records, the first of the index; 0 means all."""
    max_record_bytes: PositiveInt = 32 << 20
    """A record whose archive says it is larger, compressed, is not fetched."""
    base_url: str = "https://data.commoncrawl.org"
    """Where the archives are: Common Crawl itself, or a mirror."""
    index_url: str = "https://index.commoncrawl.org"
    """Where the index server is."""

    @field_validator("base_url", "index_url")
    @classmethod
    def _is_web_address(cls, value: str) -> str:
        if not re.match(r"https?://[^/]", value):
            raise ValueError("expected an address that starts with https:// or http://")
        return value.rstrip("/")


class IndexEntry(NamedTuple):
    """Where one record is: `num_bytes` bytes of an archive from `offset` on. `digest` is of its payload (sha1, base32), or ""."""

    url: str
    archive: str
    offset: int
    num_bytes: int
    digest: str


class ArchiveFacts(NamedTuple):
    """What was downloaded: its address, size, sha256, and what is wrong with it on the server ("" if nothing)."""

    url: str
    num_bytes: int
    sha256: str
    damage: str


def polite(manners: Manners) -> Manners:
    """The manners with our name, and how to reach whoever runs this."""
    contact = os.environ.get(CONTACT, "")
    return manners._replace(user_agent=f"bloomery (+{contact})" if contact else "bloomery (https://pypi.org/project/bloomery)")


def list_archives(config: CommonCrawlConfig, folder: Path) -> list[str]:
    """The names of the archives to take. The listing is kept in `folder`, so that a restarted run takes the same ones.

    Raises DataError if the crawl does not have so many, or lists something that is not a name below it.
    """
    kept = folder / "listing.txt"
    if not kept.exists():
        url = f"{config.base_url}/crawl-data/{quote(config.crawl)}/{config.kind}.paths.gz"
        packed = fetch(url, manners=polite(DATA_MANNERS), max_bytes=MAX_LISTING_BYTES, check=lambda data: _member_problem(data)[0])
        write_text(kept, _member_problem(packed)[1].decode("utf-8", "replace"))
    names = kept.read_text(encoding="utf-8").split()
    chosen = names[config.first_file : config.first_file + config.num_files]
    if len(chosen) < config.num_files:
        asked = f"first_file = {config.first_file} and num_files = {config.num_files}"
        raise DataError(f"{config.crawl}: lists {len(names)} {config.kind} files; {asked} asks for more")
    for name in chosen:
        _check_name(name)
    return chosen


def download_archive(config: CommonCrawlConfig, name: str, part: Path) -> ArchiveFacts:
    """Downloads one archive to `part`, continuing what is there already, until it is whole and all its members are.

    An archive that comes damaged twice with the same bytes is damaged on the server: it is taken, and its reader says
    which records are lost. Raises FetchError when it cannot be had.
    """
    url = f"{config.base_url}/{quote(_check_name(name))}"
    damage: dict[str, str] = {}

    def check(path: Path) -> str:
        problem = find_gzip_damage(path)
        digest = sha256_file(path) if problem else ""
        is_known = digest in damage
        if problem:
            damage[digest] = problem
        return "" if is_known else problem

    download(url, part, manners=polite(DATA_MANNERS), check=check)
    time.sleep(DATA_MANNERS.pause_seconds)
    digest = sha256_file(part)
    return ArchiveFacts(url, part.stat().st_size, digest, damage.get(digest, ""))


def query_index(config: CommonCrawlConfig, folder: Path) -> list[IndexEntry]:
    """The records that fit `config.url` and `config.filters`, in the index's order.

    The answer is kept in `folder`, so that a restarted run fetches the same records.
    """
    kept = folder / "index.jsonl"
    if not kept.exists():
        manners = polite(INDEX_MANNERS)
        query = [("url", config.url), ("output", "json"), *(("filter", text) for text in config.filters)]
        url = f"{config.index_url}/{quote(config.crawl)}-index?{urlencode(query)}"
        facts = fetch(f"{url}&showNumPages=true", manners=manners, max_bytes=1 << 20)
        lines: list[str] = []
        for page in range(_num_pages(url, facts)):
            time.sleep(manners.pause_seconds)
            text = fetch(f"{url}&page={page}", manners=manners, max_bytes=MAX_INDEX_PAGE_BYTES).decode("utf-8", "replace")
            lines.extend(line for line in text.split("\n") if line.strip())
            if config.max_records and len(lines) >= config.max_records:
                break
        write_text(kept, "".join(f"{line}\n" for line in lines))
    return read_index([kept], max_records=config.max_records)


def read_index(paths: Sequence[Path], *, max_records: int) -> list[IndexEntry]:
    """The records that index files name: JSON lines or CDXJ of the URL index (.gz, .zst too), Parquet of the columnar index.

    Raises DataError naming file and line of what is no index entry.
    """
    found: list[IndexEntry] = []
    for path in paths:
        with local_copy(path) as local:
            for number, row in enumerate(_index_rows(local), start=1):
                if max_records and len(found) >= max_records:
                    return found
                found.append(_index_entry(path, number, row))
    return found


def fetch_record(config: CommonCrawlConfig, entry: IndexEntry) -> bytes:
    """The gzip member of one record, checked. Raises FetchError if it cannot be had, or never comes as the index says."""
    url = f"{config.base_url}/{quote(_check_name(entry.archive))}"
    time.sleep(DATA_MANNERS.pause_seconds)
    check = functools.partial(find_record_damage, entry=entry)
    return fetch(
        url,
        manners=polite(DATA_MANNERS),
        max_bytes=config.max_record_bytes,
        first_byte=entry.offset,
        num_bytes=entry.num_bytes,
        check=check,
    )


def find_record_damage(member: bytes, entry: IndexEntry) -> str:
    """What is wrong with the bytes of a record: "" if they are one gzip member with the WARC record that the index names."""
    problem, record = _member_problem(member)
    if problem:
        return problem
    head, _, rest = record.partition(b"\r\n\r\n")
    if not head.startswith(b"WARC/"):
        return "not a WARC record"
    headers = {}
    for line in head.decode("utf-8", "replace").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(rest) < int(length):
        return f"its block has {len(rest)} bytes of {length or 'an unknown number'}"
    block = rest[: int(length)]
    if (url := headers.get("warc-target-uri", "").strip("<>")) != entry.url:
        return f"a record of another address: {url[:200]}"
    if wrong := _digest_problem(headers.get("warc-block-digest", ""), block):
        return f"its block's {wrong}"
    payload = block.partition(b"\r\n\r\n")[2] if headers.get("warc-type") == "response" else block
    given = headers.get("warc-payload-digest", "")
    if entry.digest and given and given.rpartition(":")[2] != entry.digest:
        return f"its payload's digest is {given}; the index says {entry.digest}"
    if entry.digest and not given and (wrong := _digest_problem(f"sha1:{entry.digest}", payload)):
        return f"its payload's {wrong}"
    return ""


def _digest_problem(given: str, data: bytes) -> str:
    kind, _, value = given.partition(":")
    if kind.lower() != "sha1" or not value:
        return ""
    found = base64.b32encode(hashlib.sha1(data).digest()).decode()
    return "" if found == value else f"sha1 is {found}; it should be {value}"


def _member_problem(data: bytes, *, max_bytes: int = 1 << 30) -> tuple[str, bytes]:
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflate.decompress(data, max_bytes)
    except zlib.error as error:
        return f"damaged gzip member: {error}", b""
    if not inflate.eof:
        return "a gzip member that is cut short, or larger than a gigabyte", b""
    if inflate.unused_data:
        return f"{len(inflate.unused_data)} bytes follow the gzip member", b""
    return "", plain


def _check_name(name: str) -> str:
    # It comes from a listing or an index, and is appended to an address.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./=-]*", name) or ".." in name:
        raise DataError(f"{name[:200]!r}: not the name of an archive; expected one like crawl-data/CC-MAIN-2024-10/.../x.warc.gz")
    return name


def _num_pages(url: str, facts: bytes) -> int:
    try:
        pages = json.loads(facts)
        return int(pages["pages"] if isinstance(pages, dict) else pages)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{url}: expected the number of index pages, found {facts[:100]!r}") from error


def _index_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a readable Parquet file: {error}") from error
        return
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line[max(line.find("{"), 0) :])  # CDXJ: "key timestamp {json}"
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not an entry of a Common Crawl index: {error}") from error


def _index_entry(path: Path, number: int, row: Mapping[str, Any]) -> IndexEntry:
    names = (("url",), ("filename", "warc_filename"), ("offset", "warc_record_offset"), ("length", "warc_record_length"))
    values = [next((row[name] for name in group if row.get(name) is not None), None) for group in names]
    try:
        url, archive, offset, length = str(values[0]), str(values[1]), int(str(values[2])), int(str(values[3]))
        if None in values or offset < 0 or length <= 0:
            raise ValueError
        return IndexEntry(url, _check_name(archive), offset, length, str(row.get("digest") or row.get("content_digest") or ""))
    except ValueError as error:
        expected = "; ".join(" or ".join(group) for group in names)
        raise DataError(f"{path}:{number}: not an entry of a Common Crawl index; expected {expected}") from error
