"""From logits to a token: penalty, temperature, top-k, top-p, min-p, and a draw that belongs to the request and not to its batch.

A request's draws are numbers made of (its seed, the position in its answer) alone, and a token is where the draw falls
in the cumulated probabilities. What else is in the batch, or in which order requests come, therefore cannot matter.

Legend: B rows of the batch, V vocabulary, N seeds, T tokens of an answer.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints
from torch import Tensor

from bloomery.core.config import Config

DRAW_BLOCK = 128
"""Tokens whose weights are summed together before a draw is looked up among them."""
NUCLEUS_TOKENS = 512
"""Tokens among which top-p looks before it sorts the whole vocabulary."""


class SamplingParams(Config):
    """How answers are drawn. Temperature 0 takes the likeliest token each time (greedy).

    The order is that of transformers and vLLM: repetition penalty, temperature, top-k, top-p, min-p. Log-probabilities
    that are recorded know of the temperature alone (see `choose`).
    """

    max_tokens: PositiveInt
    """The most tokens of an answer, its `<|end|>` counted."""
    temperature: float = Field(default=1.0, ge=0.0)
    top_k: NonNegativeInt = 0
    """Draw among this many likeliest tokens; 0 = among all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Draw among the fewest likeliest tokens that together have this probability (nucleus sampling, arXiv:1904.09751)."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Draw among tokens at least this many times as likely as the likeliest (arXiv:2407.01082)."""
    repetition_penalty: PositiveFloat = 1.0
    """Logits of tokens in the prompt or the answer so far are divided by this if positive, else multiplied (CTRL, 1909.05858, sec. 4.1)."""
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Strings that end an answer, wherever they lie in its text. The tokens that spell one are kept, `answer_text` leaves it out."""
    stop_tokens: tuple[NonNegativeInt, ...] = ()
    """Tokens that end an answer as `<|end|>` does; they are kept."""
    top_logps: NonNegativeInt = 0
    """Record this many likeliest tokens of each place with their log-probabilities."""


class Choice(NamedTuple):
    """A token for each row and its log-probability: after temperature, before penalty, top-k, top-p and min-p."""

    token_B: Tensor
    logp_B: Tensor
    tops: list[list[tuple[int, float]]]
    """For each row the `top_logps` likeliest tokens and their log-probabilities."""


def choose(logits_BV: Tensor, draw_B: Tensor, params: Sequence[SamplingParams], seen: Sequence[Sequence[int]] = ()) -> Choice:
    """One token for each row by its own params; `draw_B` are numbers from [0, 1), float64, `seen` each row's tokens so far.

    Temperature 0 takes the likeliest token, and records its log-probability at temperature 1. Log-probabilities are those
    of the distribution that a trainer sees, log_softmax(logits / temperature): what else params ask for changes what is
    drawn, not what is recorded (mixing the two is a known fault: ms-swift PR 8442).
    """
    if all(one is params[0] for one in params):  # most often; hashing params takes longer than drawing
        return _choose_alike(logits_BV, draw_B, params[0], seen)
    groups: dict[SamplingParams, list[int]] = {}
    for row, one in enumerate(params):
        groups.setdefault(one, []).append(row)
    token_B = torch.empty(len(params), dtype=torch.int64, device=logits_BV.device)
    logp_B = torch.empty(len(params), dtype=torch.float32, device=logits_BV.device)
    tops: list[list[tuple[int, float]]] = [[] for _ in params]
    for one, rows in groups.items():
        choice = _choose_alike(logits_BV[rows], draw_B[rows], one, [seen[row] for row in rows] if seen else ())
        token_B[rows], logp_B[rows] = choice.token_B, choice.logp_B
        for row, top in zip(rows, choice.tops, strict=True):
            tops[row] = top
    return Choice(token_B, logp_B, tops)


class Likelihood(NamedTuple):
    """What tokens are drawn by, and what is recorded of them."""

    weight_BV: Tensor
    """Probabilities, 0 where a token must not be drawn; they need not sum to 1. Greedy: 1 for the likeliest token, 0 elsewhere."""
    logp_BV: Tensor
    """After temperature alone; greedy: at temperature 1."""


def likelihood(logits_BV: Tensor, params: SamplingParams, seen: Sequence[Sequence[int]] = ()) -> Likelihood:
    """What `choose` draws by, for rows that have the same params."""
    logp_BV, drawn_BV = _logps(logits_BV, params, seen)
    if params.temperature == 0.0:
        return Likelihood(torch.zeros_like(logp_BV).scatter_(1, drawn_BV.argmax(-1, keepdim=True), 1.0), logp_BV)
    return Likelihood(_keep_likely(drawn_BV.exp(), params), logp_BV)


def draw(weight_BV: Tensor, draw_B: Tensor) -> Tensor:
    """For each row the token where its number from [0, 1) falls in the cumulated weights."""
    # In two steps, of which only the first goes over the whole vocabulary. In float64, so that a sum over many does not
    # swallow a rare token's weight.
    B, V = weight_BV.shape
    blocks_BNV = F.pad(weight_BV, (0, -V % DRAW_BLOCK)).view(B, -1, DRAW_BLOCK)
    until_BN = blocks_BNV.sum(-1, dtype=torch.float64).cumsum(-1)
    threshold_B1 = (draw_B * until_BN[:, -1])[:, None]
    block_B1 = torch.searchsorted(until_BN, threshold_B1, right=True).clamp_(max=until_BN.shape[1] - 1)
    before_B1 = F.pad(until_BN, (1, 0)).gather(1, block_B1)
    within_BV = blocks_BNV[torch.arange(B, device=weight_BV.device), block_B1[:, 0]]
    until_BV = within_BV.cumsum(-1, dtype=torch.float64) + before_B1
    # The first place whose sum exceeds the draw: tokens of weight 0 are never it. Where the two sums of a block differ in
    # their last bit the draw can lie beyond the last token; it is then the last one that has a weight.
    last_B1 = DRAW_BLOCK - 1 - (within_BV > 0).flip(-1).int().argmax(-1, keepdim=True)
    place_B1 = torch.searchsorted(until_BV, threshold_B1, right=True).minimum(last_B1)
    token_B: Tensor = (block_B1 * DRAW_BLOCK + place_B1)[:, 0]
    return token_B


def _choose_alike(logits_BV: Tensor, draw_B: Tensor, params: SamplingParams, seen: Sequence[Sequence[int]]) -> Choice:
    logp_BV, drawn_BV = _logps(logits_BV, params, seen)
    token_B = drawn_BV.argmax(-1) if params.temperature == 0.0 else draw(_keep_likely(drawn_BV.exp(), params), draw_B)
    tops: list[list[tuple[int, float]]] = [[] for _ in range(len(logits_BV))]
    if params.top_logps:
        top = logp_BV.topk(min(params.top_logps, logp_BV.shape[1]), dim=-1)
        tops = [list(zip(tokens, logps, strict=True)) for tokens, logps in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    return Choice(token_B, logp_BV.gather(-1, token_B[:, None])[:, 0], tops)


def _logps(logits_BV: Tensor, params: SamplingParams, seen: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    # What is recorded, and what is drawn by.
    temperature = params.temperature or 1.0
    logp_BV = (logits_BV.float() / temperature).log_softmax(-1)
    if params.repetition_penalty == 1.0:
        return logp_BV, logp_BV
    return logp_BV, (_penalized(logits_BV.float(), seen, params.repetition_penalty) / temperature).log_softmax(-1)


def _penalized(logits_BV: Tensor, seen: Sequence[Sequence[int]], penalty: float) -> Tensor:
    penalized_BV = logits_BV.clone()
    for row, tokens in enumerate(seen):
        at = torch.tensor(sorted({token for token in tokens if token < logits_BV.shape[1]}), dtype=torch.int64, device=logits_BV.device)
        logit = logits_BV[row, at]
        penalized_BV[row, at] = torch.where(logit > 0, logit / penalty, logit * penalty)
    return penalized_BV


def draws(seeds: Sequence[int], num_tokens: int) -> np.ndarray:
    """Uniform numbers from [0, 1), float64 [len(seeds), num_tokens], each a hash of its seed and its place in the answer."""
    # Seeds are hashed once more than places: else (seed 1, place 2) would draw what (seed 2, place 1) does.
    seed_N1 = _mix(_mix(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)))[:, None]
    place_1T = _mix(np.arange(num_tokens, dtype=np.uint64))[None, :]
    return np.asarray((_mix(seed_N1 ^ place_1T) >> np.uint64(11)).astype(np.float64) / 2**53)


def _keep_likely(probability_BV: Tensor, params: SamplingParams) -> Tensor:
    # Probabilities, or 0 for what top-k, top-p and min-p leave out.
    if params.top_k:
        top = probability_BV.topk(min(params.top_k, probability_BV.shape[1]), dim=-1)
        probability_BV = torch.zeros_like(probability_BV).scatter_(-1, top.indices, top.values)
    if params.top_p < 1.0:
        probability_BV = _nucleus(probability_BV, params.top_p)
    if params.min_p:
        probability_BV = probability_BV * (probability_BV >= params.min_p * probability_BV.amax(-1, keepdim=True))
    return probability_BV


def _nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    # A token stays if those before it do not reach top_p of the whole; the first one always stays.
    enough_B1 = top_p * probability_BV.sum(-1, keepdim=True, dtype=torch.float64)
    # Of large vocabularies the first few hundred tokens almost always have it: a tenth of the time of sorting them all.
    size = min(NUCLEUS_TOKENS, probability_BV.shape[1])
    sorted_BV, order_BV = probability_BV.topk(size, dim=-1)
    if not bool((sorted_BV.sum(-1, keepdim=True, dtype=torch.float64) >= enough_B1).all()):
        sorted_BV, order_BV = probability_BV.sort(stable=True, dim=-1, descending=True)
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    return torch.zeros_like(probability_BV).scatter_(-1, order_BV, sorted_BV * (before_BV < enough_B1))


def _mix(value: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators", fig. 15).
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))
