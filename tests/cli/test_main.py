"""The commands as a user meets them: help, exit codes, messages, --json."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bloomery.cli.main import app

COMMANDS = ["run", "status", "why", "report", "stage", "chat", "serve", "inspect", "evaluate", "export"]

RECIPE = """\
name = "tiny"

[stages.skills]
stage  = "synthesize"
config = { num_skill_examples = 30, num_skill_tests = 5, max_documentation_examples = 0 }
"""


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_json_and_debug(invoke, command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"bloomery {command} " in result.stdout
    assert "--json" in result.stdout and "--debug" in result.stdout


def test_help_imports_nothing_heavy():
    code = "import sys; from bloomery.cli.main import app; app(['run', '--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = {"torch", "pyarrow", "polars", "numpy", "numba", "matplotlib", "transformers", "tokenizers"}
    assert heavy & set(eval(done.stdout.splitlines()[-1])) == set()


def test_a_run_says_what_it_made_and_a_second_that_all_is_done(invoke, tmp_path):
    made = answer(invoke("run", "tiny.toml", "--json"))
    assert made["made"] == ["skills"] and made["already_done"] == []
    assert (tmp_path / made["report"]).read_text().startswith("<!")
    again = answer(invoke("run", "tiny.toml", "--json"))
    assert again["made"] == [] and again["already_done"] == ["skills"]
    assert "All is done" in invoke("run", "tiny.toml").stdout


def test_status_and_why_name_state_and_reason(invoke):
    invoke("run", "tiny.toml")
    state = answer(invoke("status", "tiny", "--json"))
    assert state["status"] == "done"
    assert state["nodes"][0]["timing"]["seconds"] > 0
    assert "never made" in invoke("status", "runs/tiny").stdout
    assert answer(invoke("why", "tiny", "--json"))["done"] is True
    changed = invoke("why", "tiny", "skills", "--set", "skills.num_skill_tests=6")
    assert "config changed: num_skill_tests 5 -> 6" in changed.stdout
    assert "compared with synthesize-" in changed.stdout
    assert "config changed: seed 0 -> 4" in invoke("why", "tiny.toml", "--seed", 4).stdout


def test_a_dry_run_makes_nothing(invoke, tmp_path):
    plan = answer(invoke("run", "tiny.toml", "--dry-run", "--json"))
    assert plan["nodes"][0]["state"] == "run"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "fact"),
    [
        (["run", "quickstrat"], 2, 'did you mean "quickstart"'),
        (["run", "none.toml"], 2, "no such recipe file"),
        (["run", "tiny.toml", "--set", "skills.num_tests=1"], 2, "unknown setting"),
        (["run", "tiny.toml", "--only", "skill"], 2, 'did you mean "skills"'),
        (["run", "tiny.toml", "--wrong"], 2, "No such option"),
        (["run", "tiny.toml", "--store", "tiny.toml"], 1, "a file stands where a folder is needed"),
        (["status", "none"], 1, "no run there"),
        (["why", "none"], 2, "no shipped recipe"),
        (["stage", "dedupe", "--out", "x"], 2, 'did you mean "dedup"'),
        (["stage", "synthesize", "--out", "x", "--set", "sed=1"], 2, 'did you mean "seed"'),
        (["stage", "synthesize", "--out", "x", "--input", "pages=y"], 2, 'has no input "pages"'),
        (["stage", "synthesize", "--out", "x", "--input", "documents=none/*.jsonl"], 1, "found no file there"),
        (["inspect", "none"], 1, "not a finished artifact"),
        (["chat", "none"], 1, "neither a run nor a model's folder"),
        (["export", "none", "--out", "x"], 1, "neither a run nor a model's folder"),
        (["evaluate", "none", "--prompts", "x", "--out", "y"], 1, "neither a run nor a model's folder"),
        (["evaluate", "none", "--tasks", "copa"], 1, "neither a run nor a model's folder"),
        (["evaluate", "none"], 2, "nothing to evaluate on"),
        (["evaluate"], 2, "name a run, a checkpoint or a Hugging Face folder"),
        (["lm-eval", "none", "--tasks", "x"], 1, "neither a run nor a model's folder"),
    ],
)
def test_a_mistake_is_one_message_and_an_exit_code_never_a_traceback(invoke, arguments, code, fact):
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert fact in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_with_json_is_an_object_and_with_debug_has_a_traceback(invoke):
    result = invoke("status", "none", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["kind"] == "DataError"
    assert "Traceback" in invoke("status", "none", "--debug").stderr


def test_one_stage_runs_without_a_store_and_refuses_a_folder_of_something_else(invoke, tmp_path):
    options = ["stage", "synthesize", "--out", "made/skills", "--set", "num_skill_examples=20", "--set", "num_skill_tests=4"]
    made = answer(invoke(*options, "--json"))
    assert made["kind"] == "conversations"
    assert (tmp_path / "made" / "skills" / "artifact.json").is_file()
    assert [path.name for path in (tmp_path / "made").iterdir() if path.name.startswith(".")] == []
    assert answer(invoke(*options, "--json")) == made
    other = invoke(*options, "--set", "seed=5")
    assert other.exit_code == 2 and "already holds what synthesize made of other inputs or settings" in other.stderr
    (tmp_path / "full").mkdir()
    assert "not an artifact" in invoke("stage", "synthesize", "--out", "full").stderr


def test_inspect_shows_a_run_an_artifact_and_its_rows(invoke):
    invoke("run", "tiny.toml")
    assert list(answer(invoke("inspect", "tiny", "--json"))["nodes"]) == ["skills"]
    shown = answer(invoke("inspect", "tiny/skills", "--rows", 2, "--json"))
    assert shown["kind"] == "conversations" and len(shown["rows"]) == 2
    assert "messages" in shown["rows"][0]
    text = invoke("inspect", "runs/tiny/skills").stdout
    assert "made by synthesize" in text and "messages" in text
    assert "--id needs a run" in invoke("inspect", "tiny/skills", "--id", "abc").stderr


def test_ctrl_c_says_that_the_same_command_continues_and_ends_with_130(tmp_path):
    (tmp_path / "slow.toml").write_text(RECIPE.replace("= 30", "= 2_000_000"))
    command = [sys.executable, "-m", "bloomery", "run", "slow.toml", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    spec = tmp_path / "runs" / "tiny" / "spec.json"
    while process.poll() is None and not (spec.is_file() and '"running"' in Path(spec).read_text()):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command continues" in stderr
    assert "Traceback" not in stderr
    assert not list((tmp_path / "runs").glob("artifacts/*"))


def test_evaluate_lists_every_benchmark_and_which_rows_are_here(invoke, tmp_path):
    (tmp_path / "copa.jsonl").write_text("{}")
    shown = invoke("evaluate", "--list", "--data", tmp_path).stdout
    assert "hellaswag" in shown and "Collections: all, core" in shown
    line = next(line for line in shown.splitlines() if line.strip().startswith("copa "))
    assert line.split()[-1] == "yes"
    assert answer(invoke("evaluate", "--list", "--json"))["tasks"]["copa"]["num_shots"] == 0
