"""What a diagnosis wants to know of a model: whether its weights are finite, its units alive, its attention and logits of a usual size.

Measured on a few rows of real tokens. Legend: B rows, T places, N tokens, F units of an MLP, H heads, K head dimension, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any  # Any: what torch gives to a hook

import torch
from torch import Tensor, nn

from bloomery.model.transformer import Layer, Transformer
from bloomery.tokens.loader import Batch

DEAD = 1e-6
"""A unit's largest value over that of the middle one of its layer, below which it never says anything."""
LOGIT_TOKENS = 512


@torch.no_grad()
def measure_weights(model: Transformer, batch: Batch) -> dict[str, float]:
    """Numbers of a model on some rows, by the names that a diagnosis knows. Dead units and the scale of attention are the worst layer's."""
    broken = sum(int((~weight.isfinite()).sum()) for weight in model.parameters())
    if broken:
        return {"weights/not_finite": float(broken)}
    units: list[float] = []
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    kept_BT = batch.document_BT > 0
    hooks = []
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(_note_units(units, kept_BT)))
        hooks.append(layer.self_attn.q_norm.register_forward_hook(_note_lengths(queries, kept_BT)))
        hooks.append(layer.self_attn.k_norm.register_forward_hook(_note_lengths(keys, kept_BT)))
    try:
        hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT)
    finally:
        for hook in hooks:
            hook.remove()
    scales = [float(q.mean() * k.mean()) / math.sqrt(model.config.head_dim) for q, k in zip(queries, keys, strict=True)]
    found = {"weights/not_finite": 0.0}
    for name, values in (("dead_fraction", units), ("attention_scale", scales)):
        worst = max(range(len(values)), key=values.__getitem__)
        found |= {f"weights/{name}": values[worst], f"weights/{name}_layer": float(worst)}
    logits_NV = model.logits(hidden_BTD[kept_BT][:LOGIT_TOKENS])
    found["weights/log_normaliser"] = float(logits_NV.logsumexp(-1).mean())
    found["weights/largest_logit"] = float(logits_NV.abs().max())
    return found


def _note_units(seen: list[float], kept_BT: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Keeps the share of units that never say anything."""

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest_F = inputs[0][kept_BT].float().abs().amax(0)
        # Where more than half of a layer is dead, the middle unit is, too.
        dead_F = (largest_F <= DEAD * largest_F.median()) | (largest_F == 0)
        seen.append(float(dead_F.float().mean()))

    return note


def _note_lengths(seen: list[Tensor], kept_BT: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    """Keeps how long the queries or keys are, which a rotation does not change: two lengths over sqrt(K) bound a logit."""

    def note(_: nn.Module, __: tuple[Any, ...], out_BTHK: Tensor) -> None:
        seen.append(out_BTHK[kept_BT].float().norm(dim=-1))

    return note
