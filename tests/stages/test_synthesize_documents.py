"""Documents by a model: from a checkpoint, from our own server, and from a service whose answers are known."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json
from bloomery.core.stage import Endpoint, Launch, Runtime
from bloomery.curate.ledger import read_ledger
from bloomery.pipeline.single import run_single_stage
from bloomery.stages.catalog import load_stage
from bloomery.stages.synthesize_documents import SynthesizeDocumentsConfig, synthesize_documents

WAYS = {"styles": ["line"], "extra_styles": {"line": "Write of {subject}."}, "audiences": ["all"], "extra_audiences": {"all": ""}}
OPEN = {**WAYS, "rules": [], "max_similarity": 1.0, "max_copied_fraction": 1.0}
SENTENCE = "The smith of village {0} carries {1} baskets of ore to the {2} furnace before the {3} wind is there. "
KINDS = ["old", "clay", "stone", "tall", "cold", "red", "new", "far", "dry", "low", "broken", "narrow"]


def story(prompt):
    """A text of 60 words that depends on the prompt alone."""
    seed = sum(map(ord, prompt))
    return "".join(SENTENCE.format(seed, seed * i % 97 + i, KINDS[(seed + i) % 12], KINDS[(seed * 7 + i * 5) % 12]) for i in range(1, 5))


def run(config, out, *, launch=None, **inputs):
    out.mkdir(exist_ok=True)
    runtime = Runtime(launch=launch or Launch(), label="documents")
    return dict(synthesize_documents(SynthesizeDocumentsConfig(**config), out=out, runtime=runtime, **inputs))


def at(url, **changes):
    return Launch(endpoint=Endpoint(url=url, **{"first_wait_seconds": 0.01, "in_flight": 4, **changes}))


def texts_of(out):
    return [text for path in sorted(out.glob("*.parquet")) for text in read_documents(path).column("text").to_pylist()]


def files_of(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.relative_to(out).parts[0].startswith(".")
    }


@pytest.fixture
def seeds(tmp_path) -> Path:
    folder = tmp_path / "seeds"
    folder.mkdir()
    rows = [{"id": f"s{i}", "text": f"Extract {i} says that {KINDS[i]} iron is heavy. It ends here.", "source": "web"} for i in range(6)]
    write_documents(folder / "00000.parquet", document_table(rows))
    return folder


def test_topics_become_documents_with_their_provenance_a_ledger_and_a_report(chat_service, tmp_path):
    said = {"iron": story("iron"), "tides": "I'm sorry, but I can't write that.", "snow": story("iron")}
    chat_service.write = lambda prompt: next(text for topic, text in said.items() if topic in prompt)
    config = {**WAYS, "model": "echo", "topics": ["iron", "tides", "snow"], "num_documents": 3, "rules": ["gopher_quality"]}
    metrics = run(config, tmp_path / "out", launch=at(chat_service.url))
    assert {name: metrics[name] for name in ("documents_in", "documents_out", "dropped/refusal", "dropped/repeats_document")} == {
        "documents_in": 3, "documents_out": 1, "dropped/refusal": 1, "dropped/repeats_document": 1,
    }  # fmt: skip
    assert (metrics["prompt_tokens"], metrics["answer_tokens"]) == (30, 9)
    (row,) = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert row["text"] == story("iron").strip() and row["signal_words"] > 50
    assert json.loads(row["meta"])["topic"] == "iron" and json.loads(row["meta"])["style"] == "line"
    ledger = read_ledger(tmp_path / "out").to_pylist()
    assert [(line["rule"], line["kept_id"]) for line in ledger] == [("refusal", None), ("repeats_document", row["id"])]
    assert {line["stage"] for line in ledger} == {"synthesize_documents"}
    report = read_json(tmp_path / "out" / "report.json")
    assert (report["asked"], report["kept"], report["model"]) == (3, 1, "echo")
    assert report["coverage"]["seed"] == {"asked": 3, "covered": 1, "covered_fraction": 0.3333, "entropy": 0.0}
    assert (tmp_path / "out" / "report.svg").read_text().startswith("<?xml")


def test_seed_documents_are_shown_and_never_repeated(chat_service, seeds, tmp_path):
    chat_service.write = lambda prompt: f"The {prompt[28:35]} was read. {story(prompt)}" if "Extract 3" not in prompt else EXACT
    EXACT = "Extract 4 says that cold iron is heavy. It ends here."
    config = {**OPEN, "max_similarity": 0.5, "model": "echo", "num_documents": 6}
    metrics = run(config, tmp_path / "out", launch=at(chat_service.url), seeds=[seeds])
    prompts = [body["messages"][0]["content"] for body in chat_service.asked]
    assert all("Here is an extract" in prompt and "It ends here." in prompt for prompt in prompts)
    assert metrics["dropped/repeats_seed"] == 1
    (line,) = [line for line in read_ledger(tmp_path / "out").to_pylist() if line["rule"] == "repeats_seed"]
    assert line["kept_id"] == "s4"
    metas = [json.loads(meta) for meta in pq.read_table(tmp_path / "out" / "00000.parquet").column("meta").to_pylist()]
    assert {meta["seed_id"] for meta in metas} == {"s0", "s1", "s2", "s4", "s5"} and metas[0]["seed_source"] == "web"
    assert read_json(tmp_path / "out" / "report.json")["seeds"]["documents"] == 6


def test_what_a_mixture_holds_back_for_validation_is_no_seed(chat_service, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / "mix" / split).mkdir(parents=True)
        write_documents(tmp_path / "mix" / split / "00000.parquet", document_table([{"id": split, "text": f"A text of {split}."}]))
    run({**OPEN, "model": "echo", "num_documents": 4}, tmp_path / "out", launch=at(chat_service.url), seeds=[tmp_path / "mix"])
    prompts = "".join(body["messages"][0]["content"] for body in chat_service.asked)
    assert "A text of train." in prompts and "validation" not in prompts


def test_the_same_bytes_come_out_whatever_the_order_of_answers_and_a_second_run_asks_nothing(chat_service, tmp_path):
    chat_service.write = story
    config = {**OPEN, "model": "echo", "topics": ["iron", "tides"], "num_documents": 24}
    first = run(config, tmp_path / "one", launch=at(chat_service.url, in_flight=1))
    chat_service.faults = [("sleep", 0.05), ("status", 503, {}), ("cut",)] * 4
    second = run(config, tmp_path / "two", launch=at(chat_service.url, in_flight=8))
    assert first == second and files_of(tmp_path / "one") == files_of(tmp_path / "two")
    asked = len(chat_service.asked)
    assert run(config, tmp_path / "two", launch=at(chat_service.url)) == first
    assert len(chat_service.asked) == asked


def test_a_run_that_broke_off_goes_on_and_ends_with_the_bytes_of_an_unbroken_one(chat_service, tmp_path):
    chat_service.write = story
    config = {**OPEN, "model": "echo", "topics": ["iron"], "num_documents": 12}
    run(config, tmp_path / "whole", launch=at(chat_service.url))
    chat_service.asked.clear()
    chat_service.faults = [("none",)] * 5 + [("status", 401, {})]
    with pytest.raises(DataError, match="HTTP 401"):
        run(config, tmp_path / "broken", launch=at(chat_service.url, in_flight=1))
    chat_service.faults = []
    run(config, tmp_path / "broken", launch=at(chat_service.url))
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "broken")
    assert len(chat_service.asked) == 6 + 7


def test_a_checkpoint_here_and_behind_our_own_server_write_the_same_documents(tiny_checkpoint, run_server, tmp_path):
    from bloomery.chat.server import Served
    from bloomery.chat.voice import load_voice
    from bloomery.generate.engine import Engine
    from bloomery.model.huggingface import load_model
    from bloomery.tokens.tokenizer import load_tokenizer

    config = {**OPEN, "topics": ["the sea", "mat"], "num_documents": 5, "max_tokens": 12, "extra_styles": {"line": "{subject}"}}
    config["cut"] = "keep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bloomery.curate.synthetic_prompts._ABOUT_TOPIC", "{ways}")  # its context is 48 tokens
        here = run(config, tmp_path / "here", model=tiny_checkpoint)
        voice = load_voice(tiny_checkpoint, load_tokenizer(tiny_checkpoint))
        with run_server(Served(name="tiny", engine=Engine(load_model(tiny_checkpoint), voice), voice=voice)) as server:
            there = run({**config, "model": "tiny"}, tmp_path / "there", launch=at(server.url))
    assert here["documents_out"] == there["documents_out"] > 0
    assert texts_of(tmp_path / "here") == texts_of(tmp_path / "there")


def test_a_checkpoint_has_the_same_name_wherever_it_lies(tiny_checkpoint, tmp_path):
    from bloomery.stages.synthesize_documents import name_checkpoint

    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert name_checkpoint(tmp_path / "copy") == name_checkpoint(tiny_checkpoint)
    (tmp_path / "copy" / "config.json").write_text((tmp_path / "copy" / "config.json").read_text() + " ")
    assert name_checkpoint(tmp_path / "copy") != name_checkpoint(tiny_checkpoint)


def test_prompts_that_are_too_long_are_in_the_ledger_and_if_all_are_it_is_an_error(tiny_checkpoint, seeds, tmp_path):
    long = {**OPEN, "topics": ["x " * 500, "the sea"], "num_documents": 2, "extra_styles": {"line": "{subject}"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bloomery.curate.synthetic_prompts._ABOUT_TOPIC", "{ways}")
        metrics = run(long, tmp_path / "out", model=tiny_checkpoint)
    assert metrics["dropped/prompt_refused"] == 1
    (line,) = [line for line in read_ledger(tmp_path / "out").to_pylist() if line["rule"] == "prompt_refused"]
    assert "expected 1 to 47" in line["detail"]
    with pytest.raises(DataError, match=r"every request was refused.*expected 1 to 47"):
        run({**OPEN, "num_documents": 3}, tmp_path / "none", model=tiny_checkpoint, seeds=[seeds])


def test_what_cannot_be_right_is_said_before_anything_is_asked(chat_service, tiny_checkpoint, tmp_path):
    for changes, said in (
        ({"styles": ["tale"]}, "tale"),
        ({"extra_styles": {"x": "Write."}}, "subject"),
        ({"rules": ["gofer"]}, "gopher"),
        ({"thresholds": {"too_few_word": 3}}, "too_few_words"),
    ):
        with pytest.raises(ValueError, match=said):
            SynthesizeDocumentsConfig(**changes)
    with pytest.raises(ConfigError, match="nothing to write about"):
        run({**OPEN, "model": "echo"}, tmp_path / "a", launch=at(chat_service.url))
    with pytest.raises(ConfigError, match="found neither"):
        run({**OPEN, "topics": ["iron"]}, tmp_path / "b")
    with pytest.raises(ConfigError, match="found both"):
        run({**OPEN, "topics": ["iron"], "model": "echo"}, tmp_path / "c", launch=at(chat_service.url), model=tiny_checkpoint)
    check = load_stage("synthesize_documents").check_launch
    assert "config.model" in check(SynthesizeDocumentsConfig(), at("http://127.0.0.1:1/v1"), {})[0]
    assert "launch.endpoint" in check(SynthesizeDocumentsConfig(model="gpt"), Launch(), {})[0]
    assert chat_service.asked == []


def test_the_stage_runs_from_the_command_line_with_an_endpoint_that_may_move(chat_service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat_service.write = story
    settings = {**OPEN, "model": "echo", "topics": ["iron"], "num_documents": 2}
    stage = load_stage("synthesize_documents")
    where = {"endpoint": {"url": chat_service.url, "in_flight": 2}}
    artifact = run_single_stage(stage, inputs={}, settings=settings, out=tmp_path / "made", launch_settings=where)
    assert artifact.record["metrics"]["documents_out"] >= 1
    where = {"endpoint": {"url": "http://127.0.0.1:9/v1"}}
    again = run_single_stage(stage, inputs={}, settings=settings, out=tmp_path / "made", launch_settings=where)
    assert again.fingerprint == artifact.fingerprint
