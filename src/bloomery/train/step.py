"""One optimizer step, the same for every objective, batch size, micro-batch size and number of processes.

Objectives return sums; gradients of sums add up over micro-batches and processes; the division by the weight of the
whole batch happens once, here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.model.transformer import Transformer
from bloomery.objectives.terms import LossTerms
from bloomery.train.loss_scale import adapt_scale, can_shrink, scale_loss
from bloomery.train.spikes import find_spike, note_spike, note_usual
from bloomery.train.state import TrainState

MAX_SKIPPED_IN_A_ROW = 10
NUM_RECENT_LOSSES = 20
MICRO_BATCH_TOKENS = {False: 8192, True: 65536}
"""Without and with CUDA. On two cores 8,192 tokens at a time are never slower than 4,096, and 15 to 20 % faster than 2,048."""


class AnyBatch(Protocol):
    """What a step needs to know of a batch: which of its places hold a token (document above 0)."""

    @property
    def document_BT(self) -> Tensor:
        """Number of the document at each place; 0 is padding."""
        ...


B = TypeVar("B", bound=AnyBatch)
Objective = Callable[[Transformer, B], LossTerms]
"""The loss of a model on a micro-batch, summed; see objectives/."""


class StepReport(NamedTuple):
    """What a step did. `loss` and `metrics` are means over the global batch; `gradient_norm` is that before clipping.

    `reason` says why a step was skipped.
    """

    loss: float
    gradient_norm: float
    metrics: dict[str, float]
    tokens: int
    skipped: bool
    reason: str = ""


def train_step(
    state: TrainState, micro_batches: Sequence[B], objective: Objective[B], *, max_gradient_norm: float, spike_sigmas: float = 0.0
) -> StepReport:
    """Updates the weights once by the gradient of (sum of losses) / (sum of weights) over all micro-batches and processes.

    Each process brings its own micro-batches. A step whose loss or gradient is not finite, or a spike (`spike_sigmas`
    above the last ones, see spikes.py), changes nothing but the counts; the tenth in a row that is not finite raises
    DataError.
    """
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    scaled = state.model.compute_dtype == torch.float16
    scale = state.loss_scale if scaled else 1.0
    loss, metrics, tokens = _backward(state.model, micro_batches, lambda model, batch: scale_loss(objective(model, batch), scale))
    gradients = _sum_gradients(parameters)
    weight = metrics.pop("weight")
    norm = float(torch.nn.utils.get_total_norm(gradients)) / (weight * scale) if weight > 0 else math.nan
    mean = loss / (weight * scale) if weight > 0 else math.nan
    overflowed = scaled and math.isfinite(mean) and not math.isfinite(norm) and can_shrink(state)
    reason = f"a gradient is too large for float16 at loss scale {scale:g}" if overflowed else ""
    reason = reason or find_spike(state, mean, norm, sigmas=spike_sigmas)
    if not reason:
        clip = min(1.0, max_gradient_norm / (norm + 1e-6)) if max_gradient_norm > 0 else 1.0
        torch._foreach_mul_(gradients, clip / (weight * scale))
        for optimizer in state.optimizers:
            optimizer.step()
    if reason and not overflowed:
        note_spike(state, reason, mean, norm)
    if scaled:
        adapt_scale(state, overflowed=overflowed)
    note_usual(state, mean, norm, sigmas=spike_sigmas)
    _count(state, mean, norm, tokens, reason=reason, overflowed=overflowed)
    means = {name: value / max(weight, 1e-12) for name, value in metrics.items()}
    return StepReport(mean if weight > 0 else 0.0, norm, means, tokens, bool(reason), reason)


@torch.no_grad()
def sum_losses(model: Transformer, batches: Iterable[B], objective: Objective[B]) -> LossTerms:
    """The terms of all batches added up, without gradients: on held-out data, loss_sum / weight is the loss."""
    device = model.head_weight().device
    loss, weight = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    metrics: dict[str, Tensor] = {}
    for batch in batches:
        terms = objective(model, batch)
        loss, weight = loss + terms.loss_sum, weight + terms.weight
        metrics = {name: value.double() + metrics.get(name, 0.0) for name, value in terms.metrics.items()}
    return LossTerms(loss, weight, metrics)


def micro_batch_rows(row_tokens: int, device: torch.device) -> int:
    """How many rows of `row_tokens` places go through the model at a time."""
    return max(1, MICRO_BATCH_TOKENS[device.type == "cuda"] // row_tokens)


def own_share(rows: np.ndarray) -> np.ndarray:
    """This process's part of the rows of a step: a run of them, of nearly equal size on every process."""
    return np.array_split(rows, dist.world_size())[dist.rank()]


def _backward(model: Transformer, micro_batches: Sequence[B], objective: Objective[B]) -> tuple[float, dict[str, float], int]:
    sums: dict[str, Tensor] = {}
    for batch in micro_batches:
        terms = objective(model, batch)
        if terms.loss_sum.requires_grad:
            terms.loss_sum.backward()  # type: ignore[no-untyped-call]  # torch does not type `backward`
        tokens = (batch.document_BT > 0).sum()
        for name, value in {"loss": terms.loss_sum, "weight": terms.weight, "tokens": tokens, **terms.metrics}.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value.detach().double()
    total = dist.all_reduce_sum(torch.stack(list(sums.values()))).tolist()
    metrics = dict(zip(sums, total, strict=True))
    return metrics.pop("loss"), metrics, int(metrics.pop("tokens"))


def _sum_gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    for parameter in parameters:
        if parameter.grad is None:  # a process whose rows hold nothing to learn still takes part in the sum
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if dist.world_size() > 1:
        # One message for all: a transformer has many small tensors, and each message costs a round trip.
        flat = dist.all_reduce_sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
    return gradients


def _count(state: TrainState, loss: float, norm: float, tokens: int, *, reason: str, overflowed: bool) -> None:
    state.step += 1
    state.data_step += 1
    state.tokens += tokens
    state.skipped += bool(reason)
    if not reason:
        state.recent_losses = [*state.recent_losses, loss][-NUM_RECENT_LOSSES:]
    is_finite = math.isfinite(loss) and math.isfinite(norm)
    if not overflowed:
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if reason else 0
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW and not is_finite:
        raise DataError(
            f"step {state.step}: the loss or its gradient was not a finite number, and nothing could be learned in "
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row (last loss {loss}). The weights are as they were before. A lower learning_rate, "
            "or precision = 'fp32', usually helps."
        )
