"""The transformer: Qwen3's layout, whole, in one file. Parameter names are Hugging Face's, so a checkpoint needs no map.

tokens -> embedding -> layers of (RMSNorm, attention, RMSNorm, SwiGLU), each added to the stream -> RMSNorm -> logits.
Weights are kept in float32 and cast to the activations' dtype where they are used (`compute_dtype`, set from outside):
cheaper than autocast, and the optimizer sees full precision. Norms and logits are float32 throughout.

Shapes: B batch, T query tokens, S key tokens, D model, F mlp, V vocabulary, H heads, G key-value heads, R = H / G, K head dim.
"""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bloomery.core.errors import DataError
from bloomery.model.cache import KVCache
from bloomery.model.config import ModelConfig

GROUPED_MATMUL_TOKENS = 256
"""Up to this many keys, plain matrix products beat torch's CPU attention kernel in bfloat16 (9 ms to 19 ms a layer for
16 rows of 256; at 512 they lose, 34 ms to 28 ms)."""


class Linear(nn.Module):
    """x @ weight.T without bias, computed in x's dtype whatever the weight's."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(output_dim, input_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned weight (arXiv:1910.07467, eq. 4); computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with grouped key-value heads (arXiv:2305.13245), RoPE (2104.09864) and optional QK-norm per head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.q_proj = Linear(config.dim, config.num_heads * config.head_dim)
        self.k_proj = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.v_proj = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.dim)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], bias_B1TS: Tensor | None, memory: "Memory | None", layer: int
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        query_BTHK = self.q_proj(x_BTD).view(B, T, -1, self.config.head_dim)
        key_BTGK = self.k_proj(x_BTD).view(B, T, -1, self.config.head_dim)
        value_BGSK = self.v_proj(x_BTD).view(B, T, -1, self.config.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            query_BTHK, key_BTGK = self.q_norm(query_BTHK), self.k_norm(key_BTGK)
        query_BHTK = rotate(query_BTHK, *rotation).transpose(1, 2)
        key_BGSK = rotate(key_BTGK, *rotation).transpose(1, 2)
        if memory is not None:
            key_BGSK, value_BGSK = memory.write(layer, key_BGSK, value_BGSK)
        out_BHTK = attend(query_BHTK, key_BGSK, value_BGSK, bias_B1TS)
        return self.o_proj(out_BHTK.transpose(1, 2).reshape(B, T, -1))
