"""Learning what people prefer: a number for each answer, such that the better of two answers has the higher one.

Bradley and Terry (1952): the chance that i is preferred to j is sigmoid(r_i - r_j). Plackett (1975) and Luce (1959) carry it
to rankings: the best is chosen first, with chance exp(r_i) / sum_j exp(r_j), then the best of the rest. Only differences
count, so that a constant can be added to all rewards of a prompt; `centering` holds it near 0.

Shapes: N prompts, K answers to each (rank 0: no answer there). Pairs of answers are N K K, the better one in the first K.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.objectives.terms import LossTerms

RankingLoss = Literal["bradley_terry", "plackett_luce"]
Ties = Literal["left_out", "even"]


def pair_reward_loss(chosen_N: Tensor, rejected_N: Tensor, *, margin_N: Tensor | None = None, centering: float = 0.0) -> LossTerms:
    """-log sigmoid(chosen - rejected - margin), summed over pairs (InstructGPT, arXiv:2203.02155, eq. 1; margin: Llama 2,
    arXiv:2307.09288, eq. 2), plus `centering` * (chosen + rejected)**2 (Eisenstein et al. 2023, arXiv:2312.09244).

    >>> zero = torch.zeros(1)
    >>> round(pair_reward_loss(zero, zero).loss_sum.item(), 4)
    0.6931
    >>> pair_reward_loss(zero - 1e4, zero, margin_N=zero + 1.0).loss_sum.item()
    10001.0
    """
    reward_NK = torch.stack([chosen_N, rejected_N], 1)
    rank_NK = torch.tensor([[1, 2]], device=reward_NK.device).expand_as(reward_NK)
    return ranking_loss(reward_NK, rank_NK, margin_N=margin_N, centering=centering)


def ranking_loss(
    reward_NK: Tensor,
    rank_NK: Tensor,
    *,
    loss: RankingLoss = "bradley_terry",
    margin_N: Tensor | None = None,
    wrong_N: Tensor | None = None,
    centering: float = 0.0,
    ties: Ties = "left_out",
) -> LossTerms:
    """The loss of rewards for ranked answers (1 is best, equal ranks are ties), summed over prompts; the weight is their number.

    "bradley_terry": the mean over a prompt's pairs of `pair_reward_loss`: all C(K,2) of them are one element of the batch
      (arXiv:2203.02155, sec. 3.5), because as separate examples they make a model overfit in one epoch.
    "plackett_luce": the negative log-likelihood of the ranking, one choice after another; of two answers it is
      the same as the other. Neither a margin nor soft labels are defined for it.

    wrong_N: the chance that a prompt's ranks are the wrong way round, 1 less a soft label p; its pairs' loss is then
    -p log sigmoid(d) - (1 - p) log sigmoid(-d) = -log sigmoid(d) + (1 - p) d (arXiv:2212.08073, sec. 4.1; 2309.00267, sec. 2.3).

    Of equal ranks nothing is learned with ties = "left_out". "even": they should have equal rewards; a tied pair counts
    half each way round, and in "plackett_luce" each of a tie is chosen from all that are not better (Breslow 1974). A prompt in
    which nothing is left to compare has weight 0.

    Metrics, of a prompt's pairs of unequal ranks: `accuracy` (equal rewards are half right), `margin` (better less worse),
    `chosen_reward`, `rejected_reward`.
    """
    reward_NK = reward_NK.float()
    present_NK = rank_NK > 0
    both_NKK = present_NK[:, :, None] & present_NK[:, None, :]
    better_NKK = both_NKK & (rank_NK[:, :, None] < rank_NK[:, None, :])
    tied_NKK = both_NKK & (rank_NK[:, :, None] == rank_NK[:, None, :])
    gap_NKK = reward_NK[:, :, None] - reward_NK[:, None, :]
    if loss == "bradley_terry":
        shift_NKK = gap_NKK if margin_N is None else gap_NKK - margin_N[:, None, None]
        share_NKK = better_NKK.float()
        cost_NKK = -F.logsigmoid(shift_NKK)
        if wrong_N is not None:
            cost_NKK = cost_NKK + wrong_N[:, None, None] * shift_NKK
        if ties == "even":
            # Both orders of a tied pair stand in the square: each counts half. No margin: neither is to be ahead.
            apart_NKK = tied_NKK & ~torch.eye(rank_NK.shape[1], dtype=torch.bool, device=rank_NK.device)
            share_NKK = share_NKK + 0.5 * apart_NKK
            cost_NKK = torch.where(apart_NKK, -F.logsigmoid(gap_NKK), cost_NKK)
        count_N = share_NKK.sum((1, 2))
        loss_N = (cost_NKK * share_NKK).sum((1, 2)) / count_N.clamp_min(1)
        compared_N = count_N > 0
    else:
        assert margin_N is None and wrong_N is None
        loss_N, compared_N = _plackett_luce(reward_NK, better_NKK, tied_NKK, ties)
    share_NKK = better_NKK / better_NKK.sum((1, 2), keepdim=True).clamp_min(1)
    total_NKK = reward_NK[:, :, None] + reward_NK[:, None, :]
    penalty_N = (total_NKK.square() * share_NKK).sum((1, 2))
    with torch.no_grad():
        values = {
            "accuracy": (gap_NKK > 0).float() + 0.5 * (gap_NKK == 0),
            "margin": gap_NKK,
            "chosen_reward": reward_NK[:, :, None].expand_as(gap_NKK),
            "rejected_reward": reward_NK[:, None, :].expand_as(gap_NKK),
        }
        metrics = {name: (value_NKK * share_NKK).sum() for name, value_NKK in values.items()}
    return LossTerms((loss_N + centering * penalty_N).sum(), compared_N.float().sum(), metrics)


def _plackett_luce(reward_NK: Tensor, better_NKK: Tensor, tied_NKK: Tensor, ties: Ties) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each ranking, and whether there is anything to choose in it."""
    itself_KK = torch.eye(reward_NK.shape[1], dtype=torch.bool, device=reward_NK.device)
    # What an answer was chosen from: those that are worse, and itself; and its equals, if ties say something.
    others_NKK = better_NKK | (tied_NKK & ~itself_KK) if ties == "even" else better_NKK
    chosen_NK = others_NKK.any(2)
    field_NKK = (others_NKK | itself_KK).expand_as(better_NKK)
    # Finite in place of -inf: a row of padding would have a gradient that is not a number.
    normaliser_NK = torch.where(field_NKK, reward_NK[:, None, :], torch.finfo(torch.float32).min).logsumexp(2)
    return torch.where(chosen_NK, normaliser_NK - reward_NK, 0.0).sum(1), chosen_NK.any(1)
