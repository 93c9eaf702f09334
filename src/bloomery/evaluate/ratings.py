"""Bradley-Terry ratings of players from battles between pairs of them, with intervals.

    P(a beats b) = 1 / (1 + exp(strength_b - strength_a))         Bradley and Terry 1952; a tie is half a win of each

Strengths are the likeliest ones, shown on Elo's scale: 400 points more are odds of ten to one, the mean is 1000. They exist
only if nobody stands above all others without a loss (Ford 1957): the wins must lead from each player to each other one. Where few
battles must give an answer all the same, `prior_ties` are added: as if every two players had met so often more, and drawn.

Intervals are a Bayesian bootstrap (Rubin 1981) over prompts, the units that were drawn: each gets a weight from Exp(1).
No pair ever loses all its battles by chance, as in the usual bootstrap, so every resample has its likeliest strengths.

Legend: P players, N prompts.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple  # Any: the values of a JSON record

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from bloomery.core.errors import DataError
from bloomery.evaluate.metrics import Interval, WinRate, bootstrap_ratio

Side = Literal["left", "right", "tie"]
MEAN_RATING, POINTS_PER_NAT = 1000.0, 400.0 / math.log(10.0)
POINTS_OF_LEFT: dict[Side, float] = {"left": 1.0, "tie": 0.5, "right": 0.0}
NUM_RESAMPLES = 1000
TOLERANCE, MAX_STEPS = 1e-10, 200


class Battle(NamedTuple):
    """Two players' answers to one prompt, and whose was better."""

    prompt: int
    left: str
    right: str
    winner: Side


class Standing(NamedTuple):
    """A player's rating with its 95 % interval (`count` battles), and how its battles went."""

    name: str
    rating: Interval
    wins: int
    ties: int
    losses: int


class Ratings(NamedTuple):
    """Players from the best to the worst, and the points that each made against each other, and of how many battles."""

    standings: list[Standing]
    names: list[str]
    points_PP: npt.NDArray[np.float64]
    """points_PP[a, b]: wins of names[a] over names[b], and half their ties."""
    battles_PP: npt.NDArray[np.float64]

    def record(self) -> dict[str, Any]:
        """The ratings as ratings.json holds them."""
        return {
            "standings": [{**standing._asdict(), "rating": standing.rating.record()} for standing in self.standings],
            "names": self.names,
            "points": self.points_PP.tolist(),
            "battles": self.battles_PP.tolist(),
        }


def rate(battles: Sequence[Battle], *, seed: int, num_resamples: int = NUM_RESAMPLES, prior_ties: float = 0.0) -> Ratings:
    """Ratings of everybody in the battles. Raises DataError if there is none, or if no finite strengths explain them.

    `prior_ties` between every two players pull ratings towards each other and are finite of themselves; no count has them.
    """
    if not battles:
        raise DataError("no battle has been decided, so there is nothing to rate")
    names = sorted({name for battle in battles for name in (battle.left, battle.right)})
    places = {name: place for place, name in enumerate(names)}
    prompts = {prompt: row for row, prompt in enumerate(sorted({battle.prompt for battle in battles}))}
    points_NPP = np.zeros((len(prompts), len(names), len(names)))
    for battle in battles:
        row, a, b = prompts[battle.prompt], places[battle.left], places[battle.right]
        share = POINTS_OF_LEFT[battle.winner]
        points_NPP[row, a, b] += share
        points_NPP[row, b, a] += 1.0 - share
    points_PP = points_NPP.sum(axis=0)
    if not prior_ties:
        check_connected(points_PP, names)
    prior_PP = prior_ties / 2 * (1.0 - np.eye(len(names)))
    rating_P = _on_scale(strengths(points_PP + prior_PP))
    rng = np.random.default_rng([seed, len(battles)])
    drawn = np.empty((num_resamples, len(names)))
    for i in range(num_resamples):
        weight_N = rng.exponential(size=len(prompts))
        drawn[i] = _on_scale(strengths(np.tensordot(weight_N, points_NPP, axes=1) + prior_PP))
    low_P, high_P = np.quantile(drawn, [0.025, 0.975], axis=0) if num_resamples else (rating_P, rating_P)
    battles_PP = points_PP + points_PP.T
    standings = [
        Standing(
            name,
            Interval(float(rating_P[p]), float(low_P[p]), float(high_P[p]), int(battles_PP[p].sum())),
            *(sum(_result(battle, name) == result for battle in battles) for result in ("win", "tie", "loss")),
        )
        for p, name in enumerate(names)
    ]
    return Ratings(sorted(standings, key=lambda one: (-one.rating.value, one.name)), names, points_PP, battles_PP)


def strengths(points_PP: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The likeliest strengths, in nats with mean 0, by Newton's method; points_PP[a, b] are what a won against b.

    >>> (strengths(np.array([[0., 3.], [1., 0.]])) * 2).round(6).tolist()   # odds of three to one
    [1.098612, -1.098612]
    """
    strength_P = np.zeros(len(points_PP))
    battles_PP = points_PP + points_PP.T
    value = _log_likelihood(strength_P, points_PP)
    for _ in range(MAX_STEPS):
        chance_PP = _chances(strength_P)
        gradient_P = (points_PP - battles_PP * chance_PP).sum(axis=1)
        weight_PP = battles_PP * chance_PP * (1.0 - chance_PP)
        # Only differences count, so the matrix has one flat direction; adding 1 everywhere takes it out and keeps the mean 0.
        curvature_PP = np.diag(weight_PP.sum(axis=1)) - weight_PP + 1.0
        step_P = np.linalg.solve(curvature_PP, gradient_P)
        size = 1.0
        while (new := _log_likelihood(strength_P + size * step_P, points_PP)) < value and size > TOLERANCE:
            size /= 2
        strength_P, value = strength_P + size * step_P, new
        if np.abs(step_P).max() < TOLERANCE:
            break
    return np.asarray(strength_P - strength_P.mean())


def win_rates(battles: Sequence[Battle], *, seed: int) -> dict[str, dict[str, WinRate]]:
    """Of every two players who met: rates[a][b], a's wins and half the ties over all battles with b, with an interval over prompts.

    rates[a][b] + rates[b][a] is 1, whatever side anybody stood on.
    """
    points: dict[tuple[str, str], dict[int, list[float]]] = {}
    for battle in battles:
        a, b = sorted((battle.left, battle.right))
        share = POINTS_OF_LEFT[battle.winner] if a == battle.left else 1.0 - POINTS_OF_LEFT[battle.winner]
        points.setdefault((a, b), {}).setdefault(battle.prompt, []).append(share)
    rates: dict[str, dict[str, WinRate]] = {}
    for (a, b), of_prompt in sorted(points.items()):
        shares = [of_prompt[prompt] for prompt in sorted(of_prompt)]
        flat = [share for of_one in shares for share in of_one]
        ours = bootstrap_ratio([sum(of_one) for of_one in shares], [float(len(of_one)) for of_one in shares], seed=seed)
        theirs = Interval(1.0 - ours.value, 1.0 - ours.high, 1.0 - ours.low, ours.count)
        counts = flat.count(1.0), flat.count(0.5), flat.count(0.0)
        rates.setdefault(a, {})[b] = WinRate(ours, *counts)
        rates.setdefault(b, {})[a] = WinRate(theirs, *reversed(counts))
    return rates


def battles_of_ranks(ranks: Mapping[str, Sequence[Sequence[float]]]) -> list[Battle]:
    """Every two players on every prompt: ranks[name][prompt] are what their answers to it are worth, higher is better.

    The i-th answer of one meets the i-th of the other.
    """
    found = []
    for a, b in combinations(ranks, 2):
        for prompt, (ours, theirs) in enumerate(zip(ranks[a], ranks[b], strict=True)):
            for x, y in zip(ours, theirs, strict=True):
                found.append(Battle(prompt, a, b, "left" if x > y else "right" if x < y else "tie"))
    return found


def check_connected(points_PP: npt.NDArray[np.float64], names: Sequence[str]) -> None:
    """Raises DataError naming a group that has never taken a point from the others: their ratings would be infinite."""
    num_groups, group_P = connected_components(points_PP > 0, directed=True, connection="strong")
    for group in range(num_groups) if num_groups > 1 else ():
        inside = group_P == group
        if not (points_PP[np.ix_(inside, ~inside)] > 0).any():
            weak = ", ".join(name for name, is_in in zip(names, inside, strict=True) if is_in)
            others = ", ".join(name for name, is_in in zip(names, inside, strict=True) if not is_in)
            raise DataError(
                f"{weak} never won against nor drew with {others}: no finite rating explains that. Hold more battles, or leave {weak} out"
            )


def _chances(strength_P: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(strength_P[None, :] - strength_P[:, None])))


def _log_likelihood(strength_P: npt.NDArray[np.float64], points_PP: npt.NDArray[np.float64]) -> float:
    return float(-(points_PP * np.logaddexp(0.0, strength_P[None, :] - strength_P[:, None])).sum())


def _on_scale(strength_P: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return MEAN_RATING + POINTS_PER_NAT * strength_P


def _result(battle: Battle, name: str) -> str:
    if name not in (battle.left, battle.right):
        return ""
    if battle.winner == "tie":
        return "tie"
    return "win" if getattr(battle, battle.winner) == name else "loss"
