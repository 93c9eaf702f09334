"""Everything a training run is at one moment: what a checkpoint must hold, and nothing else.

Batches are a pure function of the data step, the learning rate and the points of validation of the step, so these two
numbers are all that is needed of them.
"""

from dataclasses import dataclass, field
from typing import Any  # Any: the values of a JSON document

import torch

from bloomery.model.transformer import Transformer
from bloomery.train.sharding import Parallel


@dataclass
class TrainState:
    """A run between two steps. `step` steps are done."""

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    parallel: Parallel = field(default_factory=Parallel)
    """This process's place among those that train together: how the run is carried out, not what it is."""
    step: int = 0
    data_step: int = 0
    """The step whose batches are read next; ahead of `step` by the windows of data that were left out."""
    tokens: int = 0
    """Tokens read so far by all processes, padding not counted."""
    skipped: int = 0
    """Steps that changed no weight: their loss or gradient was not finite, or a spike, or too large for float16."""
    skipped_in_a_row: int = 0
    """Of these the last ones without a good step between, overflows of float16 not counted."""
    recent_losses: list[float] = field(default_factory=list)
    """The loss of the last good steps; their mean is the final loss that is reported."""
    usual_losses: list[float] = field(default_factory=list)
    """The finite losses of the last steps, oldest first: what a spike is measured against (see train/spikes.py)."""
    usual_norms: list[float] = field(default_factory=list)
    """The gradient norms of the same steps."""
    spikes: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each step that was left out as a spike; see `spikes.note_spike`."""
    rollbacks: list[dict[str, int]] = field(default_factory=list)
    """One entry for each return to an earlier snapshot; see `spikes.roll_back`."""
    loss_scale: float = 1.0
    """What the loss is multiplied by in float16; see train/loss_scale.py."""
    steps_at_scale: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row of numbers for each validation, with its `step` and `tokens`."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """What the model wrote at each validation, with its `step`."""
    carried: dict[str, float] = field(default_factory=dict)
    """Numbers that an algorithm takes along from step to step: a weight that adapts, a moving baseline."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of numbers for each step that had something to tell beside its loss (see `Run.note_step`)."""
    early_stop: dict[str, Any] = field(default_factory=dict)
    """Why and from where the run went back to its best snapshot and ended; empty if it did not."""
