"""The training loop: steps, validation, snapshots and logs, for whatever objective it is given.

Everything that depends on the step is a pure function of it (rows, learning rate, points of validation), and all else
is in TrainState: a run that is killed and started again ends with the same bytes as one that is not.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from pydantic import Field, NonNegativeFloat, PositiveFloat

from bloomery.core import dist
from bloomery.core.config import Config
from bloomery.core.stage import Runtime
from bloomery.model.config import LoraConfig
from bloomery.model.device import Precision, keep_freed_memory, return_freed_memory
from bloomery.model.transformer import Transformer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.optimizer import OptimizerName, make_optimizers, set_learning_rate
from bloomery.train.schedule import Decay, learning_rate_factor
from bloomery.train.state import TrainState
from bloomery.train.step import B, Objective, StepReport, train_step

MAX_LOGGED_STEPS = 2000
"""A longer run logs every so many steps, so that metrics.jsonl stays a file one can open."""
RETURN_MEMORY_EVERY = 10
"""Steps after which memory that is free but in pieces goes back to the system; taking it again costs under 1 % of the time."""


class TrainingConfig(Config):
    """What every training stage can be told about its optimizer; each stage has its own defaults."""

    optimizer: OptimizerName = "muon"
    """"muon" for the matrices inside the layers and AdamW for the rest, or AdamW for all."""
    learning_rate: PositiveFloat = 0.01
    """Of matrices. Muon's updates have the size of AdamW's, so the same figure serves both."""
    embedding_learning_rate: PositiveFloat = 0.01
    """Of embeddings, output matrix and norms."""
    weight_decay: NonNegativeFloat = 0.1
    """Of matrices only."""
    max_gradient_norm: NonNegativeFloat = 1.0
    """A longer gradient is scaled down to this length; 0 = never."""
    lora: LoraConfig = LoraConfig()
    """Adapters to train instead of the weights, saved beside the checkpoint in PEFT's format."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    decay: Decay = "wsd"
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    """The share of steps over which "wsd" falls."""
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """The learning rate at the end, as a share of the full one."""
    precision: Precision = "auto"
    """What is computed in: "auto" is bf16 where the hardware multiplies it, fp32 elsewhere. Weights are always float32."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Run(Generic[B]):
    """What `fit` is to do. All functions are pure: the same step gives the same batches, the same weights the same numbers."""

    num_steps: int
    objective: Objective[B]
    batches_of_step: Callable[[int], Sequence[B]]
    """The micro-batches of this process for a step."""
    validate: Callable[[Transformer], Mapping[str, float]] | None = None
    """Numbers of the model on held-out data, by their short names ("loss", "bits_per_byte"); called on every process."""
    num_validations: int = 0
    """Evenly spaced, the last one at the end; one more before the first step."""


def make_state(model: Transformer, config: TrainingConfig) -> TrainState:
    """A run that is about to begin."""
    optimizers = make_optimizers(
        model,
        name=config.optimizer,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        weight_decay=config.weight_decay,
    )
    return TrainState(model, optimizers)


def fit(state: TrainState, run: Run[B], config: TrainingConfig, *, snapshots: Snapshots, runtime: Runtime) -> None:
    """Trains `state` to the end of `run`, from the newest snapshot if there is one.

    Logs a row for each step and each validation into `runtime.metrics`. Raises DataError when the loss stays not finite.
    """
    keep_freed_memory()
    snapshots.restore(state)
    dist.barrier()  # rank 0 must not begin to replace snapshots while others still read
    points = validation_steps(run.num_steps, run.num_validations) if run.validate is not None else set()
    log_every = -(-run.num_steps // MAX_LOGGED_STEPS)
    with runtime.progress(run.num_steps, "steps") as bar:
        bar.advance(state.step)
        while True:
            if state.step in points and all(row["step"] != state.step for row in state.curve):
                _validate(state, run, runtime)
            if state.step >= run.num_steps:
                break
            started = time.perf_counter()
            factor = _learning_rate_factor(state.step, run.num_steps, config)
            set_learning_rate(state.optimizers, factor)
            report = train_step(state, run.batches_of_step(state.step), run.objective, max_gradient_norm=config.max_gradient_norm)
            speed = report.tokens / (time.perf_counter() - started)
            bar.advance(1, f"loss {report.loss:.3f}, {speed:,.0f} tokens/s")
            if dist.rank() == 0 and (state.step % log_every == 0 or state.step == run.num_steps):
                runtime.metrics.write(_log_row(state, report, learning_rate=factor * config.learning_rate, tokens_per_second=speed))
            snapshots.save_when_due(state)
            if state.step % RETURN_MEMORY_EVERY == 0:
                return_freed_memory()
    snapshots.save(state)
    return_freed_memory()


def validation_steps(num_steps: int, num_validations: int) -> set[int]:
    """The numbers of finished steps at which to validate.

    >>> sorted(validation_steps(10, 3))
    [0, 3, 7, 10]
    """
    return {round(i * num_steps / num_validations) for i in range(num_validations + 1)} if num_validations else set()


def final_loss(state: TrainState) -> float:
    """The mean loss of the last steps."""
    return round(sum(state.recent_losses) / len(state.recent_losses), 6) if state.recent_losses else 0.0


def _learning_rate_factor(step: int, num_steps: int, config: TrainingConfig) -> float:
    return learning_rate_factor(
        step,
        num_steps=num_steps,
        warmup_fraction=config.warmup_fraction,
        decay=config.decay,
        decay_fraction=config.decay_fraction,
        final_fraction=config.final_fraction,
    )


def _validate(state: TrainState, run: Run[B], runtime: Runtime) -> None:
    assert run.validate is not None
    # Rounded, because the curve is reported and the last bits say nothing.
    row = {name: round(value, 6) for name, value in run.validate(state.model).items()}
    state.curve.append({"step": state.step, "tokens": state.tokens, **row})
    if dist.rank() == 0:
        runtime.metrics.write({"step": state.step, "tokens": state.tokens, **{f"validation/{name}": value for name, value in row.items()}})


def _log_row(state: TrainState, report: StepReport, *, learning_rate: float, tokens_per_second: float) -> dict[str, float]:
    numbers = {"loss": report.loss, "learning_rate": learning_rate, "gradient_norm": report.gradient_norm, **report.metrics}
    numbers |= {"tokens_per_second": round(tokens_per_second, 1), "skipped": state.skipped}
    # JSON has no NaN: the row of a step that was skipped leaves out what was not a number.
    finite = {f"train/{name}": value for name, value in numbers.items() if math.isfinite(value)}
    return {"step": state.step, "tokens": state.tokens, **finite}
