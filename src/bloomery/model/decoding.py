"""The transformer as generation runs it: the same numbers as `Transformer`, with as little around the products as there can be.

A `Decoder` holds a model's weights as they were when it was made, cast once, query, key and value matrices joined, and on a
CPU laid out as oneDNN wants them: a product of 16 rows then takes half to three quarters of the time. Rows of a batch are
at different places of different texts, and each has its keys and values in a row of the cache (see row_cache.py). What several
rows have in common at their beginning may lie in a `SharedPrefix` instead, which is read once for all of them.

In float32 on a CPU a row's numbers do not depend on the other rows, to the last bit: matrix products get at least `min_rows`
rows, the cache grows by whole blocks of slots, and everything else works row by row (tests/generate/test_batcher.py).

Legend: B rows, T new tokens of a row, N = B * T, D model, V vocabulary, L layers, C keys or values (2), H heads, G key-value
heads, X queries of a row for one of them (H / G * T), K head dimension, S slots of a row, I places written to (N * G), P tokens of a
prefix (or, of a table, positions), M rows that share one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.model.lora import merged_weights
from bloomery.model.rope import rotation
from bloomery.model.transformer import Transformer

PACKED_MIN_ROWS = 8
"""Rows of a product that oneDNN computes as it computes more rows. (1 differs from the rest in the last bits, 2 do not.)"""
MIN_ROWS = 16
"""The same of MKL's products: on an AMD Zen 4, 1 and 2 rows differ from the rest, on an Intel Sapphire Rapids 8, too."""
SLOT_BLOCK = 64
"""Slots of a row come in blocks of this many: sums over other lengths are formed in another order."""

SUM_SLOTS, VECTOR_ROWS = 128, 4
"""Attention of VECTOR_ROWS queries or more of a head sums its values over so many slots at a time; fewer go through another kernel."""


class SharedPrefix(NamedTuple):
    """What some rows have read before their own slots begin."""

    kv_LCGPK: Tensor
    row_M: Tensor
    """The rows: `num_rows` that are still there, then the first of them again up to a number that never changes. Products
    of other sizes may sum in another order, and a row would then depend on how long its companions talk."""
    num_rows: int


class Matrix:
    """x @ weight.T + bias, with the weight laid out for it once, and with what comes after it in the same pass over memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype) -> None:
        weight = weight.to(dtype).contiguous()
        self.bias = None if bias is None else bias.to(dtype)
        self.packed = can_pack(weight)
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_MIN_ROWS) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        return self._packed(x, "none") if self.packed else F.linear(x, self.weight, self.bias)

    def swish(self, x: Tensor) -> Tensor:
        """silu of the product."""
        return self._packed(x, "swish") if self.packed else F.silu(F.linear(x, self.weight, self.bias))

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The product times `factor`."""
        return self._combined(x, factor, "mul") if self.packed else F.linear(x, self.weight, self.bias).mul_(factor)

    def added_to(self, stream: Tensor, x: Tensor) -> Tensor:
        """`stream` plus the product."""
        return self._combined(x, stream, "add") if self.packed else F.linear(x, self.weight, self.bias).add_(stream)

    def _packed(self, x: Tensor, then: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "")
        return out

    def _combined(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, how)
        return out


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by this matrix, on this device and in this dtype, by the operators that torch's compiler uses."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class _Layer(NamedTuple):
    input_norm_D: Tensor
    qkv: Matrix
    qk_norm_HK: Tensor | None
    output: Matrix
    mlp_norm_D: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix
    has_rotation: bool
    has_window: bool


class _Batch(NamedTuple):
    """What the layers share in one pass."""

    cos_N1K: Tensor
    sin_N1K: Tensor
    place_I: Tensor
    """Where keys and values are kept, in a layer's cache seen as rows of K numbers."""
    bias_BTS: Tensor
    window_bias_BTS: Tensor
    kv_LCBGSK: Tensor
    prefixes: Sequence[SharedPrefix]


class Decoder:
    """A model ready to generate. Changes of its weights after this do not show."""

    def __init__(self, model: Transformer, *, vocab_size: int) -> None:
        self.config, self.dtype, self.device = model.config, model.compute_dtype, model.device
        weights = merged_weights(model)
        self._embedding_VD = weights["model.embed_tokens.weight"]
        self._norm_D = weights["model.norm.weight"].to(self.dtype)
        # Of others' models some have rows beyond the tokenizer's ids, which stand for nothing and must not be said.
        self._head = Matrix(model.head_weight().detach()[:vocab_size], None, dtype=self.dtype)
        self._layers = [_prepare_layer(model, weights, i) for i in range(self.config.num_layers)]
        self._cos_PK = self._sin_PK = torch.empty(0, 0)
        self.reserve_positions(512)
        if self.device.type != "cpu":
            self.min_rows = 1
        else:
            self.min_rows = PACKED_MIN_ROWS if self._head.packed else MIN_ROWS

    def reserve_positions(self, num_positions: int) -> None:
        """Makes the rotations of positions below this ready; `read` takes them for granted."""
        if num_positions > len(self._cos_PK):
            # In float32 whatever the dtype: bfloat16 cannot tell position 257 from 256.
            position_P = torch.arange(2 * num_positions, device=self.device, dtype=torch.float32)
            frequency, scale = rotation(self.config, self.device)
            angle_PK = (position_P[:, None] * frequency).repeat(1, 2)
            self._cos_PK, self._sin_PK = (scale * angle_PK.cos()).to(self.dtype), (scale * angle_PK.sin()).to(self.dtype)

    def new_cache(self, num_rows: int, num_slots: int) -> Tensor:
        """An empty cache, LCBGSK."""
        config = self.config
        shape = (config.num_layers, 2, num_rows, config.num_kv_heads, num_slots, config.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Logits over the tokenizer's ids, BV in float32."""
        num_missing = max(0, self.min_rows - len(hidden_BD))
        padded_BD = F.pad(hidden_BD, (0, 0, 0, num_missing)) if num_missing else hidden_BD
        return self._head(padded_BD)[: len(hidden_BD)].float()

    def read(
        self,
        token_BT: Tensor,
        kv_LCBGSK: Tensor,
        *,
        position_BT: Tensor,
        slot_BT: Tensor | None = None,
        prefixes: Sequence[SharedPrefix] = (),
    ) -> Tensor:
        """The normalised stream after the last layer, BTD, for new tokens of every row; keeps their keys and values.

        Token t of row b is at `position_BT` of its text and goes to slot `slot_BT` of its row (without it: to that of its
        position); it sees the row's slots up to its own, within the model's window, and all of its prefix if it has one.
        B * T must be at least `min_rows` for a row's numbers to be its own.
        """
        assert not (prefixes and self.config.sliding_window)
        B, T = token_BT.shape
        x_ND = self._embedding_VD[token_BT.flatten()].to(self.dtype)
        batch = self._prepare_batch(kv_LCBGSK, position_BT, position_BT if slot_BT is None else slot_BT, prefixes)
        eps = self.config.norm_eps
        for number, layer in enumerate(self._layers):
            normed_ND = F.rms_norm(x_ND, x_ND.shape[1:], layer.input_norm_D, eps)
            x_ND = layer.output.added_to(x_ND, self._attend(layer, number, normed_ND, batch))
            normed_ND = F.rms_norm(x_ND, x_ND.shape[1:], layer.mlp_norm_D, eps)
            x_ND = layer.down.added_to(x_ND, layer.up.times(normed_ND, layer.gate.swish(normed_ND)))
        return F.rms_norm(x_ND, x_ND.shape[1:], self._norm_D, eps).view(B, T, -1)

    def _prepare_batch(self, kv_LCBGSK: Tensor, position_BT: Tensor, slot_BT: Tensor, prefixes: Sequence[SharedPrefix]) -> _Batch:
        B, G, S = kv_LCBGSK.shape[2:5]
        position_N = position_BT.flatten()
        slot_S = torch.arange(S, device=self.device)
        row_G = torch.arange(B * G, device=self.device).view(B, 1, G)
        place_I = (row_G * S + slot_BT[:, :, None]).flatten()
        hidden_BTS = slot_S > slot_BT[:, :, None]
        bias_BTS = window_bias_BTS = self._bias(hidden_BTS)
        if self.config.sliding_window:
            window_bias_BTS = self._bias(hidden_BTS | (slot_S <= slot_BT[:, :, None] - self.config.sliding_window))
        cos_N1K, sin_N1K = self._cos_PK[position_N][:, None], self._sin_PK[position_N][:, None]
        return _Batch(cos_N1K, sin_N1K, place_I, bias_BTS, window_bias_BTS, kv_LCBGSK, prefixes)

    def _bias(self, hidden_BTS: Tensor) -> Tensor:
        return torch.zeros(hidden_BTS.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden_BTS, -math.inf)

    def _attend(self, layer: _Layer, number: int, x_ND: Tensor, batch: _Batch) -> Tensor:
        H, G, K = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        kv_CBGSK = batch.kv_LCBGSK[number]
        B, _, S, _ = kv_CBGSK[0].shape
        qkv_NHK = layer.qkv(x_ND).view(len(x_ND), H + 2 * G, K)
        turned_NHK = qkv_NHK[:, : H + G]
        if layer.qk_norm_HK is not None:
            turned_NHK = F.rms_norm(turned_NHK, (K,), None, self.config.norm_eps) * layer.qk_norm_HK
        if layer.has_rotation:
            turned_NHK = _turn(turned_NHK, batch.cos_N1K, batch.sin_N1K)
        for kept_BGSK, new_NGK in zip(kv_CBGSK, (turned_NHK[:, H:], qkv_NHK[:, H + G :]), strict=True):
            kept_BGSK.view(-1, K).index_copy_(0, batch.place_I, new_NGK.reshape(-1, K))
        # The queries of a group of heads lie under one another, so that a group is one product and keys are never repeated.
        query_BGXK = turned_NHK[:, :H].view(B, -1, G, H // G, K).permute(0, 2, 3, 1, 4).reshape(B, G, -1, K)
        bias_BTS = batch.window_bias_BTS if layer.has_window else batch.bias_BTS
        score_BGXS = (query_BGXK.flatten(0, 1) @ kv_CBGSK[0].flatten(0, 1).mT).view(B, G, H // G, -1, S)
        score_BGXS = torch.add(bias_BTS[:, None, None], score_BGXS, alpha=K**-0.5).view(B, G, -1, S)
        share_BGXS = score_BGXS.softmax(-1)
        read = [_read_prefix(query_BGXK, score_BGXS, share_BGXS, prefix, number) for prefix in batch.prefixes]
        out_BGXK = _weigh(share_BGXS.flatten(0, 1), kv_CBGSK[1].flatten(0, 1)).view(B, G, -1, K)
        for prefix, read_MGXK in zip(batch.prefixes, read, strict=True):
            out_BGXK.index_add_(0, prefix.row_M[: prefix.num_rows], read_MGXK)
        return out_BGXK.view(B, G, H // G, -1, K).permute(0, 3, 1, 2, 4).reshape(len(x_ND), H * K)


def _read_prefix(query_BGXK: Tensor, score_BGXS: Tensor, share_BGXS: Tensor, prefix: SharedPrefix, layer: int) -> Tensor:
    """What a prefix's rows read from it, MGXK. Their shares of their own slots become those in one softmax over both.

    One product a head for all of them, however many they are, and always of the same size: see `SharedPrefix`.
    """
    key_GPK, value_GPK = prefix.kv_LCGPK[layer]
    M, (_, G, X, K), P = len(prefix.row_M), query_BGXK.shape, key_GPK.shape[1]
    query_GNK = query_BGXK[prefix.row_M].transpose(0, 1).reshape(G, M * X, K)
    score_MGXP = (query_GNK @ key_GPK.mT).mul_(K**-0.5).view(G, M, X, P).transpose(0, 1)
    share_MGXS = torch.cat([score_MGXP, score_BGXS[prefix.row_M]], -1).softmax(-1)
    row_M = prefix.row_M[: prefix.num_rows]
    share_BGXS[row_M] = share_MGXS[: prefix.num_rows, ..., P:]
    share_GNP = share_MGXS[..., :P].transpose(0, 1).reshape(G, M * X, P)
    read_MGXK: Tensor = (share_GNP @ value_GPK).view(G, M, X, K).transpose(0, 1)[: prefix.num_rows]
    return read_MGXK


def _turn(x_NHK: Tensor, cos_N1K: Tensor, sin_N1K: Tensor) -> Tensor:
    # As kernels.rotate, without its preparations for a derivative.
    half = x_NHK.shape[-1] // 2
    out_NHK = x_NHK * cos_N1K
    out_NHK[..., :half].addcmul_(x_NHK[..., half:], sin_N1K[..., :half], value=-1)
    out_NHK[..., half:].addcmul_(x_NHK[..., :half], sin_N1K[..., half:])
    return out_NHK


def _weigh(share_NXS: Tensor, value_NSK: Tensor) -> Tensor:
    # MKL cuts sums of more than 192 terms in parts by how many there are; here the parts are always the same.
    X, S = share_NXS.shape[1:]
    if share_NXS.device.type != "cpu" or X < VECTOR_ROWS or S <= SUM_SLOTS:
        return share_NXS @ value_NSK
    out_NXK = share_NXS[..., :SUM_SLOTS] @ value_NSK[:, :SUM_SLOTS]
    for start in range(SUM_SLOTS, S, SUM_SLOTS):
        out_NXK.baddbmm_(share_NXS[..., start : start + SUM_SLOTS], value_NSK[:, start : start + SUM_SLOTS])
    return out_NXK


def _prepare_layer(model: Transformer, weights: dict[str, Tensor], number: int) -> _Layer:
    config, dtype, name = model.config, model.compute_dtype, f"model.layers.{number}"

    def matrix(*parts: str) -> Matrix:
        biases = [weights[f"{name}.{part}.bias"] for part in parts if f"{name}.{part}.bias" in weights]
        parts_ND = [weights[f"{name}.{part}.weight"].to(dtype) for part in parts]
        weight = torch.cat(parts_ND) if len(parts) > 1 else parts_ND[0]
        return Matrix(weight, torch.cat(biases) if biases else None, dtype=dtype)

    qk_norm_HK = None
    if config.qk_norm:
        q_norm_K, k_norm_K = (weights[f"{name}.self_attn.{part}.weight"].to(dtype) for part in ("q_norm", "k_norm"))
        qk_norm_HK = torch.cat([q_norm_K.expand(config.num_heads, -1), k_norm_K.expand(config.num_kv_heads, -1)])
    return _Layer(
        input_norm_D=weights[f"{name}.input_layernorm.weight"].to(dtype),
        qkv=matrix("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        qk_norm_HK=qk_norm_HK,
        output=matrix("self_attn.o_proj"),
        mlp_norm_D=weights[f"{name}.post_attention_layernorm.weight"].to(dtype),
        gate=matrix("mlp.gate_proj"),
        up=matrix("mlp.up_proj"),
        down=matrix("mlp.down_proj"),
        has_rotation=number not in config.nope_layers,
        has_window=config.window_of_layer(number) > 0,
    )


def round_up(num_slots: int) -> int:
    """The slots that a cache has for this many."""
    return -(-num_slots // SLOT_BLOCK) * SLOT_BLOCK
