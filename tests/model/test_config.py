"""Sizes and the rule that gives them."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bloomery.core.config import check_config
from bloomery.model.architectures import describe
from bloomery.model.config import (
    LORA_TARGETS,
    LoraConfig,
    LoraTarget,
    ModelConfig,
    ModelShape,
    RopeScaling,
    count_params,
    flops_per_token,
    make_model_config,
)
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer

LLAMA_31_8B = ModelConfig(
    vocab_size=128256, dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128, mlp_dim=14336, rope_base=500000.0,
    rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_positions=8192), qk_norm=False, tied_embeddings=False,
    max_positions=131072,
)  # fmt: skip


@pytest.mark.parametrize("parts", [{}, {"qk_norm": False}, {"attention_bias": "all"}, {"qk_norm": False, "attention_bias": "qkv"}])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["tokens", "scalar"])
def test_parameters_are_counted_as_they_are(parts: dict[str, Any], tied: bool, head: str) -> None:
    shape = ModelShape(depth=1, dim=48, head_dim=16, mlp_dim=80, tied_embeddings=tied, **parts)
    config = make_model_config(shape, vocab_size=77, max_positions=10).model_copy(update={"head": head})
    assert count_params(config) == sum(p.numel() for p in Transformer(config, seed=None).parameters())


def test_llama_31_8b_has_its_published_size_and_transformers_agrees() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        theirs = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in describe(LLAMA_31_8B).items() if k != "architectures"}))
    assert count_params(LLAMA_31_8B) == theirs.num_parameters() == 8_030_261_248
    assert flops_per_token(LLAMA_31_8B, 8192) == pytest.approx(5.79e10, rel=1e-3)
    assert flops_per_token(LLAMA_31_8B, 8192, attention=False) == 6 * (8_030_261_248 - 128256 * 4096 - 65 * 4096)


def test_a_window_is_all_that_attention_costs_in_the_layers_that_have_it() -> None:
    window = LLAMA_31_8B.model_copy(update={"sliding_window": 4096, "full_layers": (0, 1)})
    plain = flops_per_token(window, 8192, attention=False)
    assert flops_per_token(window, 8192) - plain == 12 * 32 * 128 * (30 * 4096 + 2 * 8192)
    assert flops_per_token(window, 1000) == flops_per_token(LLAMA_31_8B, 1000)


SMALL = ModelConfig(vocab_size=300, dim=64, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16, mlp_dim=96, max_positions=64)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 4, "tied_embeddings": False},
        {"head_dim": 32, "num_kv_heads": 1, "qk_norm": False, "attention_bias": "qkv"},
        {"qk_norm": False, "attention_bias": "all"},
        {"head": "scalar", "tied_embeddings": False},
    ],
    ids=["tied", "free", "wide heads", "biases", "scalar head"],
)
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj"), LORA_TARGETS], ids=["all weights", "two adapters", "seven adapters"])
def test_torch_counts_the_same_parameters_and_operations(changes: dict[str, Any], targets: tuple[LoraTarget, ...]) -> None:
    config = SMALL.model_copy(update=changes)
    model = Transformer(config, seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_params(config)
    lora = LoraConfig(rank=5, targets=targets) if targets else LoraConfig()
    add_adapters(model, lora, seed=1)
    if config.head == "scalar":
        model.score.requires_grad_(True)  # as reward_model does
    token_BT = torch.arange(128).view(2, 64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hidden_BTD = model.hidden_states(token_BT)
        model.logits(hidden_BTD).sum().backward()
    counted = {str(kind): count / token_BT.numel() for kind, count in counter.get_flop_counts()["Global"].items()}
    # Nothing trained lies beneath the first layer's queries, keys and values: no gradient goes back through them.
    first = 2 * config.dim * config.head_dim * (config.num_heads + 2 * config.num_kv_heads) if targets else 0
    first += 2 * 5 * config.dim * len({"q_proj", "k_proj", "v_proj"} & set(targets))
    matrices = flops_per_token(config, 64, attention=False, lora=lora)
    assert counted["aten.mm"] + counted.get("aten.addmm", 0) == matrices - first
    if not targets:  # else torch leaves out gradients in the first layer's attention, and frozen norms have small products
        assert counted["aten.bmm"] == flops_per_token(config, 64) - matrices


def test_one_dial_gives_every_size_and_any_of_them_can_be_set() -> None:
    sizes = [make_model_config(ModelShape(depth=d), vocab_size=4096, max_positions=9) for d in (1, 3, 4, 12)]
    assert [(c.dim, c.num_layers, c.num_heads, c.num_kv_heads) for c in sizes] == [
        (64, 1, 1, 1),
        (192, 3, 3, 3),
        (256, 4, 4, 2),
        (768, 12, 12, 6),
    ]
    assert 3e6 < count_params(sizes[2]) < 6e6
    changed = make_model_config(ModelShape(depth=4, num_layers=9, num_kv_heads=1), vocab_size=4096, max_positions=9)
    assert (changed.num_layers, changed.num_kv_heads, changed.dim) == (9, 1, 256)


def test_gpt2s_size_in_llamas_shape_costs_what_palms_formula_says() -> None:
    config = ModelConfig(
        vocab_size=50304, dim=768, num_layers=12, num_heads=12, num_kv_heads=12, head_dim=64, mlp_dim=2048, max_positions=1024
    )  # fmt: skip
    matrices = 12 * (4 * 768 * 768 + 3 * 768 * 2048) + 50304 * 768
    assert flops_per_token(config, 1024) == 6 * matrices + 12 * 12 * 768 * 1024


def test_sizes_that_do_not_fit_are_refused() -> None:
    for values, words in (
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads = 3"),
        ({"head_dim": 7}, "head_dim = 7"),
        ({"dept": 3}, "depth"),
        ({"full_layers": [1]}, "full_layers = [1] are exceptions to a sliding_window"),
        ({"sliding_window": 8, "full_layers": [4]}, "full_layers = [4]: expected rising numbers of layers, from 0 to 3"),
        ({"nope_layers": [1, 0], "qk_norm": False}, "nope_layers = [1, 0]"),
        ({"nope_layers": [1]}, "qk_norm and nope_layers together"),
        ({"rope_scaling": {"kind": "yarn", "factor": 4.0}}, "needs original_positions"),
        ({"rope_scaling": {"factor": 4.0}}, "needs a kind"),
    ):
        _, mistakes = check_config(ModelShape, values)
        assert len(mistakes) == 1 and words in mistakes[0]
