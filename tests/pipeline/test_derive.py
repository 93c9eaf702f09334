"""Recipes made of others: what --set changes in them, and the stage that evaluates all models of one."""

import pytest

from bloomery.core.errors import ConfigError
from bloomery.pipeline.derive import evaluate_table, read_tables, write_recipe
from bloomery.pipeline.recipe import load_recipe

RECIPE = """
name = "small"
[stages.corpus]
stage = "mix"
inputs = { documents = "file:a.txt" }
[stages.tokenizer]
stage = "train_tokenizer"
inputs = { documents = "corpus" }
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_settings_are_put_where_a_run_would_put_them(recipe):
    options = [
        "tokenizer.vocab_size=512",
        'corpus.inputs.documents=["file:b.txt"]',
        "corpus.launch.workers=2",
        "cluster.kind=ray",
        "seeds=[0, 1]",
    ]
    raw = read_tables(recipe, overrides=options)
    assert raw["stages"]["tokenizer"]["config"] == {"vocab_size": 512}
    assert raw["stages"]["corpus"]["inputs"] == {"documents": ["file:b.txt"]}
    assert (raw["stages"]["corpus"]["launch"], raw["cluster"], raw["seeds"]) == ({"workers": 2}, {"kind": "ray"}, [0, 1])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tokenzier.vocab_size=1", 'there is no stage with the id "tokenzier"; did you mean "tokenizer"'),
        ("tokenizer", "expected ID.key=value"),
        ("cluster.a.b=1", "expected cluster.key=value"),
        ("corpus.inputs.documents.x=1", "corpus.inputs.documents is not a table"),
    ],
)
def test_an_option_that_fits_nothing_is_named(recipe, option, message):
    with pytest.raises(ConfigError, match=f"--set {option}: {message}"):
        read_tables(recipe, overrides=[option])


def test_the_stage_that_evaluates_calls_models_by_their_ids_and_takes_folders_with_or_without_the_prefix(recipe, tmp_path):
    base = {"stage": "pretrain", "inputs": {"tokens": "tokens", "tokenizer": "tokenizer"}}
    stages = read_tables(recipe)["stages"] | {"tokens": {"stage": "tokenize", "inputs": {"documents": "corpus", "tokenizer": "tokenizer"}}}
    stages |= {"a": base, "b": base, "scores": evaluate_table(["a", "b"], tasks=["copa"], data=["rows", "file:more"], limit=9)}
    node = load_recipe(write_recipe(tmp_path / "out.toml", name="out", seed=0, comment="made", stages=stages)).nodes["scores"]
    assert node.inputs == {"models": ("a", "b"), "data": ("file:rows", "file:more")}
    assert (node.config.names, node.config.baseline, node.config.tasks, node.config.limit) == (["a", "b"], "a", ["copa"], 9)


def test_the_recipe_that_is_made_finds_its_workers_where_the_one_it_comes_from_does(recipe, tmp_path):
    recipe.write_text(RECIPE + '[cluster]\nkind = "ray"\naddress = "auto"\nworkers = 3\n')
    raw = read_tables(recipe)
    made = write_recipe(tmp_path / "out.toml", name="out", seed=0, comment="made", stages=raw["stages"], cluster=raw["cluster"])
    assert load_recipe(made).cluster == load_recipe(recipe).cluster != load_recipe(made, overrides=["cluster.workers=0"]).cluster
    made = write_recipe(tmp_path / "out.toml", name="out", seed=0, comment="made", stages=raw["stages"], cluster={"knd": "ray"})
    with pytest.raises(ConfigError, match=r'cluster\.knd: unknown setting; did you mean "kind"'):
        load_recipe(made)
