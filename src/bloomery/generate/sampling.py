"""From logits to a token: temperature, top-k, top-p, and a draw that belongs to the request and not to its batch.

A request's draws are numbers made of (its seed, the position in its answer) alone, and a token is where the draw falls
in the cumulated probabilities. What else is in the batch, or in which order requests come, therefore cannot matter.

Legend: B rows of the batch, V vocabulary, N seeds, T tokens of an answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Choice(NamedTuple):
    """A token for each row and its log-probability: after temperature, before top-k and top-p."""

    token_B: Tensor
    logp_B: Tensor


def choose(logits_BV: Tensor, draw_B: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Choice:
    """One token for each row; `draw_B` are numbers from [0, 1), float64.

    Temperature 0 takes the likeliest token (greedy), and records its log-probability at temperature 1. top_k: draw
    among this many likeliest tokens, 0 = all. top_p: draw among the fewest likeliest tokens that together have this
    probability (nucleus sampling, arXiv:1904.09751, sec. 3.1), after top-k.

    Log-probabilities are those of the distribution that a trainer sees, log_softmax(logits / temperature): top-k and
    top-p change what is drawn, not what is recorded (mixing the two is a known fault: ms-swift PR 8442).
    """
    logp_BV = (logits_BV.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0.0:
        token_B = logp_BV.argmax(-1)
    else:
        probability_BV = logp_BV.exp()
        if top_k or top_p < 1.0:
            probability_BV = probability_BV * _nucleus(probability_BV, top_k, top_p)
        # float64, so that the sum over a large vocabulary does not swallow a rare token's probability.
        cumulated_BV = probability_BV.cumsum(-1, dtype=torch.float64)
        threshold_B1 = (draw_B * cumulated_BV[:, -1])[:, None]
        # The first place whose sum exceeds the draw: tokens of probability 0 are never it.
        token_B = torch.searchsorted(cumulated_BV, threshold_B1, right=True)[:, 0]
    return Choice(token_B, logp_BV.gather(-1, token_B[:, None])[:, 0])


def draws(seeds: Sequence[int], num_tokens: int) -> np.ndarray:
    """Uniform numbers from [0, 1), float64 [len(seeds), num_tokens], each a hash of its seed and its place in the answer."""
    # Seeds are hashed once more than places: else (seed 1, place 2) would draw what (seed 2, place 1) does.
    seed_N1 = _mix(_mix(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)))[:, None]
    place_1T = _mix(np.arange(num_tokens, dtype=np.uint64))[None, :]
    return np.asarray((_mix(seed_N1 ^ place_1T) >> np.uint64(11)).astype(np.float64) / 2**53)


def _nucleus(probability_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    sorted_BV, order_BV = probability_BV.sort(stable=True, dim=-1, descending=True)
    keep_BV = torch.ones_like(sorted_BV, dtype=torch.bool)
    if top_k:
        keep_BV[:, top_k:] = False
        sorted_BV = sorted_BV * keep_BV
    # A token stays if those before it do not reach top_p of what top-k left; the first one always stays.
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    keep_BV &= before_BV < top_p * sorted_BV.sum(-1, keepdim=True, dtype=torch.float64)
    return torch.zeros_like(keep_BV).scatter_(-1, order_BV, keep_BV)


def _mix(value: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators", fig. 15).
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))
