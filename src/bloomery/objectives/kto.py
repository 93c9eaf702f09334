"""Kahneman-Tversky optimisation (KTO, arXiv:2402.01306): learning from answers that are each called good or bad, without pairs.

    r = log pi(y | x) - log ref(y | x)                       the log-ratio of an answer
    z0 = max(0, mean over mismatched (x, y') of log pi(y' | x) - log ref(y' | x))       eq. 7, no gradient through it
    loss = lambda_D (1 - sigmoid(beta (r - z0)))   for a desirable answer              eq. 8
           lambda_U (1 - sigmoid(beta (z0 - r)))   for an undesirable one

z0 stands for KL(pi || ref), and belongs to the whole batch: it is estimated before the first micro-batch, over all
processes, so that neither how a batch is split nor where changes it.

Shapes: N answers.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bloomery.objectives.terms import LossTerms

BALANCE = (1.0, 4 / 3)
"""Where n_D lambda_D / (n_U lambda_U) is to lie (sec. 4.2 there, on imbalanced data)."""


class Weights(NamedTuple):
    """lambda_D and lambda_U."""

    desirable: float
    undesirable: float


def kto_loss(log_ratio_N: Tensor, is_desirable_N: Tensor, z0: Tensor, *, beta: float, weights: Weights) -> LossTerms:
    """Summed over answers; the weight is their number. `z0` [] is `reference_point` of the whole batch; no gradient flows into it.

    Metrics: `accuracy` (answers on their own side of z0), `z0`, `log_ratio`, and of each label the sums `reward/LABEL`
    (beta * log-ratio) and `loss/LABEL` with the number of its answers, `weight/LABEL`.

    >>> terms = kto_loss(torch.zeros(2), torch.tensor([True, False]), torch.zeros(()), beta=0.1, weights=Weights(1.0, 2.0))
    >>> terms.loss_sum.item(), terms.weight.item()
    (1.5, 2.0)
    """
    z0 = z0.detach()
    sign_N = is_desirable_N.to(log_ratio_N.dtype) * 2 - 1
    weight_N = weights.undesirable + (weights.desirable - weights.undesirable) * is_desirable_N.to(log_ratio_N.dtype)
    advantage_N = sign_N * (log_ratio_N - z0)
    loss_N = weight_N * torch.sigmoid(-beta * advantage_N)  # 1 - sigmoid(x), exact also where sigmoid(x) rounds to 1
    reward_N = beta * log_ratio_N
    metrics = {"accuracy": advantage_N > 0, "log_ratio": log_ratio_N, "z0": z0.expand_as(log_ratio_N)}
    for name, chosen_N in (("desirable", is_desirable_N), ("undesirable", ~is_desirable_N)):
        metrics |= {f"reward/{name}": reward_N * chosen_N, f"loss/{name}": loss_N * chosen_N, f"weight/{name}": chosen_N}
    sums = {name: value.detach().float().sum() for name, value in metrics.items()}
    return LossTerms(loss_N.sum(), torch.tensor(float(len(loss_N)), device=loss_N.device), sums)


def reference_point(mismatched_log_ratio_sum: Tensor, count: Tensor) -> Tensor:
    """z0 [] from the summed log-ratios of all mismatched pairs of a batch and their number."""
    return (mismatched_log_ratio_sum / count).clamp_min(0).detach()


def mismatch(prompts: Sequence[Hashable]) -> list[int]:
    """For each prompt the number of the example whose answer it is judged with for z0: a rearrangement without fixed points.

    Examples are laid out by prompt and each takes the answer that lies as far on as the largest group of one prompt is
    long: an answer to the prompt itself is met only where more than half of all examples share that prompt. Reversing
    the order, as others do, leaves the middle one of an odd number where it is.

    >>> mismatch(["a", "b", "c"])
    [1, 2, 0]
    >>> mismatch(["a", "a", "b", "b"])
    [2, 3, 0, 1]

    Raises ValueError for fewer than two.
    """
    count = len(prompts)
    if count < 2:
        raise ValueError(f"KTO's reference point needs at least two examples, found {count}")
    groups: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    order = [i for group in groups.values() for i in group]
    shift = min(max(map(len, groups.values())), count // 2)
    partner = [0] * count
    for place, i in enumerate(order):
        partner[i] = order[(place + shift) % count]
    return partner


def balanced_weights(num_desirable: int, num_undesirable: int) -> Weights:
    """The weights nearest to (1, 1), none below 1, for which n_D lambda_D / (n_U lambda_U) lies within BALANCE.

    >>> balanced_weights(10, 100), balanced_weights(100, 25)
    (Weights(desirable=10.0, undesirable=1.0), Weights(desirable=1.0, undesirable=3.0))
    >>> balanced_weights(11, 10)
    Weights(desirable=1.0, undesirable=1.0)
    """
    ratio = num_desirable / num_undesirable
    low, high = BALANCE
    return Weights(max(1.0, low / ratio), max(1.0, ratio / high))


def is_balanced(num_desirable: int, num_undesirable: int, weights: Weights) -> bool:
    """Whether the weights put n_D lambda_D / (n_U lambda_U) within BALANCE, up to rounding."""
    balance = num_desirable * weights.desirable / (num_undesirable * weights.undesirable)
    return BALANCE[0] * (1 - 1e-9) <= balance <= BALANCE[1] * (1 + 1e-9)
