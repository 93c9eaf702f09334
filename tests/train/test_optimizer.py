"""Who is updated by what, and Muon against torch's and against a singular value decomposition."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bloomery.model.config import LoraConfig, ModelConfig
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Transformer
from bloomery.train.muon import Muon, orthogonalise
from bloomery.train.optimizer import make_optimizers, set_learning_rate, split_by_role

SIZES = {"vocab_size": 40, "dim": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 24, "max_positions": 16}


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_role(tied: bool) -> None:
    model = Transformer(ModelConfig(**SIZES, tied_embeddings=tied))
    matrices, embeddings, vectors = split_by_role(model)
    assert len(matrices) == 2 * 7 and len(embeddings) == (1 if tied else 2) and len(vectors) == 2 * 4 + 1
    assert {id(p) for p in (*matrices, *embeddings, *vectors)} == {id(p) for p in model.parameters()}
    assert all(p.ndim == 1 for p in vectors)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_only_matrices_decay_and_a_factor_reaches_every_group(name: str) -> None:
    model = Transformer(ModelConfig(**SIZES))
    optimizers = make_optimizers(model, name=name, learning_rate=0.1, embedding_learning_rate=0.3, weight_decay=0.5)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert [(len(g["params"]), g["full_lr"], g["weight_decay"]) for g in groups] == [(14, 0.1, 0.5), (1, 0.3, 0.0), (9, 0.3, 0.0)]
    set_learning_rate(optimizers, 0.5)
    assert [g["lr"] for g in groups] == pytest.approx([0.05, 0.15, 0.15])
    before = {n: p.clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
    weight = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(dict(model.named_parameters())[weight], before[weight] * (1 - 0.05 * 0.5))


@pytest.mark.parametrize("shape", [(12, 12), (8, 24), (24, 8)])
def test_orthogonalising_brings_all_singular_values_near_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    matrix_RC = random_matrix(*shape)
    out_RC = orthogonalise(matrix_RC[None])[0]
    u, s, vt = torch.linalg.svd(out_RC, full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    u, s, vt = torch.linalg.svd(matrix_RC, full_matrices=False)
    inside = u.T @ out_RC @ vt.T
    torch.testing.assert_close(inside, torch.diag(inside.diag()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_takes_torchs_steps(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(random_matrix(*shape) * 0.1) for _ in range(2))
    muon = Muon([ours], lr=0.02, momentum=0.95, weight_decay=0.1, dtype=torch.bfloat16)
    torchs = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for parameter, optimizer in ((ours, muon), (theirs, torchs)):
            parameter.grad = random_matrix(*shape, seed=step + 1)
            optimizer.step()
    start = random_matrix(*shape) * 0.1
    # The iteration runs in bfloat16 in both, and rounds in another order.
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm()


def plain_muon_step(weight: np.ndarray, grad: np.ndarray, buffer: np.ndarray, *, lr: float, momentum: float, decay: float) -> None:
    """Muon as its author writes it down, for one matrix, in float64."""
    buffer += (1 - momentum) * (grad - buffer)
    update = (1 - momentum) * grad + momentum * buffer
    turned = update.shape[0] > update.shape[1]
    x = update.T if turned else update
    x = x / np.sqrt((x**2).sum())
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    rows, columns = weight.shape
    weight *= 1 - lr * decay
    weight -= lr * 0.2 * math.sqrt(max(rows, columns)) * (x.T if turned else x)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_follows_a_twin_in_float64_written_from_its_definition(shape: tuple[int, int]) -> None:
    weights = [nn.Parameter(random_matrix(*shape, seed=i) * 0.1) for i in range(2)]
    twins = [(weight.detach().double().numpy().copy(), np.zeros(shape)) for weight in weights]
    muon = Muon(weights, lr=0.02, momentum=0.95, weight_decay=0.1, dtype=torch.float32)
    for step in range(6):
        for i, (weight, (twin, buffer)) in enumerate(zip(weights, twins, strict=True)):
            weight.grad = random_matrix(*shape, seed=10 * step + i)
            plain_muon_step(twin, weight.grad.double().numpy(), buffer, lr=0.02, momentum=0.95, decay=0.1)
        muon.step()
    for weight, (twin, _) in zip(weights, twins, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), twin, atol=2e-5)


def test_with_adapters_only_they_are_trained_and_by_adamw() -> None:
    model = Transformer(ModelConfig(**SIZES))
    add_adapters(model, LoraConfig(rank=2), seed=0)
    optimizers = make_optimizers(model, name="muon", learning_rate=0.1, embedding_learning_rate=0.3, weight_decay=0.5)
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.AdamW]
    (group,) = optimizers[0].param_groups
    assert {id(p) for p in group["params"]} == {id(p) for n, p in model.named_parameters() if ".lora_" in n}
    assert (group["full_lr"], group["weight_decay"]) == (0.1, 0.5)


def test_biases_are_vectors_and_the_head_of_a_reward_model_is_no_matrix_of_a_layer() -> None:
    model = Transformer(ModelConfig(**SIZES, attention_bias="all", head="scalar"))
    matrices, others, vectors = split_by_role(model)
    assert len(matrices) == 2 * 7 and len(vectors) == 2 * (4 + 4) + 1 and all(p.ndim == 1 for p in vectors)
    assert sorted(p.shape[0] for p in others) == [1, 40]  # the head and the embeddings


def test_matrices_of_one_shape_do_not_touch_each_other() -> None:
    weights = [nn.Parameter(random_matrix(6, 10, seed=i)) for i in range(3)]
    alone = [nn.Parameter(w.detach().clone()) for w in weights]
    for i, (a, b) in enumerate(zip(weights, alone, strict=True)):
        a.grad, b.grad = random_matrix(6, 10, seed=9 + i), random_matrix(6, 10, seed=9 + i)
        Muon([b], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32).step()
    Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32).step()
    for a, b in zip(weights, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
