"""The six data stages: what each promises alone, and what all promise together.

Together: rows in = rows kept + rows in the ledger; one worker or two, killed anywhere or not, the same bytes and the
same metrics; a finished shard is never made again.
"""

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from warcio.archiveiterator import ArchiveIterator as OtherReader

from bloomery.core.config import check_config
from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime, Stage
from bloomery.curate.decontaminate import DecontaminateConfig
from bloomery.curate.extract import ExtractConfig
from bloomery.curate.ledger import read_ledger
from bloomery.curate.minhash import DedupConfig
from bloomery.curate.mixture import MixConfig
from bloomery.curate.warc import WrittenPage, write_warc
from bloomery.stages import crawl, decontaminate, dedup, extract, filter, mix

SHARED = Path(__file__).parents[3] / "shared" / "data"

SUBJECTS = ["furnace", "harbour", "orchard", "library", "mountain", "engine", "market", "weaver", "bridge", "garden"]
VERBS = ["holds", "needs", "shows", "keeps", "brings", "leaves", "covers", "feeds"]
OBJECTS = ["charcoal", "stone", "letters", "apples", "winter", "iron", "water", "silence", "bread", "ropes", "lamps"]
PROMPT = "Which furnace was blown for half a day with charcoal and ore before the bloom came out of it?"


def article(number: int, *, sentences: int = 14) -> str:
    """A text of English words, another one for every number."""
    draw = random.Random(number)
    lines = (f"The {draw.choice(SUBJECTS)} {draw.choice(VERBS)} the {draw.choice(OBJECTS)} that have to be" for _ in range(sentences))
    return "\n".join(f"{line} with and of {draw.choice(OBJECTS)} number {draw.randrange(10**6)}." for line in lines)


def write_pages(folder: Path) -> Path:
    """Four archives of articles between navigation, and one file that is no archive."""
    for number in range(4):
        pages = []
        for page in range(5):
            body = "".join(f"<p>{line}</p>" for line in article(number * 10 + page).split("\n"))
            html = f"<html><head><title>Page {page}</title></head><body><nav><a href=/>Home</a></nav><main>{body}</main></body></html>"
            pages.append(WrittenPage(f"https://{number}.example/{page}", html.encode()))
        write_warc(folder / f"{number}.warc.gz", [*pages, WrittenPage(f"https://{number}.example/empty", b"")])
    (folder / "broken.warc.gz").write_bytes(b"\x1f\x8b\x08 this is not gzip")
    return folder


def write_articles(folder: Path) -> Path:
    """Four Parquet files: each has articles of its own, one that all have, an edited copy, a short text and a prompt."""
    for number in range(4):
        texts = [article(number * 10 + i) for i in range(4)]
        texts += [
            article(999),
            article(number * 10).replace("number", "Number", 3) + "\nOne more line.",
            "Too short.",
            f"{article(number + 500)}\n{PROMPT}",
        ]
        rows = [
            {"id": f"{number}-{i}", "text": text, "url": f"https://{number}.example/{i}", "source": "s"} for i, text in enumerate(texts)
        ]
        write_documents(folder / f"{number}.parquet", document_table(rows))
    return folder


def write_prompts(folder: Path) -> Path:
    write_jsonl(folder / "test.jsonl.gz", [{"messages": [{"role": "user", "content": PROMPT}], "answer": "the first"}])
    write_jsonl(folder / "train.jsonl.gz", [{"messages": [{"role": "user", "content": article(1)}, {"role": "assistant", "content": "."}]}])
    return folder


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file of an output folder but scratch, by name."""
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: named[name].read_bytes() for name in sorted(named) if not name.startswith(".")}


def ids_of(folder: Path) -> list[str]:
    return [id for path in sorted(folder.glob("*.parquet")) for id in read_documents(path).column("id").to_pylist()]


Run = Callable[..., Any]

STAGES = ["crawl", "extract", "filter", "dedup", "decontaminate", "mix"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each stage with small inputs, waiting for `out` and `runtime`."""
    root = tmp_path_factory.mktemp("inputs")
    pages, documents, prompts = write_pages(root / "pages"), write_articles(root / "documents"), write_prompts(root / "prompts")
    modules = crawl.CrawlConfig(source="pydoc", scope="stdlib", max_modules=9, num_shards=3)
    filtering = filter.FilterConfig(rules=["language", "gopher_quality"], thresholds={"too_few_words": 40})
    return {
        "crawl": functools.partial(crawl.crawl, modules),
        "extract": functools.partial(extract.extract, ExtractConfig(), pages=[pages]),
        "filter": functools.partial(filter.filter, filtering, documents=[documents]),
        "dedup": functools.partial(dedup.dedup, DedupConfig(), documents=[documents]),
        "decontaminate": functools.partial(decontaminate.decontaminate, DecontaminateConfig(), documents=[documents], prompts=[prompts]),
        "mix": functools.partial(mix.mix, MixConfig(validation_fraction=0.3, shard_bytes=8192), documents=[documents]),
    }


def run(step: Run, out: Path, *, workers: int = 1) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return dict(step(out=out, runtime=Runtime.local(out, workers=workers)))


@pytest.mark.parametrize("name", STAGES)
def test_two_workers_make_the_same_bytes_as_one(name, inputs, tmp_path):
    one, two = run(inputs[name], tmp_path / "one"), run(inputs[name], tmp_path / "two", workers=2)
    assert one == two
    assert read_folder(tmp_path / "one") == read_folder(tmp_path / "two")


@pytest.mark.parametrize("name", STAGES)
def test_a_run_that_was_killed_between_any_two_files_ends_as_if_it_had_not(name, inputs, tmp_path):
    out = tmp_path / "out"
    metrics = run(inputs[name], out)
    whole = read_folder(out)
    # Files are written one after another, each at once: a killed run left a prefix of them, here by time of writing.
    written = sorted((p for p in out.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    for cut in {0, 1, len(written) // 3, len(written) // 2, len(written) - 1}:
        killed = tmp_path / f"killed-{cut}"
        for path in written[:cut]:
            target = killed / path.relative_to(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        assert run(inputs[name], killed) == metrics
        assert read_folder(killed) == whole


@pytest.mark.parametrize("name", STAGES)
def test_finished_work_is_not_done_again_and_the_metrics_stay(name, inputs, tmp_path):
    metrics = run(inputs[name], tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*") if path.is_file()}
    assert run(inputs[name], tmp_path / "out") == metrics
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.parametrize("name", ["crawl", "extract", "filter", "dedup", "decontaminate"])
def test_every_row_that_comes_in_is_kept_or_in_the_ledger(name, inputs, tmp_path):
    metrics = run(inputs[name], tmp_path / "out")
    ledger = read_ledger(tmp_path / "out")
    assert metrics["documents_in"] == metrics["documents_out"] + len(ledger)
    assert sum(count for key, count in metrics.items() if key.startswith("dropped/")) == len(ledger)
    if name in ("filter", "dedup", "decontaminate"):
        gone = sum(count for key, count in metrics.items() if key.startswith("dropped_bytes/"))
        assert metrics["bytes_in"] == metrics["bytes_out"] + gone and bool(gone) == bool(len(ledger))
    if name != "crawl":
        kept = ids_of(tmp_path / "out")
        assert len(kept) == metrics["documents_out"] and not set(kept) & set(ledger.column("id").to_pylist())
        texts = [t for p in (tmp_path / "out").glob("*.parquet") for t in read_documents(p).column("text").to_pylist()]
        assert metrics["bytes_out"] == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("module", [crawl, extract, filter, dedup, decontaminate, mix])
def test_the_stage_is_named_after_its_module_and_hands_over_its_function(module):
    stage = module.STAGE
    assert isinstance(stage, Stage) and stage.name == module.__name__.rpartition(".")[2]
    assert stage.run is getattr(module, stage.name)


def test_crawled_modules_are_read_by_others_and_skipped_ones_are_named(tmp_path):
    config = crawl.CrawlConfig(source="pydoc", scope="stdlib", max_modules=9, num_shards=3)
    metrics = run(functools.partial(crawl.crawl, config), tmp_path / "out")
    urls = []
    for path in sorted((tmp_path / "out").glob("*.warc.gz")):
        with path.open("rb") as file:
            urls += [r.rec_headers.get_header("WARC-Target-URI") for r in OtherReader(file) if r.rec_type == "response"]
    assert len(urls) == metrics["documents_out"] and all(url.startswith("https://pydoc.local/") for url in urls)
    skipped = read_ledger(tmp_path / "out").column("id").to_pylist()
    assert sorted([*skipped, *(url[len("https://pydoc.local/") : -len(".html")] for url in urls)]) == crawl.choose_modules(config)


def test_only_pydoc_depends_on_the_environment():
    assert "python" in crawl.facts(crawl.CrawlConfig(source="pydoc", scope="stdlib"))
    assert crawl.facts(crawl.CrawlConfig(source="warc")) == {}


def test_a_folder_of_html_becomes_an_archive_with_addresses_from_the_folder(tmp_path):
    for name in ("a/one.html", "two.htm", "a/not-a-page.txt"):
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_bytes("<meta charset=latin-1><p>caf\xe9".encode("latin-1"))
    metrics = run(functools.partial(crawl.crawl, crawl.CrawlConfig(source="html"), pages=[tmp_path / "site"]), tmp_path / "out")
    assert metrics["documents_out"] == 2
    run(functools.partial(extract.extract, ExtractConfig(), pages=[tmp_path / "out"]), tmp_path / "text")
    documents = [row for path in sorted((tmp_path / "text").glob("*.parquet")) for row in read_documents(path).to_pylist()]
    assert [(row["url"], row["text"]) for row in documents] == [("file:///a/one.html", "café"), ("file:///two.htm", "café")]


def test_archives_are_taken_over_byte_for_byte_and_the_userʼs_files_stay(tmp_path):
    pages = write_pages(tmp_path / "pages")
    run(functools.partial(crawl.crawl, crawl.CrawlConfig(source="warc"), pages=[pages]), tmp_path / "out")
    taken = read_folder(tmp_path / "out")
    assert taken == {f"{i:05d}-{path.name}": path.read_bytes() for i, path in enumerate(sorted(pages.iterdir()))}


def test_documents_of_other_tools_pass_through_crawl_and_extract(tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl.gz", [{"content": "Grüße aus der Hütte, in der das Eisen geschmolzen wird.", "stars": 3}, {"content": ""}]
    )
    (tmp_path / "b.txt").write_text("A plain text file is one document of its own.")
    run(
        functools.partial(crawl.crawl, crawl.CrawlConfig(source="text"), pages=[tmp_path / "a.jsonl.gz", tmp_path / "b.txt"]),
        tmp_path / "out",
    )
    metrics = run(functools.partial(extract.extract, ExtractConfig(), pages=[tmp_path / "out"]), tmp_path / "text")
    rows = [row for path in sorted((tmp_path / "text").glob("*.parquet")) for row in read_documents(path).to_pylist()]
    assert [(row["language"], json.loads(row["meta"])) for row in rows] == [("de", {"stars": 3}), ("en", {})]
    assert metrics["dropped/no_text"] == 1


def test_crawl_says_what_its_source_needs(tmp_path):
    with pytest.raises(ConfigError, match='source = "warc" needs files'):
        run(functools.partial(crawl.crawl, crawl.CrawlConfig(source="warc")), tmp_path / "a")
    with pytest.raises(ConfigError, match='source = "pydoc" reads none'):
        run(functools.partial(crawl.crawl, crawl.CrawlConfig(source="pydoc"), pages=[tmp_path]), tmp_path / "b")


def test_extracted_documents_have_addresses_titles_dates_and_languages(inputs, tmp_path):
    metrics = run(inputs["extract"], tmp_path / "out")
    assert metrics["documents_out"] == 20 and metrics["dropped/empty_body"] == 4 and metrics["dropped/damaged_record"] == 1
    row = read_documents(tmp_path / "out" / "00001.parquet").to_pylist()[2]
    assert (row["url"], row["source"], row["language"], row["date"]) == ("https://1.example/2", "1.warc.gz", "en", "2000-01-01T00:00:00Z")
    assert json.loads(row["meta"])["title"] == "Page 2" and row["language_score"] > 0.65
    assert row["text"].split() == article(12).split() and "Home" not in row["text"]


def test_filtered_documents_keep_their_signals_and_fill_in_their_language(inputs, tmp_path):
    metrics = run(inputs["filter"], tmp_path / "out")
    # Two words say little: their language is guessed wrong, and that rule comes first.
    assert {key: count for key, count in metrics.items() if key.startswith("dropped/")} == {"dropped/wrong_language": 4}
    row = read_documents(tmp_path / "out" / "00000.parquet").to_pylist()[0]
    assert row["language"] == "en" and row["signal_lines"] == 14


def test_a_threshold_without_a_rule_is_answered_with_the_nearest_rule():
    config, mistakes = check_config(filter.FilterConfig, {"thresholds": {"to_few_words": 3}})
    assert config is None and 'did you mean "too_few_words"?' in mistakes[0]
    config, mistakes = check_config(filter.FilterConfig, {"rules": ["gofer"]})
    assert config is None and 'did you mean "gopher"?' in mistakes[0]


def test_of_duplicates_across_files_the_longest_stays_and_the_ledger_names_it(inputs, tmp_path):
    metrics = run(inputs["dedup"], tmp_path / "out")
    rows = {row["id"]: row for row in read_ledger(tmp_path / "out").to_pylist()}
    assert {id: (row["rule"], row["kept_id"]) for id, row in rows.items()} == {
        **{f"{n}-4": ("exact_duplicate", "0-4") for n in (1, 2, 3)},
        **{f"{n}-6": ("exact_duplicate", "0-6") for n in (1, 2, 3)},
        **{f"{n}-0": ("near_duplicate", f"{n}-5") for n in range(4)},
    }
    assert metrics["dropped/exact_duplicate"] == 6 and metrics["dropped/near_duplicate"] == 4
    assert all(row["value"] == 1 for row in rows.values() if row["rule"] == "exact_duplicate")
    assert all(0.7 < row["value"] <= 1 for row in rows.values() if row["rule"] == "near_duplicate")


def test_documents_that_hold_a_prompt_go_and_the_ledger_names_the_prompt(inputs, tmp_path):
    metrics = run(inputs["decontaminate"], tmp_path / "out")
    assert (metrics["prompts"], metrics["dropped/contaminated"]) == (1, 4)
    ledger = read_ledger(tmp_path / "out").to_pylist()
    assert [row["id"] for row in ledger] == [f"{n}-7" for n in range(4)]
    [told] = {tuple((hit["task"], hit["row"], hit["text"]) for hit in json.loads(row["detail"])["hits"]) for row in ledger}
    assert told == (("test", 1, PROMPT.rstrip("?")),)


def test_mixing_loses_no_document_and_holds_out_the_same_ones_with_other_inputs_and_seeds(inputs, tmp_path):
    metrics = run(inputs["mix"], tmp_path / "out")
    train, held_out = ids_of(tmp_path / "out" / "train"), ids_of(tmp_path / "out" / "validation")
    assert sorted(train + held_out) == sorted(f"{n}-{i}" for n in range(4) for i in range(8))
    assert (len(train), len(held_out)) == (metrics["train_documents"], metrics["validation_documents"]) and len(held_out) > 3
    assert train != sorted(train) and len(list((tmp_path / "out" / "train").iterdir())) > 1
    folder = write_articles(tmp_path / "documents")
    config = MixConfig(validation_fraction=0.3, seed=5)
    step = functools.partial(mix.mix, config, documents=[folder / "0.parquet", folder / "1.parquet"])
    run(step, tmp_path / "other")
    assert set(ids_of(tmp_path / "other" / "validation")) == {id for id in held_out if id[0] in "01"}


def test_weights_give_each_input_its_share_and_are_counted_by_input(tmp_path):
    for name, size in (("a", 300), ("b", 100)):
        rows = [{"id": f"{name}-{i}", "text": "x" * 100, "source": name} for i in range(size)]
        write_documents(tmp_path / f"{name}.parquet", document_table(rows))
    config = MixConfig(weights=[1, 1], max_epochs=2, validation_fraction=0)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    metrics = run(functools.partial(mix.mix, config, documents=paths), tmp_path / "out")
    assert metrics["inputs/1/documents_out"] == 200 and metrics["inputs/0/documents_out"] == pytest.approx(200, abs=30)
    sources = pq.read_table(tmp_path / "out" / "train" / "00000.parquet").column("source").to_pylist()
    assert abs(sources[:100].count("a") - 50) < 25
    with pytest.raises(ConfigError, match="1 weights for 2 inputs"):
        run(functools.partial(mix.mix, MixConfig(weights=[1]), documents=paths), tmp_path / "wrong")


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        run(functools.partial(filter.filter, filter.FilterConfig(), documents=[tmp_path / "nowhere"]), tmp_path / "out")


def test_the_genuine_archives_give_documents_or_ledger_rows(tmp_path):
    genuine = SHARED / "web" / "genuine"
    if not genuine.is_dir():
        pytest.skip(f"{genuine} is missing: real crawl archives are not part of the repository")
    metrics = run(functools.partial(extract.extract, ExtractConfig(), pages=[genuine / "*"]), tmp_path / "out")
    for index in range(len(list(genuine.iterdir()))):
        shard, ledger = tmp_path / "out" / f"{index:05d}.parquet", tmp_path / "out" / "ledger" / f"{index:05d}.parquet"
        assert pq.read_metadata(shard).num_rows + pq.read_metadata(ledger).num_rows > 0
    assert metrics["documents_out"] > 250


def test_a_large_file_of_documents_becomes_several_shards_the_same_ones_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(crawl, "SHARD_BYTES", 3000)
    monkeypatch.setattr(crawl, "read_document_batches", functools.partial(crawl.read_document_batches, max_bytes=1000))
    rows = [{"id": str(i), "text": article(i, sentences=3)} for i in range(40)]
    write_jsonl(tmp_path / "big.jsonl", rows)
    step = functools.partial(crawl.crawl, crawl.CrawlConfig(source="text"), pages=[tmp_path / "big.jsonl"])
    metrics = run(step, tmp_path / "out")
    paths = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(paths) > 2 and metrics["documents_out"] == 40
    texts = {row["id"]: row["text"] for path in paths for row in read_documents(path).to_pylist()}
    assert texts == {row["id"]: row["text"] for row in rows}
    (tmp_path / "out" / "00000.parquet").unlink()  # as a kill before the last rename leaves it
    before = {path.name: path.read_bytes() for path in paths[1:]}
    assert run(step, tmp_path / "out") == metrics
    assert before == {path.name: path.read_bytes() for path in paths[1:]}
