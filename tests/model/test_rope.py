"""Frequencies of released checkpoints' sizes are those of transformers, to the last bit."""

import math
from typing import Any

import pytest
import torch

from bloomery.model.config import ModelConfig, RopeScaling
from bloomery.model.rope import rotation

SIZES = {"vocab_size": 9, "dim": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "mlp_dim": 8, "max_positions": 131072}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("base", "head_dim", "scaling", "theirs"),
    [
        (10000.0, 64, RopeScaling(), {"rope_type": "default"}),
        (130000.0, 96, RopeScaling(kind="linear", factor=3.0), {"rope_type": "linear", "factor": 3.0}),
        (500000.0, 128, RopeScaling(kind="llama3", factor=8.0, original_positions=8192), {"rope_type": "llama3", **LLAMA3}),
        (1000000.0, 128, RopeScaling(kind="yarn", factor=4.0, original_positions=32768), {"rope_type": "yarn", **YARN}),
        (
            5000000.0,
            64,
            RopeScaling(kind="yarn", factor=2.0, original_positions=4096, beta_fast=20.0, attention_factor=1.1, whole_dimensions=False),
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096, "beta_fast": 20.0, "attention_factor": 1.1,
             "truncate": False},
        ),
    ],
)  # fmt: skip
def test_frequencies_are_those_of_transformers(base: float, head_dim: int, scaling: RopeScaling, theirs: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, max_position_embeddings=131072,
        rope_parameters={**theirs, "rope_theta": base},
    )  # fmt: skip
    compute = ROPE_INIT_FUNCTIONS.get(theirs["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
    expected_P, scale = compute(config)
    found = rotation(ModelConfig(**SIZES, head_dim=head_dim, rope_base=base, rope_scaling=scaling))
    assert torch.equal(found.frequency_P, expected_P) and found.scale == scale


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = rotation(ModelConfig(**SIZES, head_dim=128, rope_base=500000.0)).frequency_P
    scaling = RopeScaling(kind="llama3", factor=8.0, original_positions=8192)
    found = rotation(ModelConfig(**SIZES, head_dim=128, rope_base=500000.0, rope_scaling=scaling)).frequency_P
    wavelength = 2 * math.pi / plain
    assert torch.equal(found[wavelength < 2048], plain[wavelength < 2048])
    assert torch.equal(found[wavelength > 8192], plain[wavelength > 8192] / 8)
    between = found[(wavelength > 2048) & (wavelength < 8192)]
    assert len(between) > 3 and (between.diff() < 0).all()
