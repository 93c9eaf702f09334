"""bloomery mix: the recipe that it writes, a whole run of it in small, and mistakes told in one line."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.files import write_jsonl
from bloomery.pipeline.recipe import load_recipe

RECIPE = """
name = "three"
seed = 2
[stages.tokenizer]
stage = "train_tokenizer"
inputs = {{ documents = ["file:{folder}/a.jsonl", "file:{folder}/b.jsonl"] }}
config = {{ vocab_size = 280 }}
[stages.smiths]
stage = "tokenize"
inputs = {{ documents = "file:{folder}/a.jsonl", tokenizer = "tokenizer" }}
config = {{ validation_fraction = 0.2 }}
[stages.sailors]
stage = "tokenize"
inputs = {{ documents = "file:{folder}/b.jsonl", tokenizer = "tokenizer" }}
config = {{ validation_fraction = 0.2 }}
[stages.unused]
stage = "tokenize"
inputs = {{ documents = "file:{folder}/b.jsonl", tokenizer = "tokenizer" }}
[stages.base]
stage = "pretrain"
inputs = {{ tokens = ["smiths", "sailors"], tokenizer = "tokenizer" }}
config = {{ names = ["smiths", "sailors"], tokens = "100k", max_epochs = 40, validation_tokens = 2048, z_loss = 1e-4 }}
"""
SMALL = ("--width", "16", "--tokens", "81920", "--proxies", "10", "--held-out", "4", "--seeds", "1", "--max-epochs", "0")


def run(*arguments: object, expect: int = 0) -> Result:
    done = CliRunner().invoke(app, ["mix", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return done


@pytest.fixture
def recipe(tmp_path) -> Path:
    for name, sentence in (
        ("a", "The smith of village {} carries {} baskets of ore. "),
        ("b", "In {} boats the sailors took {} ropes to sea. "),
    ):
        rows = [{"text": "".join(sentence.format(i, i * j % 97) for j in range(8))} for i in range(60 if name == "a" else 30)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    path = tmp_path / "three.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_everything_from_sources_to_a_checked_suggestion_and_a_second_call_makes_nothing_again(recipe, tmp_path):
    out, store = tmp_path / "mixtures.toml", tmp_path / "runs"
    options = (*SMALL, "--out", out, "--store", store)
    assert "its sources" not in run(recipe, *options, "--dry-run").output and not (store / "artifacts").exists()
    told = json.loads(run(recipe, *options, "--json").stdout)
    assert told["names"] == ["smiths", "sailors"] and sum(told["mixture"].values()) == pytest.approx(1)
    assert (len([r for r in told["runs"] if r["group"] == "fitted"]), told["trial"]["num_runs"]) == (6, 4)
    assert told["noise"] == {} and len(told["check"]["suggested"]) == 1
    assert Path(told["page"]).is_file() and (store / "mixture-three" / "report.html").is_file()
    nodes = load_recipe(out).nodes
    assert "unused" not in nodes and nodes["mixture_01"].config.seed == 2
    assert nodes["suggested"].config.mixture == told["mixture"] and nodes["natural"].config.mixture == {}
    assert nodes["natural"].config.z_loss == 1e-4 and nodes["natural"].config.max_epochs == 0
    made = sorted(path.name for path in (store / "artifacts").iterdir())
    written = out.read_bytes()
    text = run(recipe, *options).stdout
    assert sorted(path.name for path in (store / "artifacts").iterdir()) == made and out.read_bytes() == written
    assert "Error on 4 held-out mixtures" in text and told["verdict"]["text"] in text
    line = next(line for line in text.splitlines() if line.startswith("TOML: "))
    assert tomllib.loads(line.removeprefix("TOML: "))["mixture"] == told["mixture"]
    listed = json.loads(run(recipe, *options, "--seeds", "3", "--dry-run", "--json").stdout)
    assert [row["name"] for row in listed["runs"]][:2] == ["natural", "mixture_01"] and len(listed["runs"]) == 10 + 4
    nodes = load_recipe(out).nodes
    assert nodes["law"].inputs["repeats"] == ("natural_seed1", "natural_seed2", "mixture_01_seed1", "mixture_01_seed2")
    assert nodes["mixture_01_seed2"].config.seed == 4 and nodes["mixture_01_seed2"].config.mixture == nodes["mixture_01"].config.mixture


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tokens = ["smiths", "sailors"]', 'tokens = "smiths"', "`base` has one source"),
        ('names = ["smiths", "sailors"], ', "", "has 2 inputs `tokens` and 0 names"),
        (
            'tokenizer = "tokenizer" }\nconfig = { names',
            'tokenizer = "tokenizer", init = "file:x" }\nconfig = { names',
            "goes on from a checkpoint",
        ),
        ('tokens = "100k"', 'tokens = "many"', "expected a number of tokens"),
    ],
)
def test_a_recipe_without_a_mixture_to_find_is_refused(recipe, tmp_path, old, new, message):
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    assert message in run(recipe, "--out", tmp_path / "m.toml", "--dry-run", expect=2).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "smith=1"), 'is not among the sources; did you mean "smiths"?'),
        (("--target", "smiths=x"), "expected NAME=WEIGHT"),
        (("--target", "smiths=0"), "not all 0"),
        (("--proxies", "9", "--held-out", "4"), "give --proxies 10 or more"),
        (("--held-out", "3"), "4 or more mixtures have tested it"),
        (("--stage", "bse"), 'did you mean "base"?'),
        (("--set", "bse.tokens=1M"), "there is no stage"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(recipe, tmp_path, options, message):
    done = run(recipe, *options, "--out", tmp_path / "m.toml", "--store", tmp_path / "runs", expect=2)
    assert message in done.output and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "base.tokens=900M"), "allow more epochs, or train on fewer tokens"),
        (("--tokens", "8k"), "a run of under 20 says nothing"),
        (("--width", "20"), "widths must be multiples of 16"),
        (("--set", "sailors.validation_fraction=0"), "the source sailors has no held-out tokens"),
    ],
)
def test_what_only_the_sizes_of_the_sources_tell_is_refused_before_a_run(recipe, tmp_path, options, message):
    small = [part for part in SMALL if part not in ("--max-epochs", "0")]
    done = run(recipe, *small, *options, "--out", tmp_path / "m.toml", "--store", tmp_path / "runs", expect=2)
    assert message in done.output
    assert not list((tmp_path / "runs" / "artifacts").glob("pretrain-*"))
