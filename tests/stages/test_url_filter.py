"""url_filter: which address stays, why each other one went, and that files, workers and partitions change nothing."""

import itertools
import random

import pytest

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime
from bloomery.curate.ledger import read_ledger
from bloomery.stages import url_filter as stage
from bloomery.stages.url_filter import UrlFilterConfig, url_filter


def write_files(folder, *files):
    folder.mkdir(exist_ok=True)
    number = itertools.count()
    for index, rows in enumerate(files):
        table = document_table([{"id": f"d{next(number)}", "text": f"text {url}", "url": url, "date": date} for url, date in rows])
        write_documents(folder / f"{index:05d}.parquet", table)
    return folder


def run(config, source, out, *, lists=(), workers=1):
    metrics = url_filter(config, documents=[source], lists=list(lists), out=out, runtime=Runtime(workers=workers, quiet=True))
    kept = {path.name: read_documents(path).column("id").to_pylist() for path in sorted(out.glob("*.parquet"))}
    ledger = {row["id"]: row for row in read_ledger(out).to_pylist()}
    assert metrics["documents_in"] == sum(map(len, kept.values())) + len(ledger)
    return [id for ids in kept.values() for id in ids], ledger, metrics


FILES = [
    [("http://a.com/x", "2020-01-01"), ("not an address", None), (None, None), ("https://www.a.com/x/", "2022-05-01T10:00:00Z")],
    [("http://a.com/x?utm_source=y", "20210101000000"), ("http://bad.com/", None), ("http://b.com/", None), (None, None)],
    [("http://bad.com/", None), ("HTTP://B.com", None), ("http://c.com/casino", None)],
]


def test_the_first_of_each_address_stays_across_files_and_every_drop_is_explained(tmp_path):
    (tmp_path / "ours.txt").write_text("bad.com\n")
    kept, ledger, metrics = run(
        UrlFilterConfig(words=["casino"]), write_files(tmp_path / "in", *FILES), tmp_path / "out", lists=[tmp_path / "ours.txt"]
    )
    assert kept == ["d0", "d2", "d6", "d7"]
    why = {id: (row["rule"], row["kept_id"], row["detail"]) for id, row in ledger.items()}
    assert why == {
        "d1": ("invalid_url", None, None),
        "d3": ("duplicate_url", "d0", None),
        "d4": ("duplicate_url", "d0", None),
        "d5": ("blocked_domain", None, "ours: bad.com"),
        "d8": ("blocked_domain", None, "ours: bad.com"),
        "d9": ("duplicate_url", "d6", None),
        "d10": ("blocked_word", None, "recipe: casino"),
    }
    assert metrics["dropped/duplicate_url"] == 3 and metrics["dropped/blocked_domain"] == 2


def test_the_newest_stays_when_that_is_asked_for_and_a_page_without_a_date_is_the_oldest(tmp_path):
    kept, ledger, _ = run(UrlFilterConfig(keep="newest"), write_files(tmp_path / "in", *FILES), tmp_path / "out")
    assert kept == ["d2", "d3", "d5", "d6", "d7", "d10"]
    assert {id: row["kept_id"] for id, row in ledger.items() if row["rule"] == "duplicate_url"} == {
        "d0": "d3",
        "d4": "d3",
        "d8": "d5",
        "d9": "d6",
    }


def test_all_may_stay_allowed_domains_are_never_blocked_and_addresses_may_be_rewritten(tmp_path):
    config = UrlFilterConfig(
        keep="all", words=["casino"], allowed_domains=["C.com"], without_url="drop", address="canonical", ignored_parameters=["X"]
    )
    kept, ledger, _ = run(config, write_files(tmp_path / "in", *FILES, [("http://e.com/?x=1", None)]), tmp_path / "out")
    assert {id: row["rule"] for id, row in ledger.items()} == {"d1": "invalid_url", "d2": "without_url", "d7": "without_url"}
    urls = read_documents(tmp_path / "out" / "00002.parquet").column("url").to_pylist()
    assert urls == ["http://bad.com/", "http://b.com/", "http://c.com/casino"] and "d11" in kept


def test_neither_the_number_of_partitions_nor_of_workers_changes_a_byte_and_the_choice_is_that_of_a_dictionary(tmp_path, monkeypatch):
    draw = random.Random(3)
    files = [
        [
            (f"http{draw.choice(['', 's'])}://{draw.randrange(40)}.com/{draw.randrange(3)}", f"20{draw.randrange(10, 30)}-01-01")
            for _ in range(60)
        ]
        for _ in range(5)
    ]
    source = write_files(tmp_path / "in", *files)
    outputs = []
    for partitions, workers in ((1, 1), (8, 1), (4, 2)):
        monkeypatch.setattr(stage, "choose_partitions", lambda num_rows, partitions=partitions: partitions)
        out = tmp_path / f"out-{partitions}"
        kept, _, _ = run(UrlFilterConfig(keep="newest"), source, out, workers=workers)
        outputs.append(
            {
                path.relative_to(out).as_posix(): path.read_bytes()
                for path in sorted(out.glob("**/0*.parquet"))
                if ".scratch" not in path.parts
            }
        )
    assert outputs[0] == outputs[1] == outputs[2] and len(outputs[0]) == 10
    best: dict[str, tuple[str, str]] = {}
    for number, (url, date) in enumerate(row for rows in files for row in rows):
        key = url.partition("://")[2]
        if key not in best or date > best[key][0]:
            best[key] = (date, f"d{number}")
    assert sorted(kept) == sorted(id for _, id in best.values())


def test_a_list_with_categories_needs_a_choice(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"category": "press", "kind": "domain", "value": "a.com"}\n')
    with pytest.raises(ConfigError, match="press"):
        run(UrlFilterConfig(), write_files(tmp_path / "in", *FILES), tmp_path / "out", lists=[tmp_path / "a.jsonl"])


def test_an_empty_shard_is_an_empty_shard(tmp_path):
    kept, ledger, _ = run(UrlFilterConfig(), write_files(tmp_path / "in", [], FILES[0]), tmp_path / "out")
    assert kept == ["d0", "d2"] and len(ledger) == 2
