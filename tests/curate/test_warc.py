"""Archives: what we write, others read; what others wrote, damaged or not, gives captures or damage, never an error."""

import gzip
import io
import random
import zlib
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator as OtherReader
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

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
