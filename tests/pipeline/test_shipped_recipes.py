"""The recipes that come with bloomery can be read, and their names are those of their files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.artifact import Store
from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_jsonl
from bloomery.model.config import ModelConfig, flops_per_token, make_model_config
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.pipeline.ablation import derive_experiment, read_file
from bloomery.pipeline.derive import keep_upstream, read_tables
from bloomery.pipeline.locate import find_recipe, shipped_recipes
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.mark.parametrize("name", ["quickstart", "smoke", "web"])
def test_a_shipped_recipe_has_no_mistakes(name):
    recipe = load_recipe(find_recipe(name))
    assert recipe.name == name
    assert {"crawl", "pretrain", "sft", "preference", "evaluate", "export"} <= {node.stage.name for node in recipe.nodes.values()}


def test_all_shipped_recipes_are_tested_above():
    names = {"quickstart", "smoke", "web", "continue", "curriculum", "gpt2", "speedrun", "synthetic", "chat", "rl-math", "align-demo"}
    assert set(shipped_recipes()) == names | {"ladder", "mixture", "ablate-web", "ablate-mixtures"}


def test_the_experiment_on_web_text_trains_the_same_model_on_raw_filtered_and_deduplicated_pages():
    stages, arms = derive("ablate-web")
    read = [stages[stages[f"base_{arm}"]["inputs"]["tokens"]]["inputs"]["documents"][0] for arm in ("raw", "filtered", "deduplicated")]
    assert [stages[name]["inputs"]["documents"] for name in read] == [["kept_english"], ["kept_filtered"], ["kept_trimmed"]]
    assert stages["kept_english"]["inputs"]["held_out"] == stages["kept_trimmed"]["inputs"]["held_out"] == ["held_raw", "held_clean"]
    assert len(arms.predictions) == 3


def test_the_experiment_on_mixtures_shares_all_data_and_predicts_every_benchmark_of_the_exercise():
    stages, arms = derive("ablate-mixtures")
    mixtures = [stages[f"base_{arm}"]["config"].pop("mixture") for arm in ("code", "books", "web")]
    assert [max(mixture, key=mixture.get) for mixture in mixtures] == ["code", "books", "web"]
    assert all(sum(mixture.values()) == pytest.approx(1) for mixture in mixtures)
    assert stages["base_code"] == stages["base_books"] == stages["base_web"]
    assert {"mmlu", "humaneval", "hellaswag_zeroshot"} <= set(arms.predictions)


def derive(name):
    raw, experiment = read_file(find_recipe(name))
    return derive_experiment(raw, experiment).stages, experiment


def test_the_demonstration_of_alignment_trains_every_method_once_a_seed_and_compares_all_of_them():
    recipe = load_recipe(find_recipe("align-demo"), overrides=["seeds=[0, 5]"])
    frontier = recipe.nodes["frontier"]
    methods = [name.removesuffix("_seed5") for name in recipe.nodes if name.endswith("_seed5")]
    assert {"rm_100", "rm_1000", "rm_5000", "dpo", "kto", "kto_1_10", "ppo", "ppo_small", "grpo", "sl_cai", "rl_cai"} <= set(methods)
    assert len(frontier.inputs["models"]) == 2 * len(frontier.config.names) and len(frontier.inputs["reward_models"]) == 6
    assert recipe.nodes["ppo_seed5"].inputs["reward_models"] == ("rm_5000_seed5",) and recipe.nodes["ppo_seed5"].config.seed == 5


def test_the_ladders_recipe_takes_texts_of_ones_own_instead_of_the_modules_documentation():
    assert [node.stage.name for node in load_recipe(find_recipe("ladder")).nodes.values()].count("pretrain") == 1
    raw = read_tables(find_recipe("ladder"), overrides=['corpus.inputs.documents=["file:texts/*.jsonl.gz"]'])
    assert list(keep_upstream(raw, "base")) == ["corpus", "tokenizer", "tokens"]


def test_the_recipe_of_continued_pretraining_starts_from_a_checkpoint_and_its_tokenizer():
    recipe = load_recipe(find_recipe("continue"))
    assert recipe.name == "continue" and recipe.nodes["start"].inputs == {"model": ("file:checkpoint",)}
    assert recipe.nodes["base"].inputs["init"] == recipe.nodes["tokens"].inputs["tokenizer"] == ("start",)


def test_the_recipe_of_rewards_for_right_numbers_runs_at_the_size_of_a_cpu(tmp_path):
    write_tokenizer(tmp_path / "tokenizer", train_bpe(["What is 2 + 3? 5"] * 3, vocab_size=270, pattern="llama3"), pattern="llama3")
    vocab_size = load_tokenizer(tmp_path / "tokenizer").vocab_size
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 16, "max_positions": 96}
    save_model(Transformer(ModelConfig(vocab_size=vocab_size, **sizes)), tmp_path / "model", tokenizer=tmp_path / "tokenizer")
    rows = [{"question": f"{i} + 1?", "answer": f"It is {i}+1=<<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(20)]
    write_jsonl(tmp_path / "gsm8k.jsonl", rows)
    data = f"file:{tmp_path / 'gsm8k.jsonl'}"
    changes = [f"start.inputs.model=file:{tmp_path / 'model'}", f"sft.inputs.conversations={data}", f"rl.inputs.prompts={data}"]
    changes += [
        "sft.sequence_tokens=96",
        "sft.batch_tokens=192",
        "sft.epochs=0.3",
        "rl.rollouts=2",
        "rl.batch_prompts=2",
        "rl.group_size=2",
    ]
    changes += ["rl.max_tokens=6", "rl.num_validations=1", "rl.held_out_fraction=0.2", "rl.resample_attempts=1"]
    recipe, store = load_recipe(find_recipe("rl-math"), overrides=changes), Store(tmp_path / "runs")
    assert [step.node.id for step in make_plan(recipe, store).steps] == ["start", "sft", "rl", "scores"]
    for node in ("start", "sft", "rl"):
        run_plan(make_plan(recipe, store, only=node), store)
    (training,) = (tmp_path / "runs" / "artifacts").glob("grpo-*/training.json")
    assert read_json(training)["rollouts"] == 2


def test_the_synthetic_recipe_takes_the_smoke_runs_model_or_any_endpoint():
    recipe = load_recipe(find_recipe("synthetic"))
    assert recipe.nodes["written"].inputs["model"] == ("file:runs/smoke/sft",)
    elsewhere = ["written.inputs.model=[]", "written.model=writer", 'written.launch.endpoint={ url = "http://127.0.0.1:8000/v1" }']
    written = load_recipe(find_recipe("synthetic"), overrides=elsewhere).nodes["written"]
    assert "model" not in written.inputs and written.config.model == "writer"
    assert written.launch.endpoint.url == "http://127.0.0.1:8000/v1"


def test_the_curriculum_has_four_stages_of_40_30_20_and_10_percent_and_plans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("broad", "reference", "reasoning", "problems"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"a text of the source {name}")
    recipe = load_recipe(find_recipe("curriculum"))
    stages = recipe.nodes["base"].config.stages
    assert [stage.tokens / sum(stage.tokens for stage in stages) for stage in stages] == [0.4, 0.3, 0.2, 0.1]
    assert [stage.schedule.learning_rate_factor for stage in stages] == [1.0, 0.667, 0.5, 0.333]
    assert [step.node.id for step in make_plan(recipe, Store(tmp_path / "runs")).steps if step.state == "run"] == list(recipe.nodes)


def test_a_source_misspelt_in_a_stage_of_the_curriculum_is_found_before_anything_runs():
    path = find_recipe("curriculum")
    with pytest.raises(ConfigError, match=r'curriculum.0.mixture: "board" is not among the names; did you mean "broad"'):
        load_recipe(path, overrides=['base.curriculum=[{ tokens = "1M", mixture = { board = 1.0 } }]'])


@pytest.mark.parametrize("name", ["gpt2", "speedrun"])
def test_the_recipes_for_gpus_plan_and_read_their_documents_from_a_web_server(name, tmp_path, web_server):
    texts = [f"Document {i} of a small corpus on a web server, with {i * 37 % 101} words of its own." for i in range(60)]
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(60)], "text": texts}), tmp_path / "a.parquet")
    web_server.files["/data/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    documents = f"documents=file:{web_server.url}/data/a.parquet"
    changes = [f"tokenizer.inputs.{documents}", f"tokens.inputs.{documents}", "tokenizer.vocab_size=280", "tokens.validation_fraction=0.2"]
    line = ["tokenizer", "tokens", "base"]
    if name == "speedrun":
        talks = f"file:{web_server.url}/data/talks.jsonl"
        web_server.files["/data/talks.jsonl"] = json.dumps({"question": "2 + 2?", "answer": "#### 4"}).encode()
        changes += [f'{node}.inputs.conversations=["{talks}", "{talks}", "drills"]' for node in ("midtrained", "sft")]
        changes += [f"rl.inputs.prompts={talks}"]
        line = [*line, "drills", "midtrained", "sft", "rl", "scores", "chat"]
    recipe, store = load_recipe(find_recipe(name), overrides=changes), Store(tmp_path / "runs")
    assert [step.node.id for step in make_plan(recipe, store).steps] == line
    for node in ("tokenizer", "tokens"):
        run_plan(make_plan(recipe, store, only=node), store)
    assert [step.state for step in make_plan(recipe, store).steps] == ["done", "done", *["run"] * (len(line) - 2)]


def test_the_chat_recipe_goes_from_a_base_through_midtraining_and_fine_tuning_to_reinforcement_learning():
    nodes = load_recipe(find_recipe("chat")).nodes
    assert [nodes[name].stage.name for name in ("base", "midtrained", "sft", "rl")] == ["pretrain", "sft", "sft", "grpo"]
    assert [nodes[name].inputs["init"] for name in ("midtrained", "sft", "rl")] == [("base",), ("midtrained",), ("sft",)]
    assert nodes["midtrained"].config.loss_on == "all" and nodes["midtrained"].inputs["tokens"] == ("tokens",)
    assert nodes["scores"].inputs["models"] == ("base", "midtrained", "sft", "rl")


def test_the_base_of_the_chat_recipe_is_the_quickstarts(tmp_path):
    prints = [
        {step.node.id: step.fingerprint for step in make_plan(load_recipe(find_recipe(name)), Store(tmp_path)).steps}
        for name in ("chat", "quickstart")
    ]
    assert prints[0]["base"] == prints[1]["base"]


@pytest.mark.parametrize(("name", "flops"), [("gpt2", 2.1e18), ("speedrun", 4.2e19)])
def test_the_recipes_for_gpus_have_the_budgets_that_they_speak_of(name, flops):
    nodes = load_recipe(find_recipe(name)).nodes
    base, vocab_size = nodes["base"].config, nodes["tokenizer"].config.vocab_size
    model = make_model_config(base.model, vocab_size=vocab_size, max_positions=base.sequence_tokens)
    assert flops_per_token(model, base.sequence_tokens) * base.tokens == pytest.approx(flops, rel=0.03)
