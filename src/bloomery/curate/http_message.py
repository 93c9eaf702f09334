"""The HTTP message inside a crawl record: status, headers, and a body with its transfer and content encodings undone.

Crawls hold what servers really sent: wrong chunk sizes, bodies already decoded by the crawler, headers that lie. A body
that cannot be decoded as it claims is given as it is, if the claim was plainly wrong, or not at all.
"""

import io
import zlib
from typing import NamedTuple

import zstandard
from fastwarc.stream_io import BrotliReader

MAX_HEAD_BYTES = 1 << 18
"""Of headers beyond this nothing is read; browsers refuse such answers."""

MAX_ENCODINGS = 3

ZSTD_WINDOW_BYTES = 1 << 23
"""The largest window that HTTP allows (RFC 9659)."""

COMPRESSED_STARTS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


class HttpMessage(NamedTuple):
    """A response; header names are lower-case. `body` is None when its content encoding could not be undone."""

    status: int | None
    headers: dict[str, str]
    body: bytes | None

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, lower-case; "" if not given."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The charset parameter of Content-Type, if given."""
        for parameter in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return value.strip().strip("\"'").lower() or None
        return None


def parse_http_message(block: bytes, *, max_body_bytes: int) -> HttpMessage:
    """A response as it stands in a WARC or ARC record; never raises. A body is cut at `max_body_bytes` when decoded."""
    head, body = _split_head(block)
    lines = head[:MAX_HEAD_BYTES].decode("utf-8", "replace").split("\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _join_chunks(body)
    decoded: bytes | None = body
    encodings = headers.get("content-encoding", "").lower().split(",")
    if len(encodings) > MAX_ENCODINGS:
        decoded = None
    for encoding in reversed(encodings):
        if decoded is not None:
            decoded = _decode(decoded, encoding.strip(), max_body_bytes)
    return HttpMessage(_status(lines[0] if lines else ""), headers, decoded)


def _split_head(block: bytes) -> tuple[bytes, bytes]:
    at, length = block.find(b"\r\n\r\n"), 4
    earlier = block.find(b"\n\n", 0, at if at >= 0 else len(block))
    if earlier >= 0:
        at, length = earlier, 2
    return (block[:at], block[at + length :]) if at >= 0 else (block, b"")


def _status(line: str) -> int | None:
    parts = line.split()
    if len(parts) < 2 or not parts[0].upper().startswith("HTTP/") or not parts[1].isdecimal():
        return None
    return int(parts[1])


def _join_chunks(body: bytes) -> bytes:
    # A body that does not follow the chunked syntax was decoded by the crawler already, and is kept as it is.
    parts: list[bytes] = []
    at = 0
    while at < len(body):
        line_end = body.find(b"\n", at, at + 100)
        size_text = body[at:line_end].split(b";")[0].strip() if line_end >= 0 else b""
        try:
            size = int(size_text, 16)
        except ValueError:
            return b"".join(parts) if parts else body
        if size <= 0:
            break
        parts.append(body[line_end + 1 : line_end + 1 + size])
        at = line_end + 1 + size
        at += 2 if body[at : at + 2] == b"\r\n" else 1
    return b"".join(parts)


def _decode(body: bytes, encoding: str, limit: int) -> bytes | None:
    start = COMPRESSED_STARTS.get("gzip" if encoding == "x-gzip" else encoding)
    if not body or encoding in ("", "identity") or (start and not body.startswith(start)):
        return body
    try:
        if encoding in ("gzip", "x-gzip"):
            return _inflate(body, zlib.MAX_WBITS | 16, limit)
        if encoding == "deflate":
            zlib_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] * 256 + body[1]) % 31 == 0
            return _inflate(body, zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS, limit)
        if encoding == "zstd":
            return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).stream_reader(body).read(limit)
        if encoding == "br":
            return bytes(BrotliReader(io.BytesIO(body)).read(limit))
    except (zlib.error, zstandard.ZstdError, OSError, ValueError):
        # Brotli has no magic number: a body that is text already was decoded by the crawler.
        return body if encoding == "br" and b"<" in body[:1000] else None
    return None


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    # decompressobj, unlike gzip.decompress, gives what there is of a truncated body.
    return zlib.decompressobj(window_bits).decompress(body, limit)
