"""The examples run as they stand, on a checkpoint small enough for a test."""

import runpy
from pathlib import Path

import pytest

from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.train import train_bpe, write_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tokenizer(folder, train_bpe(["hello there"], vocab_size=264, pattern="llama3"), pattern="llama3")
    config = ModelConfig(vocab_size=264, dim=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_dim=16, max_positions=512)
    save_model(Transformer(config, seed=1), folder, tokenizer=folder)
    return folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 60


def test_a_checkpoint_is_served_and_asked(checkpoint, capsys):
    runpy.run_path(str(EXAMPLES / "serve_and_ask.py"))["main"](checkpoint, "hello")
    assert capsys.readouterr().out.strip()


def test_a_checkpoint_learns_from_rewards_in_a_loop_written_by_hand(checkpoint, tmp_path, capsys):
    runpy.run_path(str(EXAMPLES / "hand_written_rl.py"))["main"](checkpoint, tmp_path / "out")
    assert "step 5: mean length" in capsys.readouterr().out and (tmp_path / "out" / "model.safetensors").is_file()


def test_a_checkpoint_writes_documents(checkpoint, tmp_path, capsys):
    runpy.run_path(str(EXAMPLES / "synthetic_documents.py"))["main"](checkpoint, tmp_path / "out")
    assert "'documents_in': 8" in capsys.readouterr().out
