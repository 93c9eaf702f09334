"""Crawl archives: WARC, ARC and WET files in, one capture or one piece of damage at a time; WARC files out.

Reading never raises for what is in a file: a damaged record, a record that is too large, a revisit or a file that is
no archive at all becomes a `Damage` with the rule it broke, and the rest of the file is still read. FastWARC reads
WARC and WET, `curate/arc.py` reads ARC.
"""

import base64
import gzip
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from bloomery.core.files import write_atomically
from bloomery.curate.arc import is_arc, read_arc
from bloomery.curate.http_message import HttpMessage, parse_http_message

ARCHIVE_SUFFIXES = tuple(f"{kind}{packing}" for kind in (".warc", ".arc", ".wet") for packing in ("", ".gz", ".zst"))

WARC_DATE = "2000-01-01T00:00:00Z"
"""The date in WARC files that we write: when a page was rendered says nothing, and equal pages must give equal bytes."""

GZIP_MEMBER, ZSTD_FRAME, PLAIN_RECORD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/"

PAGE_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion


class Capture(NamedTuple):
    """A page as it was crawled. `body` is decoded from its transfer, not from its charset; `charset` as HTTP gave it."""

    offset: int
    url: str
    date: str
    media_type: str
    charset: str | None
    body: bytes
    is_text: bool
    """True for a WET conversion: the body is UTF-8 text that somebody else extracted."""


class Damage(NamedTuple):
    """What is not a page, and why."""

    offset: int
    url: str
    rule: str
    value: float | None
    detail: str


class WrittenPage(NamedTuple):
    """A page to write: its address and its UTF-8 HTML."""

    url: str
    html: bytes


def read_captures(path: Path, *, max_record_bytes: int) -> Iterator[Capture | Damage]:
    """Every page of an archive, or what is wrong with it, in order. An archive without either gives one Damage."""
    found = False
    for item in _read_arc_captures(path, max_record_bytes) if is_arc(path) else _read_warc_captures(path, max_record_bytes):
        found = True
        yield item
    if not found:
        yield Damage(0, "", "archive_without_pages", None, "the archive has no response, resource or conversion record")


def write_warc(path: Path, pages: Iterable[WrittenPage], *, media_type: str = "text/html; charset=utf-8") -> int:
    """Writes pages as response records, a gzip member each, atomically; returns their number. Equal pages, equal bytes."""
    count = 0
    with write_atomically(path) as temporary, temporary.open("wb") as sink:
        fields = b"software: bloomery\r\nformat: WARC File Format 1.1\r\n"
        sink.write(_record("warcinfo", path.name, "application/warc-fields", fields, {"WARC-Filename": path.name}))
        for page in pages:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(page.html)}\r\n\r\n"
            extra = {"WARC-Target-URI": page.url, "WARC-Payload-Digest": _digest(page.html)}
            sink.write(_record("response", page.url, "application/http; msgtype=response", head.encode() + page.html, extra))
            count += 1
    return count


def _read_warc_captures(path: Path, max_record_bytes: int) -> Iterator[Capture | Damage]:
    with path.open("rb") as file:
        mark = _start_mark(file)
        base: int | None = 0
        while base is not None:
            reached = 0
            file.seek(base)
            try:
                for record in ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=False, auto_decode="none"):
                    reached = record.stream_pos
                    yield from _read_record(record, base + reached, max_record_bytes)
                return
            except (OSError, ValueError) as error:
                yield Damage(base + reached, "", "damaged_record", None, str(error)[:200])
            # A false mark inside compressed bytes only costs one more try.
            base = _find_mark(file, mark, base + reached + 1)


def _read_record(record: WarcRecord, offset: int, max_record_bytes: int) -> Iterator[Capture | Damage]:
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    if record.record_type == WarcRecordType.revisit:
        yield Damage(offset, url, "revisit", None, "the page was captured before; its bytes are not in this record")
        return
    if not record.record_type & PAGE_TYPES:
        return
    if record.content_length > max_record_bytes:
        yield Damage(offset, url, "record_too_large", float(record.content_length), "")
        return
    expected = record.content_length
    block = bytes(record.reader.read())
    if len(block) < expected:
        yield Damage(offset, url, "truncated_record", float(len(block)), f"{expected - len(block)} of {expected} bytes are missing")
        return
    date = record.headers.get("WARC-Date") or ""
    content_type = record.headers.get("Content-Type") or ""
    if record.record_type == WarcRecordType.conversion:
        yield Capture(offset, url, date, "text/plain", "utf-8", block, True)
    elif record.record_type == WarcRecordType.resource:
        message = HttpMessage(200, {"content-type": content_type}, block)
        yield _to_capture(offset, url, date, message)
    elif url.startswith(("dns:", "whois:")):
        return
    else:
        yield _to_capture(offset, url, date, parse_http_message(block, max_body_bytes=max_record_bytes))


def _read_arc_captures(path: Path, max_record_bytes: int) -> Iterator[Capture | Damage]:
    for record in read_arc(path, max_block_bytes=max_record_bytes):
        if record.problem:
            yield Damage(record.offset, record.url, "damaged_record", None, record.problem)
        elif record.url.startswith(("http:", "https:")):
            message = parse_http_message(record.block, max_body_bytes=max_record_bytes)
            message.headers.setdefault("content-type", record.media_type)
            yield _to_capture(record.offset, record.url, record.date, message)


def _to_capture(offset: int, url: str, date: str, message: HttpMessage) -> Capture | Damage:
    if message.status is None or not 200 <= message.status < 300:
        return Damage(offset, url, "http_status", None if message.status is None else float(message.status), "")
    if message.body is None:
        return Damage(offset, url, "undecodable_body", None, message.headers.get("content-encoding", ""))
    return Capture(offset, url, date, message.media_type, message.charset, message.body, False)


def _start_mark(file: BinaryIO) -> bytes:
    start = file.read(4)
    file.seek(0)
    return next((mark for mark in (GZIP_MEMBER, ZSTD_FRAME) if start.startswith(mark)), PLAIN_RECORD)


def _find_mark(file: BinaryIO, mark: bytes, start: int) -> int | None:
    file.seek(start)
    kept, at = b"", start
    while chunk := file.read(1 << 20):
        window = kept + chunk
        found = window.find(mark)
        if found >= 0:
            return at - len(kept) + found
        kept, at = window[-(len(mark) - 1) :], at + len(chunk)
    return None


def _record(kind: str, name: str, content_type: str, block: bytes, extra: dict[str, str]) -> bytes:
    headers = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {name}')}>",
        "WARC-Date": WARC_DATE,
        **extra,
        "WARC-Block-Digest": _digest(block),
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return gzip.compress(f"WARC/1.1\r\n{head}\r\n".encode() + block + b"\r\n\r\n", 6, mtime=0)


def _digest(data: bytes) -> str:
    return f"sha1:{base64.b32encode(hashlib.sha1(data).digest()).decode()}"
