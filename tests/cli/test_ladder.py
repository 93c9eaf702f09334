"""bloomery ladder: the recipe that it writes, the law it ends with, and mistakes told in one line."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.cli.running import default_workers
from bloomery.core.files import write_json, write_jsonl
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.pipeline.derive import toml_value
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import RunResult
from bloomery.scaling.ladder import plan_rungs

RECIPE = """
name = "small"
seed = 3
[stages.pages]
stage = "crawl"
config = { source = "pydoc", scope = "stdlib", max_modules = 12 }
[stages.extracted]
stage = "extract"
inputs = { pages = "pages" }
[stages.corpus]
stage = "mix"
inputs = { documents = "extracted" }
config = { validation_fraction = 0.1 }
[stages.tokenizer]
stage = "train_tokenizer"
inputs = { documents = "corpus" }
config = { vocab_size = 300 }
[stages.tokens]
stage = "tokenize"
inputs = { documents = "corpus", tokenizer = "tokenizer" }
[stages.base]
stage = "pretrain"
inputs = { tokens = "tokens", tokenizer = "tokenizer" }
config = { tokens = "1M", sequence_tokens = 64, batch_tokens = 512, num_validations = 1, z_loss = 1e-4 }
[stages.sft]
stage = "synthesize"
config = { kinds = ["skills"], num_skill_examples = 20, num_skill_tests = 2 }
"""


def run(*arguments: object, expect: int = 0) -> Result:
    done = CliRunner().invoke(app, ["ladder", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return done


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_the_written_recipe_is_valid_keeps_what_the_data_needs_and_the_settings_that_the_dial_does_not_make(recipe, tmp_path):
    out = tmp_path / "ladder.toml"
    told = json.loads(
        run(recipe, "--widths", "32,48,64", "--ratios", "5,10", "--held-out", "96:10", "--out", out, "--dry-run", "--json").stdout
    )
    assert [one["name"] for one in told["runs"]][-1] == "w96_r10"
    assert [one["flops"] for one in told["runs"]] == sorted(one["flops"] for one in told["runs"])
    nodes = load_recipe(out).nodes
    assert list(nodes) == ["pages", "extracted", "corpus", "tokenizer", "tokens", *(one["name"] for one in told["runs"]), "law"]
    config = nodes["w48_r5"].config.model_dump()
    assert (config["z_loss"], config["num_validations"], config["model"]["dim"], config["seed"]) == (1e-4, 1, 48, 3)
    assert nodes["law"].config.model_dump()["num_held_out"] == 1


def test_the_ladder_works_where_the_recipe_says_or_with_a_worker_for_each_core(recipe, tmp_path, monkeypatch):
    class Seen(Exception):
        """The run would begin."""

    def see(plan, _, *, workers, **__):
        raise Seen(plan.recipe.cluster.kind, workers)

    monkeypatch.setattr("bloomery.pipeline.run.run_plan", see)
    given = (recipe, "--widths", "16,32,48", "--ratios", "9,12", "--store", tmp_path / "runs", "--out", tmp_path / "l.toml")
    for options, expected in [
        ((), ("local", default_workers())),
        (("--workers", 3), ("local", 3)),
        (("--set", "cluster.kind=ray", "--set", "cluster.address=auto"), ("ray", 0)),
        (("--set", "cluster.workers=5"), ("local", 5)),
    ]:
        with pytest.raises(Seen) as seen:
            run(*given, *options)
        assert seen.value.args == expected


def test_at_the_end_stands_the_law_and_how_far_it_missed(recipe, tmp_path, monkeypatch):
    # The runs themselves are those of `bloomery run`, and the stage is tested with others; here is what is told of them.
    folder = tmp_path / "runs" / "ladder-small"
    (folder / "law").mkdir(parents=True)
    constants = {name: {"value": 1.5, "low": 1.0, "high": 2.0} for name in ("E", "A", "B", "alpha", "beta", "exponent")}
    row = {"params": 93_000.0, "tokens": 837_000.0, "loss": 4.0, "predicted": {"value": 4.02, "low": 3.9, "high": 4.1}, "error": 0.005}
    write_json(
        folder / "law" / "ladder.json",
        {"constants": constants, "runs": [], "held_out": [row], "tasks": [], "context": {"sentence": "It gains nothing."}},
    )
    monkeypatch.setattr("bloomery.pipeline.run.run_plan", lambda *_, **__: RunResult(folder=folder))
    monkeypatch.setattr("bloomery.pipeline.report.write_report", lambda *_: None)
    arguments = (
        recipe,
        "--widths",
        "16,32,48",
        "--ratios",
        "9,12",
        "--held-out",
        "64:9",
        "--store",
        tmp_path / "runs",
        "--out",
        tmp_path / "l.toml",
    )
    told = run(*arguments).stdout
    assert "Held out: 0.09 M parameters, 0.8 M tokens: measured 4.0000, predicted 4.0200 [3.9000, 4.1000]: +0.50 %" in told
    assert "It gains nothing." in told
    assert f"bloomery budget --law {folder / 'law' / 'law.json'}" in told
    assert json.loads(run(*arguments, "--json").stdout)["held_out"] == [row]


@pytest.mark.parametrize(("held_out", "warned"), [("128:20", False), ("192:20", True)])
def test_a_held_out_model_with_more_layers_than_any_of_the_fit_is_warned_of(recipe, tmp_path, held_out, warned):
    given = ("--widths", "64,96,112", "--ratios", "10,20", "--held-out", held_out, "--dry-run", "--out", tmp_path / "out.toml")
    assert ("has 3 layers, those of the fit 1 and 2" in " ".join(run(recipe, *given).stderr.split())) == warned
    assert "has 3 layers" not in run(recipe, *given, "--layers", "2").stderr


def test_layers_are_the_same_for_all_when_asked_and_more_than_one_run_can_be_held_out(recipe, tmp_path):
    out = tmp_path / "out.toml"
    given = ("--layers", "3", "--widths", "32,64,192", "--ratios", "5,10", "--held-out", "224:10,208:10,208:10", "--dry-run", "--out", out)
    told = json.loads(run(recipe, *given, "--json").stdout)["runs"]
    assert [one["name"] for one in told][-2:] == ["w208_r10", "w224_r10"]
    nodes = load_recipe(out).nodes
    assert nodes["law"].config.model_dump()["num_held_out"] == 2 and len(nodes["law"].inputs["models"]) == 8
    for one in told:
        model = make_model_config(nodes[one["name"]].config.model, vocab_size=300, max_positions=256)
        assert model.num_layers == 3 and count_params(model) == one["params"] and model.num_heads * model.head_dim == model.dim


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "32,50", "--ratios", "5"), "widths must be multiples of 16, from 16 on; found 50"),
        (("--widths", "32"), "ratios of tokens to parameters, or budgets in FLOP"),
        (("--widths", "x", "--ratios", "5"), "cannot be planned"),
        (("--widths", "64", "--ratios", "20", "--held-out", "64:10"), "what is held out must be larger than every run of the fit"),
        (("--widths", "16,32,48", "--ratios", "9,12", "--held-out", "64:12,48:2"), "--held-out 64:12,48:2: w48_r2 takes"),
        (("--widths", "16,32,48", "--ratios", "9,12", "--held-out", "64:12,96:0.01"), "1 of these runs would take too few steps"),
        (("--widths", "64", "--ratios", "20", "--held-out", "96:a"), "expected a width and the tokens a parameter, as in 128:8"),
        (("--widths", "64", "--ratios", "20", "--held-out", "96"), "expected a width and the tokens a parameter, as in 128:8"),
        (("--widths", "64,80", "--ratios", "20", "--held-out", "96:20"), "no law can be fitted to this ladder: a law has five constants"),
        (("--widths", "64", "--ratios", "20", "--stage", "bse"), 'did you mean "base"?'),
        (("--widths", "64", "--ratios", "20", "--set", "bse.z_loss=1"), 'there is no stage with the id "bse"; did you mean "base"'),
        (("--widths", "64", "--ratios", "20", "--limit", "9"), "--data and --limit say what --tasks are asked of: name some"),
    ],
)
def test_mistakes_are_told_in_one_line(recipe, tmp_path, arguments, message):
    assert message in run(recipe, *arguments, "--out", tmp_path / "l.toml", "--dry-run", expect=2).output


def test_with_benchmarks_all_models_are_asked_and_the_law_sees_the_scores(recipe, tmp_path):
    out = tmp_path / "l.toml"
    options = [
        "--tasks",
        "copa,arc_easy",
        "--data",
        "rows",
        "--limit",
        "20",
        "--shots",
        "0",
        "--set",
        "tokenizer.vocab_size=280",
        "--set",
        "base.z_loss=0",
    ]
    run(recipe, "--widths", "32,48,64", "--ratios", "5,10", "--held-out", "96:5", *options, "--out", out, "--dry-run")
    nodes = load_recipe(out).nodes
    rungs = ("w32_r5", "w32_r10", "w48_r5", "w48_r10", "w64_r5", "w64_r10", "w96_r5")
    assert nodes["scores"].inputs == {"models": rungs, "data": ("file:rows",)} and (
        nodes["scores"].config.limit,
        nodes["scores"].config.num_shots,
    ) == (20, 0)
    assert nodes["law"].inputs == {"models": rungs, "scores": ("scores",), "tokens": ("tokens",)}
    assert (nodes["tokenizer"].config.vocab_size, nodes["w48_r5"].config.z_loss) == (280, 0)


def test_a_ladder_is_run_from_texts_to_what_the_benchmarks_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"word{i % 7} stands after word{i % 5} and before word{i % 11}." for i in range(120)]
    write_jsonl(tmp_path / "texts.jsonl", [{"text": " ".join(words[i:] + words[:i])} for i in range(24)])
    query = {"query": "word1 stands", "choices": ["after word1 and", "xq zj"]}
    write_jsonl(tmp_path / "rows" / "copa.jsonl", [{**query, "gold": 0} for _ in range(4)])
    recipe = RECIPE.replace('inputs = { documents = "extracted" }', 'inputs = { documents = "file:texts.jsonl" }')
    (tmp_path / "tiny.toml").write_text(recipe)
    options = ["--tasks", "copa", "--data", "rows", "--set", "base.batch_tokens=128", "--set", "base.num_samples=0"]
    told = run("tiny.toml", "--widths", "16,32,48", "--ratios", "0.4,0.6", "--held-out", "64:0.45", *options, "--json").stdout
    report = json.loads(told)
    assert len(report["runs"]) == 6 and abs(report["held_out"][0]["error"]) < 0.5
    assert report["context"]["row_tokens"] == 64 and "held-out run" in report["context"]["sentence"]
    assert all(one["context_gain"]["low"] < one["context_gain"]["high"] for one in (*report["runs"], *report["held_out"]))
    assert "gain from the text before, nats" in (tmp_path / "runs" / "ladder-tiny" / "law" / "ladder.html").read_text()
    (task,) = report["tasks"]
    assert task["task"] == "copa" and len(task["points"]) == 7 and [p["held_out"] for p in task["points"]].count(True) == 1
    assert "pages" not in json.loads((tmp_path / "runs" / "ladder-tiny" / "spec.json").read_text())["nodes"]


def test_isoflop_spends_the_same_on_every_width():
    rungs = plan_rungs([48, 64, 96], vocab_size=512, budgets=[1e12, 4e12])
    assert [round(rung.flops / 1e12, 2) for rung in rungs] == [1.0] * 3 + [4.0] * 3
    assert len({rung.params for rung in rungs}) == 3


@pytest.mark.parametrize(
    "value", [1, 2_500_000, -3, 0.1, True, 'a "b" \\ \n ü', [1, [2]], {}, {"a": {"b": [1.5, "x"]}, "c-d": False}, {"a b": 1}]
)
def test_a_value_written_as_toml_is_read_back(value):
    assert tomllib.loads(f"v = {toml_value(value)}")["v"] == value


def test_the_heads_of_every_rung_fill_its_width():
    for rung in plan_rungs(range(48, 257, 16), vocab_size=512, ratios=[20]):
        model = make_model_config(ModelShape(**rung.config["model"]), vocab_size=512, max_positions=256)
        assert model.num_heads * model.head_dim == model.dim and count_params(model) == rung.params
