"""From any one of size, tokens, FLOP, GPU-hours, days or dollars to all the others, with a plan of the devices.

Everything is arithmetic on three tables: a law (laws.py), a device (hardware.py) and what a step keeps in memory
(memory.py). The time is C = 6 N D over what the devices do: peak x MFU.
"""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple  # Any: values of a JSON object

from bloomery.scaling.dial import usual_batch_tokens, usual_sequence_tokens
from bloomery.scaling.hardware import Device
from bloomery.scaling.laws import (
    FLOPS_PER_PARAM_TOKEN,
    INFERENCE_FLOPS_PER_PARAM_TOKEN,
    Law,
    Split,
    overtrain,
    predict_loss,
    split_flops,
    split_params,
    split_tokens,
)
from bloomery.scaling.memory import Optimizer
from bloomery.scaling.parallel import Way, Work, choose_way, fewest_devices
from bloomery.scaling.shape import Shape, count_params, flops_per_token, shape_of_size

SECONDS_PER_HOUR, HOURS_PER_DAY = 3600, 24
BUDGETS = ("flops", "gpu_hours", "days", "dollars")
FIRST_ROWS = 10
"""Of a metrics.jsonl: compilation and caches make the first steps slow."""


class Question(NamedTuple):
    """What is known; 0 = asked for."""

    params: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    gpu_hours: float = 0.0
    days: float = 0.0
    dollars: float = 0.0
    gpus: int = 0
    """0 = as few as hold the training."""
    tokens_per_param: float = 0.0
    """0 = what the law says."""
    inference_tokens: float = 0.0
    """Tokens that the model will read and write in its life: makes it smaller and trains it longer, for the same loss."""


class Prices(NamedTuple):
    """What a device does and costs in an hour."""

    device: Device
    mfu: float
    dollars_per_hour: float

    @property
    def flops_per_hour(self) -> float:
        """Of one device."""
        return self.device.peak_flops() * self.mfu * SECONDS_PER_HOUR


class Choice(NamedTuple):
    """What to train, and what the law says of it. `best` is the compute-optimal split of the same FLOP."""

    split: Split
    loss: float
    best: Split
    best_loss: float
    before: Split
    """What it would be without an inference load: the same loss, and the FLOP that were given."""


class Plan(NamedTuple):
    """How long and on what. `way` is None where no layout holds the training."""

    gpu_hours: float
    gpus: int
    way: Way | None
    optimizer: Optimizer
    work: Work

    @property
    def days(self) -> float:
        """Of all devices together."""
        return self.gpu_hours / self.gpus / HOURS_PER_DAY


def choose(question: Question, law: Law, prices: Prices) -> Choice:
    """Size and tokens. Raises ValueError where too little or too much is given, saying what."""
    budgets = [name for name in BUDGETS if getattr(question, name)]
    if len(budgets) > 1:
        raise ValueError(f"{' and '.join(budgets)} are the same thing in different units; give one of them")
    if question.days and not question.gpus:
        raise ValueError("days say how much only together with a number of GPUs; give both")
    flops = _budget_flops(question, prices)
    given = bool(question.params) + bool(question.tokens) + bool(flops)
    if given == 0:
        raise ValueError("nothing to begin with: give one of params, tokens, flops, gpu_hours, days (with gpus) or dollars")
    if given == 3:
        raise ValueError(f"params and tokens already say how many FLOP: leave one of params, tokens and {budgets[0]} out")
    if given == 2 and (question.tokens_per_param or question.inference_tokens):
        raise ValueError("size and tokens are both fixed by what is given: a ratio or an inference load has nothing left to choose")
    before = split = _split_two(question, flops) if given == 2 else _split_one(question, flops, law)
    if question.inference_tokens:
        split = overtrain(law, predict_loss(law, split), inference_tokens=question.inference_tokens)
    best = split_flops(law, split.flops)
    return Choice(split, predict_loss(law, split), best, predict_loss(law, best), before)


def make_plan(
    split: Split,
    prices: Prices,
    *,
    gpus: int = 0,
    shape: Shape | None = None,
    sequence_tokens: int = 0,
    batch_tokens: int = 0,
    optimizer: Optimizer | None = None,
) -> Plan:
    """Hours and layout of a training. With `optimizer` None it is Muon, or AdamW where only that fits.

    Raises ValueError for a batch of no whole rows or a number of devices that fills no machines.
    """
    shape = shape or shape_of_size(split.params)
    sequence = sequence_tokens or usual_sequence_tokens(shape.dim)
    batch = batch_tokens or max(usual_batch_tokens(split.tokens), sequence)
    if batch < sequence:
        raise ValueError(f"batch_tokens = {batch} hold no row of sequence_tokens = {sequence}")
    gpu_hours = split.flops / prices.flops_per_hour
    work, way = Work(shape, batch, sequence, "muon"), None
    for name in (optimizer,) if optimizer else ("muon", "adamw"):
        work = Work(shape, batch, sequence, name)
        way = choose_way(work, prices.device, num_devices=gpus) if gpus else fewest_devices(work, prices.device)
        if way is not None:
            break
    count = gpus or (way.devices * way.nodes if way else 1)
    return Plan(gpu_hours, count, way, work.optimizer, work)


def describe(question: Question, law: Law, prices: Prices, choice: Choice, plan: Plan) -> dict[str, Any]:
    """Everything as one JSON object, in plain units: FLOP, tokens, hours, dollars, bytes."""
    split, shape, way = choice.split, plan.work.shape, plan.way
    counts = count_params(shape)
    with_attention = split.tokens * flops_per_token(shape, plan.work.sequence_tokens)
    return {
        "params": round(split.params),
        "tokens": round(split.tokens),
        "tokens_per_param": split.tokens / split.params,
        "flops": float(f"{split.flops:.12g}"),
        "loss": choice.loss,
        "gpu_hours": plan.gpu_hours,
        "days": plan.days,
        "dollars": plan.gpu_hours * prices.dollars_per_hour,
        "gpu": prices.device.key,
        "gpus": plan.gpus,
        "mfu": prices.mfu,
        "peak_flops": prices.device.peak_flops(),
        "dollars_per_gpu_hour": prices.dollars_per_hour,
        "law": law._asdict(),
        "compute_optimal": {"params": round(choice.best.params), "tokens": round(choice.best.tokens), "loss": choice.best_loss},
        "inference_tokens": question.inference_tokens,
        "inference_flops": inference_flops(split.params, question.inference_tokens),
        "without_inference": choice.before._asdict() | {"flops": choice.before.flops},
        "flops_with_attention": with_attention,
        "shape": shape._asdict() | {"params": counts.total},
        "sequence_tokens": plan.work.sequence_tokens,
        "batch_tokens": plan.work.batch_tokens,
        "optimizer": plan.optimizer,
        "memory_bytes_per_gpu": None if way is None else round(way.memory.total),
        "memory": None if way is None else {name: round(value) for name, value in way.memory._asdict().items()},
        "device_memory_bytes": round(prices.device.memory_bytes),
        "launch": None if way is None else way.launch_settings(),
    }


def inference_flops(params: float, tokens: float) -> float:
    """2 for each parameter and token that is read or written, attention left out."""
    return INFERENCE_FLOPS_PER_PARAM_TOKEN * params * tokens


def measured_mfu(path: Path) -> float:
    """The median `train/mfu` of a run's metrics.jsonl, the first steps left out. Raises ValueError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if '"train/mfu"' in line]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as the metrics.jsonl of a run ({error})") from error
    found = [row["train/mfu"] for row in rows]
    if not found:
        raise ValueError(f"{path}: has no row with train/mfu; expected the metrics.jsonl of a training (runs/logs/<stage>-.../)")
    return float(statistics.median(found[FIRST_ROWS:] or found))


def _budget_flops(question: Question, prices: Prices) -> float:
    if question.flops:
        return question.flops
    hours = question.gpu_hours or question.days * HOURS_PER_DAY * question.gpus
    if question.dollars:
        if not prices.dollars_per_hour:
            raise ValueError("dollars buy nothing at a price of 0 an hour: give the price")
        hours = question.dollars / prices.dollars_per_hour
    return hours * prices.flops_per_hour


def _split_two(question: Question, flops: float) -> Split:
    product = flops / FLOPS_PER_PARAM_TOKEN
    params = question.params or product / question.tokens
    return Split(params, question.tokens or product / params)


def _split_one(question: Question, flops: float, law: Law) -> Split:
    ratio = question.tokens_per_param
    if question.params:
        return Split(question.params, ratio * question.params) if ratio else split_params(law, question.params)
    if question.tokens:
        return Split(question.tokens / ratio, question.tokens) if ratio else split_tokens(law, question.tokens)
    if not ratio:
        return split_flops(law, flops)
    params = (flops / FLOPS_PER_PARAM_TOKEN / ratio) ** 0.5
    return Split(params, ratio * params)
