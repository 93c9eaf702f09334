"""Mixtures of sources: which ones small runs should try, and which ones a run of a given length may have.

As in RegMix (arXiv:2407.01492, and its code) mixtures are drawn from Dirichlet distributions around the sizes of the sources
(square roots of their shares, so that small ones are seen), of many concentrations, so that some are one-sided. Different here: of many
drawn sets the one that tells the effects of the sources apart best is run (D-optimal), because there are dozens of runs and not 512.
No source may be read more than `max_epochs` times: what is drawn above that is pulled back towards the natural mixture until it fits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PRIOR_POWER = 0.5
"""Of the shares by size: RegMix's temperature."""
CONCENTRATIONS = (1.0, 30.0)
"""Sums of the Dirichlet's parameters, drawn evenly in the logarithm. RegMix has 0.1 to 5: nearly all of its mixtures are one source."""
MIN_SHARE = 0.01
"""What is less becomes 0: a source of a few rows teaches a small run nothing."""
UNITS = 1000
"""Shares are written in thousandths."""
NUM_SETS = 200
"""Drawn sets of mixtures, of which one is run."""

Vector = npt.NDArray[np.float64]
"""S shares; matrices are mixtures x sources, [R, S]."""


class MixturePlan(NamedTuple):
    """Mixtures to run: the first of `fitted` is the natural one; `held_out` are of the same distribution as the others."""

    fitted: list[Vector]
    held_out: list[Vector]


def natural_mixture(sizes: Sequence[float]) -> Vector:
    """Each source by its size."""
    sizes_S = np.asarray(sizes, dtype=np.float64)
    return np.asarray(sizes_S / sizes_S.sum())


def share_caps(sizes: Sequence[float], *, tokens: float, max_epochs: float) -> Vector:
    """The largest share of each source in a run of so many tokens that reads none of them more than `max_epochs` times (0: no limit).

    >>> share_caps([1e6, 3e6], tokens=4e6, max_epochs=2).tolist()
    [0.5, 1.0]

    Raises ValueError if all sources together are too small for such a run.
    """
    if not max_epochs or not tokens:
        return np.ones(len(sizes))
    if tokens > max_epochs * sum(sizes):
        raise ValueError(
            f"a run of {tokens:,.0f} tokens reads its sources ({sum(sizes):,.0f} tokens) {tokens / sum(sizes):.1f} times, "
            f"but max_epochs = {max_epochs:g}: allow more epochs, or train on fewer tokens"
        )
    return np.minimum(1.0, max_epochs * np.asarray(sizes, dtype=np.float64) / tokens)


def plan_mixtures(sizes: Sequence[float], *, num_fitted: int, num_held_out: int, caps: Vector, seed: int) -> MixturePlan:
    """The natural mixture and `num_fitted` - 1 others to fit a law to, `num_held_out` to test it on. Equal arguments give equal plans."""
    natural_S = natural_mixture(sizes)
    count = num_fitted - 1 + num_held_out
    drawn_CS = draw_mixtures(natural_S, NUM_SETS * count, caps=caps, seed=seed)
    sets = np.stack([round_shares(share_S) for share_S in drawn_CS]).reshape(NUM_SETS, count, len(natural_S))
    best = max(sets, key=lambda found: _information(np.vstack([natural_S, found[: num_fitted - 1]])))
    return MixturePlan([natural_S, *best[: num_fitted - 1]], list(best[num_fitted - 1 :]))


def draw_mixtures(natural_S: Vector, count: int, *, caps: Vector, seed: int) -> Vector:
    """`count` mixtures within `caps`, float64 [count, S]."""
    rng = np.random.default_rng([seed, len(natural_S), count])
    prior_S = natural_S**PRIOR_POWER / (natural_S**PRIOR_POWER).sum()
    concentration_R = np.exp(rng.uniform(np.log(CONCENTRATIONS[0]), np.log(CONCENTRATIONS[1]), size=count))
    # A Dirichlet draw is a gamma draw for each source over their sum.
    share_RS = np.maximum(rng.standard_gamma(concentration_R[:, None] * prior_S), 1e-300)
    share_RS /= share_RS.sum(axis=1, keepdims=True)
    share_RS[share_RS < MIN_SHARE] = 0.0
    share_RS /= share_RS.sum(axis=1, keepdims=True)
    return pull_back(share_RS, natural_S, low=np.zeros(len(natural_S)), high=caps)


def pull_back(share_RS: Vector, natural_S: Vector, *, low: Vector, high: Vector) -> Vector:
    """Each mixture moved straight towards the natural one, no further than it takes to be between `low` and `high`."""
    step_RS = share_RS - natural_S
    with np.errstate(divide="ignore", invalid="ignore"):
        up_RS = np.where(share_RS > high, (high - natural_S) / step_RS, 1.0)
        down_RS = np.where(share_RS < low, (low - natural_S) / step_RS, 1.0)
    part_R = np.clip(np.minimum(up_RS, down_RS).min(axis=1), 0.0, 1.0)
    return np.asarray(natural_S + part_R[:, None] * step_RS)


def round_shares(share_S: Vector) -> Vector:
    """Shares in thousandths that sum to 1, by largest remainders: none is rounded above a limit in thousandths that it kept.

    >>> round_shares(np.array([1 / 3, 1 / 3, 1 / 3])).tolist()
    [0.334, 0.333, 0.333]
    """
    scaled_S = np.round(share_S / share_S.sum() * UNITS, 9)
    whole_S = np.floor(scaled_S)
    missing = UNITS - int(whole_S.sum())
    order = np.argsort(-(scaled_S - whole_S), kind="stable")
    whole_S[order[:missing]] += 1
    return np.asarray(whole_S / UNITS, dtype=np.float64)


def _information(share_RS: Vector) -> float:
    sign, value = np.linalg.slogdet(share_RS.T @ share_RS)
    return float(value) if sign > 0 else -np.inf
