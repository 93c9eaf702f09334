"""`file:` inputs: what identifies them here and elsewhere, and a recipe that reads from the web."""

import gzip
import json
from pathlib import Path

import fsspec
import pytest

from bloomery.core.artifact import Store
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.remote import remote_url
from bloomery.core.stage import Slot
from bloomery.curate.warc import WrittenPage, write_warc
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan
from bloomery.pipeline.sources import FileHashes, find_source

PAGES = Slot("pages", many=True)
TEXT = "The furnace was blown for half a day with charcoal and ore before the bloom came out of it, and then it was hammered. " * 8


@pytest.fixture
def hashes(tmp_path):
    return FileHashes(tmp_path / "hashes.json")


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_local_files_are_known_by_their_bytes_wherever_they_lie(tmp_path, hashes):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("{}")
    prints = {find_source(str(tmp_path / name / "a.jsonl"), PAGES, hashes).fingerprint for name in ("one", "two")}
    (tmp_path / "two" / "a.jsonl").write_text("[]")
    changed = find_source(str(tmp_path / "two" / "a.jsonl"), PAGES, hashes).fingerprint
    assert len(prints) == 1 and changed not in prints


def test_a_checkpoint_serves_where_a_tokenizer_is_needed_and_nothing_else_does(tmp_path, hashes):
    for kind in ("checkpoint", "documents"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "artifact.json").write_text(json.dumps({"kind": kind, "fingerprint": f"{kind}-print"}))
    assert find_source(str(tmp_path / "checkpoint"), Slot("tokenizer"), hashes).fingerprint == "checkpoint-print"
    with pytest.raises(ConfigError, match="holds documents; expected tokenizer"):
        find_source(str(tmp_path / "documents"), Slot("tokenizer"), hashes)
    with pytest.raises(ConfigError, match="holds checkpoint; expected tokens"):
        find_source(str(tmp_path / "checkpoint"), Slot("tokens"), hashes)


def test_remote_files_are_listed_and_known_by_the_state_that_their_server_gives(memory, hashes):
    memory.pipe("/b/crawl/2.jsonl", b"{}")
    memory.pipe("/b/crawl/1.jsonl", b"{}")
    found = find_source("memory://b/crawl/*.jsonl", PAGES, hashes)
    assert [remote_url(path) for path in found.paths] == ["memory://b/crawl/1.jsonl", "memory://b/crawl/2.jsonl"]
    assert find_source("memory://b/crawl/*.jsonl", PAGES, hashes) == found
    assert find_source("memory://b/crawl", PAGES, hashes) == found
    memory.pipe("/b/crawl/2.jsonl", b"[]")
    assert find_source("memory://b/crawl/*.jsonl", PAGES, hashes).fingerprint != found.fingerprint
    with pytest.raises(DataError, match="memory://b/none: "):
        find_source("memory://b/none", PAGES, hashes)


def test_files_of_one_name_in_two_folders_stay_apart(memory, hashes):
    memory.pipe("/b/x/a.jsonl", b"{}")
    first = find_source("memory://b/**/a.jsonl", PAGES, hashes)
    memory.pipe("/b/y/a.jsonl", b"{}")
    assert len(find_source("memory://b/**/a.jsonl", PAGES, hashes).paths) == len(first.paths) + 1


def test_a_recipe_reads_archives_and_documents_from_the_web_and_a_change_there_reruns_it(web_server, tmp_path):
    write_warc(tmp_path / "a.warc.gz", [WrittenPage("https://a.example/", f"<main><p>{TEXT}</p></main>".encode())])
    web_server.files["/a.warc.gz"] = (tmp_path / "a.warc.gz").read_bytes()
    web_server.files["/b.jsonl.gz"] = gzip.compress(json.dumps({"text": TEXT, "url": "https://a.example"}).encode())
    web_server.faults["/a.warc.gz"] = [("none",), ("cut", 100)]
    inputs = [f"file:{web_server.url}/{name}" for name in ("a.warc.gz", "b.jsonl.gz")]
    recipe = tmp_path / "web.toml"
    recipe.write_text(
        f'name = "web"\n[stages.extracted]\nstage = "extract"\ninputs = {{ pages = {json.dumps(inputs)} }}\n'
        '[stages.addressed]\nstage = "url_filter"\ninputs = { documents = "extracted" }\n'
    )
    store = Store(tmp_path / "store")
    run_plan(make_plan(load_recipe(recipe), store), store)
    plan = make_plan(load_recipe(recipe), store)
    assert plan.is_done
    (addressed,) = (step for step in plan.steps if step.node.id == "addressed")
    metrics = json.loads(next(Path(store.artifact_path("url_filter", addressed.fingerprint)).glob("artifact.json")).read_text())["metrics"]
    assert (metrics["documents_in"], metrics["documents_out"], metrics["dropped/duplicate_url"]) == (2, 1, 1)
    web_server.files["/b.jsonl.gz"] = gzip.compress(b'{"text": "x"}')
    assert not make_plan(load_recipe(recipe), store).is_done
