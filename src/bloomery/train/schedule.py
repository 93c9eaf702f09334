"""The learning rate over a run, as a pure function of the step: nothing to save, nothing to restore."""

import math
from typing import Literal

from pydantic import Field, PositiveFloat

from bloomery.core.config import Config

Decay = Literal["wsd", "linear", "cosine", "inverse_sqrt", "constant"]
DecayShape = Literal["linear", "sqrt", "cosine"]


class ScheduleSegment(Config):
    """The learning rate over one stage of a curriculum, from its first step to its last; fractions are of its steps."""

    learning_rate_factor: PositiveFloat = 1.0
    """The highest rate of the stage, as a multiple of the run's."""
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    decay: Decay = "constant"
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """The share of the steps over which "wsd" falls."""
    decay_shape: DecayShape = "linear"
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """The rate at the end of the stage, as a share of its highest."""


def segment_factor(step: int, segment: ScheduleSegment, *, num_steps: int) -> float:
    """What full learning rates are multiplied by at `step` (from 0) of a stage of `num_steps` steps."""
    within = learning_rate_factor(
        step,
        num_steps=num_steps,
        warmup_fraction=segment.warmup_fraction,
        decay=segment.decay,
        decay_fraction=segment.decay_fraction,
        final_fraction=segment.final_fraction,
        shape=segment.decay_shape,
    )
    return segment.learning_rate_factor * within


def learning_rate_factor(
    step: int,
    *,
    num_steps: int,
    warmup_fraction: float,
    decay: Decay,
    decay_fraction: float,
    final_fraction: float,
    shape: DecayShape = "linear",
) -> float:
    """What the learning rate is multiplied by at `step` (from 0): a rise over the warmup, then down to `final_fraction`.

    "wsd" holds 1 and falls over the last `decay_fraction` of the steps, or from the end of the warmup if that is later
    (warmup-stable-decay, arXiv:2404.06395), in the given shape; "linear" and "cosine" fall from the end of the warmup on;
    "inverse_sqrt" falls with the root of the step (arXiv:1706.03762, eq. 3), not below `final_fraction`; "constant"
    never falls. The first step already learns, and the last step still does.

    >>> [learning_rate_factor(s, num_steps=8, warmup_fraction=0.25, decay="wsd", decay_fraction=0.5, final_fraction=0.0) for s in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup_steps = round(warmup_fraction * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "constant":
        return 1.0
    if decay == "inverse_sqrt":
        return max(final_fraction, math.sqrt(max(warmup_steps, 1) / (step + 1)))
    falling_steps = num_steps - warmup_steps
    decay_steps = min(round(decay_fraction * num_steps), falling_steps) if decay == "wsd" else falling_steps
    left = min(1.0, max(0, num_steps - step) / max(decay_steps, 1))
    return final_fraction + (1.0 - final_fraction) * _bend(left, shape if decay == "wsd" else decay)


def _bend(left: float, shape: Literal["linear", "sqrt", "cosine"]) -> float:
    """The height of a curve from 1 to 0 where the share `left` of its way is left. "sqrt" is 1 - sqrt (arXiv:2405.18392, sec. 3.2)."""
    if shape == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * left)
    return 1.0 - math.sqrt(1.0 - left) if shape == "sqrt" else left
