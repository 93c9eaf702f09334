"""A model of two layers with large weights, so that it is sure of something and greedy ties do not occur."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch

from bloomery.generate.engine import Engine
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer


@dataclass(frozen=True)
class Ids:
    """What the engine needs of a tokenizer: token 3 is `a`, 4 is `b`, and so on."""

    end_id: int = 1
    pad_id: int = 2
    vocab_size: int = 40

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(ord("a") + i - 3 for i in ids if i >= 3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Transformer]:
    def make(**changes: int) -> Transformer:
        sizes = {"vocab_size": 40, "dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 64}
        sizes |= {"max_positions": 64, **changes}
        model = Transformer(ModelConfig(**sizes), seed=3)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(20)
            model.model.embed_tokens.weight[Ids.end_id].mul_(1.5)  # so that some answers end
        return model

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Transformer]) -> Transformer:
    return make_model()


@pytest.fixture(scope="session")
def ids() -> Ids:
    return Ids()


@pytest.fixture
def engine(model: Transformer, ids: Ids) -> Engine:
    return Engine(model, ids)
