"""The funnel of a run: documents, bytes and tokens from stage to stage, and how many each rule dropped. Reads records alone."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the values of JSON records

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import RECORD
from bloomery.core.files import read_json
from bloomery.web.corpus.memory import Memory
from bloomery.web.directory import ArtifactEntry, Directory, RunEntry, opaque_id

SECONDS_REMEMBERED = 5.0
KINDS = ("pages", "documents")
NAMES = ("stage", "kind", "config", "inputs", "metrics", "fingerprint")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished stage of a run that gives documents or pages. `record` is its artifact.json without the list of files."""

    id: str
    node: str
    path: Path
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Shelf:
    """The store as the page sees it, and what is kept of it in memory."""

    directory: Directory
    memory: Memory

    def record(self, path: Path) -> Mapping[str, Any]:
        """The artifact.json in a folder without its list of files, read once."""
        key = ("record", path, (path / RECORD).stat().st_mtime_ns)
        return self.memory.get(key, lambda: _read_record(path), _size_of_record)

    def artifact(self, artifact_id: str) -> ArtifactEntry:
        """The artifact of documents or pages with this id. Raises Refusal (404) if there is none."""
        # A dragged threshold asks many times a second: the store is not listed for each.
        entry = self.memory.get(("entry", artifact_id, lately()), lambda: self.directory.artifact(artifact_id), lambda _: 1000)
        if entry.kind not in KINDS:
            raise Refusal(404, f"{entry.name} holds {entry.kind}; this page shows stages that give documents", code="not_found")
        return entry

    def key(self, path: Path, *parts: Any) -> tuple[Any, ...]:
        """What a value made of an artifact is kept under: another one after it was made anew."""
        return (path, (path / RECORD).stat().st_mtime_ns, *parts)

    def inputs(self, path: Path) -> list[Path]:
        """The folders of the artifacts that an artifact was made from, where they still are: texts of what it dropped are there."""
        wanted = {name for names in self.record(path)["inputs"].values() for name in names}
        return [entry.path for entry in self.directory.artifacts("documents") if entry.fingerprint in wanted]


def list_runs(shelf: Shelf) -> list[dict[str, Any]]:
    """Runs that have documents to show, newest first."""
    found = []
    for run in shelf.directory.runs():
        steps = list_steps(shelf, run)
        if steps:
            found.append({"id": run.id, "name": run.name, "stages": [step.record["stage"] for step in steps]})
    return found


def list_steps(shelf: Shelf, run: RunEntry) -> list[Step]:
    """The finished stages of a run that give documents or pages, in the order of its plan."""
    steps = []
    for node in run.spec["nodes"]:
        path = shelf.directory.store.root / "artifacts" / Path(node["artifact"]).name
        if (path / RECORD).is_file():
            record = shelf.record(path)
            if record["kind"] in KINDS and "documents_out" in record["metrics"]:
                steps.append(Step(id=opaque_id("artifact", path.name), node=node["id"], path=path, record=record))
    return steps


def make_funnel(shelf: Shelf, run: RunEntry) -> dict[str, Any]:
    """What came in and went out of every stage, and what its rules dropped, most first. Tokens are those that the run's
    `tokenize` counted; of other stages than the one it read, and of what was dropped, estimated at its tokens for each byte.
    Artifacts from before stages counted the bytes that a rule drops have None there."""
    found = list_steps(shelf, run)
    steps = [_describe(step) for step in found]
    tokens = find_tokens(shelf, run)
    for step, shown in zip(found, steps, strict=True):
        exact = tokens is not None and tokens["inputs"].get("documents") == [step.record["fingerprint"]]
        rate = tokens_per_byte(tokens)
        counted = sum(int(tokens["metrics"].get(f"{split}_tokens", 0)) for split in ("train", "validation")) if tokens and exact else None
        shown["tokens_out"] = counted if exact else estimate_tokens(step.record, rate)
        shown["tokens_estimated"] = shown["tokens_out"] is not None and not exact
        for drop in shown["drops"]:
            drop["tokens"] = None if rate is None or drop["bytes"] is None else round(drop["bytes"] * rate)
    return {"run": {"id": run.id, "name": run.name}, "steps": steps}


def find_tokens(shelf: Shelf, run: RunEntry) -> Mapping[str, Any] | None:
    """The record of a run's finished `tokenize`, the first if there are more."""
    for node in run.spec["nodes"]:
        path = shelf.directory.store.root / "artifacts" / Path(node["artifact"]).name
        if node["stage"] == "tokenize" and (path / RECORD).is_file():
            return shelf.record(path)
    return None


def tokens_per_byte(record: Mapping[str, Any] | None) -> float | None:
    """What a `tokenize` made of its training texts; None if there is none."""
    if record is None or not record["metrics"].get("train_bytes"):
        return None
    return float(record["metrics"]["train_tokens"] / record["metrics"]["train_bytes"])


def estimate_tokens(record: Mapping[str, Any], rate: float | None) -> int | None:
    """Tokens in the documents of an artifact; None for pages, whose bytes are not text."""
    size = record["metrics"].get("bytes_out")
    return round(size * rate) if rate is not None and size is not None and record["kind"] == "documents" else None


def lately() -> int:
    """A number that changes every SECONDS_REMEMBERED: part of the key of what is not looked up more often."""
    return int(time.monotonic() / SECONDS_REMEMBERED)


def rate_of_artifact(shelf: Shelf, path: Path) -> float | None:
    """Tokens for each byte in the first run that has this artifact and a finished `tokenize`."""
    return shelf.memory.get(("rate", path, lately()), lambda: _find_rate(shelf, path), lambda _: 500)


def _find_rate(shelf: Shelf, path: Path) -> float | None:
    for run in shelf.directory.runs():
        if any(Path(node["artifact"]).name == path.name for node in run.spec["nodes"]):
            rate = tokens_per_byte(find_tokens(shelf, run))
            if rate is not None:
                return rate
    return None


def sorted_drops(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rules with the number of documents they dropped, most first."""
    return [{"rule": name, "documents": count} for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count]


def _describe(step: Step) -> dict[str, Any]:
    metrics = step.record["metrics"]
    drops = {name.removeprefix("dropped/"): int(count) for name, count in metrics.items() if name.startswith("dropped/")}
    return {
        "artifact": step.id,
        "node": step.node,
        "stage": step.record["stage"],
        **{name: metrics.get(name) for name in ("documents_in", "documents_out", "bytes_in", "bytes_out")},
        "drops": [{**drop, "bytes": metrics.get(f"dropped_bytes/{drop['rule']}")} for drop in sorted_drops(drops)],
        "can": {
            "signals": (step.path / "signals").is_dir(),
            "clusters": (step.path / "clusters").is_dir(),
            "pii": step.record["stage"] == "redact",
        },
    }


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path / RECORD)
    return {name: record[name] for name in NAMES}


def _size_of_record(record: Mapping[str, Any]) -> int:
    return 200 * (len(record["metrics"]) + len(record["config"]) + 20)
