"""Counts of parameters and FLOP: the published models exactly, ours as model/config.py has them, runs as they were reported."""

import doctest
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bloomery.model import config as model_config
from bloomery.model.config import ModelShape, make_model_config
from bloomery.scaling import hardware, shape
from bloomery.scaling.hardware import DEVICES, find_device, utilisation
from bloomery.scaling.shape import PUBLISHED, Shape, count_params, flops_per_token, shape_of_size

HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-xl": ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "llama-3.1-8b": ("llama", {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                               "num_attention_heads": 32, "num_key_value_heads": 8}),
    "llama-3.1-405b": ("llama", {"vocab_size": 128256, "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
                                 "num_attention_heads": 128, "num_key_value_heads": 8}),
    "qwen3-0.6b": ("qwen3", {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}),
}  # fmt: skip
"""What transformers builds from the published config.json's sizes."""


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(shape).failed == 0 and doctest.testmod(hardware).failed == 0


@pytest.mark.parametrize(
    ("name", "params"),
    [("gpt2", 124_439_808), ("gpt2-xl", 1_557_611_200), ("llama-3.1-8b", 8_030_261_248), ("llama-3.1-70b", 70_553_706_496)],
)
def test_published_models_have_exactly_their_parameters(name: str, params: int) -> None:
    assert count_params(PUBLISHED[name]).total == params


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_the_counts_are_those_of_the_models_that_transformers_builds(name: str) -> None:
    kind, sizes = HUGGING_FACE[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    assert count_params(PUBLISHED[name]).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "settings", [{"depth": 3}, {"depth": 4}, {"depth": 12, "head_dim": 128, "tied_embeddings": False, "qk_norm": False}]
)
def test_our_models_are_counted_as_the_room_of_models_counts_them(settings: dict[str, Any]) -> None:
    ours = make_model_config(ModelShape(**settings), vocab_size=5000, max_positions=512)
    same = Shape(
        5000, ours.dim, ours.num_layers, ours.num_heads, ours.num_kv_heads, ours.head_dim, ours.mlp_dim, ours.tied_embeddings, ours.qk_norm
    )
    assert count_params(same).total == model_config.count_params(ours)
    assert flops_per_token(same, 512) == model_config.flops_per_token(ours, 512)


@pytest.mark.parametrize("params", [4e6, 3e7, 1.24e8, 1e9, 1.6e9, 8e9, 7.2e10, 4e11])
def test_a_shape_of_a_size_is_near_it(params: float) -> None:
    found = shape_of_size(params)
    assert count_params(found).total == pytest.approx(params, rel=0.06)
    assert found.num_heads % found.num_kv_heads == 0


GPT2_XL_STEPS = 32_000 * 2**20
RUNS = [  # tokens/s of a GPU, FLOP a token, GPU, and the utilisation that was reported of the run or follows from its report
    ("torchtitan, Llama 3.1 8B, rows of 8,192, FSDP", 5762, flops_per_token(PUBLISHED["llama-3.1-8b"], 8192), "h100", 0.337),
    ("the same, compiled", 6667, flops_per_token(PUBLISHED["llama-3.1-8b"], 8192), "h100", 0.390),
    ("nanochat d24: its own count of FLOP, in 10,949 s on 8", 1 / 10_949 / 8, 4.3308e19, "h100", 0.500),
    ("llm.c 1558M, 24 h on 8", GPT2_XL_STEPS / 86_400 / 8, flops_per_token(PUBLISHED["gpt2-xl"], 1024), "h100", 0.505),
    ("llm.c 124M, 10 B tokens in 90 min on 8, 6 N alone", 10e9 / 5400 / 8, 6 * 124_439_808, "a100", 0.55),
    ("the same with attention", 10e9 / 5400 / 8, flops_per_token(PUBLISHED["gpt2"], 1024), "a100", 0.636),
]


@pytest.mark.parametrize(("name", "tokens_per_second", "flops", "gpu", "reported"), RUNS, ids=[run[0] for run in RUNS])
def test_the_utilisation_of_published_runs_is_met_to_a_point(
    name: str, tokens_per_second: float, flops: float, gpu: str, reported: float
) -> None:
    assert utilisation(tokens_per_second, flops, find_device(gpu).peak_flops()) == pytest.approx(reported, abs=0.01)


LLAMA = [("llama-3.1-8b", 15e12, 1.46e6, 0.139), ("llama-3.1-70b", 15e12, 7.0e6, 0.255), ("llama-3.1-405b", 15.6e12, 30.84e6, 0.345)]


@pytest.mark.parametrize(("name", "tokens", "hours", "effective"), LLAMA)
def test_the_hours_of_llama_3_1_give_its_effective_utilisation_to_a_point(name: str, tokens: float, hours: float, effective: float) -> None:
    found = utilisation(tokens / hours / 3600, 6 * count_params(PUBLISHED[name]).total, find_device("h100").peak_flops())
    assert found == pytest.approx(effective, abs=0.01)


def test_a_token_of_the_8b_model_costs_what_torchtitan_counts() -> None:
    assert flops_per_token(PUBLISHED["llama-3.1-8b"], 8192) == pytest.approx(5.79e10, rel=0.002)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.key)
def test_a_device_has_a_rate_memory_and_a_price_with_its_source(device: hardware.Device) -> None:
    assert device.peak_flops() > 0 and device.memory_bytes > 0 and device.dollars_per_hour > 0 and device.price_note
    assert not device.fp8_tflops or 1.9 <= device.fp8_tflops / device.bf16_tflops <= 2.1  # dense: sparse would be 4
    assert find_device(device.key) is device


def test_a_dtype_that_a_device_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="a100 has no fp8"):
        find_device("a100").peak_flops("fp8")
