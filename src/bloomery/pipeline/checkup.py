"""The trainings of a run with what a diagnosis needs to know of each: their logs and facts, finished or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any  # Any: the values of JSON records

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.diagnosis.finding import Facts
from bloomery.pipeline.locate import find_run, read_spec, require_run

TRAININGS = ("pretrain", "sft", "reward_model", "preference", "ppo", "grpo")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a run."""

    facts: Facts
    metrics: Path
    """Its metrics.jsonl; missing before it has begun."""
    artifact: Path
    """Its folder, if it is finished."""
    inputs: Mapping[str, list[Path]] = field(default_factory=dict)
    """The folders (or files) of each of its inputs, those that are there."""


def find_trainings(run: Path) -> list[Training]:
    """The trainings of a run in the order of its plan, begun or not. Raises DataError if `run` is no run's folder."""
    spec = read_spec(run)
    folders = {node["id"]: run.parent / node["artifact"] for node in spec["nodes"]}
    return [_training(node, spec["recipe"]["stages"][node["id"]], folders, run) for node in spec["nodes"] if node["stage"] in TRAININGS]


def open_trainings(name: str, store: Path) -> list[Training]:
    """What a command line's RUN names: a run's trainings, one that was made by `bloomery stage`, or what a metrics.jsonl says by itself.

    Raises DataError if it is none of these.
    """
    path = Path(name)
    if path.is_file() and path.suffix == ".jsonl":
        stage = path.parent.name.rpartition("-")[0]  # as the store names its logs
        return [
            Training(facts=Facts(stage=stage if stage in TRAININGS else "pretrain", node=path.stem), metrics=path, artifact=path.parent)
        ]
    if find_run(name, store) is None and (path / RECORD).is_file():
        return [_single(path)]
    return find_trainings(require_run(name, store))


def _single(path: Path) -> Training:
    found = read_artifact(path).record
    logs = [path.with_name(f"{path.name}.logs"), path.resolve().parents[1] / "logs" / path.resolve().name]
    metrics = next((folder / "metrics.jsonl" for folder in logs if folder.is_dir()), logs[0] / "metrics.jsonl")
    if found["stage"] not in TRAININGS:
        raise DataError(f"{path}: was made by {found['stage']}, which trains nothing; the doctor looks at {', '.join(TRAININGS)}")
    facts = Facts(
        stage=found["stage"],
        node=path.name,
        config=found["config"],
        has_init=bool(found["inputs"].get("init")),
        vocab_size=_vocab_size([path]),
        params=int(found["metrics"].get("params", 0)),
        record=_record(path),
        finished=True,
    )
    return Training(facts=facts, metrics=metrics, artifact=path)


def _record(artifact: Path) -> dict[str, Any]:
    numbers = dict(read_artifact(artifact).record["metrics"])
    return {**read_json(artifact / "training.json"), **numbers} if (artifact / "training.json").is_file() else numbers


def _training(node: Mapping[str, Any], entry: Mapping[str, Any], folders: Mapping[str, Path], run: Path) -> Training:
    artifact = run.parent / node["artifact"]
    inputs = {slot: _paths(sources, folders) for slot, sources in entry["inputs"].items()}
    finished = (artifact / RECORD).is_file()
    record = _record(artifact) if finished else {}
    model = [artifact, *inputs.get("init", [])]
    facts = Facts(
        stage=node["stage"],
        node=node["id"],
        config=entry["config"],
        has_init=bool(entry["inputs"].get("init")),
        vocab_size=_vocab_size([*model, *inputs.get("tokenizer", [])]),
        params=int(record.get("params", 0)),
        record=record,
        finished=finished,
    )
    return Training(facts=facts, metrics=run.parent / "logs" / artifact.name / "metrics.jsonl", artifact=artifact, inputs=inputs)


def _paths(sources: list[str], folders: Mapping[str, Path]) -> list[Path]:
    # "ID" or "ID/part" of another node; "file:GLOB" names files that a check would have to find again, and does without.
    found = [folders[name] / rest for name, _, rest in (source.partition("/") for source in sources) if name in folders]
    return [path for path in found if path.exists()]


def _vocab_size(folders: list[Path]) -> int:
    """Of the model where there is one, else of its tokenizer; 0 if neither is there yet."""
    for folder in folders:
        if (folder / "config.json").is_file():
            return int(read_json(folder / "config.json").get("vocab_size", 0))
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens", ()))]
            return max(ids, default=-1) + 1
    return 0
