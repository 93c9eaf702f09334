"""An experiment as a recipe: the arms differ only where they say so, and what cannot be compared is refused."""

import copy
import json
import tomllib

import pytest

from bloomery.core.errors import ConfigError
from bloomery.pipeline.ablation import Derived, derive_experiment, read_experiment, read_file
from bloomery.pipeline.derive import write_recipe
from bloomery.pipeline.recipe import load_recipe

RECIPE = """
name = "small"
seed = 3
[stages.raw]
stage = "filter"
inputs = { documents = "file:a.jsonl" }
config = { rules = ["language"] }
[stages.filtered]
stage = "filter"
inputs = { documents = "raw" }
config = { rules = ["gopher"], thresholds = { too_few_words = 20 } }
[stages.held]
stage = "mix"
inputs = { documents = "filtered" }
[stages.corpus]
stage = "mix"
inputs = { documents = "raw" }
[stages.more]
stage = "mix"
inputs = { documents = "file:b.jsonl" }
[stages.tokenizer]
stage = "train_tokenizer"
inputs = { documents = "raw" }
[stages.tokens]
stage = "tokenize"
inputs = { documents = "corpus", tokenizer = "tokenizer" }
[stages.more_tokens]
stage = "tokenize"
inputs = { documents = "more", tokenizer = "tokenizer" }
[stages.base]
stage = "pretrain"
inputs = { tokens = ["tokens", "more_tokens"], tokenizer = "tokenizer" }
config = { tokens = "1M", names = ["web", "more"] }
[stages.sft]
stage = "sft"
inputs = { init = "base", conversations = "file:c.jsonl" }
[ablation]
question = "Which?"
model = "base"
seeds = [0, 1]
baseline = "raw"
held_out = { held = "held", other = "file:d.jsonl" }
tasks = ["copa"]
data = ["file:eval"]
[ablation.arms.raw]
[ablation.arms.strict]
set = { "filtered.thresholds.too_few_words" = 50, "corpus.inputs.documents" = "filtered" }
[ablation.arms.mixed]
set = { "base.mixture" = { web = 1, more = 3 } }
"""


def derive(change=lambda raw: None) -> Derived:
    raw = tomllib.loads(RECIPE)
    change(raw)
    return derive_experiment(raw, read_experiment(raw, "small.toml"))


def test_what_no_arm_changes_is_shared_and_what_an_arm_changes_is_repeated_with_all_that_is_made_of_it():
    stages = derive().stages
    own = {name for name in stages if name.endswith(("_raw", "_strict", "_mixed"))}
    assert own == {"kept_raw", "filtered_strict", "kept_filtered_strict", "corpus_strict", "tokens_strict"} | {
        f"base_{arm}" for arm in ("raw", "strict", "mixed")
    }
    assert stages["base_raw"]["inputs"]["tokens"] == stages["base_mixed"]["inputs"]["tokens"] == ["tokens", "more_tokens"]
    assert stages["base_strict"]["inputs"]["tokens"] == ["tokens_strict", "more_tokens"]
    assert {stages[f"base_{arm}"]["inputs"]["tokenizer"] for arm in ("raw", "strict", "mixed")} == {"tokenizer"}
    assert stages["filtered_strict"]["config"]["thresholds"] == {"too_few_words": 50}
    assert stages["filtered"]["config"]["thresholds"] == {"too_few_words": 20}  # held-out texts are what the recipe says, for all arms
    assert "sft" not in stages


def test_two_arms_that_change_the_same_stage_alike_share_it():
    def change(raw):
        settings = {"corpus.inputs.documents": "filtered"}
        raw["ablation"]["arms"] = {"raw": {}, "a": {"set": settings}, "b": {"set": {**settings, "base.mixture": {"web": 1, "more": 1}}}}

    stages = derive(change).stages
    assert stages["base_a"]["inputs"]["tokens"] == stages["base_b"]["inputs"]["tokens"] == ["tokens_a", "more_tokens"]
    assert "tokens_b" not in stages


def test_models_and_budgets_are_equal_and_the_arms_stand_seed_by_seed_in_the_scores(tmp_path):
    derived = derive()
    path = write_recipe(tmp_path / "arms.toml", name="arms", seed=3, seeds=derived.seeds, comment="made", stages=derived.stages)
    nodes = load_recipe(path).nodes
    plain = [{k: v for k, v in nodes[f"base_{arm}_seed1"].config.model_dump().items() if k != "mixture"} for arm in ("raw", "strict")]
    assert plain[0] == plain[1] and plain[0]["seed"] == 1
    trained = tuple(f"base_{arm}_seed{seed}" for arm in ("raw", "strict", "mixed") for seed in (0, 1))
    assert nodes["scores"].inputs["models"] == nodes["ablation"].inputs["models"] == trained
    assert nodes["scores"].config.names == [f"{arm} {seed}" for arm in ("raw", "strict", "mixed") for seed in (0, 1)]
    assert (nodes["scores"].inputs["corpus"], nodes["scores"].config.corpus_names) == (("held", "file:d.jsonl"), ["held", "other"])
    assert derived.models["strict"] == ["base_strict_seed0", "base_strict_seed1"]


def test_everything_that_is_tokenized_or_learned_from_passes_the_same_exclusion_before_its_mix():
    stages = derive().stages
    guards = {name: table for name, table in stages.items() if table["stage"] == "decontaminate"}
    assert all(table["inputs"]["held_out"] == ["held", "file:d.jsonl"] for table in guards.values())
    assert {table["config"]["ngram_words"] for table in guards.values()} == {40}
    assert stages["corpus"]["inputs"]["documents"] == stages["tokenizer"]["inputs"]["documents"] == ["kept_raw"]
    assert stages["corpus_strict"]["inputs"]["documents"] == ["kept_filtered_strict"]
    assert stages["more"]["inputs"]["documents"] == ["kept_more_0"] and guards["kept_more_0"]["inputs"]["documents"] == "file:b.jsonl"
    assert stages["held"]["inputs"]["documents"] == "filtered"
    kept, of_arm = stages["ablation"]["inputs"]["kept"], stages["ablation"]["config"]["kept_of"]
    assert {arm: sorted(kept[i] for i in some) for arm, some in of_arm.items()} == {
        "raw": ["kept_more_0", "kept_raw"],
        "strict": ["kept_filtered_strict", "kept_more_0"],
        "mixed": ["kept_more_0", "kept_raw"],
    }


def arms(**settings):
    def change(raw):
        raw["ablation"]["arms"] = {"raw": {}, "odd": {"set": {key.replace("__", "."): value for key, value in settings.items()}}}

    return change


def entry(key, value):
    def change(raw):
        raw["ablation"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (arms(base__tokens="2M"), r"arms.odd: changes tokens of base. The arms differ only in what they are made of"),
        (arms(base__model={"depth": 8}), "changes model of base"),
        (arms(base__learning_rate=0.1), "changes learning_rate of base"),
        (arms(base__inputs__init="base"), "changes inputs.init of base"),
        (arms(tokenizer__vocab_size=999), r"arms.odd: \w+ would read another tokenizer .* documents that no arm changes"),
        (arms(raw__languages=["de"]), "would read another tokenizer"),
        (arms(corpus__inputs__documents="raw"), "arms.odd: trains on the same data as raw"),
        (arms(held__validation_fraction=0.5), "trains on the same data as raw"),
        (arms(filterd__rules=[]), r'arms.odd.set: filterd.rules=\[\]: there is no stage with the id "filterd"; did you mean "filtered"'),
        (arms(cluster__kind="ray"), "arms.odd.set: cluster.kind says nothing of the data"),
        (entry("baseline", "rwa"), r'baseline = "rwa" is not an arm; did you mean "raw"'),
        (entry("model", "bsae"), r'ablation.model = "bsae" is no `pretrain` of the recipe; did you mean "base"'),
        (entry("held_out", "hold"), r'held_out: there is no stage with the id "hold"; did you mean "held"'),
        (entry("held_out", "corpus"), r"held_out: corpus is a `mix` that arms train on; give the held-out texts one of their own"),
        (entry("predictions", {"bits_per_byte": {"wins": "strcit"}}), r'wins = "strcit" is no arm; did you mean "strict"'),
        (entry("predictions", {"copa/right_anser": {"wins": "raw"}}), r'nothing that is measured; did you mean "copa/right_answer"'),
        (entry("seeds", [1, 1]), r"has a seed twice"),
        (entry("taks", ["copa"]), r'ablation.taks: unknown setting; did you mean "tasks"'),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_way_to_wire_it(change, message):
    with pytest.raises(ConfigError, match=message):
        derive(change)


def test_an_id_that_the_experiment_needs_is_asked_to_be_renamed():
    def change(raw):
        raw["stages"]["kept_x"] = raw["stages"].pop("more")
        raw["stages"]["more_tokens"]["inputs"]["documents"] = "kept_x"

    with pytest.raises(ConfigError, match="the id kept_x is one that the experiment gives to a stage of its own"):
        derive(change)


def test_settings_of_the_command_line_change_all_arms_and_the_experiment(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    raw, experiment = read_file(path, overrides=["base.tokens=2M", "ablation.seeds=[7]", 'ablation.held_out={ x = "held" }'])
    derived = derive_experiment(raw, experiment)
    assert {derived.stages[f"base_{arm}"]["config"]["tokens"] for arm in experiment.arms} == {"2M"}
    assert derived.models["raw"] == ["base_raw_seed7"] and list(experiment.outcomes())[:2] == ["bits_per_byte", "copa"]
    with pytest.raises(ConfigError, match=r"--set ablation.seeds: expected ablation.key=value"):
        read_file(path, overrides=["ablation.seeds"])


def test_mistakes_in_the_stages_are_told_with_their_lines_and_run_refuses_an_experiment(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.replace("too_few_words = 20", "too_few_wrods = 20"))
    with pytest.raises(ConfigError, match=r"small.toml:\d+: filtered.config.*too_few_wrods"):
        read_file(path)
    path.write_text(RECIPE)
    with pytest.raises(ConfigError, match="an experiment of several arms, which `bloomery ablate` runs"):
        load_recipe(path)
    path.write_text(RECIPE.partition("[ablation]")[0])
    with pytest.raises(ConfigError, match=r"has no \[ablation\] table"):
        read_file(path)


def test_the_recipe_that_is_read_is_left_as_it_was():
    raw = tomllib.loads(RECIPE)
    before = json.dumps(copy.deepcopy(raw))
    derive_experiment(raw, read_experiment(raw, "small.toml"))
    assert json.dumps(raw) == before
