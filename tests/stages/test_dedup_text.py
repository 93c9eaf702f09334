"""dedup_paragraphs and dedup_substrings over files: what they promise alone, and what every data stage promises."""

import functools
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.stage import Runtime
from bloomery.curate import substrings
from bloomery.curate.ledger import read_ledger
from bloomery.curate.paragraphs import DedupParagraphsConfig
from bloomery.curate.substrings import DedupSubstringsConfig
from bloomery.stages import dedup_paragraphs, dedup_substrings
from bloomery.stages.dedup_paragraphs import dedup_paragraphs as run_paragraphs
from bloomery.stages.dedup_substrings import dedup_substrings as run_substrings

NOTICE = "You are free to copy this text, to change it and to give it to others under the same terms as before."


def own_text(number: int) -> str:
    return " ".join(f"own{number}word{i}" for i in range(30))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three files: each document has a text of its own; most have the notice; the last has nothing else."""
    for file in range(3):
        texts = [f"{own_text(file * 4 + i)}\n\n{NOTICE.upper() if i % 2 else NOTICE}" for i in range(3)]
        texts += [NOTICE if file == 2 else own_text(file * 4 + 3)]
        rows = [{"id": f"{file}-{i}", "text": text, "url": f"https://{file}.example/{i}", "source": "s"} for i, text in enumerate(texts)]
        write_documents(tmp_path / "in" / f"{file}.parquet", document_table(rows))
    return tmp_path / "in"


def steps(folder: Path):
    exact, ngrams = DedupParagraphsConfig(), DedupParagraphsConfig(match="ngrams", ngram_words=4)
    return {
        "paragraphs": functools.partial(run_paragraphs, exact, documents=[folder]),
        "ngrams": functools.partial(run_paragraphs, ngrams, documents=[folder]),
        "substrings": functools.partial(run_substrings, DedupSubstringsConfig(min_tokens=10), documents=[folder]),
    }


def run(step, out: Path, *, workers: int = 1):
    out.mkdir(exist_ok=True)
    return dict(step(out=out, runtime=Runtime.local(out, workers=workers)))


def texts_of(out: Path) -> dict[str, str]:
    tables = [read_documents(path) for path in sorted(out.glob("*.parquet"))]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


def read_folder(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and ".scratch" not in p.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["paragraphs", "ngrams", "substrings"])
def test_the_first_document_keeps_what_the_others_repeat_and_one_of_nothing_else_goes(name, folder, tmp_path):
    metrics = run(steps(folder)[name], tmp_path / "out")
    found = texts_of(tmp_path / "out")
    kept = {f"{file}-{i}": own_text(file * 4 + i) for file in range(3) for i in range(4)} | {"0-0": f"{own_text(0)}\n\n{NOTICE}"}
    del kept["2-3"]
    assert found == kept
    [gone] = read_ledger(tmp_path / "out").to_pylist()
    assert (gone["id"], gone["url"], gone["value"]) == ("2-3", "https://2.example/3", 1.0)
    assert gone["rule"] == ("all_repeated" if name == "substrings" else "all_duplicate")
    assert (metrics["documents_in"], metrics["documents_out"]) == (12, 11)
    assert metrics["edited_documents"] == 8 == metrics.get("removed_units", metrics.get("removed_passages"))
    before = sum(len(text.encode()) for text in found.values()) + metrics["removed_bytes"]
    assert before == metrics["bytes_in"] - len(NOTICE)


@pytest.mark.parametrize("name", ["paragraphs", "ngrams", "substrings"])
def test_two_workers_and_a_run_killed_between_any_two_files_make_the_same_bytes(name, folder, tmp_path):
    step, out = steps(folder)[name], tmp_path / "out"
    metrics = run(step, out)
    whole = read_folder(out)
    assert run(step, tmp_path / "two", workers=2) == metrics and read_folder(tmp_path / "two") == whole
    written = sorted((p for p in out.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    for cut in range(0, len(written), 3):
        killed = tmp_path / f"killed-{cut}"
        for path in written[:cut]:
            (killed / path.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, killed / path.relative_to(out))
        killed.mkdir(exist_ok=True)
        assert run(step, killed) == metrics
        assert read_folder(killed) == whole


def test_repeats_that_do_not_fit_into_one_suffix_array_are_cut_the_same(folder, tmp_path, monkeypatch):
    step = steps(folder)["substrings"]
    metrics = run(step, tmp_path / "array")
    monkeypatch.setattr(substrings, "MAX_ARRAY_WORDS", 10)
    monkeypatch.setattr(dedup_substrings, "choose_partitions", lambda rows: 8)
    assert run(step, tmp_path / "hashes") == metrics
    assert read_folder(tmp_path / "hashes") == read_folder(tmp_path / "array")
    assert (tmp_path / "hashes" / ".scratch" / "cuts" / "stated").exists()


def test_the_number_of_partitions_changes_nothing(folder, tmp_path, monkeypatch):
    step = steps(folder)["paragraphs"]
    metrics = run(step, tmp_path / "one")
    monkeypatch.setattr(dedup_paragraphs, "choose_partitions", lambda rows: 16)
    assert run(step, tmp_path / "sixteen") == metrics
    assert read_folder(tmp_path / "sixteen") == read_folder(tmp_path / "one")


def test_boilerplate_can_be_removed_from_every_document_and_is_shown(folder, tmp_path):
    config = DedupParagraphsConfig(keep="none", min_documents=3)
    run(functools.partial(run_paragraphs, config, documents=[folder]), tmp_path / "out")
    assert not any(NOTICE.lower() in text.lower() for text in texts_of(tmp_path / "out").values())
    [shown] = json.loads((tmp_path / "out" / "frequent.json").read_text())
    assert (shown["documents"], shown["text"]) == (10, NOTICE)
    signal = pq.read_table(tmp_path / "out" / "00000.parquet").column("signal_duplicate_unit_fraction").to_pylist()
    assert signal == [0.5, 0.5, 0.5, 0.0]


def test_files_without_documents_or_texts_pass(tmp_path):
    write_documents(tmp_path / "in" / "0.parquet", document_table([]))
    write_documents(tmp_path / "in" / "1.parquet", document_table([{"id": "a", "text": None}, {"id": "b", "text": ""}]))
    for name, step in steps(tmp_path / "in").items():
        assert run(step, tmp_path / name)["documents_out"] == 2
