"""An evaluation as one page: `evaluation.html`, self-contained, beside scores.json and made of it and the samples alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

import pyarrow.parquet as pq

from bloomery.core.files import read_json
from bloomery.core.pages import write_page
from bloomery.core.plots import draw_intervals
from bloomery.core.rating_tables import rating_tables

SAMPLES_PER_TASK = 3
GROUPS_SHOWN = 60
ROWS_PER_PLOT = 22
SHOWN_CHARACTERS = 320

UNITS = {"bits_per_byte", "perplexity", "nats_per_token", "answer_tokens", "entropy_nats", "gold_nats", "gold_bits_per_byte"}
"""Figures that are no shares."""

COMPARED = {
    "exact_match": "exact match",
    "format_valid": "in the asked format",
    "stopped": "stops by itself",
    "win_rate": "win rate",
    "bits_per_byte": "bits per byte",
    "entropy_nats": "entropy, nats per token",
    "distinct_2": "distinct-2",
}

LOWER_IS_BETTER = {"refusal_harmless", "toxicity", "bits_per_byte"}
EVEN_IS_BETTER = {"stereotype_pairs", "crows_pairs"}


def write_evaluation_page(folder: Path) -> Path:
    """Writes evaluation.html into a folder with scores.json and returns its path."""
    view = page_view(read_json(folder / "scores.json"), folder)
    return write_page(folder / "evaluation.html", package="bloomery.evaluate", template="page.html.j2", view=view)


def page_view(scores: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the page says, as plain values that it only has to lay out."""
    models: list[str] = scores["models"]
    tasks = task_rows(scores)
    return {
        "models": models,
        "limit": scores.get("limit", 0),
        "num_prompts": scores["num_prompts"],
        "baseline": scores["baseline"],
        "tasks": tasks,
        "plots": _plots(scores, tasks),
        "core": {model: core_text(scores["core"][model]) for model in models if "core" in scores},
        "compared": _compared_rows(scores),
        "ratings": rating_tables(scores),
        "tradeoffs": [_tradeoff_row(row) for row in scores.get("tradeoffs", [])],
        "groups": _group_rows(scores, tasks),
        "left_out": left_out(scores),
        "samples": _samples(folder / "task_samples.parquet", models, tasks),
    }


def task_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a benchmark, one cell a model, in the order they were asked."""
    names = dict.fromkeys(name for of_model in scores.get("tasks", {}).values() for name in of_model)
    rows = []
    for name in names:
        records = [scores["tasks"][model].get(name, {}) for model in scores["models"]]
        asked = next((record for record in records if "metrics" in record), None)
        if asked is None:
            continue
        metric = asked["metric"]
        cells = [record["metrics"].get(metric) if "metrics" in record else None for record in records]
        dirty = asked.get("contamination")
        rows.append(
            {
                "name": name,
                "title": asked["title"],
                "metric": metric.replace("_", " "),
                "key": metric,
                "shots": asked["num_shots"],
                "rows": asked["rows"],
                "rows_in_file": asked["rows_in_file"],
                "cut": max(record.get("cut", 0) for record in records),
                "chance": asked["chance"],
                "cells": [format_interval(metric, cell) for cell in cells],
                "values": cells,
                "contaminated": f"{100 * dirty['fraction']:.1f} %" if dirty else "",
                "clean": [format_interval(metric, (record.get("contamination") or {}).get("clean")) for record in records] if dirty else [],
                "note": "lower is better" if name in LOWER_IS_BETTER else "50 % is even" if name in EVEN_IS_BETTER else "",
            }
        )
    return rows


def format_interval(metric: str, cell: Mapping[str, float] | None) -> str:
    """`62.3 % [58.4, 66.0]` for shares, `1.432 [1.421, 1.443]` for other figures, a dash for none."""
    if not cell or cell.get("value") is None:
        return "–"
    numbers = cell["value"], cell["low"], cell["high"]
    if metric in UNITS:
        value, low, high = (f"{number:.3f}" if number < 1e4 else f"{number:.2e}" for number in numbers)
        return f"{value} [{low}, {high}]"
    value, low, high = (f"{100 * number:.1f}" for number in numbers)
    return f"{value} % [{low}, {high}]"


def core_text(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """CORE as one line, or why there is none."""
    score, whole = parts["nanochat"], parts["dclm"]
    if score["value"] is None:
        missing = score["missing"]
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        return f"no CORE: of its 22 tasks {len(missing)} are missing or were asked with another number of examples ({shown})"
    short = f"; on fewer rows than published: {', '.join(score['incomplete'])}" if score["incomplete"] else ""
    return (
        f"{score['value']:.4f} as nanochat compares choices, {whole['value']:.4f} as DCLM does; chance levels {score['baselines']}{short}"
    )


def left_out(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Benchmarks that were not asked, and why: for all models, or for one."""
    found = list(scores.get("skipped", {}).items())
    for model, of_model in scores.get("tasks", {}).items():
        found += [(f"{name} ({model})", record["skipped"]) for name, record in of_model.items() if "skipped" in record]
    return found


def _plots(scores: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    shares = [row for row in tasks if row["key"] not in UNITS]
    plots = []
    size = -(-len(shares) // max(1, -(-len(shares) // ROWS_PER_PLOT)))
    for first in range(0, len(shares), size or 1):
        some = shares[first : first + size]
        values = {
            model: [None if row["values"][m] is None else _percent(row["values"][m]) for row in some]
            for m, model in enumerate(scores["models"])
        }
        titles = [row["title"] for row in some]
        marks = [100 * row["chance"] or None for row in some]
        plots.append(
            draw_intervals(titles, scores["models"], values, x_label="percent, with 95 % intervals", marks=marks, mark_label="chance")
        )
    costly = [row for row in tasks if row["key"] == "bits_per_byte"]
    for row in costly:
        by_group = [scores["tasks"][model].get(row["name"], {}).get("by_group", {}) for model in scores["models"]]
        sources = list(dict.fromkeys(source for groups in by_group for source in groups))
        cells = {
            model: [_triple(row["values"][m]), *(_triple(by_group[m].get(source)) for source in sources)]
            for m, model in enumerate(scores["models"])
        }
        plots.append(draw_intervals(["all documents", *sources], scores["models"], cells, x_label="bits per byte; lower is better"))
    return plots


def _percent(cell: Mapping[str, float]) -> tuple[float, float, float]:
    return 100 * cell["value"], 100 * cell["low"], 100 * cell["high"]


def _triple(cell: Mapping[str, float] | None) -> tuple[float, float, float] | None:
    return (cell["value"], cell["low"], cell["high"]) if cell else None


def _compared_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for metric, title in COMPARED.items():
        cells = [scores["metrics"][model].get(metric) for model in scores["models"]]
        if any(cells):
            rows.append({"title": title, "cells": [format_interval(metric, cell) for cell in cells]})
    return rows


def _tradeoff_row(row: Mapping[str, Any]) -> dict[str, str]:
    cost = row["cost"]
    known = "training_tokens" in cost
    keys = ("helpfulness", "win_rate", "instruction_following", "entropy_nats", "distinct_2", "answer_tokens")
    return {
        "model": row["model"],
        "stage": cost.get("stage", ""),
        **{key: format_interval(key, row[key]) for key in keys},
        "training_tokens": f"{cost['training_tokens']:,} tokens" if known else "–",
        "training_flops": f"{cost['training_flops']:.1e} FLOPs" if known else "",
        "parameters": f"{cost['parameters']:,}" if "parameters" in cost else "–",
    }


def _group_rows(scores: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in tasks:
        by_group = [scores["tasks"][model].get(row["name"], {}).get("by_group", {}) for model in scores["models"]]
        groups = list(dict.fromkeys(group for groups in by_group for group in groups))[:GROUPS_SHOWN]
        if groups:
            lines = [(group, [format_interval(row["key"], cells.get(group)) for cells in by_group]) for group in groups]
            found.append({"title": row["title"], "metric": row["metric"], "lines": lines})
    return found


def _samples(path: Path, models: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    table = pq.read_table(path, columns=["model", "task", "file", "line", "question", "gold", "prediction"]).to_pylist()
    shown = []
    for row in tasks:
        mine = [sample for sample in table if sample["task"] == row["name"]]
        places = list(dict.fromkeys((sample["file"], sample["line"]) for sample in mine))[:SAMPLES_PER_TASK]
        for place in places:
            by_model = {sample["model"]: sample for sample in mine if (sample["file"], sample["line"]) == place}
            one = next(iter(by_model.values()))
            said = [_short(by_model[model]["prediction"]) if model in by_model else "" for model in models]
            where = f"{place[0]}:{place[1]}"
            shown.append(
                {"task": row["title"], "where": where, "question": _tail(one["question"]), "gold": _short(one["gold"]), "said": said}
            )
    return shown


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


def _tail(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"… {text[-SHOWN_CHARACTERS:]}"
