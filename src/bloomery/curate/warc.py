"""Crawl archives: WARC, ARC and WET files in, one capture or one piece of damage at a time; WARC files out.

Reading never raises for what is in a file: a damaged record, a record that is too large, a revisit or a file that is
no archive at all becomes a `Damage` with the rule it broke, and the rest of the file is still read. FastWARC reads
WARC and WET, `curate/arc.py` reads ARC.
"""

import base64
import gzip
import hashlib
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from bloomery.core.files import write_atomically
from bloomery.core.remote import local_copy
from bloomery.curate.arc import is_arc, read_arc
from bloomery.curate.http_message import HttpMessage, parse_http_message

ARCHIVE_SUFFIXES = tuple(f"{kind}{packing}" for kind in (".warc", ".arc", ".wet") for packing in ("", ".gz", ".zst"))

WARC_DATE = "2000-01-01T00:00:00Z"
"""The date in WARC files that we write: when a page was rendered says nothing, and equal pages must give equal bytes."""

GZIP_MEMBER, ZSTD_FRAME, PLAIN_RECORD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/"

UNFINISHED = ("record_too_large", "truncated_record")
"""Damage to records of which not every byte was read."""

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
    """Every page of an archive, or what is wrong with it, in order. An archive without either gives one Damage.

    No two have one offset: where many records are compressed as one (one gzip member, one zstd frame), only about the
    place is known, and the next number is taken.
    """
    last = -1
    with local_copy(path) as local:
        for item in _read_arc_captures(local, max_record_bytes) if is_arc(local) else _read_warc_captures(local, max_record_bytes):
            last = max(item.offset, last + 1)
            yield item._replace(offset=last)
    if last < 0:
        yield Damage(0, "", "archive_without_pages", None, "the archive has no response, resource or conversion record")


def find_gzip_damage(path: Path, *, first_byte: int = 0) -> str:
    """What is wrong with a file of gzip members from `first_byte` on, "" if every one is whole. Holds a megabyte at a time."""
    with path.open("rb") as file:
        file.seek(first_byte)
        inflate, data, at, is_between = zlib.decompressobj(zlib.MAX_WBITS | 16), b"", first_byte, True
        while data := data or file.read(1 << 20):
            if is_between and not (data := data.lstrip(b"\x00")):
                continue  # padding, as tapes have it
            try:
                inflate.decompress(data, 1 << 20)
            except zlib.error as error:
                return f"damaged gzip member before byte {file.tell()}: {error}"
            data, is_between = inflate.unconsumed_tail, False
            if inflate.eof:
                data, is_between, at = inflate.unused_data, True, file.tell() - len(inflate.unused_data)
                inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    return "" if is_between else f"the last gzip member, from byte {at} on, is cut short"


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
        start: int | None = 0
        is_reported = False
        while start is not None:
            file.seek(start)
            at, is_whole, num_read = start, True, 0
            try:
                for record in ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=False, auto_decode="none"):
                    at, is_whole, is_reported, num_read = record.stream_pos, True, False, num_read + 1
                    for item in _read_record(record, at, max_record_bytes):
                        is_whole = not (isinstance(item, Damage) and item.rule in UNFINISHED)
                        is_reported = isinstance(item, Damage) and item.rule == "damaged_record"
                        yield item
                if is_whole:
                    # FastWARC ends in silence where the end of the last member, or the beginning of one more, is missing.
                    if mark == GZIP_MEMBER and num_read and not is_reported and (problem := find_gzip_damage(path, first_byte=at)):
                        yield Damage(at + 1, "", "truncated_archive", None, problem)
                    return
                # The last record claims more than there was: what it swallowed may be the rest of the file.
                is_reported = True
            except (OSError, ValueError) as error:
                if not is_reported:
                    # Somewhere behind the record that was read last; that record keeps its own offset.
                    yield Damage(at + bool(num_read), "", "damaged_record", None, str(error)[:200])
                is_reported = True
            # A false mark inside compressed bytes only costs one more try.
            start = _find_mark(file, mark, at + 1)


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
    if not (record.headers.get("Content-Length") or "").strip().isdecimal():
        yield Damage(offset, url, "damaged_record", None, f"Content-Length is {record.headers.get('Content-Length')!r}")
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
