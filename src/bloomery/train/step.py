"""One optimizer step, the same for every objective, batch size, micro-batch size and number of processes.

Objectives return sums; gradients of sums add up over micro-batches and processes; the division by the weight of the
whole batch happens once, here.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.core.stage import Launch
from bloomery.model.transformer import Transformer
from bloomery.objectives.terms import LossTerms
from bloomery.train.layout import make_layout
from bloomery.train.loss_scale import adapt_scale, can_shrink, scale_loss
from bloomery.train.pipelining import Pipelined
from bloomery.train.sharding import Parallel, end_evaluation
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

    `reason` says why a step was skipped, `weight` what the loss was summed over. `rank_seconds` is how long each of several
    processes took for its own part, before it waited for the others; what they exchange within it (FSDP, tensor, pipeline) counts.
    """

    loss: float
    gradient_norm: float
    metrics: dict[str, float]
    tokens: int
    skipped: bool
    reason: str = ""
    weight: float = 0.0
    rank_seconds: tuple[float, ...] = ()


def train_step(
    state: TrainState, micro_batches: Sequence[B], objective: Objective[B], *, max_gradient_norm: float, spike_sigmas: float = 0.0
) -> StepReport:
    """Updates the weights once by the gradient of (sum of losses) / (sum of weights) over all micro-batches and processes.

    Each process brings its own micro-batches. A step whose loss or gradient is not finite, or a spike (`spike_sigmas`
    above the last ones, see spikes.py), changes nothing but the counts; the tenth in a row that is not finite raises
    DataError.
    """
    parallel = state.parallel
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    scaled = state.model.compute_dtype == torch.float16
    scale = state.loss_scale if scaled else 1.0
    loss, metrics, tokens, seconds = _backward(
        state.model, micro_batches, lambda model, batch: scale_loss(objective(model, batch), scale), parallel
    )
    gradients = parallel.sum_gradients(parameters)
    weight = metrics.pop("weight")
    norm = parallel.gradient_norm(parameters, gradients) / (weight * scale) if weight > 0 else math.nan
    mean = loss / (weight * scale) if weight > 0 else math.nan
    overflowed = scaled and math.isfinite(mean) and not math.isfinite(norm) and can_shrink(state)
    reason = f"a gradient is too large for float16 at loss scale {scale:g}" if overflowed else ""
    reason = reason or find_spike(state, mean, norm, sigmas=spike_sigmas)
    if not reason:
        clip = min(1.0, max_gradient_norm / (norm + 1e-6)) if max_gradient_norm > 0 else 1.0
        torch._foreach_mul_(gradients, clip / (weight * scale))
        for optimizer in state.optimizers:
            optimizer.step()
        # A fused optimizer does not count its writes, and an Engine tells by the count whether it must read the weights again.
        torch.autograd.graph.increment_version(parameters)
    if reason and not overflowed:
        note_spike(state, reason, mean, norm)
    if scaled:
        adapt_scale(state, overflowed=overflowed)
    note_usual(state, mean, norm, sigmas=spike_sigmas)
    _count(state, mean, norm, tokens, reason=reason, overflowed=overflowed)
    means = {name: value / max(weight, 1e-12) for name, value in metrics.items()}
    return StepReport(mean if weight > 0 else 0.0, norm, means, tokens, bool(reason), reason, weight, seconds)


@torch.no_grad()
def sum_losses(model: Transformer, batches: Iterable[B], objective: Objective[B]) -> LossTerms:
    """The terms of all batches added up, without gradients: on held-out data, loss_sum / weight is the loss."""
    pipelined = model if isinstance(model, Pipelined) else None
    loss, weight = (torch.zeros((), dtype=torch.float64, device=model.device) for _ in range(2))
    metrics: dict[str, Tensor] = {}
    for terms in (objective(model, batch) for batch in batches) if pipelined is None else pipelined.evaluate(batches, objective):
        loss, weight = loss + terms.loss_sum, weight + terms.weight
        metrics = {name: value.double() + metrics.get(name, 0.0) for name, value in terms.metrics.items()}
    end_evaluation(model)
    found = LossTerms(loss, weight, metrics)
    return found if pipelined is None else LossTerms(*pipelined.from_last(found))


def micro_batch_rows(row_tokens: int, device: torch.device, launch: Launch | None = None) -> int:
    """How many rows of `row_tokens` places go through the model at a time."""
    places = (launch.micro_batch_tokens if launch is not None else 0) or MICRO_BATCH_TOKENS[device.type == "cuda"]
    return max(1, places // row_tokens)


def num_micro_batches(num_rows: int, row_tokens: int, device: torch.device, launch: Launch) -> int:
    """In how many parts a process's rows go through the model. A pipeline needs one for each of its places, all of equal size."""
    wanted = -(-num_rows // micro_batch_rows(row_tokens, device, launch))
    if launch.pipeline == 1:
        return wanted
    step = launch.pipeline if launch.schedule == "interleaved" else 1
    return next(n for n in range(max(wanted, launch.pipeline), num_rows + 1) if num_rows % n == 0 and n % step == 0)


def own_share(rows: np.ndarray, launch: Launch) -> np.ndarray:
    """The part of the rows of a step that this process reads: a run of them, of nearly equal size for every part."""
    layout = make_layout(launch, num_processes=dist.world_size())
    return np.array_split(rows, layout.data)[layout.data_rank(dist.rank())]


def _backward(
    model: Transformer, micro_batches: Sequence[B], objective: Objective[B], parallel: Parallel
) -> tuple[float, dict[str, float], int, tuple[float, ...]]:
    sums: dict[str, Tensor] = {}
    started = time.perf_counter()
    for batch, terms in _accumulate(model, micro_batches, objective, parallel):
        tokens = (batch.document_BT > 0).sum() * parallel.counts_tokens
        for name, value in {"loss": terms.loss_sum, "weight": terms.weight, "tokens": tokens, **terms.metrics}.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value.detach().double()
    if isinstance(model, Pipelined):  # only the last place has terms
        zero = torch.zeros((), dtype=torch.float64, device=model.device)
        sums = {name: sums.get(name, zero) for name in model.from_last(list(sums))}
    seconds = _rank_seconds(started, model.device)
    total = dist.all_reduce_sum(torch.stack(list(sums.values()))).tolist()
    metrics = dict(zip(sums, total, strict=True))
    return metrics.pop("loss"), metrics, int(metrics.pop("tokens")), seconds


def _rank_seconds(started: float, device: torch.device) -> tuple[float, ...]:
    """How long each process has worked since then; empty where there is one only."""
    if dist.world_size() == 1:
        return ()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # costs nothing: the sums are waited for next
    own = torch.tensor([time.perf_counter() - started], dtype=torch.float64, device=device)
    return tuple(dist.all_gather(own).tolist())


def _accumulate(
    model: Transformer, micro_batches: Sequence[B], objective: Objective[B], parallel: Parallel
) -> Iterator[tuple[B, LossTerms]]:
    """Adds the gradients of all micro-batches to the weights; gives the terms of each, where this process has them."""
    if isinstance(model, Pipelined):
        found = model.backward(micro_batches, objective)
        yield from zip(micro_batches, found, strict=bool(found))
        return
    for i in range(parallel.num_rounds(len(micro_batches))):
        is_idle = i >= len(micro_batches)  # others still have rows, and need this process's part of the weights
        batch = micro_batches[-1 if is_idle else i]
        terms = objective(model, parallel.own_tokens(batch))
        if terms.loss_sum.requires_grad:
            (terms.loss_sum * 0 if is_idle else terms.loss_sum).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        if not is_idle:
            yield batch, terms


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
