"""`bloomery score`: rewards for a file of answers, and how often they agree with it."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bloomery.cli.main import app
from bloomery.core.files import read_jsonl, write_jsonl
from bloomery.model.config import ModelConfig
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    write_tokenizer(root / "tokenizer", train_bpe(["the sea"], vocab_size=266, pattern="llama3"), pattern="llama3")
    shape = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 32, "max_positions": 64}
    config = ModelConfig(vocab_size=load_tokenizer(root / "tokenizer").vocab_size, **shape)
    save_model(replace_head(Transformer(config, seed=1), seed=1), root / "reward", tokenizer=root / "tokenizer")
    save_model(Transformer(config, seed=1), root / "language", tokenizer=root / "tokenizer")
    return root / "reward"


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_rows_of_every_kind_get_their_rewards_and_swapping_answers_turns_the_agreement_round(folder: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{i}", "chosen": f"the sea {i}", "rejected": "a" * (i + 1)} for i in range(12)]
    swapped = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    ranked = {"prompt": "q", "completions": ["a", "b", "the sea"], "ranks": [2, 1, 1]}
    talk = {"messages": [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "the sea 0"}], "id": "x"}
    for name, rows in (("pairs", pairs), ("swapped", swapped), ("ranked", [ranked]), ("talk", [talk])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    code, said, _ = call(folder, tmp_path / "pairs.jsonl", "--out", tmp_path / "out.jsonl", "--json")
    found = json.loads(said)
    scored = list(read_jsonl(tmp_path / "out.jsonl"))
    right = sum(row["chosen_reward"] > row["rejected_reward"] for row in scored)
    assert code == 0 and found["pairs"] == 12 and found["accuracy"] == pytest.approx(right / 12)
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"] and "calibration_error" not in found
    assert json.loads(call(folder, tmp_path / "swapped.jsonl", "--json")[1])["accuracy"] == pytest.approx(1 - right / 12)
    assert json.loads(call(folder, tmp_path / "ranked.jsonl", "--out", tmp_path / "out2.jsonl", "--json")[1])["pairs"] == 2
    assert len(next(read_jsonl(tmp_path / "out2.jsonl"))["rewards"]) == 3
    code, said, _ = call(folder, tmp_path / "talk.jsonl", "--out", tmp_path / "out3.jsonl")
    assert code == 0 and "1 answers in 1 rows" in said and "higher reward" not in said
    row = next(read_jsonl(tmp_path / "out3.jsonl"))
    assert row["id"] == "x" and row["reward"] == scored[0]["chosen_reward"]


def test_what_cannot_be_scored_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "question.jsonl", [{"messages": [{"role": "user", "content": "q"}]}])
    write_jsonl(tmp_path / "odd.jsonl", [{"question": "q"}])
    write_jsonl(tmp_path / "long.jsonl", [{"prompt": "q" * 90, "chosen": "a", "rejected": "b"}])
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, message in (
        ((folder, tmp_path / "question.jsonl"), "must end with an answer"),
        ((folder, tmp_path / "odd.jsonl"), "found the columns question"),
        ((folder, tmp_path / "long.jsonl"), "reads 64 tokens"),
        ((folder, tmp_path / "empty.jsonl"), "no rows to score"),
        ((folder.with_name("language"), tmp_path / "long.jsonl"), "expected a model with a scalar head"),
    ):
        code, _, said = call(*arguments)
        assert code != 0 and message in " ".join(said.split()) and "Traceback" not in said
