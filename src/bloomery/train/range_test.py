"""The learning-rate range test: some steps of a real training, each with a larger rate than the last (Smith 2015, arXiv:1506.01186,
sec. 3.3; exponential as in Smith & Topin 2017, arXiv:1708.07120).

The loss falls slowly at first, then fast, then rises. Two rates are read off the smoothed curve: where it falls most steeply, and a
tenth of where it is lowest. What is trained (weights, optimizers, batches) is the stage's own, and is thrown away.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bloomery.core.errors import DataError
from bloomery.train.fit import Run, TrainingConfig
from bloomery.train.optimizer import set_learning_rate
from bloomery.train.state import TrainState
from bloomery.train.step import B, train_step

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss, which is corrected for its beginning."""
LOST_FRACTION = 0.5
"""The sweep ends where so much of what the loss had fallen is lost again, or it has risen by RISE_FRACTION, whichever is more."""
RISE_FRACTION = 0.1
FEWEST_STEPS = 10
TENTH = 0.1


class SweepPoint(NamedTuple):
    """One step: the rate it was made with (of matrices), the loss before it, and the running mean of losses up to it."""

    learning_rate: float
    loss: float
    smoothed: float


class Suggestion(NamedTuple):
    """Rates read off a sweep. `suggested` is the smaller of `steepest` and `minimum_tenth`, and `rule` says which it is."""

    steepest: float
    minimum: float
    minimum_tenth: float
    suggested: float
    rule: str
    exploded_at: float | None
    """The rate at which the sweep had to end, if it had to."""


class Sweep(NamedTuple):
    """What a range test saw."""

    points: list[SweepPoint]
    suggestion: Suggestion


class SweepDone(Exception):
    """Ends the stage that a sweep borrowed its model and data from."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__("the sweep is done")
        self.sweep = sweep


def sweep_learning_rates(
    state: TrainState, run: Run[B], config: TrainingConfig, *, lowest: float, highest: float, num_steps: int
) -> list[SweepPoint]:
    """Makes `num_steps` steps from `lowest` to `highest`, each a constant factor above the last, or fewer if the loss explodes.

    All groups of weights keep their proportion to `config.learning_rate`; clipping is the config's, spikes are not left out.
    """
    points: list[SweepPoint] = []
    mean, best = 0.0, math.inf
    for i in range(num_steps):
        rate = lowest * (highest / lowest) ** (i / max(num_steps - 1, 1))
        set_learning_rate(state.optimizers, rate / config.learning_rate)
        batches = run.batches_of_step(i)
        if run.prepare is not None:
            batches = run.prepare(state.model, batches)
        loss = train_step(state, batches, run.objective, max_gradient_norm=config.max_gradient_norm).loss
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        points.append(SweepPoint(rate, loss, mean / (1 - SMOOTHING ** (i + 1))))
        best = min(best, points[-1].smoothed)
        limit = best + max(RISE_FRACTION * abs(best), LOST_FRACTION * (points[0].loss - best))
        if i >= FEWEST_STEPS and points[-1].smoothed > limit:
            break
    return points


def suggest_rates(points: Sequence[SweepPoint], *, num_steps: int) -> Suggestion:
    """What a sweep that was to make `num_steps` steps says. Raises DataError if it is too short or the loss never fell."""
    if len(points) < FEWEST_STEPS:
        raise DataError(f"the sweep ended after {len(points)} steps: the loss exploded at its lowest rates. Begin lower: --from")
    rate, smoothed = np.array([p.learning_rate for p in points]), np.array([p.smoothed for p in points])
    lowest = int(smoothed.argmin())
    if lowest < 3:
        raise DataError(
            f"the loss never fell: it was lowest at the rate {rate[lowest]:.3g}, where the sweep began. Begin lower (--from), or look "
            "at the data: `bloomery doctor` says more"
        )
    slope = np.gradient(smoothed, np.log(rate))
    steepest, minimum = float(rate[int(slope[: lowest + 1].argmin())]), float(rate[lowest])
    suggested, rule = min((steepest, "steepest descent"), (TENTH * minimum, "a tenth of the minimum"))
    exploded = float(rate[-1]) if len(points) < num_steps else None
    return Suggestion(steepest, minimum, TENTH * minimum, suggested, rule, exploded)
