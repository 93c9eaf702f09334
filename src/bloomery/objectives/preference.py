"""Learning from pairs: raise the answer that was preferred over the one that was not.

Direct preference optimisation and its kin are functions of one number a pair, held near a reference model:
    gap = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)).
SimPO and ORPO need no reference: their log-probabilities are means over an answer's tokens.

Shapes: N pairs. Log-probabilities are those of whole answers, summed over tokens; lengths count these tokens.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.objectives.terms import LossTerms

DpoLoss = Literal["sigmoid", "robust", "sigmoid_norm", "ipo", "hinge"]
MIN_NLL = 1e-6
"""ORPO: an answer's mean log-probability is taken to be at most minus this, where 1 - p is still a number."""


class OfPair(NamedTuple):
    """A number for each answer of N pairs: log-probabilities, or lengths."""

    chosen_N: Tensor
    rejected_N: Tensor


def dpo_loss(
    policy: OfPair, reference: OfPair, length: OfPair, *, beta: float, loss: DpoLoss = "sigmoid", label_smoothing: float | Tensor = 0.0
) -> LossTerms:
    """Direct preference optimisation, summed over pairs; the weight is the number of pairs.

    "sigmoid": -log sigmoid(beta * gap) (DPO, arXiv:2305.18290, eq. 7); with `label_smoothing` e, the chance that a label
      is wrong, one for all or [N] of each pair, (1 - e) * L(gap) + e * L(-gap) (conservative DPO, Mitchell 2023, eq. 3).
    "robust": ((1 - e) * L(gap) - e * L(-gap)) / (1 - 2 e): L of the true labels on average, if a share e of those
      given is flipped (arXiv:2403.00409, eq. 12). May be negative.
    "sigmoid_norm": as "sigmoid", of log-ratios averaged over each answer's tokens (Tulu 3, arXiv:2411.15124, eq. 6).
    "ipo": (gap - 1 / (2 * beta))**2 (arXiv:2310.12036, eq. 17), averaged over each answer's tokens, as its authors do.
    "hinge": max(0, 1 - beta * gap) (SLiC, arXiv:2305.10425, in DPO's frame).

    Metrics: `accuracy` (pairs with a gap above 0), `margin` (beta * gap), `chosen_reward` and `rejected_reward`
    (beta * log-ratio), `log_ratio` (log pi - log ref, the mean of both answers).

    >>> zero = OfPair(torch.zeros(1), torch.zeros(1))
    >>> one = OfPair(torch.ones(1), torch.ones(1))
    >>> round(dpo_loss(zero, zero, one, beta=0.1).loss_sum.item(), 4)
    0.6931
    >>> dpo_loss(OfPair(torch.tensor([5.0]), torch.zeros(1)), zero, one, beta=0.1, loss="ipo").loss_sum.item()
    0.0
    """
    ratio = OfPair(policy.chosen_N - reference.chosen_N, policy.rejected_N - reference.rejected_N)
    compared = _per_token(ratio, length) if loss in ("sigmoid_norm", "ipo") else ratio
    gap_N = compared.chosen_N - compared.rejected_N
    e = label_smoothing
    if loss == "ipo":
        loss_N = (gap_N - 1 / (2 * beta)).square()
    elif loss == "hinge":
        loss_N = F.relu(1 - beta * gap_N)
    else:
        right_N, wrong_N = F.softplus(-beta * gap_N), F.softplus(beta * gap_N)
        loss_N = ((1 - e) * right_N - e * wrong_N) / (1 - 2 * e) if loss == "robust" else (1 - e) * right_N + e * wrong_N
    log_ratio_N = (ratio.chosen_N + ratio.rejected_N) / 2
    return _terms(loss_N, OfPair(beta * compared.chosen_N, beta * compared.rejected_N), {"log_ratio": log_ratio_N})


def simpo_loss(policy: OfPair, length: OfPair, *, beta: float, gamma: float) -> LossTerms:
    """SimPO (arXiv:2405.14734, eq. 6): -log sigmoid(beta * (mean logp chosen - mean logp rejected) - gamma).

    Means are over an answer's tokens, so no length pays by itself; `gamma` is the margin that a pair is to have.
    """
    mean = _per_token(policy, length)
    loss_N = F.softplus(gamma - beta * (mean.chosen_N - mean.rejected_N))
    return _terms(loss_N, OfPair(beta * mean.chosen_N, beta * mean.rejected_N), {})


def orpo_loss(policy: OfPair, length: OfPair, *, weight: float) -> LossTerms:
    """ORPO (arXiv:2403.07691, eq. 6 and 7): NLL of the chosen answer + weight * -log sigmoid(log odds ratio).

    Log-probabilities are means over an answer's tokens (eq. 1 of the paper's code), odds(p) = p / (1 - p) (eq. 4).
    Metrics: those of `dpo_loss` with weight * mean log-probability as reward, and `log_odds_ratio`.
    """
    mean = _per_token(policy, length)
    log_odds_N = _log_odds(mean.chosen_N) - _log_odds(mean.rejected_N)
    loss_N = -mean.chosen_N + weight * F.softplus(-log_odds_N)
    return _terms(loss_N, OfPair(weight * mean.chosen_N, weight * mean.rejected_N), {"log_odds_ratio": log_odds_N})


def _per_token(values: OfPair, length: OfPair) -> OfPair:
    return OfPair(values.chosen_N / length.chosen_N.clamp_min(1), values.rejected_N / length.rejected_N.clamp_min(1))


def _log_odds(logp_N: Tensor) -> Tensor:
    logp_N = logp_N.clamp_max(-MIN_NLL)
    return logp_N - torch.log(-torch.expm1(logp_N))


def _terms(loss_N: Tensor, reward: OfPair, more: dict[str, Tensor]) -> LossTerms:
    margin_N = reward.chosen_N - reward.rejected_N
    metrics = {"accuracy": margin_N > 0, "margin": margin_N, "chosen_reward": reward.chosen_N, "rejected_reward": reward.rejected_N}
    sums = {name: value.detach().float().sum() for name, value in (metrics | more).items()}
    return LossTerms(loss_N.sum(), torch.tensor(float(len(loss_N)), device=loss_N.device), sums)
