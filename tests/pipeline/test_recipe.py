"""Recipes: what is read from them, and every mistake with its line."""

import re

import pytest

from bloomery.core.errors import ConfigError
from bloomery.pipeline.locate import find_recipe
from bloomery.pipeline.recipe import parse_value

BROKEN = """\
name = "artifacts"
colour = "red"

[stages.small]
stage  = "numbers"
config = { cuont = 2, limits = { hihg = 3 } }

[stages.more]
stage  = "add"
inputs = { documents = "smal" }
launch = { devices = 2 }

[stages.verdict]
stage = "jugde"

[stages.lost]
stage = "judge"
inputs = { texts = "small" }

[stages.scored]
stage = "add"
input = {}
inputs = { documents = ["small", "judged"] }

[stages.judged]
stage = "judge"
inputs = { documents = ["small", "more"] }
config.amount = "many"
"""


def test_every_mistake_of_a_recipe_is_told_at_once_with_its_line_and_the_nearest_name(toys):
    with pytest.raises(ConfigError) as caught:
        toys.load(BROKEN)
    message = str(caught.value)
    for line, fact in [
        (1, "reserved"),
        (2, '"colour"'),
        (6, 'small.config.cuont: unknown setting; did you mean "count"'),
        (6, 'small.config.limits.hihg: unknown setting; did you mean "high"'),
        (10, '"smal"; did you mean "small"'),
        (11, "the stage add runs on one device; found devices = 2"),
        (14, '"jugde"; did you mean "judge"'),
        (18, 'needs the input "documents"'),
        (18, 'no input "texts"; known: documents'),
        (22, '"input"; did you mean "inputs"'),
        (23, "needs documents, but judged (judge) makes scores"),
        (27, "takes one input; found 2"),
        (28, "judged.config.amount"),
    ]:
        assert re.search(rf"toy\.toml:{line}: .*{re.escape(fact)}", message), f"line {line}: {fact}\n{message}"
    assert "13 mistakes" in message


def test_a_circle_of_inputs_is_named(toys):
    text = 'name = "x"\n' + "".join(f'[stages.{a}]\nstage="add"\ninputs={{documents="{b}"}}\n' for a, b in ["ab", "bc", "ca"])
    with pytest.raises(ConfigError, match="a circle of inputs: a <- b <- c <- a"):
        toys.load(text)


def test_a_file_that_is_not_toml_is_refused_with_the_line(toys):
    with pytest.raises(ConfigError, match=r"toy\.toml: not a TOML file: .*line 2"):
        toys.load('name = "x"\n[stages\n')


def test_the_seed_of_the_recipe_reaches_every_config_that_has_one_and_does_not_set_it(toys):
    assert toys.load().nodes["small"].config.seed == 3
    assert toys.load(seed=8).nodes["small"].config.seed == 8
    assert toys.load(seed=8).seed == 8
    recipe = toys.load('name = "x"\nseed = 5\n[stages.a]\nstage = "numbers"\nconfig = { seed = 1 }\n')
    assert recipe.nodes["a"].config.seed == 1


def test_overrides_reach_config_inputs_and_launch(toys):
    options = ("small.count=7", "small.limits.high=12", 'more.inputs.documents=["small", "small"]', "small.launch.devices=2")
    recipe = toys.load(toys_text(), *options)
    assert recipe.nodes["small"].config.count == 7
    assert recipe.nodes["small"].config.limits.high == 12
    assert recipe.nodes["more"].inputs == {"documents": ("small", "small")}
    assert recipe.nodes["small"].launch.devices == 2


def test_mistakes_in_overrides_name_the_option(toys):
    with pytest.raises(ConfigError) as caught:
        toys.load(toys_text(), "smal.count=1", "small.cuont=1", "small.count=x", "nonsense", "small.count.deeper=1")
    message = str(caught.value)
    assert '--set smal.count=1: there is no stage with the id "smal"; did you mean "small"' in message
    assert '--set small.cuont=1: small.config.cuont: unknown setting; did you mean "count"' in message
    assert "--set nonsense: expected ID.key=value" in message
    assert "--set small.count.deeper=1: small.config.count is not a table" in message


def test_values_on_the_command_line_are_toml_or_else_plain_words():
    assert [parse_value(text) for text in ("5", "0.5", "true", "2M", '["a"]', '"5"', "a b")] == [5, 0.5, True, "2M", ["a"], "5", "a b"]


def test_an_unknown_shipped_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="quickstart"):
        find_recipe("quickstrat")
    with pytest.raises(ConfigError, match=r"nothing/here\.toml: no such recipe file"):
        find_recipe("nothing/here.toml")


def toys_text() -> str:
    return (
        'name = "toy"\nseed = 3\n[stages.small]\nstage = "numbers"\nconfig = { count = 2 }\n'
        '[stages.more]\nstage = "add"\ninputs = { documents = "small" }\n'
    )


def test_the_cluster_is_read_and_overridden_and_is_no_part_of_what_is_made(toys, store):
    assert toys.load().cluster.kind == "local"
    here = toys.plan(store)
    text = here.recipe.path.read_text() + '[cluster]\nkind = "ray"\naddress = "head:6379"\n'
    there = toys.plan(store, "cluster.workers=5", text=text)
    assert there.recipe.cluster.model_dump() == {"kind": "ray", "address": "head:6379", "workers": 5}
    assert [step.fingerprint for step in here.steps] == [step.fingerprint for step in there.steps]


def test_mistakes_about_the_cluster_are_told_with_their_line(toys):
    with pytest.raises(ConfigError) as caught:
        toys.load('name = "x"\n[cluster]\nkind = "rya"\nadress = "auto"\n[stages.cluster]\nstage = "numbers"\n', "cluster.a.b=1")
    message = str(caught.value)
    for fact in ["toy.toml:3: cluster.kind", "'rya'", 'toy.toml:4: cluster.adress: unknown setting; did you mean "address"']:
        assert fact in message, message
    assert 'toy.toml:5: the id "cluster" is reserved' in message and "--set cluster.a.b=1: expected cluster.key=value" in message


PER_SEED = """\
name = "x"
seeds = [4, 5]
[stages.small]
stage = "numbers"
per_seed = true
[stages.more]
stage = "add"
inputs = { documents = "small" }
per_seed = true
[stages.all]
stage = "add"
inputs = { documents = ["more", "file:other"] }
"""


def test_a_stage_per_seed_is_made_once_for_each_seed_from_what_has_its_seed(toys):
    nodes = toys.load(PER_SEED).nodes
    assert list(nodes) == ["small_seed4", "small_seed5", "more_seed4", "more_seed5", "all"]
    assert [nodes[f"small_seed{seed}"].config.seed for seed in (4, 5)] == [4, 5]
    assert nodes["more_seed5"].inputs == {"documents": ("small_seed5",)}
    assert nodes["all"].inputs == {"documents": ("more_seed4", "more_seed5", "file:other")}
    assert list(toys.load(PER_SEED, "seeds=[7]").nodes) == ["small_seed7", "more_seed7", "all"]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (("seeds = [4, 5]", ""), "more, small: per_seed needs the recipe to have seeds"),
        (("[4, 5]", "[4, 4]"), r"toy\.toml:2: seeds must be a list of different whole numbers >= 0; found \[4, 4\]"),
        (("per_seed = true", 'per_seed = "yes"'), r"toy\.toml:5: small.per_seed must be true or false; found 'yes'"),
        (('"numbers"', '"numbers"\nconfig = { seed = 1 }'), "small: per_seed gives it the recipe's seeds"),
        (('"small"', '"file:a"'), "more: per_seed would make 2 times the same"),
        (("[stages.all]\nstage = \"add\"", "[stages.all]\nstage = \"judge\""), "takes one input, but more is made once per seed"),
        (("[stages.all]", "[stages.more_seed5]"), '"more_seed5" is also the name of a stage per seed'),
        (("[stages.all]", "[stages.seeds]"), 'the id "seeds" is reserved'),
    ],
)  # fmt: skip
def test_mistakes_about_seeds_are_told(toys, change, fact):
    text = PER_SEED.replace(', "file:other"', "") if "judge" in change[1] else PER_SEED
    with pytest.raises(ConfigError, match=fact):
        toys.load(text.replace(*change, 1))
