"""Log-probabilities of whole answers, and what the model said of them before it was trained on pairs.

The reference model never changes, so its log-probabilities are computed once, before the first step, and its weights
need not stay in memory (a third of the forward passes of DPO, open-instruct measures the same).

Shapes: B answers (two rows a pair), T tokens, N pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bloomery.core import dist
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import token_logps
from bloomery.tokens.chat import Rendered

ROUND_UP_TOKENS = 16
"""Rows are padded to a multiple of this, so that few shapes occur."""


class RenderedPair(NamedTuple):
    """A rendered prompt with the answer that was preferred and the one that was not; only the answers' tokens are masked in."""

    chosen: Rendered
    rejected: Rendered


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Pairs as rows, chosen and rejected by turns: row 2i is pair i's chosen answer, row 2i + 1 its rejected one.

    int64, but weight_BT (float32: 1 where the target is a token of the answer) and the reference's log-probabilities
    of chosen and rejected (float32, summed over the answer's tokens). Padding is on the right and has document 0.
    """

    token_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor
    document_BT: Tensor
    reference_logp_N2: Tensor


class AnswerLogps(NamedTuple):
    """float32 [B]: an answer's log-probability, and its number of tokens."""

    logp_B: Tensor
    length_B: Tensor


def make_pair_batch(pairs: Sequence[RenderedPair], reference_N2: np.ndarray, device: torch.device | str) -> PairBatch:
    """The tensors of some pairs; reference_N2 holds the reference's log-probabilities (chosen, rejected) of each."""
    rendered = [answer for pair in pairs for answer in pair]
    longest = max(len(answer.ids) for answer in rendered) - 1
    shape = (len(rendered), -(-longest // ROUND_UP_TOKENS) * ROUND_UP_TOKENS)
    token, target, document = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    weight = np.zeros(shape, dtype=np.float32)
    for b, answer in enumerate(rendered):
        length = len(answer.ids) - 1
        token[b, :length], target[b, :length] = answer.ids[:-1], answer.ids[1:]
        weight[b, :length], document[b, :length] = answer.loss_mask[1:], 1
    tensors = [torch.from_numpy(array).to(device) for array in (token, target, weight, document)]
    reference = torch.from_numpy(reference_N2.astype(np.float32)).to(device)
    return PairBatch(token_BT=tensors[0], target_BT=tensors[1], weight_BT=tensors[2], document_BT=tensors[3], reference_logp_N2=reference)


def answer_logps(model: Transformer, batch: PairBatch) -> AnswerLogps:
    """The model's log-probability of each answer of a batch. Logits are computed at the answers' tokens only."""
    hidden_BTD = model.hidden_states(batch.token_BT, document_BT=batch.document_BT)
    b, t = batch.weight_BT.nonzero(as_tuple=True)
    logp = token_logps(model.logits(hidden_BTD[b, t]), batch.target_BT[b, t])
    zero_B = torch.zeros(len(batch.token_BT), device=logp.device)
    return AnswerLogps(zero_B.index_add(0, b, logp), batch.weight_BT.sum(1))


@torch.no_grad()
def reference_logps(model: Transformer, pairs: Sequence[RenderedPair], *, batch_pairs: int) -> np.ndarray:
    """The model's log-probabilities of the chosen and the rejected answer of each pair, float32 [N, 2].

    Each process computes a share and all get the whole. A pair's figures do not depend on which others share its batch,
    beyond rounding.
    """
    device = model.device
    # Longest first: a batch of answers of like length has little padding.
    order = sorted(range(len(pairs)), key=lambda i: -max(len(pairs[i].chosen.ids), len(pairs[i].rejected.ids)))
    found = torch.zeros(len(pairs), 2, device=device)
    starts = range(0, len(pairs), batch_pairs)
    for start in starts[dist.rank() :: dist.world_size()]:
        indices = order[start : start + batch_pairs]
        batch = make_pair_batch([pairs[i] for i in indices], np.zeros((len(indices), 2)), device)
        found[indices] = answer_logps(model, batch).logp_B.view(-1, 2)
    logps: np.ndarray = dist.all_reduce_sum(found).cpu().numpy()
    return logps
