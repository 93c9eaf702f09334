"""bloomery arena: two models meet, somebody judges, ratings come of it, and the same command goes on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    write_tokenizer(tmp_path / "tokenizer", train_bpe(["the cat sat on the mat"] * 3, vocab_size=280, pattern="llama3"), pattern="llama3")
    vocab_size = load_tokenizer(tmp_path / "tokenizer").vocab_size
    for seed, name in enumerate(("first", "second")):
        config = make_model_config(ModelShape(depth=1, dim=32, head_dim=16), vocab_size=vocab_size, max_positions=64)
        save_model(Transformer(config, seed=seed), tmp_path / name, tokenizer=tmp_path / "tokenizer")
    rows = [{"messages": [{"role": "user", "content": f"say {i}"}], "answer": str(i), "format": "[0-9]"} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def run(*arguments: str, keys: str = "") -> object:
    return CliRunner().invoke(app, ["arena", *arguments, "--max-tokens", "6"], input=keys, catch_exceptions=False)


def test_a_person_judges_leaves_and_goes_on_and_the_ratings_count_what_was_decided(models: list[str], tmp_path: Path) -> None:
    command = [*models, "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "arena")]
    first = run(*command, keys="t\nr\nq\n")
    assert first.exit_code == 0 and "2 of 3 battles" in first.output and "--- Left" in first.output
    shown, _, _ = first.output.partition("2 of 3")
    assert "first" not in shown and "second" not in shown
    answers = (tmp_path / "arena" / "answers.json").read_bytes()
    second = run(*command, keys="t\n")
    assert second.exit_code == 0 and "3 of 3 battles" in second.output and second.output.count("--- Prompt") == 1
    ratings = json.loads((tmp_path / "arena" / "ratings.json").read_text())
    assert sorted(one["name"] for one in ratings["standings"]) == ["first", "second"] and ratings["battles"] == [[0.0, 3.0], [3.0, 0.0]]
    assert (tmp_path / "arena" / "answers.json").read_bytes() == answers
    other = run(*command, "--seed", "5", keys="q\n")
    assert other.exit_code == 2 and "holds answers of other models, prompts or settings" in other.output


def test_gold_judges_without_anybody_and_says_what_cannot_be_rated(models: list[str], tmp_path: Path) -> None:
    command = [*models, "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "arena"), "--judge", "gold"]
    found = run(*command, "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["decided"] == 3  # all ties: neither knows a digit
    alone = run(models[0], models[0], "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "b"))
    assert alone.exit_code == 2 and "needs two models or more" in alone.output
