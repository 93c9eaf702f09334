"""bloomery doctor and bloomery lr-find on the smoke recipe's run: what they print, give as JSON, and leave alone."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bloomery.cli.main import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def store(tmp_path: Path, smoke_store: Path) -> Path:
    shutil.copytree(smoke_store, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


def metrics_of(store: Path, stage: str) -> Path:
    return next((store / "logs").glob(f"{stage}-*/metrics.jsonl"))


def visible(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_is_told_training_by_training_and_a_small_model_is_only_noted(smoke_store):
    found = run("doctor", "smoke", "--store", smoke_store)
    assert found.exit_code == 0
    for words in ("base (pretrain, finished", "sft (sft, finished", "under_trained", "Remedy: ", "Nothing is wrong"):
        assert words in found.output, found.output
    told = json.loads(run("doctor", "smoke", "--store", smoke_store, "--json").stdout)
    assert told["healthy"] and [t["stage"] for t in told["trainings"]][:2] == ["pretrain", "sft"]


def test_a_fault_in_a_log_gives_exit_code_1_and_all_of_a_finding(store):
    path = metrics_of(store, "pretrain")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [{**row, "step": i, "train/loss": 6.9 if i < 20 else 50.0} for i in range(60) for row in rows[1:2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in steps))
    result = run("doctor", "smoke", "--store", store, "--node", "base", "--json")
    (training,) = json.loads(result.stdout)["trainings"]
    finding = next(f for f in training["findings"] if f["code"] == "learning_rate_too_high")
    assert result.exit_code == 1 and finding["node"] == "base" and 18 <= finding["step"] <= 24 and finding["severity"] == "error"
    assert finding["evidence"]["highest"] == 50.0 and "lr-find" in finding["remedy"]
    alone = run("doctor", path)  # the file by itself, without a run
    assert alone.exit_code == 1 and "learning_rate_too_high" in alone.output


def test_a_run_that_has_only_begun_is_looked_at_too(store):
    path = metrics_of(store, "pretrain")
    shutil.rmtree(next((store / "artifacts").glob("pretrain-*")))
    path.write_text("\n".join(path.read_text().splitlines()[:5]) + '\n{"step": 6, "train/lo')
    found = run("doctor", "smoke", "--store", store, "--node", "base")
    assert found.exit_code == 0 and "base (pretrain, begun, 2 steps)" in found.output, found.output


def test_a_deep_look_measures_data_weights_and_memory(smoke_store):
    told = json.loads(run("doctor", "smoke", "--store", smoke_store, "--node", "base", "--deep", "--json").stdout)
    measured = told["trainings"][0]["measured"]
    assert {"data/duplicate_fraction", "data/leaked_fraction", "weights/dead_fraction", "weights/log_normaliser"} <= set(measured)
    assert measured["data/tokenizer_differs"] == 0.0 == measured["weights/not_finite"]


def test_strict_makes_a_warning_count(store):
    path = metrics_of(store, "pretrain")
    row = json.loads(path.read_text().splitlines()[1])
    slow = [
        {**row, "step": i, "tokens": 100 * i, "train/loss": 3 / i, "train/data_fraction": 0.9, "train/tokens_per_second": 100}
        for i in range(1, 40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in slow))
    assert run("doctor", path).exit_code == 0 and "slow_loader" in run("doctor", path).output
    assert run("doctor", path, "--strict").exit_code == 1


def test_a_run_that_is_not_there_and_a_node_without_a_training_are_refused(smoke_store):
    assert "no run there" in run("doctor", "smok", "--store", smoke_store).output
    assert 'did you mean "base"' in run("doctor", "smoke", "--store", smoke_store, "--node", "bas").output


def test_lr_find_says_which_rate_to_take_and_leaves_nothing_behind(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = visible(store)
    options = ["--set", "base.batch_tokens=1024", "--set", "base.optimizer=adamw", "--steps", "25", "--from", "1e-4", "--to", "10"]
    result = run("lr-find", "smoke", "--store", store, "--stage", "base", *options, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert 5e-4 < told["learning_rate"] < 0.3 and told["optimizer"] == "adamw"
    assert told["learning_rate"] == min(told["steepest"], told["minimum_tenth"]) == told["embedding_learning_rate"]
    assert told["points"][0]["learning_rate"] == pytest.approx(1e-4) and told["points"][0]["loss"] > 0.5 + min(
        point["loss"] for point in told["points"]
    )
    assert (tmp_path / told["plot"]).read_bytes().startswith(b"\x89PNG") and (tmp_path / told["plot"]).stat().st_size > 10_000
    assert visible(store) - before <= {"files.json"}


def test_lr_find_wants_a_training_whose_inputs_are_made(tmp_path, smoke_store):
    assert "name one: --stage ID" in run("lr-find", "smoke", "--store", smoke_store).output
    assert "no training of smoke" in run("lr-find", "smoke", "--store", smoke_store, "--stage", "tokenize").output
    assert "is not made yet" in run("lr-find", "smoke", "--store", tmp_path, "--stage", "base").output
