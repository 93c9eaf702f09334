"""A tokenizer of bytes and a tiny model with a context of 64 tokens that says something short."""

import pytest
import torch

from bloomery.chat.session import Session
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe(["hello there"], vocab_size=264, pattern="llama3"), pattern="llama3")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def engine(tokenizer: Tokenizer) -> Engine:
    config = ModelConfig(
        vocab_size=264, dim=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32, max_positions=64
    )  # fmt: skip
    return Engine(Transformer(config, seed=1), tokenizer)


@pytest.fixture
def session(engine: Engine, tokenizer: Tokenizer) -> Session:
    return Session(engine, tokenizer, params=SamplingParams(max_tokens=8), seed=1)
