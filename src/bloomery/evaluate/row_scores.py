"""What `evaluate` left behind, read again: the scores of each benchmark by model, and what every row gave."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: JSON records

import pyarrow.parquet as pq

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.errors import DataError
from bloomery.core.files import read_json

Record = dict[str, Any]
Place = tuple[str, int]


class TaskScores(NamedTuple):
    """A benchmark: its record in scores.json by model, and by model and place of the row (file, line) the row's values."""

    records: Mapping[str, Record]
    rows: Mapping[str, Mapping[Place, Mapping[str, float]]]


def models_by_fingerprint(folder: Path) -> dict[str, str]:
    """What `evaluate` calls each model in its scores, by the model's fingerprint. Raises DataError if this is no artifact of it."""
    record = read_artifact(folder).record if (folder / RECORD).is_file() else {}
    if record.get("stage") != "evaluate":
        raise DataError(f"{folder}: expected scores as the stage `evaluate` makes them, with {RECORD}")
    return dict(zip(record["inputs"]["models"], read_json(folder / "scores.json")["models"], strict=True))


def read_task_scores(folder: Path) -> dict[str, TaskScores]:
    """All benchmarks that every model was asked, in the order they were asked."""
    tasks: dict[str, dict[str, Record]] = read_json(folder / "scores.json").get("tasks", {})
    if not tasks:
        return {}
    rows: dict[str, dict[str, dict[Place, Record]]] = {}
    for row in pq.read_table(folder / "task_samples.parquet", columns=["model", "task", "file", "line", "values"]).to_pylist():
        rows.setdefault(row["task"], {}).setdefault(row["model"], {})[row["file"], row["line"]] = json.loads(row["values"])
    names = [name for name in next(iter(tasks.values())) if all("metrics" in of_model.get(name, {}) for of_model in tasks.values())]
    return {name: TaskScores({model: tasks[model][name] for model in tasks}, rows[name]) for name in names if name in rows}
