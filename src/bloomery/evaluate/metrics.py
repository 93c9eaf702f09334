"""Numbers with their uncertainty: every score is a value, a 95 % interval and the count that it rests on.

Shares get Wilson's interval, which stays inside 0..1 and is right near the ends; means, ratios and win rates get a
seeded percentile bootstrap over prompts or documents, the units that were drawn at random.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple  # Any: the values of a JSON record

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % quantile."""
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value, its 95 % interval, and the number of prompts or documents it was measured on."""

    value: float
    low: float
    high: float
    count: int

    def record(self) -> dict[str, Any]:
        """The interval as scores.json holds it."""
        return dataclasses.asdict(self)


class WinRate(NamedTuple):
    """Wins and half the ties over all prompts, and how often each happened."""

    interval: Interval
    wins: int
    ties: int
    losses: int

    def record(self) -> dict[str, Any]:
        """The win rate as scores.json holds it."""
        return {**self.interval.record(), "wins": self.wins, "ties": self.ties, "losses": self.losses}


def wilson(successes: int, count: int) -> Interval:
    """The share of successes with Wilson's score interval (Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4).

    >>> interval = wilson(8, 10)
    >>> interval.value, round(interval.low, 3), round(interval.high, 3)
    (0.8, 0.49, 0.943)
    Raises ValueError if there is nothing to take a share of.
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"{successes} successes out of {count}: expected 0 <= successes <= count and count > 0")
    share = successes / count
    spread = Z_95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # At 0 and at 1 the exact bound is 0 or 1; rounding may miss it by 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Interval(share, low, high, count)


def bootstrap_mean(values: Sequence[float], *, seed: int) -> Interval:
    """The mean with a percentile bootstrap interval over the values."""
    return bootstrap_ratio(values, [1.0] * len(values), seed=seed)


def bootstrap_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int) -> Interval:
    """sum(numerators) / sum(denominators), resampling the pairs (a percentile bootstrap; Efron 1979).

    This is how bits per byte or nats per token are uncertain: documents and prompts are random, not tokens.
    Raises ValueError for an empty list or a zero sum of denominators.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(top) != len(bottom) or not bottom.sum() > 0:
        raise ValueError(f"cannot take a ratio of {len(top)} numerators over {len(bottom)} denominators that sum to {bottom.sum()}")
    ratios = _resampled_ratios(top, bottom, np.random.default_rng([seed, len(top)]))
    low, high = np.quantile(ratios, [0.025, 0.975]) if len(ratios) else (top.sum() / bottom.sum(),) * 2
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def win_rate(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> WinRate:
    """How often `ours[i]` beats `theirs[i]`, a tie counting half, over the same prompts in the same order."""
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)]
    return WinRate(bootstrap_mean(points, seed=seed), wins=points.count(1.0), ties=points.count(0.5), losses=points.count(0.0))


def distinct_ngrams(sequences: Sequence[Sequence[Hashable]], *, n: int) -> float | None:
    """Different n-grams over all n-grams of the sequences together (distinct-n, arXiv:1510.03055); None without any n-gram.

    Given the samples for ONE prompt, this is per-input diversity (arXiv:2310.06452, sec. 4), what alignment tends to cost.

    >>> distinct_ngrams([["a", "b", "c"], ["a", "b"]], n=2)
    0.6666666666666666
    """
    grams = [tuple(sequence[i : i + n]) for sequence in sequences for i in range(len(sequence) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _resampled_ratios(top: npt.NDArray[np.float64], bottom: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    ratios = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        drawn = rng.integers(0, len(top), len(top))
        denominator = bottom[drawn].sum()
        ratios[i] = top[drawn].sum() / denominator if denominator > 0 else np.nan
    return ratios[~np.isnan(ratios)]
