"""The transformer of Qwen3, Qwen2, Llama, Mistral and SmolLM3, whole, in one file. Parameter names are Hugging Face's, so
a checkpoint needs no map.

tokens -> embedding -> layers of (RMSNorm, attention, RMSNorm, SwiGLU), each added to the stream -> RMSNorm -> logits.
Weights are kept in float32 and cast to the activations' dtype where they are used (`compute_dtype`, set from outside):
cheaper than autocast, and the optimizer sees full precision. Norms and logits are float32 throughout.

Shapes: B batch, T query tokens, S key tokens, D model, F mlp, V vocabulary, H heads, G key-value heads, K head dimension.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bloomery.model.attention import Visibility, attend, make_visibility
from bloomery.model.cache import KVCache
from bloomery.model.config import LoraConfig, ModelConfig
from bloomery.model.kernels import rms_norm, rotate
from bloomery.model.rope import rotation


class Context(NamedTuple):
    """What every layer shares: the rotation of each position, who sees whom, and where keys are kept."""

    cos_BT1K: Tensor
    sin_BT1K: Tensor
    visibility: Visibility
    window_visibility: Visibility
    """The same for layers with a sliding window."""
    cache: KVCache | None
    position_BT: Tensor
    num_slots: int


class Linear(nn.Linear):
    """x @ weight.T (+ bias), computed in x's dtype whatever the weight's. An nn.Linear, so that torchao and others know it."""

    def __init__(self, input_dim: int, output_dim: int, *, bias: bool = False) -> None:
        super().__init__(input_dim, output_dim, bias=bias, device="meta")  # nn.Linear would draw weights that are drawn again
        self.weight = nn.Parameter(torch.empty(output_dim, input_dim))
        if bias:
            self.bias = nn.Parameter(torch.empty(output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x with its last dimension mapped to output_dim."""
        bias: Tensor | None = self.bias
        return F.linear(x, self.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


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

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.has_rotation = layer not in config.nope_layers
        self.has_window = config.window_of_layer(layer) > 0
        qkv_bias, output_bias = config.attention_bias != "none", config.attention_bias == "all"
        self.q_proj = Linear(config.dim, config.num_heads * config.head_dim, bias=qkv_bias)
        self.k_proj = Linear(config.dim, config.num_kv_heads * config.head_dim, bias=qkv_bias)
        self.v_proj = Linear(config.dim, config.num_kv_heads * config.head_dim, bias=qkv_bias)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.dim, bias=output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, context: Context, layer: int) -> Tensor:
        """What layer number `layer` reads from the tokens that each token may see."""
        B, T, _ = x_BTD.shape
        query_BTHK = self.q_norm(self.q_proj(x_BTD).view(B, T, -1, self.head_dim))
        key_BSGK = self.k_norm(self.k_proj(x_BTD).view(B, T, -1, self.head_dim))
        value_BSGK = self.v_proj(x_BTD).view(B, T, -1, self.head_dim)
        if self.has_rotation:
            query_BTHK = rotate(query_BTHK, context.cos_BT1K, context.sin_BT1K)
            key_BSGK = rotate(key_BSGK, context.cos_BT1K, context.sin_BT1K)
        if context.cache is not None:
            key_BSGK, value_BSGK = context.cache.write(layer, key_BSGK, value_BSGK, context.position_BT, num_slots=context.num_slots)
        visibility = context.window_visibility if self.has_window else context.visibility
        out_BTHK = attend(query_BTHK, key_BSGK.to(x_BTD.dtype), value_BSGK.to(x_BTD.dtype), visibility)
        out_BTD: Tensor = self.o_proj(out_BTHK.reshape(B, T, -1))
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

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
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
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)


class Transformer(nn.Module):
    """A causal language model, or one with a scalar head. `compute_dtype` is that of activations; weights keep their own.

    `recompute_layers` keeps only the stream between layers for the backward pass and computes what is inside them again
    (activation checkpointing, arXiv:1604.06174): a third more work, a fraction of the memory. `compiled` says that the
    layers are, so that losses may be, too; `train.compute.prepare_model` sets both.

    `seed` names the initial weights, each drawn by its own generator; None leaves them empty, to be loaded.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.recompute_layers = False
        self.compiled = False
        self.lora = LoraConfig()  # the adapters it has; see model/lora.py
        self.gather_head: Callable[[Tensor], Tensor] | None = None  # where processes share the output matrix: makes it whole
        self.model = Stack(config)
        self.lm_head = Linear(config.dim, config.vocab_size) if config.head == "tokens" and not config.tied_embeddings else None
        self.score = Linear(config.dim, 1) if config.head == "scalar" else None
        if seed is not None:
            initialize(self, seed=seed)

    def hidden_states(
        self,
        token_BT: Tensor,
        *,
        position_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        cache: KVCache | None = None,
        max_runs: int | None = None,
    ) -> Tensor:
        """The normalised stream after the last layer, BTD in compute_dtype.

        Without `position_BT` positions count from 0. With `document_BT` a token sees only its own document (numbered
        from 1; 0 is padding). With `cache` a token at position p sees slots up to p of its row; positions are then
        needed, and documents cannot be given. `max_runs`: see `make_visibility`.
        """
        assert cache is None or (position_BT is not None and document_BT is None)
        if position_BT is None:
            position_BT = torch.arange(token_BT.shape[1], device=token_BT.device).expand_as(token_BT)
        x_BTD = self.model.embed_tokens(token_BT).to(self.compute_dtype)
        context = make_context(self.config, position_BT, document_BT, cache, dtype=self.compute_dtype, max_runs=max_runs)
        for i in range(self.config.num_layers):
            x_BTD = self.run_layer(i, x_BTD, context)
        normed_BTD: Tensor = self.model.norm(x_BTD)
        return normed_BTD

    def run_layer(self, number: int, x_BTD: Tensor, context: Context) -> Tensor:
        """The stream after layer `number`."""
        layer = self.model.layers[number]
        if self.recompute_layers and torch.is_grad_enabled():
            out_BTD: Tensor = checkpoint(layer, x_BTD, context, number, use_reentrant=False)
        else:
            out_BTD = layer(x_BTD, context, number)
        return out_BTD

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def head_weight(self) -> Tensor:
        """The output matrix, VD: the embeddings if they are tied. Of a scalar head V is 1."""
        head = self.score or self.lm_head or self.model.embed_tokens
        weight_VD: Tensor = head.weight
        return weight_VD if self.gather_head is None else self.gather_head(weight_VD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary in float32, for hidden states of any leading shape."""
        return F.linear(hidden, self.head_weight().to(hidden.dtype)).float()

    def forward(self, token_BT: Tensor, *, position_BT: Tensor | None = None, document_BT: Tensor | None = None) -> Tensor:
        """Logits of the next token at every position, BTV in float32."""
        return self.logits(self.hidden_states(token_BT, position_BT=position_BT, document_BT=document_BT))


def make_context(
    config: ModelConfig,
    position_BT: Tensor,
    document_BT: Tensor | None,
    cache: KVCache | None,
    *,
    dtype: torch.dtype,
    max_runs: int | None = None,
) -> Context:
    """What the layers share for one batch, made once."""
    # In float32 whatever the dtype: bfloat16 cannot tell position 257 from 256.
    frequency_P, scale = rotation(config, position_BT.device)
    angle_BT1K = (position_BT.float()[..., None, None] * frequency_P).repeat(1, 1, 1, 2)
    # In sixteens: CPU kernels sum other lengths in another order, and a row would depend on the longest of its batch.
    num_slots = 0 if cache is None else min(cache.max_tokens, (int(position_BT.max()) // 16 + 1) * 16)
    visibility, window_visibility = (
        make_visibility(position_BT, document_BT, num_slots=num_slots, window=window, dtype=dtype, max_runs=max_runs)
        for window in (0, config.sliding_window)
    )
    cos_BT1K, sin_BT1K = (scale * angle_BT1K.cos()).to(dtype), (scale * angle_BT1K.sin()).to(dtype)
    return Context(cos_BT1K, sin_BT1K, visibility, window_visibility, cache, position_BT, num_slots)


@torch.no_grad()
def initialize(model: Transformer, *, seed: int) -> None:
    """Draws every matrix from a normal distribution of deviation 1/sqrt(inputs); norms are 1, biases 0.

    The embeddings have deviation 0.02, and what writes into the stream is smaller by sqrt(2 * layers), so that the
    stream's size does not grow with depth (GPT-2, sec. 2.3).
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        deviation = 0.02 if "embed_tokens" in name else weight.shape[1] ** -0.5
        if "o_proj" in name or "down_proj" in name:
            deviation /= math.sqrt(2 * model.config.num_layers)
        draw_normal(weight, key=f"{seed}/initialize/{name}", deviation=deviation)


@torch.no_grad()
def draw_normal(weight: Tensor, *, key: str, deviation: float) -> None:
    """Fills a weight with normal draws that follow from the key alone."""
    weight.copy_(torch.randn(weight.shape, generator=_generator(key)) * deviation)


@torch.no_grad()
def draw_uniform(weight: Tensor, *, key: str, limit: float) -> None:
    """Fills a weight with draws from -limit to limit that follow from the key alone."""
    weight.copy_((2 * torch.rand(weight.shape, generator=_generator(key)) - 1) * limit)


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1)
