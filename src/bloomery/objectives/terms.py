"""What every loss returns: a sum, the weight it was summed over, and sums to report.

Nothing here divides. `train_step` divides once, by the weight summed over micro-batches and processes, so that how a
batch is split can change neither the gradient nor what is logged.
"""

from typing import NamedTuple

from torch import Tensor


class LossTerms(NamedTuple):
    """A float32 loss [] summed over a batch, its weight [] (tokens, pairs), and metrics [] summed over the same things."""

    loss_sum: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]
