"""Do larger models use the text before them as no run of a fit does? Then no law of sizes can know how good they are.

What a row of held-out text gains from what stands before (evaluate/context_gain.py) is compared row by row. Shapes: M models, N rows.
"""

import numpy as np
import numpy.typing as npt

from bloomery.scaling.fitting import Range

MARGIN_NATS = 0.02
"""Smaller differences are not spoken of; the first model that copied was 0.07 ahead of all others (docs/ladder.md)."""

Vector = npt.NDArray[np.float64]


def mean_range(value_N: Vector) -> Range:
    """The mean, and 95 % of a normal distribution of means.

    >>> mean_range(np.array([1.0, 1.0, 1.0]))
    Range(value=1.0, low=1.0, high=1.0)
    """
    mean, half = float(value_N.mean()), 1.96 * float(value_N.std(ddof=1)) / len(value_N) ** 0.5
    return Range(mean, mean - half, mean + half)


def compare_gains(fitted_MN: Vector, held_out_MN: Vector) -> str:
    """What is to be said of the gains (nats a token) of held-out runs beside those of the fit; nothing where none is held out."""
    best_N = fitted_MN[fitted_MN.mean(axis=1).argmax()]
    ahead = [(float(gain_N.mean()), mean_range(gain_N - best_N)) for gain_N in held_out_MN]
    new = [(gain, more) for gain, more in ahead if more.low > MARGIN_NATS]
    if not new:
        return "No held-out run gains more from the text before it than the runs of the fit do." if ahead else ""
    gain, more = new[-1]
    return (
        f"{len(new)} of {len(ahead)} held-out runs gain more from the text before them than any run of the fit: the largest {gain:.3f} "
        f"nats a token, {more.value:.3f} [{more.low:.3f}, {more.high:.3f}] more than the best of the fit. What they have learnt the law "
        "has not seen; they may be better than it says."
    )
