"""Bradley-Terry ratings with the length of the answers taken out: what people would have preferred had both been equally long.

    P(left wins) = 1 / (1 + exp(-(strength_left - strength_right + weight d))),    d = (l_left - l_right) / (l_left + l_right)

`l` are an answer's characters; d lies in -1..1 and is then divided by its deviation over all battles, as in LMArena's style control
(Li, Angelopoulos, Chiang 2024, "Does style matter?", where l are tokens and other traits stand beside it). AlpacaEval's
length-controlled win rate (arXiv:2404.04475, eq. 2) is the same regression with tanh of the standardised difference. A tie is half
a win of each.

Legend: P players, T battles, N prompts, C coefficients (players, then the length).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: the values of a JSON record

import numpy as np
import numpy.typing as npt

from bloomery.core.errors import DataError
from bloomery.evaluate.metrics import Interval
from bloomery.evaluate.ratings import MAX_STEPS, MEAN_RATING, POINTS_OF_LEFT, POINTS_PER_NAT, Battle

NUM_RESAMPLES = 200
STEP, ROUNDING = 1e-7, 1e-12
"""A step of so many nats is the last one (Newton's next would be its square); what a sum of likelihoods may lose to rounding."""
WEIGHT_VARIANCE = 100.0
"""Of the normal prior of the length's weight, in nats squared: none to speak of, but finite where the longer answer always won."""


class LengthControlled(NamedTuple):
    """Ratings for answers of equal length from the best to the worst, and what length alone is worth."""

    ratings: list[tuple[str, Interval]]
    length_points: Interval
    """Points of rating that an answer gains whose d is one deviation above 0: above 0, people preferred longer answers."""

    def record(self) -> dict[str, Any]:
        """As a page or a file holds them."""
        ratings = [{"name": name, "rating": rating.record()} for name, rating in self.ratings]
        return {"ratings": ratings, "length_points": self.length_points.record()}


def rate_with_lengths(
    battles: Sequence[Battle], lengths: Sequence[tuple[int, int]], *, seed: int, prior_ties: float = 0.0, num_resamples: int = NUM_RESAMPLES
) -> LengthControlled:
    """Ratings of everybody in the battles; lengths[t] are those of battle t's left and right answer.

    `prior_ties` of equal length are added between every two players, as in ratings.rate; without any, strengths must be finite of
    themselves. Intervals: a Bayesian bootstrap over prompts. Raises DataError if there is no battle.
    """
    if not battles:
        raise DataError("no battle has been decided, so there is nothing to rate")
    names = sorted({name for battle in battles for name in (battle.left, battle.right)})
    design_TC, points_T = make_design(battles, lengths, names)
    prompts = {prompt: row for row, prompt in enumerate(sorted({battle.prompt for battle in battles}))}
    prompt_T = np.array([prompts[battle.prompt] for battle in battles])
    rng = np.random.default_rng([seed, len(battles)])
    value_C = fit(design_TC, points_T, np.ones(len(battles)), prior_ties=prior_ties)
    drawn = [
        fit(design_TC, points_T, rng.exponential(size=len(prompts))[prompt_T], prior_ties=prior_ties, start_C=value_C)
        for _ in range(num_resamples)
    ]
    low_C, high_C = np.quantile(drawn, [0.025, 0.975], axis=0) if drawn else (value_C, value_C)
    counts = np.abs(design_TC[:, :-1]).sum(axis=0)
    ends_3C = POINTS_PER_NAT * np.array([value_C, low_C, high_C])
    rated = []
    for p, name in enumerate(names):
        value, low, high = MEAN_RATING + ends_3C[:, p]
        rated.append((name, Interval(float(value), float(low), float(high), int(counts[p]))))
    value, low, high = ends_3C[:, -1]
    gained = Interval(float(value), float(low), float(high), len(battles))
    return LengthControlled(sorted(rated, key=lambda one: (-one[1].value, one[0])), gained)


def make_design(
    battles: Sequence[Battle], lengths: Sequence[tuple[int, int]], names: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """design_TC: 1 for the left player, -1 for the right one, and the standardised difference of lengths; points_T of the left player."""
    places = {name: p for p, name in enumerate(names)}
    design_TC = np.zeros((len(battles), len(names) + 1))
    for t, (battle, (left, right)) in enumerate(zip(battles, lengths, strict=True)):
        design_TC[t, places[battle.left]] += 1.0
        design_TC[t, places[battle.right]] -= 1.0
        design_TC[t, -1] = (left - right) / max(left + right, 1)
    # About 0, not about its mean: which answer is called left means nothing.
    deviation = float(np.sqrt(np.mean(design_TC[:, -1] ** 2)))
    design_TC[:, -1] /= deviation or 1.0
    return design_TC, np.array([POINTS_OF_LEFT[battle.winner] for battle in battles])


def fit(
    design_TC: npt.NDArray[np.float64],
    points_T: npt.NDArray[np.float64],
    weight_T: npt.NDArray[np.float64],
    *,
    prior_ties: float,
    start_C: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """The likeliest coefficients by Newton's method, strengths with mean 0."""
    num_players = design_TC.shape[1] - 1
    value_C = np.zeros(num_players + 1) if start_C is None else start_C.copy()
    score = _log_posterior(value_C, design_TC, points_T, weight_T, prior_ties)
    for _ in range(MAX_STEPS):
        chance_T = 1.0 / (1.0 + np.exp(-design_TC @ value_C))
        gradient_C = design_TC.T @ (weight_T * (points_T - chance_T))
        curvature_CC = (design_TC * (weight_T * chance_T * (1.0 - chance_T))[:, None]).T @ design_TC
        apart_PP = value_C[:-1, None] - value_C[None, :-1]
        prior_PP = prior_ties / (1.0 + np.exp(-apart_PP))
        gradient_C[:-1] += (prior_ties / 2 - prior_PP).sum(axis=1)
        bend_PP = prior_PP * (1.0 - prior_PP / prior_ties) if prior_ties else np.zeros_like(prior_PP)
        curvature_CC[:-1, :-1] += np.diag(bend_PP.sum(axis=1)) - bend_PP
        gradient_C[-1] -= value_C[-1] / WEIGHT_VARIANCE
        curvature_CC[-1, -1] += 1.0 / WEIGHT_VARIANCE
        # Only differences of strengths count: 1 everywhere takes the flat direction out, and keeps their mean 0.
        curvature_CC[:-1, :-1] += 1.0
        step_C, size = np.linalg.solve(curvature_CC, gradient_C), 1.0
        rounding = ROUNDING * (1.0 + abs(score))
        while (
            new := _log_posterior(value_C + size * step_C, design_TC, points_T, weight_T, prior_ties)
        ) < score - rounding and size > STEP:
            size /= 2
        value_C, score = value_C + size * step_C, new
        if np.abs(step_C).max() < STEP:
            break
    value_C[:-1] -= value_C[:-1].mean()
    return value_C


def _log_posterior(
    value_C: npt.NDArray[np.float64],
    design_TC: npt.NDArray[np.float64],
    points_T: npt.NDArray[np.float64],
    weight_T: npt.NDArray[np.float64],
    prior_ties: float,
) -> float:
    logit_T = design_TC @ value_C
    likelihood = (weight_T * (points_T * logit_T - np.logaddexp(0.0, logit_T))).sum()
    apart_PP = value_C[:-1, None] - value_C[None, :-1]
    prior = -prior_ties / 2 * np.logaddexp(0.0, -apart_PP).sum() + prior_ties / 2 * len(apart_PP) * np.log(2.0)
    return float(likelihood + prior - value_C[-1] ** 2 / (2 * WEIGHT_VARIANCE))
