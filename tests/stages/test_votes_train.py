"""Exported votes are read by reward_model, preference and KTO directly, and what people preferred is learnt."""

from pathlib import Path
from typing import Any

import pytest

from bloomery.align.reward_model import score_rows
from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.core.votes import CHOICES
from bloomery.model.huggingface import load_model
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.single import run_single_stage
from bloomery.stages.catalog import load_stage
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.stages.reward_model import RewardModelConfig, reward_model
from bloomery.tokens.renderer import load_whole_renderer
from bloomery.tokens.tokenizer import load_tokenizer

GOOD, BAD = "the red house", "dog"
FAST = {"learning_rate": 0.003, "embedding_learning_rate": 0.003, "held_out_fraction": 0.1, "seed": 3, "num_validations": 1}


def item(i: int, *, choice: str = "") -> dict[str, Any]:
    texts = [GOOD, BAD] if i % 2 else [BAD, GOOD]
    said = choice or ("a" if texts[0] == GOOD else "b")
    votes = [{"annotator": "ann", "choice": said, "ranks": CHOICES[said]}]
    return {
        "item": str(i),
        "prompt": [{"role": "user", "content": f"where {i}"}],
        "completions": texts,
        "models": ["m", "n"],
        "votes": votes,
    }


def ranking(i: int) -> dict[str, Any]:
    texts = [GOOD, "house", BAD]
    order = [(i + k) % 3 for k in range(3)]
    votes = [{"annotator": "ann", "choice": "ranking", "ranks": [which + 1 for which in order]}]
    return {"item": str(i), "prompt": [{"role": "user", "content": f"where {i}"}], "completions": [texts[k] for k in order], "votes": votes}


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "labels" / "votes.jsonl", [item(i) for i in range(64)])
    return tmp_path / "labels" / "votes.jsonl"


def rewards_of(model: Path, answers: list[str]) -> list[float]:
    render = load_whole_renderer(model, load_tokenizer(model))
    ids = [render([{"role": "user", "content": "where 99"}, {"role": "assistant", "content": text}]) for text in answers]
    return list(score_rows(load_model(model, head="scalar"), ids))


@pytest.mark.parametrize("make", [item, ranking])
def test_a_reward_model_learns_what_people_preferred(tmp_path: Path, tiny_checkpoint: Path, make: Any) -> None:
    write_jsonl(tmp_path / "votes.jsonl", [make(i) for i in range(64)])
    config = RewardModelConfig(epochs=4, batch_prompts=16, **FAST)
    out = tmp_path / "out"
    metrics = reward_model(config, init=tiny_checkpoint, labels=[tmp_path / "votes.jsonl"], out=out, runtime=Runtime(quiet=True))
    assert metrics["held_out_accuracy"] == 1.0
    good, bad = rewards_of(out, [GOOD, BAD])
    assert good > bad + 0.5


def test_votes_and_pairs_are_trained_on_together(tmp_path: Path, tiny_checkpoint: Path, votes: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": f"what {i}", "chosen": GOOD, "rejected": BAD} for i in range(16)])
    config = RewardModelConfig(steps=1, batch_prompts=8, **FAST)
    arguments: Any = {"init": tiny_checkpoint, "runtime": Runtime(quiet=True)}
    metrics = reward_model(config, pairs=[tmp_path / "pairs.jsonl"], labels=[votes], out=tmp_path / "out", **arguments)
    assert metrics["comparisons"] + metrics["held_out_comparisons"] == 80


def test_preference_reads_votes_as_pairs_and_ties_as_its_settings_say(tmp_path: Path, tiny_checkpoint: Path, votes: Path) -> None:
    write_jsonl(tmp_path / "ties.jsonl", [item(i, choice="tie") for i in range(100, 110)])
    files, arguments = [votes, tmp_path / "ties.jsonl"], {"init": tiny_checkpoint, "runtime": Runtime(quiet=True)}
    config = PreferenceConfig(epochs=3, batch_pairs=16, **FAST)
    metrics = preference(config, labels=files, out=tmp_path / "out", **arguments)
    assert metrics["pairs"] + metrics["held_out_pairs"] == 64 and metrics["validation_accuracy"] == 1.0
    even = PreferenceConfig(steps=1, batch_pairs=16, ties="even", **FAST)
    metrics = preference(even, labels=files, out=tmp_path / "even", **arguments)
    assert metrics["pairs"] + metrics["held_out_pairs"] == 74


def test_kto_reads_both_bad_as_two_undesirable_answers(tmp_path: Path, tiny_checkpoint: Path, votes: Path) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [item(i, choice="both_bad") for i in range(100, 108)])
    files = [votes, tmp_path / "bad.jsonl"]
    config = PreferenceConfig(loss="kto", steps=2, batch_pairs=16, **{**FAST, "held_out_fraction": 0.0})
    metrics = preference(config, init=tiny_checkpoint, labels=files, out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert (metrics["desirable"], metrics["undesirable"]) == (64, 64 + 16)


def test_settings_that_a_loss_would_not_read_are_refused() -> None:
    for config_type, values in (
        (RewardModelConfig, {"votes": "soft", "loss": "plackett_luce"}),
        (PreferenceConfig, {"ties": "even", "loss": "ipo"}),
    ):
        _, (mistake,) = check_config(config_type, values)
        assert "is defined for loss" in mistake


@pytest.mark.parametrize("stage", ["reward_model", "preference"])
def test_a_stage_without_pairs_and_without_labels_says_what_it_needs(tmp_path: Path, tiny_checkpoint: Path, stage: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'name = "x"\n[stages.it]\nstage = "{stage}"\ninputs = {{ init = "file:{tiny_checkpoint}" }}\n')
    expected = r'needs the input "pairs" \(pairs\) or "labels" \(labels\)'
    with pytest.raises(ConfigError, match=expected):
        load_recipe(tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match=expected):
        run_single_stage(load_stage(stage), inputs={"init": [str(tiny_checkpoint)]}, out=tmp_path / "out", settings={}, workers=1)


def test_a_file_that_holds_no_votes_is_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_jsonl(tmp_path / "votes.jsonl", [{"prompt": "x", "chosen": "y", "rejected": "z"}])
    config = RewardModelConfig(**FAST)
    with pytest.raises(DataError, match=r"votes\.jsonl:1: has no `item`, `completions`, `votes`"):
        reward_model(config, init=tiny_checkpoint, labels=[tmp_path / "votes.jsonl"], out=tmp_path / "out", runtime=Runtime(quiet=True))
