"""How much better an answer, or a token of it, was than expected: what policy gradients are weighted by.

A reward that is NaN is one that nobody could give. Its answer is left out: it moves no mean and no deviation, and its
advantage is 0 (whoever trains on it must also give it no weight).

Places whose mask is 0 (padding, what a tool said) are stepped over as if they were not there, whatever stands in them.

Shapes: N answers, T places of an answer.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]

SCALE_EPS = 1e-4
"""Added to a group's deviation (as TRL does), so that a spread of rounding size is not blown up to one."""
BLOCK = 256
"""Places over which discounted sums are one product; what comes behind a block is carried into it."""


class Moments(NamedTuple):
    """Float64 []: how many numbers, their mean, and the sum of their squared distances from it."""

    number: Tensor
    mean: Tensor
    squares: Tensor


def group_relative(reward_N: Tensor, *, group_size: int, scale: Literal["none", "std"]) -> Tensor:
    """Advantage of each answer over its own group (GRPO, arXiv:2402.03300, sec. 4.1.2; "none": Dr. GRPO, 2503.20783, sec. 3.2).

    reward_N holds whole groups one after another. "std" divides by the group's deviation (of a sample, n - 1 below). A
    group whose rewards are all equal, and one of a single known reward, gets exact zeros: it teaches nothing.

    >>> group_relative(torch.tensor([1., 0., 5., 5.]), group_size=2, scale="none").tolist()
    [0.5, -0.5, 0.0, 0.0]

    Raises ValueError if N is not a multiple of group_size.
    """
    reward_PG, known_PG, count_P1 = _groups(reward_N, group_size)
    deviation_PG = torch.where(known_PG, reward_PG - _mean(reward_PG, known_PG, count_P1), 0.0)
    if scale == "std":
        variance_P1 = deviation_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp_min(1)
        deviation_PG = deviation_PG / (variance_P1.sqrt() + SCALE_EPS)
    return torch.where(has_spread(reward_N, group_size=group_size)[:, None] & known_PG, deviation_PG, 0.0).flatten().float()


def leave_one_out(reward_N: Tensor, *, group_size: int) -> Tensor:
    """Each reward less the mean of the others of its group (RLOO, arXiv:2402.14740, eq. 7): n / (n - 1) (reward - mean).

    An answer without others that are known gets 0.

    >>> leave_one_out(torch.tensor([1., 0., 2.]), group_size=3).tolist()
    [0.0, -1.5, 1.5]
    """
    reward_PG, known_PG, count_P1 = _groups(reward_N, group_size)
    factor_P1 = count_P1 / (count_P1 - 1).clamp_min(1)
    deviation_PG = factor_P1 * (reward_PG - _mean(reward_PG, known_PG, count_P1))
    return torch.where(has_spread(reward_N, group_size=group_size)[:, None] & known_PG, deviation_PG, 0.0).flatten().float()


def above_baseline(reward_N: Tensor, baseline: Tensor) -> Tensor:
    """Reward less a baseline that does not depend on the answer (REINFORCE; Williams 1992, eq. 4); 0 where it is not known."""
    return torch.where(reward_N.isnan(), 0.0, reward_N - baseline).float()


def batch_mean(reward_N: Tensor) -> Tensor:
    """The mean [] of the rewards that are known; 0 if none is."""
    known_N = ~reward_N.isnan()
    return torch.where(known_N, reward_N, 0.0).sum() / known_N.sum().clamp_min(1)


def moving_baseline(baseline: float, reward_N: Tensor, *, decay: float) -> float:
    """The baseline for the next batch: decay * old + (1 - decay) * mean of this one; unchanged if no reward is known."""
    return baseline if bool(reward_N.isnan().all()) else decay * baseline + (1 - decay) * float(batch_mean(reward_N))


def has_spread(reward_N: Tensor, *, group_size: int) -> Tensor:
    """Bool [N / group_size]: whether the known rewards of a group differ. By comparing them, not from a variance: E[x^2] - E[x]^2
    of equal numbers need not be 0 (NeMo-RL PR 4158)."""
    reward_PG, known_PG, _ = _groups(reward_N, group_size)
    top_P = torch.where(known_PG, reward_PG, -torch.inf).amax(1)
    bottom_P = torch.where(known_PG, reward_PG, torch.inf).amin(1)
    return top_P > bottom_P


def gae(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates, NT (arXiv:1506.02438, eq. 16), 0 where the mask is.

        delta_t = reward_t + gamma * value_{t+1} - value_t,    A_t = sum_l (gamma * lam)^l * delta_{t+l}

    t + 1 is the next place with a mask: a gap is neither discounted nor is its value looked at, as if the answer had been
    written down without it. Behind the last place there is nothing: value 0, for answers that were cut off, too.
    """
    mask_NT = mask_NT.bool()
    T = mask_NT.shape[1]
    # Compacted: places with a mask to the front, in their order.
    order_NT = torch.argsort((~mask_NT).int(), dim=1, stable=True)
    kept_NT = mask_NT.gather(1, order_NT)
    reward_NT = torch.where(kept_NT, reward_NT.gather(1, order_NT), 0.0)
    value_NT = torch.where(kept_NT, value_NT.gather(1, order_NT), 0.0)
    delta_NT = reward_NT + gamma * torch.nn.functional.pad(value_NT[:, 1:], (0, 1)) - value_NT
    found_NT = torch.zeros_like(delta_NT)
    carried_N1 = delta_NT.new_zeros(len(delta_NT), 1)
    for end in range(T, 0, -BLOCK):
        start = max(0, end - BLOCK)
        distance_T = torch.arange(end - start, device=delta_NT.device)
        power_TT = (gamma * lam) ** (distance_T[:, None] - distance_T).clamp_min(0).to(delta_NT.dtype)
        behind_T = (gamma * lam) ** (end - start - distance_T).to(delta_NT.dtype)
        found_NT[:, start:end] = delta_NT[:, start:end] @ power_TT.tril() + carried_N1 * behind_T
        carried_N1 = found_NT[:, start : start + 1].clone()
    return torch.zeros_like(found_NT).scatter(1, order_NT, torch.where(kept_NT, found_NT, 0.0))


def kl_estimate(logp: Tensor, reference_logp: Tensor, estimator: KlEstimator) -> Tensor:
    """An estimate of KL(policy || reference) from tokens that the policy has drawn, in nats (Schulman 2020, "Approximating KL").

    With log ratio r = log policy - log reference: "k1" = r, unbiased, of either sign; "k2" = r^2 / 2, biased, never negative;
    "k3" = exp(-r) - 1 + r, unbiased and never negative.
    """
    ratio = logp - reference_logp
    if estimator == "k1":
        return ratio
    return ratio.square() / 2 if estimator == "k2" else torch.expm1(-ratio) + ratio


def token_rewards(score_N: Tensor, kl_NT: Tensor, mask_NT: Tensor, *, kl_weight: float) -> Tensor:
    """Rewards of tokens, NT: -kl_weight * kl at each, and the answer's score at its last (arXiv:2203.02155, eq. 2).

    The last token of the answer is the last place with a mask: its `<|end|>`, or of an answer that was cut off the token
    that was there by then; never a place behind it (trl #3750). Over an answer they sum to score - kl_weight * kl. An
    answer without any place gets nothing, and a score that is not known counts 0.
    """
    mask_NT = mask_NT.bool()
    is_last_NT = mask_NT & (mask_NT.int().flip(1).cumsum(1).flip(1) == 1)
    penalty_NT = torch.where(mask_NT, -kl_weight * kl_NT, 0.0)
    return penalty_NT + torch.where(is_last_NT & ~score_N.isnan()[:, None], score_N[:, None], 0.0)


def moments(x: Tensor, mask: Tensor) -> Moments:
    """Those of the places with a mask."""
    mask = mask.bool()
    number = mask.sum().double()
    mean = torch.where(mask, x, 0.0).double().sum() / number.clamp_min(1)
    return Moments(number, mean, torch.where(mask, x.double() - mean, 0.0).square().sum())


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, of: Moments | None = None) -> Tensor:
    """x with variance 1 over the places with a mask, and mean 0 or (`shift_mean` False) the mean that it had; 0 elsewhere.

    Advantages are whitened with, rewards without shifting the mean ("The N implementation details of RLHF with PPO",
    Huang 2023). The variance is that of a sample (n - 1 below). Equal numbers, or a single one, keep their scale. `of`:
    whiten by the moments of something larger, of which x is a part.
    """
    number, mean, squares = of or moments(x, mask)
    variance = squares / (number - 1).clamp_min(1)
    # Equal numbers differ from their mean by rounding only; see `has_spread`.
    is_flat = variance <= (1e-6 * mean).square() + 1e-24
    factor = torch.where(is_flat, 1.0, variance.clamp_min(1e-24).rsqrt())
    found = (x.double() - mean) * factor + (0.0 if shift_mean else mean)
    return torch.where(mask.bool(), found, 0.0).to(x.dtype)


def adapt_kl_weight(kl_weight: float, kl: float, *, target: float, num_episodes: int, horizon: int) -> float:
    """The weight of KL for the next batch, after one of `num_episodes` answers with `kl` nats each on average.

    weight * (1 + clip(kl / target - 1, -0.2, 0.2) * num_episodes / horizon) (Ziegler 2019, arXiv:1909.08593, sec. 2.2).

    >>> round(adapt_kl_weight(0.1, 12.0, target=6.0, num_episodes=100, horizon=10_000), 6)
    0.1002
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_weight * (1 + error * num_episodes / horizon)


def _groups(reward_N: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards in float64 by group, which of them are known, and how many."""
    if group_size < 1 or len(reward_N) % group_size:
        raise ValueError(f"{len(reward_N)} rewards are not groups of {group_size}")
    reward_PG = reward_N.double().view(-1, group_size)
    known_PG = ~reward_PG.isnan()
    return reward_PG, known_PG, known_PG.sum(1, keepdim=True)


def _mean(reward_PG: Tensor, known_PG: Tensor, count_P1: Tensor) -> Tensor:
    return torch.where(known_PG, reward_PG, 0.0).sum(1, keepdim=True) / count_P1.clamp_min(1)
