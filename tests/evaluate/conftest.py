"""A tokenizer and a model of random weights: what is tested is arithmetic, not ability."""

from pathlib import Path

import pytest
import torch

from bloomery.generate.engine import Engine
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

TEXT = "Question: which of these is the answer?\nAnswer: the cat sat on a mat and 12 dogs ran to 7 red houses by the sea. "


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the export stage writes it; its context is 256 tokens."""
    tokens, folder = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("model")
    write_tokenizer(tokens, train_bpe([TEXT] * 3, vocab_size=322, pattern="llama3"), pattern="llama3")
    vocab_size = load_tokenizer(tokens).vocab_size
    shape = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48}
    save_model(Transformer(ModelConfig(vocab_size=vocab_size, max_positions=256, **shape), seed=3), folder, tokenizer=tokens)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return load_tokenizer(model_folder)


@pytest.fixture(scope="session")
def engine(model_folder: Path, tokenizer: Tokenizer) -> Engine:
    model = load_model(model_folder)
    # Random weights say almost the same everywhere; larger ones make likelihoods that differ.
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    return Engine(model.eval(), tokenizer)
