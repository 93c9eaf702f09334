"""bloomery budget: a table, one JSON object, a picture, and mistakes told in one line."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.stage import Launch
from bloomery.stages.pretrain import PretrainConfig

KEYS = {"params", "tokens", "flops", "loss", "gpu_hours", "days", "dollars", "memory_bytes_per_gpu", "launch"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["budget", *arguments], catch_exceptions=False)


def test_the_chinchilla_budget_as_json() -> None:
    found = json.loads(run("--flops", "5.76e23", "--law", "besiroglu", "--gpu", "h100", "--gpus", "1024", "--json").stdout)
    assert found.keys() >= KEYS and found["flops"] == 5.76e23
    assert (f"{found['params'] / 1e9:.1f}", f"{found['tokens'] / 1e12:.2f}", f"{found['loss']:.3f}") == ("72.2", "1.33", "1.974")
    assert found["gpu_hours"] == pytest.approx(5.76e23 / (989e12 * 0.4 * 3600)) and found["days"] == pytest.approx(
        found["gpu_hours"] / 24576
    )
    assert found["dollars"] == pytest.approx(3 * found["gpu_hours"])
    assert Launch(**found["launch"]).num_processes == 1024 and 0 < found["memory_bytes_per_gpu"] < found["device_memory_bytes"]
    assert tomllib.loads(found["launch_line"])["launch"] == found["launch"]


def test_the_table_says_everything_and_ends_with_the_line_to_paste() -> None:
    found = run("--params", "8B", "--tokens", "1T", "--gpus", "64", "--price", "2")
    assert found.exit_code == 0
    for words in ("125.0 a parameter", "4.8e+22", "at $2.00 an hour (as given)", "activations", "workspace", "compute-optimal"):
        assert words in found.output, words
    line = next(line for line in found.output.splitlines() if line.startswith("launch = "))
    assert Launch(**tomllib.loads(line)["launch"]).num_processes == 64


def test_the_dial_prints_a_config_for_a_recipe() -> None:
    found = run("--depth", "4", "--gpu", "cpu").output
    table = found[found.index("[stages.base.config]") : found.index("launch = ")]
    config = PretrainConfig(**tomllib.loads(table)["stages"]["base"]["config"])
    assert config.model.depth == 4 and config.tokens == 83_942_400 and config.batch_tokens == 16_384


def test_the_dial_follows_the_tokens_that_are_given() -> None:
    found = json.loads(run("--depth", "12", "--tokens", "5B", "--json").stdout)
    assert found["tokens"] == 5e9 and found["recipe"]["tokens"] == 5e9 and found["recipe"]["batch_tokens"] == found["batch_tokens"]


def test_the_picture_is_svg_with_a_curve_for_each_budget(tmp_path: Path) -> None:
    found = run("--flops", "1e21", "--plot", str(tmp_path / "plan.svg"))
    text = (tmp_path / "plan.svg").read_text()
    assert found.exit_code == 0 and text.startswith("<svg")
    assert all(label in text for label in ("1e+20 FLOP", "1e+21 FLOP", "1e+22 FLOP", "compute-optimal", "this plan"))


def test_the_hardware_table_is_shown() -> None:
    assert "mi300x" in run("--list").output
    assert len(json.loads(run("--list", "--json").stdout)["devices"]) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to begin with"),
        (["--params", "many"], "--params many: expected a number"),
        (["--params", "1B", "--gpu", "h300"], '"h300" is not in the table'),
        (["--params", "1B", "--law", "kaplan"], '"kaplan" is no law'),
        (["--params", "1B", "--mfu", "1.4"], "is no share of the peak"),
        (["--params", "1B", "--mfu", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--params", "1B", "--plot", "plan.png"], "let the name end in .svg"),
        (["--params", "1B", "--optimizer", "sgd"], "--optimizer sgd"),
        (["--params", "1B", "--depth", "4"], "both say the size"),
        (["--model", "llama-3.1-8", "--tokens", "1T"], 'did you mean "llama-3.1-8b"'),
        (["--depth", "4", "--inference-tokens", "1T"], "an inference load chooses the size"),
        (["--params", "1B", "--gpus", "100"], "take 96 or 104"),
        (["--params", "1B", "--batch-tokens", "100"], "hold no row"),
    ],
)
def test_a_mistake_is_told_in_a_message_with_exit_code_2(arguments: list[str], message: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2 and message in found.stderr and "Traceback" not in found.output


def test_a_training_that_fits_nowhere_has_no_launch_and_a_note() -> None:
    found = json.loads(run("--params", "8B", "--gpu", "rtx4090", "--gpus", "1", "--json").stdout)
    assert found["launch"] is None and found["memory_bytes_per_gpu"] is None and any("No layout holds" in note for note in found["notes"])
