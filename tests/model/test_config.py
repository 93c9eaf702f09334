"""Sizes and the rule that gives them."""

import pytest

from bloomery.core.config import check_config
from bloomery.model.config import ModelConfig, ModelShape, count_params, flops_per_token, make_model_config
from bloomery.model.transformer import Transformer


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_they_are(qk_norm: bool, tied: bool) -> None:
    shape = ModelShape(depth=1, dim=48, head_dim=16, mlp_dim=80, qk_norm=qk_norm, tied_embeddings=tied)
    config = make_model_config(shape, vocab_size=77, max_positions=10)
    assert count_params(config) == sum(p.numel() for p in Transformer(config, seed=None).parameters())


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
    ):
        _, mistakes = check_config(ModelShape, values)
        assert len(mistakes) == 1 and words in mistakes[0]
