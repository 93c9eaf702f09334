"""Stage scaling_law: a law L(N, D) from a ladder of pretrained models, and how far off it is for larger ones that it has not seen.

The runs of most FLOP are held out: the law is fitted to the others, predicts them, and the page says by how much it missed. With the
scores of the same models on benchmarks it also says of each whether accuracy, or only the log-likelihood, moves along the ladder; with
the tokens, whether the larger ones use the text before them as no run of the fit does. Writes law.json, which `bloomery budget --law`
reads, ladder.json, ladder.html and ladder.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_json
from bloomery.core.pages import write_page
from bloomery.core.plots import Panel, draw_curves, draw_panels, draw_points
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.evaluate.context_gain import context_gains, draw_rows
from bloomery.evaluate.row_scores import TaskScores, models_by_fingerprint, read_task_scores
from bloomery.model.architectures import read_config
from bloomery.model.device import resolve_device
from bloomery.model.huggingface import load_model
from bloomery.scaling.context import compare_gains, mean_range
from bloomery.scaling.fitting import Fit, Measured, Range, find_valleys, fit_exponent, fit_with_intervals
from bloomery.scaling.laws import FLOPS_PER_PARAM_TOKEN, Split, predict_loss
from bloomery.scaling.task_curves import find_trend, stack_rows
from bloomery.tokens.shards import open_tokens
from bloomery.tokens.tokenizer import load_tokenizer

Record = dict[str, Any]
FIGURES = {"gold_bits_per_byte": "right answer, bits a byte", "gold_nats": "right among choices, nats"}
"""Figures beside accuracy, with their names on plots; smaller is better."""
CONSTANTS = {"E": "E, nats", "A": "A", "B": "B", "alpha": "alpha", "beta": "beta", "exponent": "a in N ~ C^a"}


class ScalingLawConfig(Config):
    """How the law is fitted and tested."""

    num_held_out: NonNegativeInt = 1
    """The runs of most FLOP that the law does not see and has to predict."""
    num_resamples: PositiveInt = 200
    """Fits of the bootstrap that the intervals come from."""
    seed: NonNegativeInt = 0


def scaling_law(
    config: ScalingLawConfig,
    *,
    models: Sequence[Path],
    scores: Path | None = None,
    tokens: Sequence[Path] = (),
    out: Path,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Writes the law and its pages; returns its constants and, for the largest held-out run, the relative error of its predicted loss.

    `models` are checkpoints of `pretrain`: parameters, tokens and the last validation loss (nats a token) stand in their records;
    `scores` is what `evaluate` made of all of them, `tokens` what they were trained on, whose held-out part they read here. Raises
    DataError for another checkpoint, or for scores that lack one of them, ConfigError if too few runs are left to fit five constants to.
    """
    ordered = sorted(((path, _measured(path)) for path in models), key=lambda pair: (_flops(pair[1]), pair[0].name))
    runs = [run for _, run in ordered]
    kept, held_out = runs[: len(runs) - config.num_held_out], runs[len(runs) - config.num_held_out :]
    source = f"{len(kept)} runs of {min(runs).params / 1e6:.2g} to {max(run.params for run in kept or runs) / 1e6:.2g} M parameters"
    try:
        fit = fit_with_intervals(kept, seed=config.seed, num_resamples=config.num_resamples, name="ladder", source=source)
    except ValueError as error:
        raise ConfigError(f"scaling_law: {len(runs)} models, {config.num_held_out} of them held out: {error}") from error
    predictions = [_prediction(run, fit) for run in held_out]
    valleys = find_valleys(kept)
    gains, told = _compare_context([path for path, _ in ordered], tokens, num_held_out=config.num_held_out, runtime=runtime)
    report: Record = {
        "law": fit.law._asdict(),
        "constants": {name: one._asdict() for name, one in fit.constants().items()},
        "runs": [
            {**run._asdict(), "flops": _flops(run), "error": error, **gain}
            for run, error, gain in zip(kept, fit.errors, gains[: len(kept)], strict=True)
        ],
        "held_out": [{**one, **gain} for one, gain in zip(predictions, gains[len(kept) :], strict=True)],
        "valleys": [valley._asdict() for valley in valleys],
        "valley_exponent": fit_exponent(valleys) if len({valley.flops for valley in valleys}) > 1 else None,
        "context": told,
        "tasks": _follow_tasks(scores, ordered, num_held_out=config.num_held_out, seed=config.seed) if scores is not None else [],
    }
    write_json(out / "law.json", fit.law._asdict())
    write_json(out / "ladder.json", report)
    view = _page_view(report, fit)
    for name in ("ladder.md", "ladder.html"):
        write_page(out / name, package="bloomery.stages", template=f"{name}.j2", view=view)
    largest = {"held_out_error": predictions[-1]["error"], "held_out_loss": predictions[-1]["loss"]} if predictions else {}
    return {"num_runs": len(kept), **{name: getattr(fit.law, name) for name in ("E", "A", "B", "alpha", "beta")}, **largest}


def _measured(path: Path) -> Measured:
    record = read_artifact(path).record if (path / RECORD).is_file() else {}
    metrics: Mapping[str, Any] = record.get("metrics", {})
    missing = [name for name in ("params", "tokens", "validation_loss") if not isinstance(metrics.get(name), int | float)]
    if record.get("stage") != "pretrain" or missing:
        what = f"lacks {', '.join(missing)}" if missing else f"is of stage {record.get('stage')}"
        raise DataError(f"{path}: a ladder is made of checkpoints of `pretrain` with a validation loss; this one {what}")
    return Measured(float(metrics["params"]), float(metrics["tokens"]), float(metrics["validation_loss"]))


def _flops(run: Measured) -> float:
    return FLOPS_PER_PARAM_TOKEN * run.params * run.tokens


def _prediction(run: Measured, fit: Fit) -> Record:
    predicted = fit.predict(Split(run.params, run.tokens))
    return {**run._asdict(), "flops": _flops(run), "predicted": predicted._asdict(), "error": predicted.value / run.loss - 1}


def _compare_context(
    models: Sequence[Path], tokens: Sequence[Path], *, num_held_out: int, runtime: Runtime
) -> tuple[list[Record], Record | None]:
    """What each model, in this order, gains from the text before it, and what is said of it; nothing without long held-out documents."""
    sets = [open_tokens(folder, split="validation", tokenizer_sha256=load_tokenizer(models[0]).sha256) for folder in tokens]
    row_NT = draw_rows(sets, row_tokens=min(read_config(path).max_positions for path in models)) if sets else None
    if row_NT is None:
        return [{}] * len(models), None
    device = resolve_device(runtime.device)
    gain_MN = np.stack([context_gains(load_model(path, device=device).eval(), row_NT).numpy() for path in models])
    sentence = compare_gains(gain_MN[: len(models) - num_held_out], gain_MN[len(models) - num_held_out :])
    told = {"sentence": sentence, "num_rows": row_NT.shape[0], "row_tokens": row_NT.shape[1]}
    return [{"context_gain": mean_range(gain_N)._asdict()} for gain_N in gain_MN], told


def _follow_tasks(folder: Path, ordered: Sequence[tuple[Path, Measured]], *, num_held_out: int, seed: int) -> list[Record]:
    """One record a benchmark: its figures under every model, in the order of falling loss, and what follows from them."""
    known = models_by_fingerprint(folder)
    models: list[Record] = []
    for i, (path, run) in enumerate(ordered):
        name = known.get(read_artifact(path).fingerprint)
        if name is None:
            raise DataError(f"{folder}: the model {path} of the ladder was not evaluated; evaluated were {', '.join(known.values())}")
        models.append({"model": name, "flops": _flops(run), "loss": run.loss, "held_out": i >= len(ordered) - num_held_out})
    models.sort(key=lambda model: (-model["loss"], model["flops"]))
    try:
        return [_follow_task(name, task, models, seed=seed) for name, task in read_task_scores(folder).items()]
    except ValueError as error:
        raise ConfigError(f"scaling_law: {folder}: {error}") from error


def _follow_task(name: str, task: TaskScores, models: Sequence[Record], *, seed: int) -> Record:
    names = [model["model"] for model in models]
    records = [task.records[model] for model in names]
    metric, chance = records[0]["metric"], records[0]["chance"]
    trend = find_trend(
        stack_rows(task.rows, names, metric=metric),
        [model["loss"] for model in models],
        lows=[record["metrics"][metric]["low"] for record in records],
        chance=chance,
        names=names,
        seed=seed,
    )
    found = [key for key in FIGURES if all(key in record["metrics"] for record in records)]
    points = [
        {**model, "accuracy": record["metrics"][metric], **{key: record["metrics"][key] for key in found}}
        for model, record in zip(models, records, strict=True)
    ]
    return {"task": name, "title": records[0]["title"], "metric": metric, "chance": chance, "points": points, **trend.record()}


def _task_view(task: Record) -> Record:
    rows = []
    for key, label in {"accuracy": task["metric"].replace("_", " "), **FIGURES}.items():
        if key in task["points"][0]:
            correlation = task["rank_correlation"][{"accuracy": "accuracy", "gold_bits_per_byte": "bits", "gold_nats": "nats"}[key]]
            first, last = (_interval(_range_of(task["points"][place][key])) for place in (0, -1))
            rows.append({"name": label, "first": first, "last": last, "correlation": _interval(Range(**correlation))})
    return {"title": task["title"], "sentence": task["sentence"], "rows": rows, "svg": _plot_task(task)}


def _plot_task(task: Record) -> str:
    panels = []
    for key, label in {"accuracy": f"{task['metric'].replace('_', ' ')} (higher is better)", **FIGURES}.items():
        if key not in task["points"][0]:
            continue
        points: dict[str, list[tuple[float, Range]]] = {}
        for point in task["points"]:
            points.setdefault("held out" if point["held_out"] else "fitted", []).append((point["flops"], _range_of(point[key])))
        panels.append(Panel(label, points, task["chance"] if key == "accuracy" else None))
    return draw_panels(panels, x_label="FLOP of training", level_label="chance")


def _range_of(record: Mapping[str, Any]) -> Range:
    return Range(record["value"], record["low"], record["high"])


def _page_view(report: Record, fit: Fit) -> Record:
    return {
        "num_runs": len(report["runs"]),
        "constants": [{"name": CONSTANTS[name], "text": _interval(Range(**one))} for name, one in report["constants"].items()],
        "runs": [_run_row(row, predict_loss(fit.law, Split(row["params"], row["tokens"]))) for row in report["runs"]],
        "held_out": [
            {**_run_row(row, row["predicted"]["value"]), "text": _interval(Range(**row["predicted"]))} for row in report["held_out"]
        ],
        "valleys": [
            {
                "flops": f"{valley['flops']:.2e}",
                "params": f"{valley['params'] / 1e6:.3f}",
                "loss": f"{valley['loss']:.3f}",
                "inside": valley["is_inside"],
            }
            for valley in report["valleys"]
        ],
        "valley_exponent": report["valley_exponent"],
        "worst": max(abs(row["error"]) for row in report["runs"]),
        "plots": [
            {"title": "Loss against tokens, by size: measured (dots) and by the law (lines)", "svg": _plot_sizes(report, fit)},
            {"title": "Predicted and measured", "svg": _plot_predictions(report, fit)},
        ],
        "context": report["context"],
        "tasks": [_task_view(task) for task in report["tasks"]],
    }


def _run_row(row: Mapping[str, Any], predicted: float) -> Record:
    return {
        "params": f"{row['params'] / 1e6:.3f}",
        "tokens": f"{row['tokens'] / 1e6:.2f}",
        "flops": f"{row['flops']:.2e}",
        "loss": f"{row['loss']:.4f}",
        "predicted": f"{predicted:.4f}",
        "error": f"{100 * (predicted / row['loss'] - 1):+.2f}",
        "gain": f"{row['context_gain']['value']:+.3f}" if "context_gain" in row else "",
    }


def _plot_sizes(report: Record, fit: Fit) -> str:
    everyone = [*report["runs"], *report["held_out"]]
    lines, dots = {}, {}
    for params in sorted({row["params"] for row in everyone}):
        name = f"{params / 1e6:.2f} M"
        dots[name] = sorted((row["tokens"], row["loss"]) for row in everyone if row["params"] == params)
        low, high = dots[name][0][0] / 1.3, dots[name][-1][0] * 1.3
        steps = [low * (high / low) ** (i / 40) for i in range(41)]
        lines[name] = [(tokens, predict_loss(fit.law, Split(params, tokens))) for tokens in steps]
    return draw_curves(
        lines, dots=dots, x_label="tokens", y_label="validation loss, nats a token", width_inches=7.4, height_inches=4.6, log_x=True
    )


def _plot_predictions(report: Record, fit: Fit) -> str:
    points = {}
    for title, rows in (("fitted", report["runs"]), ("held out", report["held_out"])):
        for i, row in enumerate(rows):
            one = fit.predict(Split(row["params"], row["tokens"]))
            if title == "held out" or i == 0 or i == len(rows) - 1 or i % max(1, len(rows) // 8) == 0:
                points[f"{title}: {row['params'] / 1e6:.2f} M, {row['tokens'] / 1e6:.1f} M tokens"] = {
                    "x": (row["loss"],) * 3,
                    "y": tuple(one),
                }
    losses = [row["loss"] for row in (*report["runs"], *report["held_out"])]
    line = {"equal": [(min(losses), min(losses)), (max(losses), max(losses))]}
    return draw_points(points, lines=line, x_label="measured loss, nats a token", y_label="loss by the law, 95 % of resamples")


def _interval(one: Range) -> str:
    """
    >>> _interval(Range(1.8172, 1.7, 1.9))
    '1.817 [1.7, 1.9]'
    """
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


STAGE = Stage(
    name="scaling_law",
    config_type=ScalingLawConfig,
    run=scaling_law,
    inputs={
        "models": Slot("checkpoint", many=True),
        "scores": Slot("scores", optional=True),
        "tokens": Slot("tokens", many=True, optional=True),
    },
    output="scaling_law",
    version=3,
)
