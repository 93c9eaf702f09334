"""A tokenizer and a model small enough that answering and training take milliseconds."""

from pathlib import Path

import pytest
import torch

from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

WORDS = "the cat sat on a mat and ran a b c d e f g h"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other


@pytest.fixture(scope="session")
def policy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    write_tokenizer(folder / "tokenizer", train_bpe([WORDS] * 3, vocab_size=280, pattern="llama3"), pattern="llama3")
    config = ModelConfig(
        vocab_size=load_tokenizer(folder / "tokenizer").vocab_size,
        dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=48, max_positions=64,
    )  # fmt: skip
    save_model(Transformer(config, seed=5), folder / "init", tokenizer=folder / "tokenizer")
    return folder / "init"
