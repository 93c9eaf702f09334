"""Archives: what we write, others read; what others wrote, damaged or not, gives captures or damage, never an error."""

import gzip
import io
import random
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from warcio.archiveiterator import ArchiveIterator as OtherReader
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bloomery.core.remote import as_path
from bloomery.curate.warc import Capture, Damage, WrittenPage, read_captures, write_warc

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "web" / "genuine"
PAGES = [WrittenPage(f"https://example.com/{i}.html", f"<p>{'page ' * 50}{i}</p>".encode()) for i in range(20)]


def captures(path: Path, *, max_record_bytes: int = 1 << 20) -> list[Capture]:
    return [item for item in read_captures(path, max_record_bytes=max_record_bytes) if isinstance(item, Capture)]


def damage(path: Path, *, max_record_bytes: int = 1 << 20) -> list[Damage]:
    return [item for item in read_captures(path, max_record_bytes=max_record_bytes) if isinstance(item, Damage)]


def write_response(path: Path, body: bytes, *headers: tuple[str, str], status: str = "200 OK") -> Path:
    with path.open("wb") as sink:
        writer = WARCWriter(sink, gzip=True)
        http = StatusAndHeaders(status, [("Content-Type", "text/html"), *headers], protocol="HTTP/1.1")
        writer.write_record(writer.create_warc_record("http://example.com/", "response", payload=io.BytesIO(body), http_headers=http))
    return path


def test_an_independent_reader_finds_every_page_and_every_digest_right(tmp_path):
    assert write_warc(tmp_path / "a.warc.gz", PAGES) == 20
    with (tmp_path / "a.warc.gz").open("rb") as file:
        records = [
            (
                record.rec_type,
                record.rec_headers.get_header("WARC-Target-URI"),
                record.content_stream().read(),
                record.digest_checker.passed,
            )
            for record in OtherReader(file, check_digests=True)
        ]
    assert records[0][0] == "warcinfo"
    assert [(kind, url, body) for kind, url, body, _ in records[1:]] == [("response", page.url, page.html) for page in PAGES]
    assert all(passed for *_, passed in records)


def test_equal_pages_give_equal_bytes_with_no_time_in_them(tmp_path):
    for name in ("one", "two"):
        write_warc(tmp_path / name / "a.warc.gz", PAGES)
    data = (tmp_path / "one" / "a.warc.gz").read_bytes()
    assert data == (tmp_path / "two" / "a.warc.gz").read_bytes()
    assert data[4:8] == b"\0\0\0\0"


def test_what_is_written_is_read_back(tmp_path):
    write_warc(tmp_path / "a.warc.gz", PAGES)
    found = captures(tmp_path / "a.warc.gz")
    assert [(c.url, c.body) for c in found] == [(page.url, page.html) for page in PAGES]
    assert {c.charset for c in found} == {"utf-8"} and {c.media_type for c in found} == {"text/html"}


def test_every_genuine_archive_gives_captures_or_damage():
    if not GENUINE.is_dir():
        pytest.skip(f"{GENUINE} is missing: real crawl archives are not part of the repository")
    files = sorted(GENUINE.iterdir())
    assert len(files) >= 39
    for path in files:
        assert list(read_captures(path, max_record_bytes=8 << 20)), path.name


def test_arc_and_warc_of_one_crawl_give_the_same_captures():
    arc, warc = GENUINE / "aut-example.arc.gz", GENUINE / "aut-example.warc.gz"
    if not arc.is_file():
        pytest.skip(f"{arc} is missing: real crawl archives are not part of the repository")
    by_arc, by_warc = ([(c.url, c.media_type, c.body) for c in captures(path, max_record_bytes=8 << 20)] for path in (arc, warc))
    assert len(by_arc) == 214 and by_arc == by_warc


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
def test_content_encodings_are_undone(tmp_path, encoding):
    body = b"<p>hello</p>" * 100
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body), "raw deflate": zlib.compress(body)[2:-4]}[encoding]
    path = write_response(tmp_path / "a.warc.gz", packed, ("Content-Encoding", encoding.split()[-1]))
    assert [c.body for c in captures(path)] == [body]


def test_chunks_are_joined_and_a_body_that_only_claims_to_be_chunked_is_kept(tmp_path):
    chunked = b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"
    path = write_response(tmp_path / "a.warc.gz", chunked, ("Transfer-Encoding", "chunked"))
    assert [c.body for c in captures(path)] == [b"hello, world"]
    path = write_response(tmp_path / "b.warc.gz", b"<p>plain</p>", ("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip"))
    assert [c.body for c in captures(path)] == [b"<p>plain</p>"]


def test_a_compressed_bomb_is_cut_at_the_limit(tmp_path):
    path = write_response(tmp_path / "a.warc.gz", gzip.compress(b"a" * 10_000_000), ("Content-Encoding", "gzip"))
    assert [len(c.body) for c in captures(path, max_record_bytes=100_000)] == [100_000]


def test_errors_of_the_server_and_records_that_are_too_large_are_named(tmp_path):
    path = write_response(tmp_path / "a.warc.gz", b"gone", status="404 Not Found")
    assert [(d.rule, d.value) for d in damage(path)] == [("http_status", 404.0)]
    path = write_response(tmp_path / "b.warc.gz", b"x" * 5000)
    assert [d.rule for d in damage(path, max_record_bytes=4000)] == ["record_too_large"]


def test_a_file_that_is_no_archive_is_named_and_so_is_an_empty_one(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(b"this is not an archive at all" * 100)
    (tmp_path / "b.warc").write_bytes(b"")
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(b"neither is this"))
    for name in ("a.warc.gz", "b.warc", "c.warc.gz"):
        assert damage(tmp_path / name) and not captures(tmp_path / name), name


def test_records_after_a_damaged_one_are_still_read(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_warc(path, PAGES)
    data = bytearray(path.read_bytes())
    offsets = [c.offset for c in captures(path)]
    middle = (offsets[9] + offsets[10]) // 2
    data[middle : middle + 20] = b"\xff" * 20
    path.write_bytes(data)
    assert {c.url for c in captures(path)} >= {page.url for i, page in enumerate(PAGES) if i != 9}
    assert any(d.rule == "damaged_record" for d in damage(path))


def test_no_damage_whatever_raises_and_no_page_comes_twice(tmp_path):
    write_warc(tmp_path / "whole.warc.gz", PAGES)
    whole = (tmp_path / "whole.warc.gz").read_bytes()
    draw = random.Random(0)
    for number in range(60):
        data = bytearray(whole)
        if number % 2:
            data = data[: draw.randrange(len(data))]
        for _ in range(number % 5):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / "a.warc.gz"
        path.write_bytes(data)
        offsets = [c.offset for c in captures(path)]
        assert len(offsets) == len(set(offsets))


def record(url: str, body: bytes = b"<p>hello</p>", *, length: object = None) -> bytes:
    """A response record as text, with a length that may lie."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    size = "" if length == "missing" else f"Content-Length: {len(block) if length is None else length}\r\n"
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http\r\n{size}\r\n"
    return head.encode() + block + b"\r\n\r\n"


PACKINGS = {"plain": lambda data: data, "gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("length", [-5, 2**63, 2**64, 10**30, "missing", "abc", 10, 300, 10**7])
def test_a_record_whose_length_lies_costs_itself_and_no_other(tmp_path, packing, length):
    pack = PACKINGS[packing]
    records = [record(f"http://{i}/", b"<p>hello</p>" * 9, length=length if i in (1, 3) else None) for i in range(6)]
    (tmp_path / "a.warc").write_bytes(b"".join(map(pack, records)))
    good = {f"http://{i}/" for i in (0, 2, 4, 5)}
    assert good <= {c.url for c in captures(tmp_path / "a.warc")}
    assert [c.body for c in captures(tmp_path / "a.warc") if c.url in good] == [b"<p>hello</p>" * 9] * 4
    rows = list(read_captures(tmp_path / "a.warc", max_record_bytes=1 << 20))
    assert len({row.offset for row in rows}) == len(rows) and damage(tmp_path / "a.warc")


@pytest.mark.parametrize("cut", range(0, 1000, 7))
def test_of_an_archive_cut_anywhere_every_whole_record_is_kept(tmp_path, cut):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(f"http://{i}/", random.Random(i).randbytes(400))) for i in range(5)))
    whole = path.read_bytes()
    offsets = [*(c.offset for c in captures(path)), len(whole)]
    size = len(whole) - 1 - cut
    path.write_bytes(whole[:size])
    num_whole = sum(end <= size for end in offsets[1:])
    assert [c.url for c in captures(path)][:num_whole] == [f"http://{i}/" for i in range(num_whole)]
    assert damage(path) or size in offsets


def test_a_flipped_bit_costs_one_record(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(f"http://{i}/", random.Random(i).randbytes(400))) for i in range(5)))
    whole, offsets = path.read_bytes(), [c.offset for c in captures(path)]
    for at in range(offsets[2] + 10, offsets[3], 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert {c.url for c in captures(path)} >= {"http://0/", "http://1/", "http://3/", "http://4/"}, at
        assert damage(path), at


def test_every_record_of_an_archive_compressed_as_one_has_an_offset_of_its_own(tmp_path):
    records = b"".join(record(f"http://{i}/") for i in range(50))
    windowed = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compress(records)
    for packed in (gzip.compress(records), zstandard.compress(records), windowed):
        (tmp_path / "a.warc.gz").write_bytes(packed)
        found = captures(tmp_path / "a.warc.gz")
        assert [c.url for c in found] == [f"http://{i}/" for i in range(50)] and len({c.offset for c in found}) == 50


MEASURED = """
import resource, sys
from pathlib import Path
from bloomery.curate.warc import Capture, read_captures
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = [(i.url, len(i.body)) if isinstance(i, Capture) else (i.url, i.rule) for i in read_captures(path, max_record_bytes=1 << 20)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(found)
"""


def test_bombs_of_every_kind_are_cut_and_cost_little_memory(tmp_path):
    size = 60 << 20
    pack = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    head = record("http://bomb/", b"", length=size + 44).removesuffix(b"\r\n\r\n")
    member = b"".join([pack.compress(head), *(pack.compress(block) for _ in range(60)), pack.flush()])
    brotlied = brotli.Compressor(quality=1)
    bodies = {
        "gzip": zlib.compressobj(9, wbits=31),
        "deflate": zlib.compressobj(9),
        "br": brotlied,
        "zstd": zstandard.ZstdCompressor(level=3).compressobj(),
    }
    records = [gzip.compress(record("http://first/")), member]
    for encoding, packer in bodies.items():
        write = packer.process if encoding == "br" else packer.compress
        finish = packer.finish if encoding == "br" else packer.flush
        body = b"".join([*(write(block) for _ in range(60)), finish()])
        records.append(write_response(tmp_path / "x", body, ("Content-Encoding", encoding)).read_bytes())
    nested = gzip.compress(gzip.compress(b"inner" * 1000))
    records.append(write_response(tmp_path / "x", nested, ("Content-Encoding", "gzip")).read_bytes())
    records.append(write_response(tmp_path / "x", b"<p>x</p>", ("Content-Encoding", ", ".join(["gzip"] * 1000))).read_bytes())
    (tmp_path / "a.warc.gz").write_bytes(b"".join([*records, gzip.compress(record("http://last/"))]))
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path / "a.warc.gz")], capture_output=True, text=True, check=True)
    kilobytes, found = done.stdout.splitlines()
    assert int(kilobytes) < 150_000
    cut = ("http://example.com/", 1 << 20)
    inner = ("http://example.com/", len(gzip.compress(b"inner" * 1000)))
    refused = ("http://example.com/", "undecodable_body")
    expected = [("http://first/", 12), ("http://bomb/", "record_too_large"), cut, cut, cut, cut, inner, refused, ("http://last/", 12)]
    assert found == str(expected)


@pytest.mark.parametrize(
    "chunks", [b"FFFFFFFFFFFFFFFF\r\nab", b"-5\r\nab", b"zz\r\nab", b"5\r\nab", b"\r\n" * 50, b"1\r\na" * 10**4, b"2\nab\n0\n"]
)
def test_bogus_chunks_give_what_there_is(tmp_path, chunks):
    found = captures(write_response(tmp_path / "a.warc.gz", chunks, ("Transfer-Encoding", "chunked")))
    assert len(found) == 1 and len(found[0].body) <= len(chunks)


def test_headers_without_end_are_neither_kept_in_memory_nor_in_the_way(tmp_path):
    path = write_response(tmp_path / "a.warc.gz", b"<p>x</p>", *((f"X-{i}", "y" * 20) for i in range(20_000)))
    assert [c.body for c in captures(path)] == [b"<p>x</p>"]
    injected = write_response(tmp_path / "b.warc.gz", b"<p>x</p>", ("X-A", "b\u2028Content-Encoding: br\x1cTransfer-Encoding: chunked"))
    assert [c.body for c in captures(injected)] == [b"<p>x</p>"]
    long = record("http://long/").replace(b"WARC-Type", b"X: " + b"y" * 10**6 + b"\r\nWARC-Type", 1)
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(long) + gzip.compress(record("http://next/")))
    assert "http://next/" in {c.url for c in captures(tmp_path / "c.warc.gz")}


def test_an_archive_elsewhere_is_read_as_if_it_were_here(tmp_path, web_server):
    write_warc(tmp_path / "a.warc.gz", PAGES)
    web_server.files["/a.warc.gz"] = (tmp_path / "a.warc.gz").read_bytes()
    assert captures(as_path(f"{web_server.url}/a.warc.gz")) == captures(tmp_path / "a.warc.gz")
