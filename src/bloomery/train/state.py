"""Everything a training run is at one moment: what a checkpoint must hold, and nothing else.

Batches, the learning rate and the points of validation are pure functions of the step, so the step is all that is
needed of them.
"""

from dataclasses import dataclass, field

import torch

from bloomery.model.transformer import Transformer


@dataclass
class TrainState:
    """A run between two steps. `step` steps are done."""

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    tokens: int = 0
    """Tokens read so far by all processes, padding not counted."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite: they changed no weight."""
    skipped_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """The loss of the last steps; their mean is the final loss that is reported."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row of numbers for each validation, with its `step` and `tokens`."""
