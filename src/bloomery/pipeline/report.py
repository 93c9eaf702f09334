"""One page that shows what a run did: `report.html` (self-contained, opens offline) and `report.md` (the same in text).

Everything in it is read from the artifacts and logs in the store, so it can be written again at any time
(`bloomery report RUN`), also for a run that is not finished.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: values handed to the page's template

from bloomery.core.artifact import Store
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.core.pages import write_page
from bloomery.core.plots import draw_curves, draw_funnel, draw_intervals
from bloomery.core.rating_tables import rating_tables
from bloomery.pipeline.report_view import (
    METRICS,
    SHARES,
    NodeView,
    dropped_samples,
    format_bytes,
    format_seconds,
    funnel_steps,
    judge_sentences,
    kept_samples,
    last_samples,
    read_nodes,
    recipe_json,
    same_prompt_samples,
    score_table,
)

TRAINING_STAGES = ("pretrain", "sft", "reward_model", "preference", "ppo", "grpo")
SMALL_CURVES = {"gradient_norm": "gradient norm", "learning_rate": "learning rate", "tokens_per_second": "tokens/s"}


def write_report(store: Store, run_folder: Path) -> Path:
    """Writes report.html and report.md into the run's folder and returns the path of the HTML page.

    Raises DataError if `run_folder` is not a run (no spec.json) or nothing in it has finished.
    """
    nodes = read_nodes(store, run_folder)
    if not nodes:
        raise DataError(f"{run_folder}: no stage of this run has finished yet, so there is nothing to report")
    view = _view(nodes, run_folder)
    for name in ("report.html", "report.md"):
        write_page(run_folder / name, package="bloomery.pipeline", template=f"{name}.j2", view=view)
    return run_folder / "report.html"


def _view(nodes: Sequence[NodeView], run_folder: Path) -> dict[str, Any]:
    spec = read_json(run_folder / "spec.json")
    funnel = funnel_steps(nodes)
    return {
        "name": spec["name"],
        "command": shlex.join(spec["command"]),
        "folder": str(run_folder),
        "seed": spec.get("seed", 0),
        "stages": [_stage_row(node) for node in nodes],
        "total_seconds": format_seconds(sum(node.timing.get("seconds", 0) for node in nodes)),
        "peak_memory": format_bytes(max((node.timing.get("peak_memory_bytes", 0) for node in nodes), default=0)),
        "funnel": funnel,
        "funnel_plots": _funnel_plots(funnel),
        "drops": dropped_samples(nodes),
        "kept": kept_samples(nodes),
        "tokens": _tokens_view(nodes),
        "training": [_training_view(node) for node in nodes if node.stage in TRAINING_STAGES],
        "pairs": next((dict(node.metrics) for node in nodes if node.stage == "collect_pairs"), None),
        "judges": judge_sentences(nodes),
        "scores": next((_scores_view(node) for node in nodes if node.stage == "evaluate" and _has_answers(node)), None),
        "pages": [{"id": node.id, "href": f"{node.id}/{page.name}"} for node in nodes for page in sorted(node.path.glob("*.html"))],
        "recipe": recipe_json(run_folder),
        "format_bytes": format_bytes,
    }


def _stage_row(node: NodeView) -> dict[str, Any]:
    return {
        "id": node.id,
        "stage": node.stage,
        "seconds": format_seconds(node.timing.get("seconds", 0)),
        "memory": format_bytes(node.timing.get("peak_memory_bytes", 0)),
        "output": format_bytes(node.output_bytes),
        "artifact": node.path.name,
    }


def _funnel_plots(funnel: Sequence[Mapping[str, Any]]) -> list[str]:
    steps = [step for step in funnel if step.get("documents_out")]  # archives taken over by crawl are not opened, so not counted
    if not steps:
        return []
    return [
        draw_funnel([(step["id"], float(step["documents_out"])) for step in steps], unit="documents after each step"),
        draw_funnel([(step["id"], float(step["bytes_out"])) for step in steps], unit="bytes of text after each step (crawl: HTML)"),
    ]


def _tokens_view(nodes: Sequence[NodeView]) -> dict[str, Any] | None:
    tokenizer = next((node for node in nodes if node.stage == "train_tokenizer"), None)
    tokens = next((node for node in nodes if node.stage == "tokenize"), None)
    if not tokenizer or not tokens:
        return None
    return {"tokenizer": dict(tokenizer.metrics), "tokens": dict(tokens.metrics)}


def _training_view(node: NodeView) -> dict[str, Any]:
    plots = []
    loss = {name: node.series(f"{group}/loss") for name, group in (("training", "train"), ("validation", "validation"))}
    drawn = {name: points for name, points in loss.items() if points}
    marks = {"step left out": node.places("spike/data_step"), "back to a snapshot": node.places("rollback/to_step")}
    marks = {name: places for name, places in marks.items() if places}
    if drawn:
        unit = "loss (nats per token)" if node.stage in ("pretrain", "sft") else "loss"
        plots.append(draw_curves(drawn, x_label="tokens", y_label=unit, marks=marks))
    if points := node.series("validation/bits_per_byte"):
        plots.append(draw_curves({"validation": points}, x_label="tokens", y_label="bits per byte, held-out documents"))
    if points := node.series("train/accuracy"):
        plots.append(draw_curves({"accuracy": points}, x_label="tokens", y_label="chosen over rejected"))
    plots += _rollout_plots(node)
    plots += [
        draw_curves(
            {y_label: points}, x_label="tokens", y_label=y_label, height_inches=2.1, marks=marks if name == "gradient_norm" else None
        )
        for name, y_label in SMALL_CURVES.items()
        if (points := node.series(f"train/{name}"))
    ]
    return {
        "id": node.id,
        "stage": node.stage,
        "metrics": {name: value for name, value in node.metrics.items() if isinstance(value, int | float)},
        "speed": _speed(node),
        "plots": plots,
        "samples": last_samples(node.path),
    }


def _rollout_plots(node: NodeView) -> list[str]:
    """Of a policy that learned from rewards: what is trained on beside what is wanted, and how far it went for it."""
    marks = {"back to the best": places} if (places := node.places("early_stop/to_step")) else None
    rewards = {"trained reward": "rollout/reward", "gold": "rollout/gold", "gold, held out": "validation/gold"}
    drawn = {label: points for label, name in rewards.items() if (points := node.series(name))}
    plots = [draw_curves(drawn, x_label="tokens", y_label="mean reward", marks=marks)] if drawn else []
    for name, y_label in (("kl", "KL, nats an answer"), ("length", "tokens an answer"), ("stopped", "answers that stop")):
        if points := node.series(f"rollout/{name}"):
            plots.append(draw_curves({y_label: points}, x_label="tokens", y_label=y_label, height_inches=2.1))
    return plots


def _speed(node: NodeView) -> str:
    found = {name: sorted(value for _, value in node.series(f"train/{name}")) for name in ("tokens_per_second", "mfu")}
    median = {name: values[len(values) // 2] for name, values in found.items() if values}
    words = [f"{median['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in median else []
    words += [f"{100 * median['mfu']:.0f} % MFU"] if "mfu" in median else []
    return f"{', '.join(words)} (medians)" if words else ""


def _has_answers(node: NodeView) -> bool:
    return (node.path / "samples.parquet").is_file()  # an evaluation on benchmarks alone has a page of its own


def _scores_view(node: NodeView) -> dict[str, Any]:
    scores = read_json(node.path / "scores.json")
    models = scores["models"]
    values = {model: [_triple(scores["metrics"][model].get(metric)) for metric in SHARES] for model in models}
    names = {metric: METRICS[metric][0] for metric in SHARES}
    plots = [draw_intervals([names[metric] for metric in SHARES], models, values, x_label="%, with 95 % interval")]
    by_skill = scores.get("by_skill", {})
    skills = sorted({skill for model in models for skill in by_skill.get(model, {})})
    if skills:
        exact = {model: [_triple(by_skill[model].get(skill, {}).get("exact_match")) for skill in skills] for model in models}
        plots.append(draw_intervals(skills, models, exact, x_label="exact match by skill, %, with 95 % interval"))
    return {
        "models": models,
        "baseline": scores["baseline"],
        "ratings": rating_tables(scores),
        "num_prompts": scores["num_prompts"],
        "table": score_table(scores),
        "plots": plots,
        "samples": same_prompt_samples(node.path / "samples.parquet", models),
    }


def _triple(cell: Mapping[str, float] | None) -> tuple[float, float, float] | None:
    if not cell or cell.get("value") is None:
        return None
    value = 100 * cell["value"]
    return value, 100 * cell.get("low", cell["value"]), 100 * cell.get("high", cell["value"])
