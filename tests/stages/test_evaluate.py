from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.evaluate import EvaluateConfig, evaluate
from bloomery.tokens.chat import render
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

LETTERS = "abcdefghij"
CONFIG = EvaluateConfig(names=["base", "sft"], max_tokens=6, num_samples=2)


def prompt_row(letter: str) -> dict[str, Any]:
    skill = "vowel" if letter in "aeiou" else "consonant"
    return {"messages": [{"role": "user", "content": letter}], "skill": skill, "answer": letter, "format": "[a-z]"}


def make_model(tokenizer: Tokenizer, *, steps: int) -> Transformer:
    """A model that has learnt for `steps` steps to say the letter again."""
    shape = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 64}
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, max_positions=48, **shape), seed=0)
    rendered = [render(tokenizer, [*prompt_row(x)["messages"], {"role": "assistant", "content": x}]) for x in LETTERS]
    token_BT = torch.tensor([row.ids for row in rendered])
    mask_BT = torch.tensor([row.loss_mask for row in rendered])[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(steps):
        F.cross_entropy(model(token_BT[:, :-1])[mask_BT], token_BT[:, 1:][mask_BT]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


class Inputs:
    """Two models (untrained and trained), the held-out prompts, and a tokens artifact."""

    def __init__(self, folder: Path) -> None:
        write_tokenizer(folder / "tokenizer", train_bpe(["abc"], vocab_size=264, pattern="llama3"), pattern="llama3")
        tokenizer = load_tokenizer(folder / "tokenizer")
        self.models = [folder / "base", folder / "sft"]
        for path, steps in zip(self.models, (0, 120), strict=True):
            save_model(make_model(tokenizer, steps=steps), path, tokenizer=folder / "tokenizer")
        self.prompts = folder / "prompts.jsonl"
        write_jsonl(self.prompts, [prompt_row(letter) for letter in LETTERS])
        self.tokens = folder / "tokens"
        texts = ["a letter", "b", "some more text than the context of the model holds, so it is scored in pieces"]
        ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id] for text in texts]
        write_shard(self.tokens / "validation" / "00000", ids, vocab_size=tokenizer.vocab_size)
        sizes = {"train": [], "validation": [sum(map(len, texts))]}
        write_manifest(self.tokens, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes=sizes)
        self.num_bytes = sum(map(len, texts))

    def run(self, out: Path, config: EvaluateConfig = CONFIG, **changes: Any) -> dict[str, Any]:
        slots = {"models": self.models, "tokens": self.tokens, "prompts": [self.prompts], **changes}
        return dict(evaluate(config, **slots, out=out, runtime=Runtime(quiet=True, device="cpu")))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def evaluated(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    inputs.run(out)
    return out


def test_a_model_that_learnt_the_task_is_seen_to_have(evaluated: Path) -> None:
    metrics = read_json(evaluated / "scores.json")["metrics"]
    for name in ("exact_match", "format_valid", "stopped"):
        assert metrics["sft"][name]["value"] == 1.0
        assert 0.69 < metrics["sft"][name]["low"] < 0.75  # Wilson for 10 of 10
        assert metrics["base"][name]["value"] < 0.3
    assert metrics["sft"]["answer_tokens"]["value"] == 2.0
    assert metrics["sft"]["entropy_nats"]["value"] < 0.2 < 3 < metrics["base"]["entropy_nats"]["value"]
    assert metrics["sft"]["distinct_2"]["value"] < metrics["base"]["distinct_2"]["value"]


def test_every_metric_has_an_interval_around_its_value_and_a_count(evaluated: Path) -> None:
    scores = read_json(evaluated / "scores.json")
    assert (scores["models"], scores["baseline"], scores["num_prompts"]) == (["base", "sft"], "sft", 10)
    for measured in scores["metrics"].values():
        for score in measured.values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["count"] > 0


def test_win_rates_are_against_the_baseline_on_the_same_prompts(evaluated: Path) -> None:
    metrics = read_json(evaluated / "scores.json")["metrics"]
    assert "win_rate" not in metrics["sft"]
    rate = metrics["base"]["win_rate"]
    assert rate["wins"] == 0 and rate["losses"] + rate["ties"] == rate["count"] == 10
    assert rate["value"] == rate["ties"] / 20
    assert metrics["base"]["sampled_win_rate"]["value"] < 0.3


def test_scores_by_skill_are_over_the_prompts_of_that_skill(evaluated: Path) -> None:
    by_skill = read_json(evaluated / "scores.json")["by_skill"]
    assert {skill: scores["exact_match"]["count"] for skill, scores in by_skill["sft"].items()} == {"consonant": 7, "vowel": 3}


def test_a_base_model_is_measured_in_its_better_prompt_format(evaluated: Path) -> None:
    scores = read_json(evaluated / "scores.json")
    assert scores["prompt_format"]["sft"] == "chat"
    for name in ("base", "sft"):
        shares = {key: (shown["exact_match"], shown["format_valid"]) for key, shown in scores["formats"][name].items()}
        assert set(shares) == {"chat", "plain"}
        assert shares[scores["prompt_format"][name]] == max(shares.values())


def test_samples_show_every_answer_of_every_model(evaluated: Path) -> None:
    rows = pq.read_table(evaluated / "samples.parquet").to_pylist()
    assert [row["model"] for row in rows] == ["base"] * 10 + ["sft"] * 10
    assert all(row["completion"] == row["answer"] == row["prompt"] and row["correct"] for row in rows[10:])
    assert set(rows[0]) == {"model", "skill", "prompt", "answer", "completion", "correct", "well_formed", "stopped"}


def test_bits_per_byte_of_an_untrained_model_are_near_uniform(evaluated: Path, inputs: Inputs) -> None:
    score = read_json(evaluated / "scores.json")["metrics"]["base"]["bits_per_byte"]
    # Every byte is a token of about 264 equally likely ones.
    assert score["value"] == pytest.approx(np.log2(264), rel=0.1)
    assert score["count"] == 3


def test_a_continued_run_gives_the_same_bytes_and_numbers(inputs: Inputs, evaluated: Path, tmp_path: Path) -> None:
    metrics = inputs.run(tmp_path / "out")
    first = tmp_path / "out" / ".scratch" / "model-000.json"
    before = first.stat().st_mtime_ns
    (tmp_path / "out" / ".scratch" / "model-001.json").unlink()
    (tmp_path / "out" / "scores.json").unlink()
    assert inputs.run(tmp_path / "out") == metrics
    assert first.stat().st_mtime_ns == before
    for name in ("scores.json", "samples.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (evaluated / name).read_bytes()


def test_one_model_alone_needs_no_names_and_no_documents(inputs: Inputs, tmp_path: Path) -> None:
    config = EvaluateConfig(max_tokens=4, num_samples=0, num_prompts=4)
    metrics = inputs.run(tmp_path, config, models=inputs.models[1:], tokens=None)
    assert metrics["num_prompts"] == 4 and metrics["model-1/exact_match"] == 1.0
    assert not {"model-1/win_rate", "model-1/entropy_nats", "model-1/bits_per_byte"} & set(metrics)


def test_mistakes_in_the_names_are_explained(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names 2 models, but 1 are connected"):
        inputs.run(tmp_path, models=inputs.models[:1])
    with pytest.raises(ConfigError, match='baseline = "sft" is not among the names'):
        inputs.run(tmp_path, EvaluateConfig())
    with pytest.raises(ValidationError, match='baseline = "sft" is not among the names; did you mean "sft1"'):
        EvaluateConfig(names=["sft1", "dpo"])


def test_documents_of_another_tokenizer_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    write_shard(tmp_path / "validation" / "00000", [[1, 2, 3]], vocab_size=264)
    write_manifest(tmp_path, tokenizer_sha256="f" * 64, vocab_size=264, text_bytes={"train": [], "validation": [1]})
    with pytest.raises(DataError, match="ffffffff"):
        inputs.run(tmp_path / "out", tokens=tmp_path)
