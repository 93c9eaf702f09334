"""Who sees whom, and the products that follow from it: one function, `attend`, over the kernels that a device has.

A row holds documents that must not see each other. On a CPU that is a mask added to the scores. On CUDA it is a list of
where each document begins: the kernel for sequences of unlike length then never computes what the mask would hide. Both
give the same numbers (tests/model/test_attention.py; on CUDA tests/model/test_attention_cuda.py).

Shapes: B batch, T query tokens, S key tokens, H heads, G key-value heads, K head dimension, R runs (documents of a batch).
"""

import importlib.util
import inspect
import math
from typing import Any, NamedTuple  # Any: options that depend on torch's version

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, current_flash_attention_impl, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

GROUPED_MATMUL_TOKENS = 256
"""Up to this many keys plain matrix products beat torch's attention kernel for CPUs in bfloat16 (9 ms to 19 ms for 16
rows of 256 and their backward pass); at 512 they lose (34 to 28)."""
QUERY_BLOCK_TOKENS, MAX_QUERY_BLOCKS = 128, 8
"""Compiled on a CPU, queries go in blocks of so many against the keys up to their end: half of a causal square is never
computed, and softmax is fused with the mask. A step of 14 M parameters and rows of 512 takes 2.45 s of CPU time, with torch's
kernel 3.02. Each block is compiled by itself, so that long rows have larger ones."""
CUDA_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In this order where they apply: cuDNN's is the fastest of those that come with torch on Hopper."""
INSTALLED_KERNELS = [SDPBackend.FLASH_ATTENTION, *CUDA_KERNELS]
"""The order with FlashAttention 3 or 4 in the place of torch's own version 2."""
FLASH_PACKAGES = {"FA4": "flash_attn.cute.interface", "FA3": "flash_attn_interface"}
"""What torch calls FlashAttention's later versions, and the modules that they come in."""
HALF = (torch.bfloat16, torch.float16)


class Visibility(NamedTuple):
    """Who sees whom in a batch. With neither tensor: every token sees itself and all before it in its row."""

    bias_B1TS: Tensor | None = None
    """0 where a query sees a key and -inf where not."""
    run_start_R: Tensor | None = None
    """int32: where each document begins in the rows laid end to end, then B * T, repeated to a round length. Causal inside."""
    window: int = 0
    """With `run_start_R`: a token sees itself and window - 1 before it; 0 = all before it."""


def use_installed_kernels(device: torch.device) -> str | None:
    """Has torch run FlashAttention 3 or 4 for all of this process, if it is installed and made for the device; returns its name.

    Both are for Hopper (compute capability 9), the latter for Blackwell (10), too.
    """
    major = torch.cuda.get_device_capability(device)[0]
    for name in FLASH_PACKAGES if major in (9, 10) else ():
        if _is_installed(FLASH_PACKAGES[name]) and (major == 9 or name == "FA4"):
            activate_flash_attention_impl(name)
            return name
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def make_visibility(
    position_BT: Tensor, document_BT: Tensor | None, *, num_slots: int, window: int, dtype: torch.dtype, max_runs: int | None = None
) -> Visibility:
    """Each token sees itself and what is before it: of its row, of its document if there are any, of the last `window` if it is not 0.

    Documents lie in one piece each, numbered from 1; 0 is padding. With `num_slots` the keys are the slots of a cache,
    and a query sees those up to its own position. `max_runs` is a number of documents that the batch surely does not
    exceed, padding counted as one more a row; without it a CUDA batch has to be waited for and counted.
    """
    B, T = position_BT.shape
    slot_S, place_BT1 = torch.arange(num_slots or T, device=position_BT.device), position_BT[..., None]
    if not num_slots:
        window = 0 if window >= T else window
        if document_BT is None or max_runs == B:  # a document a row, and no padding
            if not window:
                return Visibility()
            document_BT = torch.ones_like(position_BT)
        if position_BT.device.type == "cuda" and dtype in HALF:
            return Visibility(run_start_R=_run_starts(document_BT, max_runs), window=window)
        place_BT1 = slot_S[None, :, None]
    visible_BTS = slot_S <= place_BT1
    if document_BT is not None:
        visible_BTS = visible_BTS & (document_BT[:, :, None] == document_BT[:, None, :])
    if window:
        visible_BTS = visible_BTS & (slot_S > place_BT1 - window)
    bias_BTS = torch.zeros(visible_BTS.shape, dtype=dtype, device=visible_BTS.device).masked_fill_(~visible_BTS, -math.inf)
    return Visibility(bias_B1TS=bias_BTS[:, None])


def attend(query_BTHK: Tensor, key_BSGK: Tensor, value_BSGK: Tensor, visibility: Visibility) -> Tensor:
    """Softmax attention, BTHK, of H query heads over G key-value heads; head h reads key-value head h // (H / G)."""
    if visibility.run_start_R is not None:
        return _attend_runs(query_BTHK, key_BSGK, value_BSGK, visibility.run_start_R, window=visibility.window)
    query_BHTK, key_BGSK, value_BGSK = (x.transpose(1, 2) for x in (query_BTHK, key_BSGK, value_BSGK))
    if query_BTHK.device.type == "cuda":
        with sdpa_kernel(INSTALLED_KERNELS if current_flash_attention_impl() else CUDA_KERNELS, set_priority=True):
            return _sdpa(query_BHTK, key_BGSK, value_BGSK, visibility.bias_B1TS).transpose(1, 2)
    if _products_are_faster(query_BHTK, key_BGSK.shape[2], masked=visibility.bias_B1TS is not None):
        attend_by_products = _attend_in_blocks if torch.compiler.is_compiling() else _attend_at_once
        return attend_by_products(query_BHTK, key_BGSK, value_BGSK, visibility.bias_B1TS).transpose(1, 2)
    return _sdpa(query_BHTK, key_BGSK, value_BGSK, visibility.bias_B1TS).transpose(1, 2)


def _sdpa(query_BHTK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, bias_B1TS: Tensor | None) -> Tensor:
    causal, grouped = bias_B1TS is None, key_BGSK.shape[1] != query_BHTK.shape[1]
    out_BHTK: Tensor = F.scaled_dot_product_attention(query_BHTK, key_BGSK, value_BGSK, bias_B1TS, is_causal=causal, enable_gqa=grouped)
    return out_BHTK


def _products_are_faster(query_BHTK: Tensor, num_keys: int, *, masked: bool) -> bool:
    if torch.compiler.is_compiling():
        return query_BHTK.dtype == torch.bfloat16
    one_token = query_BHTK.shape[2] == 1
    return masked and (one_token or (num_keys <= GROUPED_MATMUL_TOKENS and query_BHTK.dtype == torch.bfloat16))


def _attend_at_once(query_BHTK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, bias_B1TS: Tensor | None) -> Tensor:
    assert bias_B1TS is not None
    B, H, T, K = query_BHTK.shape
    G, S = key_BGSK.shape[1:3]
    # The query heads of a group lie under one another, so that a group is one product and keys are never repeated.
    query_NRK = (query_BHTK * K**-0.5).reshape(B * G, H // G * T, K)
    score_BHTS = (query_NRK @ key_BGSK.flatten(0, 1).mT).view(B, H, T, S).add_(bias_B1TS)
    out_NRK: Tensor = score_BHTS.softmax(-1).view(B * G, H // G * T, S) @ value_BGSK.flatten(0, 1)
    return out_NRK.view(B, H, T, K)


def _attend_in_blocks(query_BHTK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, bias_B1TS: Tensor | None) -> Tensor:
    B, H, T, K = query_BHTK.shape
    G, S = key_BGSK.shape[1:3]
    query_NRTK = (query_BHTK * K**-0.5).reshape(B * G, H // G, T, K)
    key_NSK, value_NSK = key_BGSK.reshape(B * G, S, K), value_BGSK.reshape(B * G, S, K)
    place_S = torch.arange(S, device=query_BHTK.device)
    blocks, size = [], max(QUERY_BLOCK_TOKENS, -(-T // MAX_QUERY_BLOCKS))
    for start in range(0, T, size):
        end = min(start + size, T)
        num_keys = end if S == T else S  # with a cache, queries do not begin where keys do
        query_NRK = query_NRTK[:, :, start:end].reshape(B * G, -1, K)
        score_BHTS = (query_NRK @ key_NSK[:, :num_keys].mT).view(B, H, end - start, num_keys).float()
        if bias_B1TS is not None:
            score_BHTS = score_BHTS + bias_B1TS[:, :, start:end, :num_keys]
        else:
            score_BHTS = score_BHTS.masked_fill(place_S[:num_keys] > place_S[start:end, None], -math.inf)
        share_NRS = score_BHTS.softmax(-1).to(value_NSK.dtype).view(B * G, -1, num_keys)
        blocks.append((share_NRS @ value_NSK[:, :num_keys]).view(B, H, end - start, K))
    return torch.cat(blocks, 2)


def _attend_runs(query_BTHK: Tensor, key_BSGK: Tensor, value_BSGK: Tensor, run_start_R: Tensor, *, window: int) -> Tensor:
    B, T, H, K = query_BTHK.shape
    query_NHK, key_NGK, value_NGK = query_BTHK.flatten(0, 1), key_BSGK.flatten(0, 1), value_BSGK.flatten(0, 1)
    options: dict[str, Any] = {"window_size": (window - 1 if window else -1, 0)}
    if _varlen_knows_groups():
        options["enable_gqa"] = key_NGK.shape[1] != H
    else:  # before torch 2.12: keys and values are repeated for each head
        key_NGK, value_NGK = (x.repeat_interleave(H // x.shape[1], 1) for x in (key_NGK, value_NGK))
    out_NHK = varlen_attn(query_NHK, key_NGK, value_NGK, run_start_R, run_start_R, T, T, **options)
    assert isinstance(out_NHK, Tensor)
    return out_NHK.view(B, T, H, K)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch does not type it
def _varlen_knows_groups() -> bool:  # a bool, not the names: on a set of these torch 2.11 cannot compile the question
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _run_starts(document_BT: Tensor, max_runs: int | None) -> Tensor:
    starts_BT = torch.ones_like(document_BT, dtype=torch.bool)
    starts_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
    total = document_BT.numel()
    num_runs = int(starts_BT.sum()) if max_runs is None else max_runs
    # A power of two, so that compiled code meets few lengths. Runs of no tokens cost the kernel nothing.
    size = min(1 << max(6, num_runs.bit_length()), total + 1)
    return torch.nonzero_static(starts_BT.flatten(), size=size, fill_value=total).squeeze(1).to(torch.int32)
