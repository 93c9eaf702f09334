"""Learning from pairs: raise the answer that was preferred over the one that was not, held near a reference model.

Every loss here is a function of one number a pair, the margin
    gap = (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)).

Shapes: N pairs. Log-probabilities are those of whole answers (summed over tokens; for "ipo" averaged, see there).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bloomery.objectives.terms import LossTerms

PreferenceLoss = Literal["sigmoid", "ipo", "hinge"]


def pair_loss(
    chosen_logp_N: Tensor,
    rejected_logp_N: Tensor,
    reference_chosen_logp_N: Tensor,
    reference_rejected_logp_N: Tensor,
    *,
    beta: float,
    loss: PreferenceLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> LossTerms:
    """Direct preference optimisation, summed over pairs; the weight is the number of pairs.

    "sigmoid": -log sigmoid(beta * gap) (DPO, arXiv:2305.18290, eq. 7); with `label_smoothing` e, the chance that a label
      is wrong, (1 - e) * loss(gap) + e * loss(-gap) (conservative DPO, Mitchell 2023, eq. 3).
    "ipo": (gap - 1 / (2 * beta))**2 (arXiv:2310.12036, eq. 17), on log-probabilities averaged over an answer's tokens,
      as its authors do; the caller averages.
    "hinge": max(0, 1 - beta * gap) (SLiC, arXiv:2305.10425, as in DPO's frame).

    Metrics: `accuracy` (pairs with a gap above 0), `margin` (beta * gap), `chosen_reward` and `rejected_reward`.

    >>> zero = torch.zeros(1)
    >>> round(pair_loss(zero, zero, zero, zero, beta=0.1).loss_sum.item(), 4)
    0.6931
    >>> pair_loss(zero + 5, zero, zero, zero, beta=0.1, loss="ipo").loss_sum.item()
    0.0
    """
    chosen_N = chosen_logp_N - reference_chosen_logp_N
    rejected_N = rejected_logp_N - reference_rejected_logp_N
    gap_N = chosen_N - rejected_N
    if loss == "sigmoid":
        loss_N = -(1 - label_smoothing) * F.logsigmoid(beta * gap_N) - label_smoothing * F.logsigmoid(-beta * gap_N)
    elif loss == "ipo":
        loss_N = (gap_N - 1 / (2 * beta)).square()
    else:
        loss_N = F.relu(1 - beta * gap_N)
    metrics = {"accuracy": gap_N > 0, "margin": beta * gap_N, "chosen_reward": beta * chosen_N, "rejected_reward": beta * rejected_N}
    weight = torch.tensor(float(len(gap_N)), device=gap_N.device)
    return LossTerms(loss_N.sum(), weight, {name: value.detach().float().sum() for name, value in metrics.items()})
