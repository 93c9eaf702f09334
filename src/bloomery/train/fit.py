"""The training loop: steps, validation, snapshots and logs, for whatever objective it is given.

Everything that depends on the step is a pure function of it (rows, learning rate, points of validation), and all else
is in TrainState: a run that is killed and started again ends with the same bytes as one that is not. So does one that
is stopped by SIGTERM, which is saved first; spikes are left out or gone around (see train/spikes.py).
"""

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple  # Any: the values of a JSON document

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bloomery.core import dist
from bloomery.core.config import Config
from bloomery.core.errors import Stopped
from bloomery.core.metrics import read_metrics
from bloomery.core.stage import Runtime
from bloomery.diagnosis.finding import Facts
from bloomery.model.config import LoraConfig, flops_per_token
from bloomery.model.device import Precision, keep_freed_memory, return_freed_memory
from bloomery.model.transformer import Transformer
from bloomery.train.checkpoint import Snapshots
from bloomery.train.optimizer import OptimizerName, make_optimizers, set_learning_rate
from bloomery.train.schedule import Decay, DecayShape, learning_rate_factor
from bloomery.train.sharding import Parallel
from bloomery.train.spikes import SpikeRule, roll_back, rollback_target
from bloomery.train.state import TrainState
from bloomery.train.step import B, Objective, StepReport, train_step
from bloomery.train.throughput import memory_in_use, peak_flops
from bloomery.train.watch import Watch

log = logging.getLogger(__name__)

MAX_LOGGED_STEPS = 2000
"""A longer run logs every so many steps, so that metrics.jsonl stays a file one can open."""
COUNTED = ("token", "answer")
"""What metrics can be counted by, other than by the weight of the loss."""
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
    decay_shape: DecayShape = "linear"
    """How "wsd" falls: in a straight line, as 1 - sqrt, or along a cosine."""
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """The learning rate at the end, as a share of the full one."""
    precision: Precision = "auto"
    """What is computed in: "auto" is bf16 where the hardware multiplies it, fp16 (with a scaled loss) on older GPUs, fp32 elsewhere.

    Weights are always float32.
    """
    spike_sigmas: NonNegativeFloat = 6.0
    """A step whose loss or gradient norm is so many standard deviations above the mean of the last 128 is left out; 0 = no step is."""
    rollback_spikes: NonNegativeInt = 3
    """So many such steps within 128 lead back to an earlier snapshot, and the data read since are left out; 0 = never."""
    rollback_steps: PositiveInt = 250
    """After every so many steps there is a snapshot to go back to."""
    num_samples: NonNegativeInt = 3
    """Texts that the model writes at each validation, always of the same held-out beginnings; 0 = none."""
    sample_tokens: PositiveInt = 40
    """The most tokens of such a text."""
    seed: int = 0


class Verdict(NamedTuple):
    """What the validations of a run so far say: the step of the best one, and why the run should end there ("": it should not)."""

    best_step: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Run(Generic[B]):
    """What `fit` is to do. All functions are pure: the same step gives the same batches, the same weights the same numbers."""

    num_steps: int
    objective: Objective[B]
    batches_of_step: Callable[[int], Sequence[B]]
    """The micro-batches of this process for a step of the data: 0, 1, 2 ... and after a rollback beyond `num_steps`."""
    prepare: Callable[[Transformer, Sequence[B]], Sequence[B]] | None = None
    """Fills into a step's micro-batches what they need to know of all processes' together (KTO's reference point); called on every
    process, with the weights as they are before the step."""
    window_of_step: Callable[[int], Mapping[str, Any]] | None = None
    """What the batches of such a step are made of (rows, documents), in words and numbers for the log."""
    new_levels: frozenset[int] = frozenset()
    """Steps of the data with which something else begins (another mixture, length or batch), so that losses before say nothing."""
    learning_rate_factor: Callable[[int], float] | None = None
    """What full learning rates are multiplied by at each step; None = by the schedule of the config."""
    count_data: Callable[[int], Mapping[str, int]] | None = None
    """Counts of the data that were read before a step of the data, by their names in the log."""
    validate: Callable[[Transformer], Mapping[str, float]] | None = None
    """Numbers of the model on held-out data, by their short names ("loss", "bits_per_byte"); called on every process."""
    num_validations: int = 0
    """Evenly spaced, the last one at the end; one more before the first step."""
    sample: Callable[[Transformer], Sequence[Mapping[str, Any]]] | None = None
    """Texts that the model writes, one mapping for each; called at each validation where each process has a whole model."""
    note_step: Callable[[StepReport], Mapping[str, float]] | None = None
    """Called after each step on every process; gives numbers for its row in the log."""
    pass_over: Callable[[int], int] | None = None
    """How many steps, from this step of the data on, are to count as done without being made."""
    stage: str = ""
    """What kind of training it is, and whether it began from a checkpoint: what the log is checked by (see train/watch.py)."""
    has_init: bool = True
    guard: Callable[[Sequence[Mapping[str, float]]], Verdict] | None = None
    """Asked after each validation about all rows so far: the best one's snapshot is kept; a reason leads back to it and ends the run."""


def make_state(model: Transformer, config: TrainingConfig, parallel: Parallel | None = None) -> TrainState:
    """A run that is about to begin. `model` is this process's part, as `distribute` gives it."""
    parallel = parallel or Parallel()
    optimizers = make_optimizers(
        model,
        name=config.optimizer,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.embedding_learning_rate,
        weight_decay=config.weight_decay,
        parallel=parallel,
    )
    return TrainState(model, optimizers, parallel)


def fit(state: TrainState, run: Run[B], config: TrainingConfig, *, snapshots: Snapshots, runtime: Runtime) -> None:
    """Trains `state` to the end of `run`, from the newest snapshot if there is one.

    Logs a row for each step and each validation into `runtime.metrics`, and warnings of what they show. With `runtime.trial` that is
    called in place of training. Raises DataError when the loss stays not finite,
    Stopped (after saving) when the runtime is asked to stop.
    """
    keep_freed_memory()
    if runtime.trial is not None:
        runtime.trial(state, run, config)
        return
    snapshots.rule = SpikeRule(config.spike_sigmas, config.rollback_spikes, config.rollback_steps)
    snapshots.restore(state)
    if run.guard is not None and state.curve:
        snapshots.kept_step = run.guard(state.curve).best_step
    dist.barrier()  # rank 0 must not begin to replace snapshots while others still read
    points = validation_steps(run.num_steps, run.num_validations) if run.validate is not None else set()
    log_every = -(-run.num_steps // MAX_LOGGED_STEPS)
    watch = _open_watch(state, run, config, runtime)
    with contextlib.closing(snapshots), runtime.progress(run.num_steps, "steps") as bar:
        bar.advance(state.step)
        while not state.early_stop:
            bar.advance(_pass_over(state, run))
            # Between two validations steps can be passed over, and a point with them.
            last = state.curve[-1]["step"] if state.curve else -1
            if any(last < point <= state.step for point in points):
                _validate(state, run, runtime, watch)
                if _end_early(state, run, snapshots, runtime):
                    break
            if state.step >= run.num_steps:
                break
            _stop_if_asked(state, run, snapshots, runtime)
            report, row = _step(state, run, config)
            bar.advance(1, f"loss {report.loss:.3f}, {row['train/tokens_per_second']:,.0f} tokens/s")
            if dist.rank() == 0 and (state.step % log_every == 0 or state.step == run.num_steps):
                runtime.metrics.write({"step": state.step, "tokens": state.tokens, **row})
                watch.see({"step": state.step, "tokens": state.tokens, **row})
            undone = _answer_spike(state, run, report, snapshots, runtime) if report.skipped else 0
            bar.advance(-undone)
            if not undone:
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


def _learning_rate_factor(step: int, run: Run[B], config: TrainingConfig) -> float:
    if run.learning_rate_factor is not None:
        return run.learning_rate_factor(step)
    return schedule_factor(step, run.num_steps, config)


def schedule_factor(step: int, num_steps: int, config: TrainingConfig) -> float:
    """What full learning rates are multiplied by at `step` (from 0) where one schedule goes over all steps."""
    return learning_rate_factor(
        step,
        num_steps=num_steps,
        warmup_fraction=config.warmup_fraction,
        decay=config.decay,
        decay_fraction=config.decay_fraction,
        final_fraction=config.final_fraction,
        shape=config.decay_shape,
    )


def _step(state: TrainState, run: Run[B], config: TrainingConfig) -> tuple[StepReport, dict[str, float]]:
    """One step, and the numbers of it for the log."""
    started = time.perf_counter()
    curriculum_stage = sum(first <= state.data_step for first in run.new_levels)  # before train_step moves on
    if state.data_step in run.new_levels:
        state.usual_losses, state.usual_norms = [], []
    factor = _learning_rate_factor(state.step, run, config)
    set_learning_rate(state.optimizers, factor)
    batches = run.batches_of_step(state.data_step)
    loaded = time.perf_counter()
    if run.prepare is not None:
        batches = run.prepare(state.model, batches)
    report = train_step(state, batches, run.objective, max_gradient_norm=config.max_gradient_norm, spike_sigmas=config.spike_sigmas)
    seconds = time.perf_counter() - started
    numbers = {"loss": report.loss, "learning_rate": factor * config.learning_rate, "gradient_norm": report.gradient_norm}
    numbers |= {**group_means(report.metrics), "tokens_per_second": round(report.tokens / seconds, 1), "skipped": state.skipped}
    numbers |= {"data_fraction": round((loaded - started) / seconds, 5), **_use_of_machine(state, batches, report, seconds)}
    if run.new_levels:
        numbers["curriculum_stage"] = curriculum_stage
    if state.model.compute_dtype == torch.float16:
        numbers["loss_scale"] = state.loss_scale
    # JSON has no NaN: the row of a step that was skipped leaves out what was not a number.
    row = {f"train/{name}": value for name, value in numbers.items() if math.isfinite(value)}
    row |= run.note_step(report) if run.note_step is not None else {}
    return report, {**row, **(run.count_data(state.data_step) if run.count_data is not None else {})}


def group_means(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as they are logged: KIND/GROUP over the group's own `weight/GROUP`, left out where a batch has none of it.

    `token/NAME` and `answer/NAME` are over `weight/token` and `weight/answer`, whatever the loss is divided by, and logged as NAME.

    >>> group_means({"nll": 2.0, "loss/web": 1.5, "weight/web": 0.5, "loss/code": 0.0, "weight/code": 0.0})
    {'nll': 2.0, 'loss/web': 3.0, 'weight/web': 0.5, 'weight/code': 0.0}
    >>> group_means({"token/entropy": 6.0, "weight/token": 4.0})
    {'entropy': 1.5}
    """
    found = {}
    for name, value in metrics.items():
        kind, _, group = name.partition("/")
        if kind in COUNTED:
            name, weight = group, metrics[f"weight/{kind}"]
        elif kind == "weight" and group in COUNTED:
            continue
        else:
            weight = 1.0 if kind == "weight" else metrics.get(f"weight/{group}", 1.0)
        if weight > 0:
            found[name] = value / weight
    return found


def _pass_over(state: TrainState, run: Run[B]) -> int:
    """Counts the steps that the run wants passed over as done; how many they are."""
    count = min(run.pass_over(state.data_step), run.num_steps - state.step) if run.pass_over is not None else 0
    state.step, state.data_step = state.step + count, state.data_step + count
    return count


def _end_early(state: TrainState, run: Run[B], snapshots: Snapshots, runtime: Runtime) -> bool:
    """Keeps the best snapshot so far, or goes back to it if the run says that it should end there; then True."""
    if run.guard is None:
        return False
    verdict = run.guard(state.curve)
    snapshots.kept_step = verdict.best_step
    if verdict.best_step == state.step:
        snapshots.save(state)
    if not verdict.reason:
        return False
    from_step, curve, samples, history = state.step, state.curve, state.samples, state.history
    if not snapshots.restore(state, step=verdict.best_step):
        log.warning("step %d: %s; but the snapshot of step %d cannot be read: going on", from_step, verdict.reason, verdict.best_step)
        return False
    state.curve, state.samples, state.history = curve, samples, history
    state.early_stop = {"from_step": from_step, "to_step": state.step, "reason": verdict.reason}
    dist.barrier()  # nobody may still be reading what rank 0 removes
    snapshots.forget_after(state.step)
    if dist.rank() == 0:
        log.warning("step %d: %s; back to step %d, and the end", from_step, verdict.reason, state.step)
        entry = {f"early_stop/{name}": value for name, value in state.early_stop.items()}
        runtime.metrics.write({"step": from_step, "tokens": state.tokens, **entry})
    return True


def _use_of_machine(state: TrainState, batches: Sequence[B], report: StepReport, seconds: float) -> dict[str, float]:
    if dist.rank() != 0 or not batches:
        return {}
    model, device = state.model, state.model.device
    flops = flops_per_token(model.config, batches[0].document_BT.shape[-1], lora=model.lora)
    peak = peak_flops(device, model.compute_dtype) * dist.world_size()
    # Rank 0's places stand for those of every process that reads other rows: they differ by a row at most.
    places = sum(batch.document_BT.numel() for batch in batches) * state.parallel.layout.data
    mfu, padding = flops * report.tokens / seconds / peak, max(0.0, 1 - report.tokens / max(places, 1))
    found = {"mfu": round(mfu, 4), "memory_bytes": memory_in_use(device), "flops_per_token": flops, "padding_fraction": round(padding, 4)}
    if len(report.rank_seconds) > 1:
        slowest = max(report.rank_seconds)
        lag = round(slowest / statistics.median_low(report.rank_seconds), 3)
        found |= {"slowest_rank": report.rank_seconds.index(slowest), "rank_lag": lag}
    return found


def _stop_if_asked(state: TrainState, run: Run[B], snapshots: Snapshots, runtime: Runtime) -> None:
    # All processes stop before the same step: one that went on would wait for the others for ever.
    if dist.maximum(runtime.stop_requested()):
        snapshots.save(state)
        dist.barrier()
        raise Stopped(f"stopped by SIGTERM after step {state.step} of {run.num_steps}, which is saved.")


def _answer_spike(state: TrainState, run: Run[B], report: StepReport, snapshots: Snapshots, runtime: Runtime) -> int:
    """Tells of a step that was left out, and rolls back if it is time to; by how many steps."""
    before, data_step = state.step, state.data_step - 1
    window = run.window_of_step(data_step) if run.window_of_step is not None else {}
    if dist.rank() == 0:
        log.warning("step %d is left out (step %d of the data, whose rows metrics.jsonl names): %s", before, data_step, report.reason)
        where = {f"spike/{name}": str(value) for name, value in window.items()}
        numbers = {"step": before, "tokens": state.tokens, "spike/data_step": data_step}
        runtime.metrics.write({**numbers, "spike/reason": report.reason, **where})
    target = rollback_target(state, snapshots.rule)
    if target is not None and roll_back(state, target, snapshots):
        left_out = range(state.rollbacks[-1]["first_data_step"], state.data_step)
        if not run.new_levels.isdisjoint(left_out):
            state.usual_losses, state.usual_norms = [], []  # of the level before, which does not come again
        dist.barrier()  # nobody may still be reading what rank 0 removes
        snapshots.forget_after(target)
        if dist.rank() == 0:
            entry = {f"rollback/{name}": value for name, value in state.rollbacks[-1].items()}
            runtime.metrics.write({"step": state.step, "tokens": state.tokens, **entry})
    return before - state.step


def _open_watch(state: TrainState, run: Run[B], config: TrainingConfig, runtime: Runtime) -> Watch:
    """What looks at the log of this run, from where an earlier process left it."""
    facts = Facts(stage=run.stage, config=config.model_dump(mode="json"), has_init=run.has_init, vocab_size=state.model.config.vocab_size)
    path = runtime.metrics.path
    return Watch(facts, read_metrics(path) if path is not None and state.step and dist.rank() == 0 else ())


def _validate(state: TrainState, run: Run[B], runtime: Runtime, watch: Watch) -> None:
    assert run.validate is not None
    # Rounded, because the curve is reported and the last bits say nothing.
    row = {name: round(value, 6) for name, value in run.validate(state.model).items()}
    state.curve.append({"step": state.step, "tokens": state.tokens, **row})
    # Writing needs a whole model, which is on no process where they share its weights.
    if run.sample is not None and state.parallel.has_whole_model:
        state.samples.extend({"step": state.step, **sample} for sample in run.sample(state.model))
    if dist.rank() == 0:
        named = {"step": state.step, "tokens": state.tokens, **{f"validation/{name}": value for name, value in row.items()}}
        runtime.metrics.write(named)
        watch.see(named)
