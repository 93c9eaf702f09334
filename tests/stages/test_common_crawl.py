"""Common Crawl from a server with its layout: what comes is what is there, whatever the server does on the way.

The layout is made of a real Common Crawl archive where the shared data is at hand, and always of one that is written here.
"""

import base64
import gzip
import hashlib
import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.remote import Manners
from bloomery.core.stage import Runtime
from bloomery.curate import common_crawl as source
from bloomery.curate.common_crawl import CommonCrawlConfig, IndexEntry, find_record_damage, read_index
from bloomery.curate.ledger import read_ledger
from bloomery.curate.warc import Capture, WrittenPage, find_gzip_damage, read_captures, write_warc
from bloomery.stages import crawl as stage
from bloomery.stages.crawl import CrawlConfig, crawl

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "web" / "genuine"
NAME = "crawl-data/CC-MAIN-2024-22/segments/1715971057216.39/warc/CC-MAIN-{}.warc.gz"
QUICK = Manners(attempts=4, first_wait_seconds=0.001, max_wait_seconds=0.01, timeout_seconds=5.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(source, "DATA_MANNERS", QUICK)
    monkeypatch.setattr(source, "INDEX_MANNERS", QUICK)


def members(data: bytes) -> list[tuple[int, int, bytes]]:
    """Offset, length and content of each gzip member."""
    found, at = [], 0
    while at < len(data):
        inflate = zlib.decompressobj(31)
        plain = inflate.decompress(data[at:])
        length = len(data) - at - len(inflate.unused_data)
        found.append((at, length, plain))
        at += length
    return found


def index_rows(name: str, data: bytes) -> list[dict]:
    """What a CDX indexer says of an archive's responses."""
    rows = []
    for offset, length, record in members(data):
        head = record.partition(b"\r\n\r\n")[0]
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        if headers["WARC-Type"] == "response":
            digest = headers["WARC-Payload-Digest"].removeprefix("sha1:")
            rows.append({"urlkey": "k", "timestamp": "20240518015810", "url": headers["WARC-Target-URI"], "digest": digest,
                         "length": str(length), "offset": str(offset), "filename": name})  # fmt: skip
    return rows


@pytest.fixture(params=["written here", "genuine"])
def layout(request, web_server, tmp_path):
    """A server with two archives, their listing, and the index as the index server answers."""
    archives = {}
    for number in range(2):
        if request.param == "genuine":
            path = GENUINE / ("whirlwind.warc.gz", "resiliparse-warcfile.warc.gz")[number]
            if not path.is_file():
                pytest.skip(f"{path} is missing: real crawl archives are not part of the repository")
        else:
            path = tmp_path / f"{number}.warc.gz"
            write_warc(path, [WrittenPage(f"https://{number}.example/{page}", f"<p>{page}</p>".encode() * 500) for page in range(4)])
        archives[NAME.format(number)] = path.read_bytes()
    web_server.files.update({f"/{name}": data for name, data in archives.items()})
    web_server.files["/crawl-data/CC-MAIN-2024-22/warc.paths.gz"] = gzip.compress("".join(f"{name}\n" for name in archives).encode())
    rows = [row for name, data in archives.items() for row in index_rows(name, data)]
    web_server.rows = rows
    return web_server


def settings(server, **options) -> CrawlConfig:
    common = {"crawl": "CC-MAIN-2024-22", "base_url": server.url, "index_url": server.url, **options}
    return CrawlConfig(source="common_crawl", num_shards=2, common_crawl=CommonCrawlConfig(**common))


def run(config: CrawlConfig, out: Path, *pages: Path):
    out.mkdir(exist_ok=True)
    return crawl(config, pages=list(pages), out=out, runtime=Runtime(quiet=True))


def write_index(server, path: Path, rows=None) -> Path:
    rows = server.rows if rows is None else rows
    path.write_text("".join(f"com,example)/ 20240518 {json.dumps(row)}\n" for row in rows))
    return path


def test_archives_of_a_listing_come_whole_with_their_hashes(layout, tmp_path):
    metrics = run(settings(layout, num_files=2), tmp_path / "out")
    files = {
        name: layout.files[f"/{NAME.format(number)}"] for number, name in enumerate(["00000-CC-MAIN-0.warc.gz", "00001-CC-MAIN-1.warc.gz"])
    }
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.warc.gz")} == files
    facts = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert [(fact["file"], fact["sha256"], fact["damage"]) for fact in facts] == [
        (name, hashlib.sha256(data).hexdigest(), "") for name, data in files.items()
    ]
    assert metrics["bytes_out"] == sum(map(len, files.values()))
    assert [path for _, path, _ in layout.requests] == [
        "/crawl-data/CC-MAIN-2024-22/warc.paths.gz",
        *(f"/{NAME.format(n)}" for n in range(2)),
    ]


def test_an_archive_comes_whole_from_a_server_that_hangs_up_refuses_lies_and_garbles(layout, tmp_path):
    name = f"/{NAME.format(0)}"
    size = len(layout.files[name])
    layout.faults[name] = [
        ("cut", size // 3), ("status", 503, {"Retry-After": "0"}), ("status", 503, {}), ("flip", 100), ("claim", 7), ("none",),
    ]  # fmt: skip
    source.DATA_MANNERS = QUICK._replace(attempts=8)
    run(settings(layout), tmp_path / "out")
    assert (tmp_path / "out" / "00000-CC-MAIN-0.warc.gz").read_bytes() == layout.files[name]


def test_a_broken_off_run_goes_on_where_it_was_and_fetches_no_finished_file_again(layout, tmp_path):
    second = f"/{NAME.format(1)}"
    size = len(layout.files[second])
    layout.faults[second] = [("cut", size // 2), *[("status", 503, {})] * 3]
    with pytest.raises(DataError, match=r"run the same command again"):
        run(settings(layout, num_files=2), tmp_path / "out")
    before = len(layout.requests)
    run(settings(layout, num_files=2), tmp_path / "out")
    assert layout.requests[before:] == [("GET", second, f"bytes={size // 2}-")]
    assert (tmp_path / "out" / "00001-CC-MAIN-1.warc.gz").read_bytes() == layout.files[second]
    run(settings(layout, num_files=2), tmp_path / "unbroken")
    for path in sorted((tmp_path / "unbroken").glob("*")):
        assert not path.is_file() or path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_an_archive_that_is_damaged_on_the_server_is_taken_as_it_is_and_said_to_be(layout, tmp_path):
    name = f"/{NAME.format(0)}"
    data = bytearray(layout.files[name])
    data[-6] ^= 255
    layout.files[name] = bytes(data)
    run(settings(layout), tmp_path / "out")
    (fact,) = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert "damaged gzip member" in fact["damage"] and (tmp_path / "out" / fact["file"]).read_bytes() == data


def test_records_of_an_index_file_come_byte_for_byte_and_are_readable(layout, tmp_path):
    metrics = run(settings(layout), tmp_path / "out", write_index(layout, tmp_path / "index.cdxj"))
    wanted = b"".join(layout.files["/" + row["filename"]][int(row["offset"]) :][: int(row["length"])] for row in layout.rows)
    written = sorted((tmp_path / "out").glob("*.warc.gz"))
    assert b"".join(path.read_bytes() for path in written) == wanted
    captures = [item.url for path in written for item in read_captures(path, max_record_bytes=1 << 22) if isinstance(item, Capture)]
    assert captures and set(captures) <= {row["url"] for row in layout.rows}
    assert metrics["documents_in"] == metrics["documents_out"] == len(layout.rows)
    assert all(wanted.startswith("bytes=") for _, _, wanted in layout.requests)


def test_the_index_server_is_asked_page_by_page_and_once(layout, tmp_path, monkeypatch):
    rows = layout.rows
    query = "/CC-MAIN-2024-22-index?url=example.com%2F%2A&output=json&filter=%3Dstatus%3A200"
    layout.files[f"{query}&showNumPages=true"] = json.dumps({"pages": 2, "pageSize": 5, "blocks": 6}).encode()
    layout.files[f"{query}&page=0"] = "".join(f"{json.dumps(row)}\n" for row in rows[:1]).encode()
    layout.files[f"{query}&page=1"] = "".join(f"{json.dumps(row)}\n" for row in rows[1:]).encode()
    layout.faults[f"{query}&page=0"] = [("status", 429, {"Retry-After": "0"}), ("none",)]
    config = settings(layout, url="example.com/*", filters=["=status:200"])
    run(config, tmp_path / "out")
    run(settings(layout), tmp_path / "by-file", write_index(layout, tmp_path / "index.cdxj"))
    for path in (tmp_path / "by-file").glob("*.warc.gz"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    before = len(layout.requests)
    (tmp_path / "out" / "00000.warc.gz").unlink()
    run(config, tmp_path / "out")
    assert not [path for _, path, _ in layout.requests[before:] if "index" in path]


def test_a_record_that_cannot_be_had_is_a_row_of_the_ledger_and_the_others_come(layout, tmp_path):
    gone = dict(layout.rows[0], filename=NAME.format(9))
    wrong = dict(layout.rows[0], length=str(int(layout.rows[0]["length"]) - 1))
    other = dict(layout.rows[0], url="https://other.example/")
    digest = dict(layout.rows[0], digest="A" * 32)
    rows = [gone, layout.rows[0], wrong, other, layout.rows[-1], digest]
    layout.faults["/" + layout.rows[0]["filename"]] = [("flip", 50), ("cut", 20), ("status", 503, {}), ("none",)]
    metrics = run(settings(layout), tmp_path / "out", write_index(layout, tmp_path / "index.cdxj", rows))
    assert (metrics["documents_in"], metrics["documents_out"], metrics["dropped/fetch_failed"]) == (6, 2, 4)
    ledger = read_ledger(tmp_path / "out").to_pylist()
    assert [row["value"] for row in ledger] == [404.0, None, None, None]
    for row, fact in zip(ledger, ["status 404", "cut short", "another address", "the index says AAAA"], strict=True):
        assert fact in row["detail"] and row["rule"] == "fetch_failed"


def test_a_server_that_gives_nothing_stops_the_run_instead_of_emptying_the_corpus(layout, tmp_path):
    rows = [dict(layout.rows[0], filename=NAME.format(9))] * 10
    with pytest.raises(DataError, match=r"5 records one after another could not be had.*404"):
        run(settings(layout), tmp_path / "out", write_index(layout, tmp_path / "index.cdxj", rows))


def test_the_columnar_index_names_the_same_records(tmp_path):
    row = {
        "url": "http://a/",
        "warc_filename": "crawl-data/a.warc.gz",
        "warc_record_offset": 5,
        "warc_record_length": 7,
        "content_digest": "D",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "index.parquet")
    names = {"warc_filename": "filename", "warc_record_offset": "offset", "warc_record_length": "length", "content_digest": "digest"}
    (tmp_path / "index.jsonl").write_text(json.dumps({names.get(name, name): value for name, value in row.items()}))
    both = read_index([tmp_path / "index.parquet", tmp_path / "index.jsonl"], max_records=0)
    assert both == [IndexEntry("http://a/", "crawl-data/a.warc.gz", 5, 7, "D")] * 2
    assert len(read_index([tmp_path / "index.parquet", tmp_path / "index.jsonl"], max_records=1)) == 1


@pytest.mark.parametrize("change", [{"offset": "x"}, {"length": "0"}, {"filename": None}])
def test_a_row_that_is_no_index_entry_is_named(tmp_path, change):
    row = {"url": "http://a/", "filename": "a.warc.gz", "offset": "0", "length": "1", **change}
    (tmp_path / "index.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"index\.jsonl:1: not an entry"):
        read_index([tmp_path / "index.jsonl"], max_records=0)


@pytest.mark.parametrize("name", ["../../secret", "http://evil.example/a", "/etc/passwd", "a b", "file:///etc/passwd"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    (tmp_path / "index.jsonl").write_text(json.dumps({"url": "http://a/", "filename": name, "offset": "0", "length": "1"}))
    with pytest.raises(DataError, match="not the name of an archive"):
        read_index([tmp_path / "index.jsonl"], max_records=0)


def test_a_record_without_a_payload_digest_is_checked_against_the_index(tmp_path):
    block = b"HTTP/1.1 200 OK\r\n\r\nhello"
    record = gzip.compress(
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/\r\nContent-Length: 24\r\n\r\n" + block + b"\r\n\r\n"
    )
    good = base64.b32encode(hashlib.sha1(b"hello").digest()).decode()
    assert find_record_damage(record, IndexEntry("http://a/", "a", 0, len(record), good)) == ""
    assert "payload's sha1" in find_record_damage(record, IndexEntry("http://a/", "a", 0, len(record), "A" * 32))
    assert "follow the gzip member" in find_record_damage(record + b"x", IndexEntry("http://a/", "a", 0, 0, good))
    assert "not a WARC record" in find_record_damage(gzip.compress(b"hello"), IndexEntry("http://a/", "a", 0, 0, good))


def test_gzip_damage_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "a.warc.gz"
    write_warc(path, [WrittenPage("http://a/", b"<p>a</p>" * 9)])
    whole = path.read_bytes()
    assert find_gzip_damage(path) == ""
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        assert find_gzip_damage(path) or cut in {offset for offset, *_ in members(whole)}, cut
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert find_gzip_damage(path)


def test_settings_that_cannot_be_right_are_refused(tmp_path, web_server):
    with pytest.raises(ConfigError, match=r"common_crawl\.crawl: required"):
        run(CrawlConfig(source="common_crawl"), tmp_path / "out")
    _, mistakes = check_config(CommonCrawlConfig, {"base_url": "file:///etc", "crawl": "../x"})
    assert len(mistakes) == 2 and any("https://" in mistake for mistake in mistakes)
    web_server.files["/crawl-data/CC-MAIN-2024-22/warc.paths.gz"] = gzip.compress(b"a.warc.gz\n")
    with pytest.raises(DataError, match="lists 1 warc files; first_file = 0 and num_files = 3"):
        run(settings(web_server, num_files=3), tmp_path / "out")


def test_servers_are_told_whom_to_write_to(monkeypatch):
    monkeypatch.setenv(source.CONTACT, "me@example.org")
    assert source.polite(Manners()).user_agent == "bloomery (+me@example.org)"
    assert stage.STAGE.facts(CrawlConfig(source="common_crawl")) == {}
