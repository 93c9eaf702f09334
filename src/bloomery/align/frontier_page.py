"""The frontier as a page (frontier.html, self-contained) and as text (frontier.md), made of frontier.json alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

from bloomery.core.files import read_json
from bloomery.core.pages import write_page
from bloomery.core.plots import draw_curves, draw_points

Record = dict[str, Any]

COLUMNS = {"greedy": "greedy", "sampled": "sampled", "kl": "KL, nats", "answer_tokens": "tokens", "stopped": "stops"}
SHARES = ("greedy", "sampled", "stopped")


def write_pages(folder: Path) -> Path:
    """Writes frontier.html and frontier.md beside frontier.json; the path of the first."""
    view = page_view(read_json(folder / "frontier.json"))
    for name in ("frontier.md", "frontier.html"):
        page = write_page(folder / name, package="bloomery.align", template=f"{name}.j2", view=view)
    return page


def page_view(report: Mapping[str, Any]) -> Record:
    """What the pages say, as plain values that they only have to lay out."""
    # JSON objects are sorted when they are written; the order of the recipe says more.
    methods = {name: report["methods"][name] for name in report["order"]["methods"]}
    report = {**report, "methods": methods, "best_of": {name: report["best_of"][name] for name in report["order"]["best_of"]}}
    everyone = {"start": {"figures": report["start"]}, **methods}
    return {
        "columns": list(COLUMNS.values()),
        "rows": [_row(name, method, report["baselines"]) for name, method in everyone.items()],
        "num_seeds": max(report["seeds"].values()),
        "num_prompts": report["num_prompts"],
        "plots": [*_frontier_plot(report), *_best_of_plots(report["best_of"]), *_training_plots(report["methods"])],
        "best_of": {name: [_best_of_row(row) for row in rows] for name, rows in report["best_of"].items()},
        "turning_points": [
            _turning(name, report["turning_points"][name]) for name in report["best_of"] if name in report["turning_points"]
        ],
        "notes": [note for method in report["methods"].items() for note in _training_notes(*method)],
        "losses": {name: "; ".join(report["losses"][name]) + "." for name in methods if name in report["losses"]},
    }


def _row(name: str, method: Mapping[str, Any], baselines: Sequence[str]) -> Record:
    figures = method["figures"]
    cells = [_cell(figures[key], share=key in SHARES) for key in COLUMNS]
    gains = [_cell(method["gains"][key], share=True, sign=True) if "gains" in method else "" for key in ("greedy", "sampled")]
    tokens = [cost["training_tokens"] for cost in method.get("costs", []) if "training_tokens" in cost]
    trained = f"{sum(tokens) / len(tokens) / 1e6:.2f} M" if tokens else ""
    return {"name": f"{name} (baseline)" if name in baselines else name, "cells": cells, "gains": gains, "trained": trained}


def _cell(cell: Mapping[str, Any], *, share: bool, sign: bool = False) -> str:
    """
    >>> _cell({"value": 0.5, "low": 0.4, "high": 0.6}, share=True)
    '50.0 [40.0, 60.0]'
    """
    scale, digits = (100, 1) if share else (1, 2)
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"{scale * cell['value']:{form}}"
    return text if cell["low"] is None else f"{text} [{scale * cell['low']:{form}}, {scale * cell['high']:{form}}]"


def _frontier_plot(report: Mapping[str, Any]) -> list[Record]:
    points = {}
    for name, method in {"start": {"figures": report["start"]}, **report["methods"]}.items():
        points[name] = {"x": _triple(method["figures"]["kl"], 1), "y": _triple(method["figures"]["sampled"], 100)}
    lines = {
        f"best of n by {name}": [(row["kl"], 100 * row["gold"]["value"]) for row in rows if row["gold"] is not None]
        for name, rows in report["best_of"].items()
    }
    plot = draw_points(points, lines=lines, x_label="KL to the reference, nats an answer", y_label="gold of sampled answers, %")
    return [{"title": "Reward against distance", "svg": plot, "wide": True}]


def _best_of_plots(best_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Record]:
    learned = {name: rows for name, rows in best_of.items() if name != "gold"}
    if not learned:
        return []
    axis = "√KL, for n = " + ", ".join(str(row["n"]) for row in next(iter(learned.values())))
    gold = {name: [(math.sqrt(row["kl"]), 100 * row["gold"]["value"]) for row in rows] for name, rows in learned.items()}
    proxy = {name: [(math.sqrt(row["kl"]), row["reward"]["value"]) for row in rows] for name, rows in learned.items()}
    return [
        {"title": "Best of n: gold", "svg": draw_curves(gold, x_label=axis, y_label="gold, %")},
        {"title": "Best of n: the reward model's own score", "svg": draw_curves(proxy, x_label=axis, y_label="reward model's score")},
    ]


def _training_plots(methods: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """Reward and gold of each method's first seed over the distance that it had gone."""
    plots = []
    for key, label, scale in (("gold", "gold, %", 100), ("reward", "reward that was trained on", 1)):
        series = {}
        for name, method in methods.items():
            curve: list[Record] = next((log["curve"] for log in method["logs"]), [])
            points = [(math.sqrt(max(point["kl"], 0.0)), scale * point[key]) for point in curve if key in point]
            if points:
                series[name] = points
        if series:
            plots.append({"title": f"While training: {label}", "svg": draw_curves(series, x_label="√KL to the reference", y_label=label)})
    return plots


def _training_notes(name: str, method: Mapping[str, Any]) -> list[str]:
    notes = []
    for i, log in enumerate(method["logs"]):
        if stop := log["early_stop"]:
            notes.append(f"{name}, seed {i + 1}: ended at step {stop['from_step']}, back to step {stop['to_step']}: {stop['reason']}")
        if log["kl_target"] and log["curve"]:
            last = [point["kl"] for point in log["curve"]][-len(log["curve"]) // 3 :]
            found = sum(last) / len(last)
            off = 100 * (found / log["kl_target"] - 1)
            notes.append(f"{name}, seed {i + 1}: KL in the last third {found:.2f} nats, its target {log['kl_target']:.2f} ({off:+.0f} %).")
    return notes


def _best_of_row(row: Mapping[str, Any]) -> Record:
    gold = _cell(row["gold"], share=True) if row["gold"] is not None else ""
    return {"n": row["n"], "kl": f"{row['kl']:.2f}", "reward": _cell(row["reward"], share=False), "gold": gold}


def _turning(name: str, point: Mapping[str, Any]) -> str:
    return f"{name}: gold is highest at n = {point['n']} (KL {point['kl']:.2f} nats, {100 * point['gold']:.1f} %) and falls beyond it."


def _triple(cell: Mapping[str, Any], scale: float) -> tuple[float, float, float]:
    value = scale * cell["value"]
    return (value, value, value) if cell["low"] is None else (value, scale * cell["low"], scale * cell["high"])
