"""The decontaminate stage over files: what it drops, cuts and tells."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import document_table, list_document_files, read_documents, write_documents
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.curate.decontaminate import DecontaminateConfig
from bloomery.curate.ledger import read_ledger
from bloomery.stages.decontaminate import decontaminate

QUESTIONS = [
    "Which smith of the seven villages carried the most baskets of ore to the furnace before dark?",
    "How many baskets of charcoal does a furnace of this size need on one winter night?",
    "Who has rung the bell?",
    "Why?",
]
CLEAN = "The smith of the village carries ore to the furnace. " * 6


@pytest.fixture
def inputs(tmp_path) -> dict[str, list[Path]]:
    texts = [
        [CLEAN, f"{CLEAN}\n\nQuiz. {QUESTIONS[0].upper()} Nobody knows.\n\nThe end.", QUESTIONS[1]],
        [f"{CLEAN} {QUESTIONS[1]} {QUESTIONS[2]}", f"{CLEAN} {QUESTIONS[2]} And again: {CLEAN} {QUESTIONS[2]} Enough."],
    ]
    for number, of_file in enumerate(texts):
        rows = [{"id": f"{number}-{i}", "text": text, "url": f"https://{number}.example/{i}"} for i, text in enumerate(of_file)]
        write_documents(tmp_path / "in" / f"{number}.parquet", document_table(rows))
    write_jsonl(tmp_path / "prompts" / "smiths.jsonl.gz", [{"question": text, "answer": "seven"} for text in QUESTIONS[:2]])
    write_jsonl(tmp_path / "prompts" / "bells.jsonl", [{"query": text, "choices": ["a", "b"], "gold": 1} for text in QUESTIONS[2:]])
    return {"documents": [tmp_path / "in"], "prompts": [tmp_path / "prompts"]}


def run(inputs, out: Path, config: DecontaminateConfig, *, workers: int = 1):
    out.mkdir(exist_ok=True)
    return dict(decontaminate(config, **inputs, out=out, runtime=Runtime.local(out, workers=workers)))


def texts_of(out: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for path in list_document_files(out) for row in read_documents(path).to_pylist()}


def read_folder(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and ".scratch" not in p.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_document_goes_that_shares_a_run_of_words_with_a_held_out_one_and_of_a_mix_only_the_validation_side_is_held_out(inputs, tmp_path):
    held = [f"{QUESTIONS[0]} {QUESTIONS[1]}", "A text of its own about nothing that any other document of these speaks of at all."]
    mixed = tmp_path / "mixed"
    write_documents(mixed / "validation" / "00000.parquet", document_table([{"id": f"h{i}", "text": text} for i, text in enumerate(held)]))
    write_documents(mixed / "train" / "00000.parquet", document_table([{"id": "t0", "text": CLEAN}]))
    documents = {"documents": inputs["documents"], "held_out": [mixed]}
    metrics = run(documents, tmp_path / "out", DecontaminateConfig())
    # 0-1 asks the first question, 0-2 and 1-0 the second; CLEAN is on the side that may be trained on.
    assert list(texts_of(tmp_path / "out")) == ["0-0", "1-1"] and (metrics["prompts"], metrics["prompts_hit"]) == (2, 1)
    longer = run(documents, tmp_path / "longer", DecontaminateConfig(ngram_words=25))
    assert longer["documents_out"] == 5


def test_a_document_that_shares_a_prompt_goes_and_every_hit_is_told(inputs, tmp_path):
    metrics = run(inputs, tmp_path / "out", DecontaminateConfig())
    assert list(texts_of(tmp_path / "out")) == ["0-0"]
    assert (metrics["documents_out"], metrics["dropped/contaminated"], metrics["hits"]) == (1, 4, 6)
    assert (metrics["prompts"], metrics["prompts_searched"], metrics["prompts_hit"]) == (4, 3, 3)
    ledger = {row["id"]: row for row in read_ledger(tmp_path / "out").to_pylist()}
    assert ledger["1-0"]["rule"] == "contaminated" and ledger["1-0"]["value"] == 2
    told = json.loads(ledger["1-0"]["detail"])["hits"]
    assert [(hit["task"], hit["row"], hit["text"]) for hit in told] == [("smiths", 2, QUESTIONS[1][:-1]), ("bells", 1, QUESTIONS[2][:-1])]
    assert told[0]["start"] == len(CLEAN) + 1
    hits = pq.read_table(tmp_path / "out" / "ledger" / "hits" / "00001.parquet").to_pylist()
    assert [(row["id"], row["task"], row["row"]) for row in hits] == [("1-0", "smiths", 2)] + [("1-0", "bells", 1)] + [
        ("1-1", "bells", 1)
    ] * 2


def test_the_summary_says_for_each_task_which_rows_were_found(inputs, tmp_path):
    run(inputs, tmp_path / "out", DecontaminateConfig())
    summary = json.loads((tmp_path / "out" / "contamination.json").read_text())
    assert summary == {
        "bells": {"rows": 2, "rows_searched": 1, "rows_hit": 1, "documents_hit": 2, "hit_rows": [1]},
        "smiths": {"rows": 2, "rows_searched": 2, "rows_hit": 2, "documents_hit": 3, "hit_rows": [1, 2]},
    }


def test_in_passage_mode_only_the_leaks_go_and_documents_of_little_else(inputs, tmp_path):
    metrics = run(inputs, tmp_path / "out", DecontaminateConfig(mode="passage"))
    found = texts_of(tmp_path / "out")
    assert found == {
        "0-0": CLEAN,
        "0-1": f"{CLEAN}\n\nQuiz. Nobody knows.\n\nThe end.",
        "1-0": CLEAN.strip(),
        "1-1": f"{CLEAN.strip()} And again: {CLEAN.strip()} Enough.",
    }
    [gone] = read_ledger(tmp_path / "out").to_pylist()
    assert (gone["id"], gone["rule"], gone["value"], gone["threshold"]) == ("0-2", "contaminated_as_a_whole", 0, 20)
    assert (metrics["cut_documents"], metrics["cut_passages"]) == (3, 4)
    assert metrics["cut_bytes"] == metrics["bytes_in"] - metrics["bytes_out"] - len(QUESTIONS[1])
    signals = [pq.read_table(tmp_path / "out" / f"0000{i}.parquet").column("signal_contaminated_passages").to_pylist() for i in (0, 1)]
    assert signals == [[0, 1], [1, 2]]
    few = run(inputs, tmp_path / "few", DecontaminateConfig(mode="passage", max_cuts=1))
    assert few["dropped/contaminated_too_often"] == 1


@pytest.mark.parametrize("mode", ["document", "passage"])
def test_two_workers_make_the_same_bytes_as_one(mode, inputs, tmp_path):
    config = DecontaminateConfig(mode=mode)
    assert run(inputs, tmp_path / "one", config) == run(inputs, tmp_path / "two", config, workers=2)
    one, two = read_folder(tmp_path / "one"), read_folder(tmp_path / "two")
    assert one == two and len(one) == 7


def test_a_cut_text_shares_nothing_more_with_the_prompts(inputs, tmp_path):
    config = DecontaminateConfig(mode="passage")
    run(inputs, tmp_path / "out", config)
    again = run({**inputs, "documents": [tmp_path / "out"]}, tmp_path / "again", config)
    assert again["hits"] == 0 and again["prompts_hit"] == 0
