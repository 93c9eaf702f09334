"""What came of a run's stages, for people to read: samples over time, tables of scores with their intervals."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

from bloomery.core.artifact import Store
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.core.rating_tables import rating_tables
from bloomery.pipeline.report_view import METRICS, SHARES

MAX_SAMPLES = 2000
MAX_CHARACTERS = 4000
NOT_SHARES = ("bits_per_byte", "perplexity", "nats_per_token", "answer_tokens", "entropy_nats", "distinct_2")


def read_samples(node: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    """What a model wrote at its validations: {step, prompt, text}, from training.json, or while it trains from its newest snapshot."""
    folder = store.artifact_path(node["stage"], node["fingerprint"])
    work = store.root / "work" / folder.name
    for path in (folder / "training.json", *_snapshots(work)):
        with contextlib.suppress(DataError, OSError):
            found = read_json(path).get("samples", [])
            return [_sample(row) for row in found[-MAX_SAMPLES:] if isinstance(row, dict)]
    return []


def _snapshots(work: Path) -> Iterator[Path]:
    """state.json of the snapshots of a training that is not done, the newest first."""
    yield from sorted(work.glob(".scratch/step-*/state.json"), reverse=True)
    yield from sorted(work.glob(".scratch/*/step-*/state.json"), reverse=True)


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": row.get("step"), **{key: str(row.get(key, ""))[:MAX_CHARACTERS] for key in ("prompt", "text")}}


def read_scores(folder: Path) -> dict[str, Any] | None:
    """The scores of an evaluation as rows of cells {value, low, high, count}, one cell a model; None if there are none."""
    try:
        scores = read_json(folder / "scores.json")
    except DataError:
        return None
    models = [str(model) for model in scores.get("models", [])]
    return {
        "models": models,
        "num_prompts": scores.get("num_prompts", 0),
        "baseline": scores.get("baseline", ""),
        "tables": [table for table in (_compared(scores, models), _tasks(scores, models), *_skills(scores, models)) if table["rows"]],
        "ratings": rating_tables(scores),
        "left_out": [{"name": str(name), "why": str(why)} for name, why in scores.get("skipped", {}).items()],
    }


def _compared(scores: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    rows = []
    for metric, (title, meaning) in METRICS.items():
        cells = [_cell(scores.get("metrics", {}).get(model, {}).get(metric)) for model in models]
        if any(cells):
            text = meaning.format(baseline=scores.get("baseline", ""))
            rows.append({"title": title, "meaning": text, "is_share": metric in SHARES, "cells": cells})
    return {"title": f"On {scores.get('num_prompts', 0)} held-out prompts", "rows": rows}


def _tasks(scores: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    tasks = scores.get("tasks", {})
    rows = []
    for name in dict.fromkeys(name for model in models for name in tasks.get(model, {})):
        records = [tasks.get(model, {}).get(name, {}) for model in models]
        asked = next((record for record in records if "metrics" in record), None)
        if asked is None:
            continue
        metric = asked["metric"]
        notes = f"{metric.replace('_', ' ')}, {asked['num_shots']} shots, {asked['rows']} rows"
        chance = f", chance {100 * asked['chance']:.0f} %" if asked.get("chance") else ""
        cells = [_cell(record.get("metrics", {}).get(metric)) for record in records]
        rows.append({"title": asked["title"], "meaning": notes + chance, "is_share": metric not in NOT_SHARES, "cells": cells})
    return {"title": "Benchmarks", "rows": rows}


def _skills(scores: Mapping[str, Any], models: Sequence[str]) -> Iterator[dict[str, Any]]:
    by_skill = scores.get("by_skill", {})
    skills = sorted({skill for model in models for skill in by_skill.get(model, {})})
    rows = [
        {
            "title": skill,
            "meaning": "exact match",
            "is_share": True,
            "cells": [_cell(by_skill.get(model, {}).get(skill, {}).get("exact_match")) for model in models],
        }
        for skill in skills
    ]
    yield {"title": "Exact match by skill", "rows": rows}


def _cell(found: Any) -> dict[str, float] | None:
    if not isinstance(found, Mapping) or found.get("value") is None:
        return None
    return {key: found[key] for key in ("value", "low", "high", "count") if found.get(key) is not None}
