"""The learning rate over a run, as a pure function of the step: nothing to save, nothing to restore."""

import math
from typing import Literal

Decay = Literal["wsd", "linear", "cosine", "constant"]


def learning_rate_factor(
    step: int, *, num_steps: int, warmup_fraction: float, decay: Decay, decay_fraction: float, final_fraction: float
) -> float:
    """What the learning rate is multiplied by at `step` (from 0): a rise over the warmup, then down to `final_fraction`.

    "wsd" holds 1 and falls in a straight line over the last `decay_fraction` of the steps (warmup-stable-decay,
    arXiv:2404.06395); "linear" and "cosine" fall from the end of the warmup on; "constant" never falls. The first step
    already learns, and the last step still does.

    >>> [learning_rate_factor(s, num_steps=8, warmup_fraction=0.25, decay="wsd", decay_fraction=0.5, final_fraction=0.0) for s in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup_steps = round(warmup_fraction * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_steps = round(decay_fraction * num_steps) if decay == "wsd" else num_steps - warmup_steps
    left = min(1.0, (num_steps - step) / max(decay_steps, 1))
    if decay == "constant":
        return 1.0
    if decay == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return final_fraction + (1.0 - final_fraction) * left
