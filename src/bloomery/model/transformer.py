"""The transformer: Qwen3's layout, whole, in one file. Parameter names are Hugging Face's, so a checkpoint needs no map.

tokens -> embedding -> layers of (RMSNorm, attention, RMSNorm, SwiGLU), each added to the stream -> RMSNorm -> logits.
Weights are kept in float32 and cast to the activations' dtype where they are used (`compute_dtype`, set from outside):
cheaper than autocast, and the optimizer sees full precision. Norms and logits are float32 throughout.

Shapes: B batch, T query tokens, S key tokens, D model, F mlp, V vocabulary, H heads, G key-value heads, K head dimension.
"""

import hashlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bloomery.model.cache import KVCache
from bloomery.model.config import ModelConfig
from bloomery.model.kernels import rms_norm, rotate

GROUPED_MATMUL_TOKENS = 256
"""Up to this many keys plain matrix products beat torch's attention kernel for CPUs in bfloat16 (9 ms to 19 ms for 16
rows of 256 and their backward pass); at 512 they lose (34 to 28)."""


class Context(NamedTuple):
    """What every layer shares: the rotation of each position, who sees whom, and where keys are kept."""

    cos_BT1K: Tensor
    sin_BT1K: Tensor
    bias_B1TS: Tensor | None
    """0 where a query sees a key and -inf where not; None: plain causal."""
    cache: KVCache | None
    position_BT: Tensor
    num_slots: int


class Linear(nn.Module):
    """x @ weight.T without bias, computed in x's dtype whatever the weight's."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(output_dim, input_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x with its last dimension mapped to output_dim."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """The last dimension over its root mean square, times a learned weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x normalised, in its own dtype."""
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention: grouped key-value heads (arXiv:2305.13245), RoPE (2104.09864), QK-norm per head if asked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = Linear(config.dim, config.num_heads * config.head_dim)
        self.k_proj = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.v_proj = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.dim)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, context: Context, layer: int) -> Tensor:
        """What layer number `layer` reads from the tokens that each token may see."""
        B, T, _ = x_BTD.shape
        query_BTHK = self.q_norm(self.q_proj(x_BTD).view(B, T, -1, self.head_dim))
        key_BTGK = self.k_norm(self.k_proj(x_BTD).view(B, T, -1, self.head_dim))
        query_BHTK = rotate(query_BTHK, context.cos_BT1K, context.sin_BT1K).transpose(1, 2)
        key_BGSK = rotate(key_BTGK, context.cos_BT1K, context.sin_BT1K).transpose(1, 2)
        value_BGSK = self.v_proj(x_BTD).view(B, T, -1, self.head_dim).transpose(1, 2)
        if context.cache is not None:
            key_BGSK, value_BGSK = context.cache.write(layer, key_BGSK, value_BGSK, context.position_BT, num_slots=context.num_slots)
        out_BHTK = attend(query_BHTK, key_BGSK.to(x_BTD.dtype), value_BGSK.to(x_BTD.dtype), context.bias_B1TS)
        out_BTD: Tensor = self.o_proj(out_BHTK.transpose(1, 2).reshape(B, T, -1))
        return out_BTD


class MLP(nn.Module):
    """SwiGLU (arXiv:2002.05202, eq. 6): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.mlp_dim)
        self.up_proj = Linear(config.dim, config.mlp_dim)
        self.down_proj = Linear(config.mlp_dim, config.dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token by itself."""
        out_BTD: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy of the stream and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, context: Context, layer: int) -> Tensor:
        """The stream after this layer."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), context, layer)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD


class Stack(nn.Module):
    """Embedding, layers and last norm: what Hugging Face names `model`. Holds them; Transformer runs them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim, _weight=torch.empty(config.vocab_size, config.dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)


class Transformer(nn.Module):
    """A causal language model. `compute_dtype` is what activations are computed in; weights keep their own dtype.

    `seed` names the initial weights, each drawn by its own generator; None leaves them empty, to be loaded.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.model = Stack(config)
        self.lm_head = None if config.tied_embeddings else Linear(config.dim, config.vocab_size)
        if seed is not None:
            initialize(self, seed=seed)

    def hidden_states(
        self,
        token_BT: Tensor,
        *,
        position_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The normalised stream after the last layer, BTD in compute_dtype.

        Without `position_BT` positions count from 0. With `document_BT` a token sees only its own document (numbered
        from 1; 0 is padding). With `cache` a token at position p sees slots up to p of its row; positions are then
        needed, and documents cannot be given.
        """
        assert cache is None or (position_BT is not None and document_BT is None)
        if position_BT is None:
            position_BT = torch.arange(token_BT.shape[1], device=token_BT.device).expand_as(token_BT)
        x_BTD = self.model.embed_tokens(token_BT).to(self.compute_dtype)
        context = make_context(self.config, position_BT, document_BT, cache, dtype=self.compute_dtype)
        for i, layer in enumerate(self.model.layers):
            x_BTD = layer(x_BTD, context, i)
        normed_BTD: Tensor = self.model.norm(x_BTD)
        return normed_BTD

    def head_weight(self) -> Tensor:
        """The output matrix, VD: the embeddings if they are tied."""
        weight_VD: Tensor = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return weight_VD

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary in float32, for hidden states of any leading shape."""
        return F.linear(hidden, self.head_weight().to(hidden.dtype)).float()

    def forward(self, token_BT: Tensor, *, position_BT: Tensor | None = None, document_BT: Tensor | None = None) -> Tensor:
        """Logits of the next token at every position, BTV in float32."""
        return self.logits(self.hidden_states(token_BT, position_BT=position_BT, document_BT=document_BT))


def make_context(
    config: ModelConfig, position_BT: Tensor, document_BT: Tensor | None, cache: KVCache | None, *, dtype: torch.dtype
) -> Context:
    """What the layers share for one batch, made once."""
    # In float32 whatever the dtype: bfloat16 cannot tell position 257 from 256.
    frequency_K = config.rope_base ** (-torch.arange(0, config.head_dim, 2, device=position_BT.device).float() / config.head_dim)
    angle_BT1K = (position_BT.float()[..., None, None] * frequency_K).repeat(1, 1, 1, 2)
    num_slots, visible_BTS = 0, None
    if cache is not None:
        # In sixteens: CPU kernels sum other lengths in another order, and a row would depend on the longest of its batch.
        num_slots = min(cache.max_tokens, (int(position_BT.max()) // 16 + 1) * 16)
        visible_BTS = torch.arange(num_slots, device=position_BT.device) <= position_BT[..., None]
    elif document_BT is not None:
        T = document_BT.shape[1]
        causal_TS = torch.ones(T, T, dtype=torch.bool, device=document_BT.device).tril()
        visible_BTS = (document_BT[:, :, None] == document_BT[:, None, :]) & causal_TS
    bias_B1TS = None
    if visible_BTS is not None:
        bias_B1TS = torch.zeros(visible_BTS.shape, dtype=dtype, device=visible_BTS.device).masked_fill_(~visible_BTS, -math.inf)[:, None]
    return Context(angle_BT1K.cos().to(dtype), angle_BT1K.sin().to(dtype), bias_B1TS, cache, position_BT, num_slots)


def attend(query_BHTK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, bias_B1TS: Tensor | None) -> Tensor:
    """Softmax attention of H query heads over G key-value heads; head h reads key-value head h // (H / G). Without a bias: causal."""
    B, H, T, K = query_BHTK.shape
    G, S = key_BGSK.shape[1:3]
    one_token = T == 1 and bias_B1TS is not None
    short_rows = S <= GROUPED_MATMUL_TOKENS and query_BHTK.dtype == torch.bfloat16 and query_BHTK.device.type == "cpu"
    if bias_B1TS is None or not (one_token or short_rows):
        causal = bias_B1TS is None
        out_BHTK: Tensor = F.scaled_dot_product_attention(query_BHTK, key_BGSK, value_BGSK, bias_B1TS, is_causal=causal, enable_gqa=G != H)
        return out_BHTK
    # The query heads of a group lie under one another, so that a group is one product and keys are never repeated.
    query_NRK = (query_BHTK * K**-0.5).reshape(B * G, H // G * T, K)
    score_BHTS = (query_NRK @ key_BGSK.flatten(0, 1).mT).view(B, H, T, S).add_(bias_B1TS)
    out_NRK: Tensor = score_BHTS.softmax(-1).view(B * G, H // G * T, S) @ value_BGSK.flatten(0, 1)
    return out_NRK.view(B, H, T, K)


@torch.no_grad()
def initialize(model: Transformer, *, seed: int) -> None:
    """Draws every matrix from a normal distribution of deviation 1/sqrt(inputs); norms are 1.

    The embeddings have deviation 0.02, and what writes into the stream is smaller by sqrt(2 * layers), so that the
    stream's size does not grow with depth (GPT-2, sec. 2.3).
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.fill_(1.0)
            continue
        deviation = 0.02 if "embed_tokens" in name else weight.shape[1] ** -0.5
        if "o_proj" in name or "down_proj" in name:
            deviation /= math.sqrt(2 * model.config.num_layers)
        digest = hashlib.sha256(f"{seed}/initialize/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
