"""What RUN, MODEL and PATH on a command line stand for, and the story of one document."""

import dataclasses

import pytest

from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_text
from bloomery.pipeline.inspect import describe_artifact, tell_story
from bloomery.pipeline.locate import find_artifact, find_checkpoint, find_input, find_run, require_run
from bloomery.pipeline.run import run_plan


def write_model(config, *, documents, out, runtime):
    write_text(out / "config.json", "{}")
    write_text(out / "model.safetensors", "weights")
    return {}


def keep_one_of_two(config, *, files, out, runtime):
    write_documents(
        out / "00000.parquet", document_table([{"id": "aaa1", "url": "https://a.example/", "text": "good", "signal_words": 1.0}])
    )
    ledger = document_table([{"id": "bbb2", "text": "bad"}]).select(["id", "url"])
    for name, value in (("rule", "too_few_words"), ("value", "3")):
        ledger = ledger.append_column(name, [[value]])
    write_documents(out / "ledger" / "00000.parquet", ledger)
    return {"documents_in": 2, "documents_out": 1}


@pytest.fixture
def run(toys, store):
    toys.stages["numbers"] = dataclasses.replace(toys.stages["numbers"], run=keep_one_of_two)
    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=write_model, output="checkpoint")
    text = 'name = "toy"\n[stages.small]\nstage = "numbers"\n[stages.one]\nstage = "add"\ninputs = { documents = "small" }\n'
    text += '[stages.two]\nstage = "add"\ninputs = { documents = "small" }\nconfig = { amount = 2 }\n'
    run_plan(toys.plan(store, text=text), store)
    return store.root / "toy"


def test_a_run_is_found_by_folder_and_by_name(run):
    assert find_run(str(run), run.parent) == run
    assert find_run("toy", run.parent) == run
    assert find_run("none", run.parent) is None
    with pytest.raises(DataError, match=r'toi: no run there.*did you mean "toy"'):
        require_run("toi", run.parent)


def test_the_model_of_a_run_is_its_last_one_or_the_one_that_is_named(run):
    last = find_checkpoint("toy", run.parent)
    assert last == (run / "two").resolve()
    assert find_checkpoint("toy", run.parent, node="one") == (run / "one").resolve()
    assert find_checkpoint(str(run / "one"), run.parent) == run / "one"
    assert find_checkpoint("toy/one", run.parent) == run / "one"
    with pytest.raises(ConfigError, match="--model small"):
        find_checkpoint("toy", run.parent, node="small")
    with pytest.raises(DataError, match="neither a run nor a model's folder"):
        find_checkpoint("toy/small", run.parent)


def test_a_reward_model_is_named_to_be_taken_and_never_guessed(run):
    record = run / "two" / "artifact.json"
    record.write_text(record.read_text().replace('"kind": "checkpoint"', '"kind": "reward_model"'))
    assert find_checkpoint("toy", run.parent, also_rewards=True) == (run / "one").resolve()
    assert find_checkpoint("toy", run.parent, node="two", also_rewards=True) == (run / "two").resolve()
    with pytest.raises(ConfigError, match="--model two"):
        find_checkpoint("toy", run.parent, node="two")


def test_artifacts_and_inputs_are_found_by_run_and_id(run):
    assert find_artifact("toy/small", run.parent) == run / "small"
    assert find_input("toy/small", run.parent) == str(run / "small")
    assert find_input("*.txt", run.parent) == "*.txt"


def test_a_document_is_followed_through_the_run(run):
    kept = tell_story(run, "aaa")
    assert [(event["node"], event["what"], event["id"]) for event in kept] == [("small", "kept", "aaa1")]
    assert tell_story(run, "https://a.example/") == kept
    dropped = tell_story(run, "bbb2")
    assert [(event["what"], event["rule"], event["value"]) for event in dropped] == [("dropped", "too_few_words", "3")]
    with pytest.raises(DataError, match=r"no finished stage .* knows a document"):
        tell_story(run, "ccc")


def test_an_artifact_is_described_with_rows_and_drops(run):
    description = describe_artifact(run / "small", num_rows=1)
    assert description["dropped"] == {"too_few_words": 1}
    assert description["rows"][0]["text"] == "good"
    assert description["metrics"] == {"documents_in": 2, "documents_out": 1}
