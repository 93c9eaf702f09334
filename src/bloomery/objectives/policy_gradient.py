"""Policy gradients: raise the log-probability of tokens by how good they were, and not farther than the samples can tell.

The objective of PPO, GRPO and their kin is one: a ratio of probabilities, clipped, times an advantage. They differ in
where advantages come from (`advantages.py`), in how far the ratio may go, and in how tokens are averaged:

    "token"     over all tokens of the batch                         PPO, DAPO (arXiv:2503.14476, eq. 8)
    "sequence"  over the tokens of an answer, then over answers      GRPO (arXiv:2402.03300, eq. 3)
    "constant"  tokens over a fixed length, then over answers        Dr. GRPO (arXiv:2503.20783, sec. 3.2)

Every loss is a sum; its weight is what it is to be divided by over the whole batch. Places with mask 0 (padding, what a
tool said, answers that are left out) are in neither, and may hold anything.

Shapes: N answers, T places of an answer.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bloomery.objectives.advantages import KlEstimator, kl_estimate
from bloomery.objectives.terms import LossTerms

Aggregate = Literal["token", "sequence", "constant"]


class Weights(NamedTuple):
    """float32 NT: how much each token counts in a sum; and [], what that sum is divided by."""

    weight_NT: Tensor
    total: Tensor


def aggregate_weights(mask_NT: Tensor, aggregate: Aggregate, *, constant_tokens: int = 0) -> Weights:
    """What the tokens of answers count, and what their sum is divided by; an answer without tokens is not counted.

    >>> aggregate_weights(torch.tensor([[1., 1.], [1., 0.], [0., 0.]]), "sequence")
    Weights(weight_NT=tensor([[0.5000, 0.5000],
            [1.0000, 0.0000],
            [0.0000, 0.0000]]), total=tensor(2.))

    Raises ValueError for "constant" without a length.
    """
    mask_NT = mask_NT.float()
    length_N1 = mask_NT.sum(1, keepdim=True)
    if aggregate == "token":
        return Weights(mask_NT, length_N1.sum())
    num_answers = (length_N1 > 0).sum().float()
    if aggregate == "sequence":
        return Weights(mask_NT / length_N1.clamp_min(1), num_answers)
    if constant_tokens < 1:
        raise ValueError(f'"constant" divides by a number of tokens; found {constant_tokens}')
    return Weights(mask_NT / constant_tokens, num_answers)


def clipped_policy_loss(
    logp_NT: Tensor,
    old_logp_NT: Tensor,
    advantage_NT: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
    aggregate: Aggregate = "token",
    constant_tokens: int = 0,
) -> LossTerms:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) (PPO, arXiv:1707.06347, eq. 7), ratio = exp(logp - old_logp).

    Two bounds are DAPO's clip-higher (arXiv:2503.14476, eq. 10). With `dual_clip` c > 1 the loss of a token with A < 0 is
    at most -c * A, however large its ratio (arXiv:1912.09729, eq. 5); 0 = no such bound.

    Metrics, summed over tokens whatever the aggregate: `ratio`, `approx_kl` (k3 of old from new), `clip_fraction`, and
    `tokens`, how many these are.
    """
    mask = mask_NT > 0
    weight_NT, total = aggregate_weights(mask_NT, aggregate, constant_tokens=constant_tokens)
    # where, before anything is computed: what stands in places without a mask may be NaN, and NaN * 0 is NaN.
    log_ratio_NT = torch.where(mask, logp_NT - old_logp_NT, 0.0)
    advantage_NT = torch.where(mask, advantage_NT, 0.0)
    ratio_NT = log_ratio_NT.exp()
    plain_NT = -ratio_NT * advantage_NT
    loss_NT = torch.maximum(plain_NT, -ratio_NT.clamp(1 - clip_low, 1 + clip_high) * advantage_NT)
    clipped_NT = loss_NT > plain_NT
    if dual_clip:
        loss_NT = torch.where(advantage_NT < 0, torch.minimum(loss_NT, -dual_clip * advantage_NT), loss_NT)
    with torch.no_grad():
        values = {"ratio": ratio_NT, "approx_kl": torch.expm1(log_ratio_NT) - log_ratio_NT, "clip_fraction": clipped_NT.float()}
        metrics = {name: (value * mask).sum() for name, value in {**values, "tokens": torch.ones_like(ratio_NT)}.items()}
    return LossTerms((loss_NT * weight_NT).sum(), total, metrics)


def kl_loss(
    logp_NT: Tensor,
    reference_logp_NT: Tensor,
    mask_NT: Tensor,
    *,
    estimator: KlEstimator,
    old_logp_NT: Tensor | None = None,
    aggregate: Aggregate = "token",
    constant_tokens: int = 0,
) -> LossTerms:
    """An estimate of KL(policy || reference) to add to a loss of the same aggregate (GRPO, arXiv:2402.03300, eq. 4, takes k3).

    Of tokens drawn from the policy, the gradient of k2 is on average that of KL(policy || reference), that of k3 the one of
    KL(reference || policy), and that of k1 is 0: as a loss k1 holds nothing back. GRPO takes k3. With `old_logp_NT`, that of the
    sampler, the estimate is multiplied by the ratio to it, and the gradient of k1 and k3 is that of KL(policy || reference), also
    where the policy has moved since (DeepSeek-V3.2, arXiv:2512.02556, sec. 3.1).
    """
    weight_NT, total = aggregate_weights(mask_NT, aggregate, constant_tokens=constant_tokens)
    mask = mask_NT > 0
    # Masked before the exponential of k3, whose gradient at a place that holds anything would be NaN.
    kl_NT = kl_estimate(torch.where(mask, logp_NT, 0.0), torch.where(mask, reference_logp_NT, 0.0), estimator)
    if old_logp_NT is not None:
        kl_NT = kl_NT * torch.where(mask, logp_NT - old_logp_NT, 0.0).exp()
    return LossTerms((kl_NT * weight_NT).sum(), total, {})


def entropy_bonus(entropy_NT: Tensor, mask_NT: Tensor, *, aggregate: Aggregate = "token", constant_tokens: int = 0) -> LossTerms:
    """The entropy of what could have been said at each place, as a loss: less is more (Williams & Peng 1991)."""
    weight_NT, total = aggregate_weights(mask_NT, aggregate, constant_tokens=constant_tokens)
    return LossTerms(-(torch.where(mask_NT > 0, entropy_NT, 0.0) * weight_NT).sum(), total, {})


def value_loss(value_NT: Tensor, old_value_NT: Tensor, return_NT: Tensor, mask_NT: Tensor, *, clip: float = 0.0) -> LossTerms:
    """Half the squared distance of values from returns, over all tokens.

    With `clip` a value that has moved by more than it from `old_value_NT` is also taken at the bound, and the larger loss
    counts (PPO's code; Huang 2023, detail 7): it can only be larger than without. 0 = not.

    Metrics: `value`, `return`, `value_clip_fraction`.
    """
    mask = mask_NT > 0
    weight_NT, total = aggregate_weights(mask_NT, "token")
    value_NT, old_value_NT, return_NT = (torch.where(mask, x, 0.0) for x in (value_NT, old_value_NT, return_NT))
    plain_NT = (value_NT - return_NT).square()
    bounded_NT = old_value_NT + (value_NT - old_value_NT).clamp(-clip, clip) if clip else value_NT
    square_NT = torch.maximum(plain_NT, (bounded_NT - return_NT).square())
    with torch.no_grad():
        values = {"value": value_NT, "return": return_NT, "value_clip_fraction": (square_NT > plain_NT).float()}
        metrics = {name: (value * weight_NT).sum() for name, value in values.items()}
    return LossTerms((square_NT * weight_NT).sum() / 2, total, metrics)
