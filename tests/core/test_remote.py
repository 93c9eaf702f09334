"""Files elsewhere: a server that breaks off, refuses, lies or leads astray gives the whole file or an error, never less."""

import base64
import gzip
import hashlib
import os
import time
from pathlib import Path

import fsspec
import pytest

from bloomery.core import remote
from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_jsonl
from bloomery.core.remote import FetchError, Manners, as_path, download, fetch, list_remote, local_copy, remote_url, wait_seconds

QUICK = Manners(attempts=4, first_wait_seconds=0.001, max_wait_seconds=0.01, timeout_seconds=5.0)
BODY = bytes(range(256)) * 1000


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.mark.parametrize("url", ["s3://bucket/a/b.parquet", "https://host:8080/a.gz?x=1", "hf://datasets/o/n/*.parquet", "memory://b/k"])
def test_an_address_comes_back_from_the_path_that_collapsed_it(url):
    assert remote_url(as_path(url)) == url == remote_url(as_path(url).absolute())
    assert as_path(url).name == url.rsplit("/")[-1]


@pytest.mark.parametrize("path", ["a/b", "/s3/x", "c:/x", "s3:", "https", "file:///x", "/a/xs3:/b", "a/s3:/b"])
def test_other_paths_are_local(path):
    assert remote_url(Path(path)) is None


def test_files_of_a_driver_are_listed_copied_and_left_nowhere(memory):
    memory.pipe("/b/in/2.jsonl", b'{"a": 2}\n')
    memory.pipe("/b/in/1.jsonl.gz", gzip.compress(b'{"a": 1}\n'))
    memory.pipe("/b/in/ledger/9.jsonl", b"")
    memory.pipe("/b/in/x.bin", b"")
    found = expand([as_path("memory://b/in")], suffixes=(".jsonl", ".jsonl.gz"))
    assert [remote_url(path) for path in found] == ["memory://b/in/1.jsonl.gz", "memory://b/in/2.jsonl"]
    assert expand([as_path("memory://b/in/*.jsonl")], suffixes=()) == found[1:]
    assert [row["a"] for path in found for row in read_jsonl(path)] == [1, 2]
    with local_copy(found[0]) as copy:
        assert copy.name == "1.jsonl.gz" and copy.is_file()
    assert not copy.parent.exists()
    with pytest.raises(DataError, match=r"memory://b/none\.jsonl: no such file"):
        list_remote("memory://b/none.jsonl")
    with pytest.raises(DataError, match=r"memory://b/\*\.warc: found no file there"):
        list_remote("memory://b/*.warc")


def test_a_local_file_is_its_own_copy(tmp_path):
    with local_copy(tmp_path / "a") as copy:
        assert copy == tmp_path / "a"


def test_a_missing_driver_says_what_to_install(monkeypatch):
    def refuse(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(DataError, match=r"s3://b/k: nothing here reads s3://.*pip install 'bloomery\[remote\]'"):
        list_remote("s3://b/k")


def test_a_file_of_a_web_server_is_described_by_its_head_and_by_a_range_where_head_is_refused(web_server):
    web_server.files["/a.bin"] = BODY
    web_server.faults["/a.bin"] = [("none",), ("status", 405, {})]
    first, second = list_remote(f"{web_server.url}/a.bin"), list_remote(f"{web_server.url}/a.bin")
    assert first == second and first[0].num_bytes == len(BODY) and first[0].token
    assert [method for method, *_ in web_server.requests] == ["HEAD", "HEAD", "GET"]
    with pytest.raises(DataError, match="cannot list its files"):
        list_remote(f"{web_server.url}/*.bin")


def test_a_download_continues_where_the_connection_broke(web_server, tmp_path):
    web_server.files["/a"] = BODY
    web_server.faults["/a"] = [("cut", 100_000), ("status", 503, {"Retry-After": "0"}), ("cut", 50_000)]
    download(f"{web_server.url}/a", tmp_path / "part", manners=QUICK)
    assert (tmp_path / "part").read_bytes() == BODY
    assert [wanted for _, _, wanted in web_server.requests] == ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_download_is_continued_by_the_next_call_and_a_changed_file_is_fetched_anew(web_server, tmp_path):
    web_server.files["/a"] = BODY
    web_server.faults["/a"] = [("cut", 1000)] * 4
    with pytest.raises(FetchError, match=r"4000 of 256000 bytes came \(tried 4 times\)"):
        download(f"{web_server.url}/a", tmp_path / "part", manners=QUICK)
    web_server.files["/a"] = BODY[::-1]
    download(f"{web_server.url}/a", tmp_path / "part", manners=QUICK)
    assert (tmp_path / "part").read_bytes() == BODY[::-1] and web_server.requests[-1][2] == "bytes=4000-"
    download(f"{web_server.url}/a", tmp_path / "part", manners=QUICK)
    assert (tmp_path / "part").read_bytes() == BODY[::-1] and web_server.requests[-1][2] == "bytes=256000-"


def test_wrong_lengths_checksums_and_checks_of_the_caller_are_failures(web_server, tmp_path):
    web_server.files["/a"] = BODY
    web_server.faults["/a"] = [("claim", 5), ("none",)]
    download(f"{web_server.url}/a", tmp_path / "claim", manners=QUICK)
    assert (tmp_path / "claim").read_bytes() == BODY
    web_server.headers["/a"] = {"Content-MD5": base64.b64encode(hashlib.md5(BODY).digest()).decode()}
    web_server.faults["/a"] = [("flip", 77), ("none",)]
    download(f"{web_server.url}/a", tmp_path / "md5", manners=QUICK)
    assert (tmp_path / "md5").read_bytes() == BODY
    with pytest.raises(FetchError, match="not what we want"):
        download(f"{web_server.url}/a", tmp_path / "check", manners=QUICK, check=lambda path: "not what we want")
    assert not (tmp_path / "check").exists()


def test_a_status_that_will_not_change_is_not_asked_for_again(web_server, tmp_path):
    with pytest.raises(FetchError, match="HTTP status 404") as caught:
        download(f"{web_server.url}/none", tmp_path / "part", manners=QUICK)
    assert caught.value.status == 404 and len(web_server.requests) == 1
    with pytest.raises(FetchError, match="no answer"):
        fetch("http://127.0.0.1:9/", manners=QUICK, max_bytes=10)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("file:///etc/passwd", "not allowed"), ("ftp://127.0.0.1/x", "only http and https"), ("http://169.254.169.254/", "private"),
     ("http://[::1]/", "private"), ("http://0x7f.2/", "private"), ("http://10.0.0.1/", "private")],
)  # fmt: skip
def test_redirects_lead_to_no_other_scheme_and_into_no_private_network(web_server, target, reason):
    web_server.files["/a"] = BODY
    web_server.faults["/a"] = [("redirect", target)]
    with pytest.raises(FetchError, match=reason):
        fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=10**6)
    assert len(web_server.requests) == 1


def test_redirects_on_one_host_are_followed_but_not_for_ever(web_server):
    web_server.files.update({"/a": b"", "/b": BODY})
    web_server.faults["/a"] = [("redirect", "/b")]
    assert fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=10**6) == BODY
    web_server.faults["/a"] = [("redirect", "/a")] * 50
    with pytest.raises(FetchError, match="30"):
        fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=10**6)
    assert len(web_server.requests) < 20


def test_a_range_is_exactly_that_range_and_a_body_without_end_is_cut_off(web_server):
    web_server.files["/a"] = BODY
    assert fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=10, first_byte=256 + 65, num_bytes=3) == b"ABC"
    with pytest.raises(FetchError, match="256000 bytes are more than 1000"):
        fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=1000)
    web_server.faults["/a"] = [("whole",)]
    with pytest.raises(FetchError, match="does not give ranges"):
        fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=1000, num_bytes=3)
    assert fetch(f"{web_server.url}/a", manners=QUICK, max_bytes=10**6, check=lambda body: "" if len(body) == 256000 else "short") == BODY


def test_other_schemes_are_refused():
    with pytest.raises(FetchError, match="not a web address"):
        fetch("file:///etc/passwd", manners=QUICK, max_bytes=10)


def test_waits_double_differ_between_addresses_and_obey_the_server():
    manners = Manners(first_wait_seconds=1.0, max_wait_seconds=100.0)
    waits = [wait_seconds("http://a/", attempt, 0.0, manners) for attempt in (1, 2, 3, 4)]
    assert all(0.75 * 2**i <= wait <= 1.25 * 2**i for i, wait in enumerate(waits))
    assert waits[0] == wait_seconds("http://a/", 1, 0.0, manners) != wait_seconds("http://b/", 1, 0.0, manners)
    assert wait_seconds("http://a/", 1, 50.0, manners) == 50.0 and wait_seconds("http://a/", 1, 9999.0, manners) == 100.0


def test_a_copy_that_a_killed_process_left_is_removed_by_the_next_one_and_a_living_one_is_not(web_server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(remote.tempfile, "tempdir", str(tmp_path))
    web_server.files["/a.txt"] = b"a"
    left = tmp_path / f"bloomery-{os.getuid()}-left"
    left.mkdir()
    with local_copy(as_path(f"{web_server.url}/a.txt")) as living:
        for folder in (left, living.parent):
            os.utime(folder, (time.time() - 3600, time.time() - 3600))
        with local_copy(as_path(f"{web_server.url}/a.txt")):
            assert living.exists() and not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_before_the_download(web_server, tmp_path, monkeypatch):
    web_server.files["/a"] = BODY
    monkeypatch.setattr(remote, "_MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(DataError, match="Set TMPDIR"):
        download(f"{web_server.url}/a", tmp_path / "part", manners=QUICK)


def test_a_host_that_nobody_knows_is_not_asked_for_again():
    with pytest.raises(FetchError, match=r"no answer.*\(tried 1 times\)"):
        fetch("http://no-such-host.invalid/", manners=QUICK, max_bytes=10)
