"""ARC, the Internet Archive's format before WARC (1996): a line of header, then the message, one after another.

    URL IP-address Archive-date Content-type Archive-length          version 1
    URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length   version 2

A header that cannot be read is stepped over to the next line that can: the rest of the file is still good.
"""

import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEADER = re.compile(rb"^(?P<url>[a-zA-Z][a-zA-Z0-9+.-]*:.*) (?P<ip>\S+) (?P<date>\d{4,20}) (?P<type>\S+)(?: \S+)*? (?P<length>\S+)\s*$")
MAX_HEADER_BYTES = 1 << 16


class ArcRecord(NamedTuple):
    """One record: where it starts in the uncompressed stream, its header, its block, and whether the block is whole."""

    offset: int
    url: str
    date: str
    media_type: str
    block: bytes
    problem: str


def is_arc(path: Path) -> bool:
    """Whether the file starts as an ARC file does, by its bytes and not by its name."""
    with path.open("rb") as raw:
        start = raw.read(1 << 16)
    if start.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, 1000)
        except zlib.error:
            return False
    return start.startswith(b"filedesc:")


def read_arc(path: Path, *, max_block_bytes: int) -> Iterator[ArcRecord]:
    """The records of an ARC file, gzip or plain. Damage gives a record with a `problem`, and reading goes on."""
    with path.open("rb") as raw:
        stream = _MemberReader(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
        yield from _read_records(io.BufferedReader(stream) if isinstance(stream, _MemberReader) else stream, max_block_bytes)
        if isinstance(stream, _MemberReader) and stream.problem:
            yield ArcRecord(stream.produced, "", "", "", b"", stream.problem)


def _read_records(stream: BinaryIO | io.BufferedReader, max_block_bytes: int) -> Iterator[ArcRecord]:
    at, skipping = 0, False
    while line := stream.readline(MAX_HEADER_BYTES):
        start, at = at, at + len(line)
        header = HEADER.match(line)
        if header is None:
            # Blank lines part records; a filedesc record's own lines follow it when its length is wrong.
            if line.strip() and not skipping:
                skipping = True
                yield ArcRecord(start, "", "", "", line[:200], "unreadable ARC header")
            continue
        skipping = False
        url, date, media_type = (header[n].decode("utf-8", "replace") for n in ("url", "date", "type"))
        if not header["length"].isdigit():
            yield ArcRecord(start, url, date, media_type, b"", f"length {header['length'].decode('utf-8', 'replace')!r} is not a number")
            continue
        length = int(header["length"])
        block = stream.read(min(length, max_block_bytes))
        at += len(block)
        problem = "" if len(block) == min(length, max_block_bytes) else f"{length - len(block)} of {length} bytes are missing"
        if length > max_block_bytes and not problem:
            problem = f"{length} bytes are more than {max_block_bytes}"
            at += _skip(stream, length - len(block))
        yield ArcRecord(start, url, date, media_type, block, problem)


def _skip(stream: BinaryIO | io.BufferedReader, count: int) -> int:
    skipped = 0
    while skipped < count and (chunk := stream.read(min(1 << 20, count - skipped))):
        skipped += len(chunk)
    return skipped


class _MemberReader(io.RawIOBase):
    # gzip members as one stream; a damaged member ends early and the next one is searched for by its first bytes.

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._left, self._inflate = raw, b"", zlib.decompressobj(zlib.MAX_WBITS | 16)
        self.produced, self.problem = 0, ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is private
        while True:
            data = self._left or self._raw.read(1 << 16)
            if not data:
                if not self._inflate.eof and not self.problem and self.produced:
                    self.problem = "the last gzip member is cut short"
                return 0
            try:
                if self._inflate.eof:
                    self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    data = data.lstrip(b"\x00")  # padding between members
                out = self._inflate.decompress(data, len(buffer))
                self._left = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            except zlib.error as error:
                self.problem = f"damaged gzip member: {error}"
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
                at = data.find(b"\x1f\x8b\x08", 1)
                self._left = data[at:] if at > 0 else b""
                continue
            if out:
                buffer[: len(out)] = out
                self.produced += len(out)
                return len(out)
