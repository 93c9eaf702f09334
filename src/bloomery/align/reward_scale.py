"""Rewards in units of their own: mean 0 and deviation 1 over reference answers, folded into the head.

Reward models are shifted and scaled before they are used for reinforcement learning (lm-human-preferences; Stiennon et al. 2020,
arXiv:2009.01325, app. B.1; InstructGPT, arXiv:2203.02155, app. C.2), so that coefficients of KL mean the same with each. Those
have a gain and a bias. The head of Hugging Face's sequence classification is one row without a bias, so here the gain goes
into the row, and so does the bias, by a direction u in which all answers end alike: u . h is nearly 1 for every last state h, and
taking mean * u from the row shifts every reward by nearly the mean. How nearly is measured; where it is not near, the mean stays.

Shapes: N answers, D model.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bloomery.model.transformer import Transformer

MAX_SHIFT_ERROR = 0.1
"""In deviations of the reward: where shifting would blur rewards by more, they are scaled only."""
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried for the direction, in mean squares of a coordinate of the states."""


class Scaling(NamedTuple):
    """What was done to a head. Before: `mean` and `deviation` of the references' rewards, of which a unit of the new reward is one.

    `shift_error`: how unevenly the shift came out, in units of the new reward, on references that the direction was not
    found on. `shifted` False: too unevenly, and the mean is still there.
    """

    mean: float
    deviation: float
    shift_error: float
    shifted: bool


@torch.no_grad()
def normalise_head(model: Transformer, states_ND: Tensor) -> Scaling | None:
    """Shifts and scales the rewards of `states_ND`, the last states of reference answers, to mean 0 and deviation 1.

    None, and nothing done, where that is not defined: fewer than two references, or all with one reward.
    """
    states_ND = states_ND.double()
    head_D = model.head_weight()[0].double()
    reward_N = states_ND @ head_D
    mean, deviation = reward_N.mean(), reward_N.std(correction=0)
    if len(reward_N) < 2 or deviation <= 1e-8 * (1 + mean.abs()):
        return None
    direction_D, unevenness = _constant_direction(states_ND)
    shifted_D = head_D - mean * direction_D
    shifted_deviation = (states_ND @ shifted_D).std(correction=0)
    shift_error = float((mean * unevenness).abs() / shifted_deviation)
    is_even = shift_error <= MAX_SHIFT_ERROR
    unit = shifted_deviation if is_even else deviation
    model.head_weight()[0].copy_((shifted_D if is_even else head_D) / unit)
    return Scaling(float(mean), float(unit), shift_error, is_even)


def _constant_direction(states_ND: Tensor) -> tuple[Tensor, float]:
    """The row u whose mean over the states is 1 and that varies least, and by how much it varies on states it was not fitted to."""
    halves = (states_ND[::2], states_ND[1::2])

    def unevenness(ridge: float) -> float:
        spread = [states @ _fit(other, ridge) for states, other in (halves, halves[::-1])]
        return float(torch.cat([value_N / value_N.mean() - 1 for value_N in spread]).square().mean().sqrt())

    best = min(RIDGES, key=unevenness)
    return _fit(states_ND, best), unevenness(best)


def _fit(states_ND: Tensor, ridge: float) -> Tensor:
    # Least squares of u . h = 1, held down by the ridge.
    moment_DD = states_ND.mT @ states_ND / len(states_ND)
    moment_DD = moment_DD + ridge * moment_DD.diagonal().mean() * torch.eye(len(moment_DD), dtype=moment_DD.dtype, device=moment_DD.device)
    direction_D: Tensor = torch.linalg.solve(moment_DD, states_ND.mean(0))
    return direction_D / (states_ND @ direction_D).mean()
