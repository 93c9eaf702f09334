"""How far a run is, read from its folder alone: cheap enough to ask every second, also while it runs."""

from pathlib import Path
from typing import Any  # Any: the values of JSON records

from bloomery.core.artifact import RECORD, Store, read_artifact
from bloomery.core.files import read_json
from bloomery.pipeline.locate import read_spec


def read_status(run: Path) -> dict[str, Any]:
    """The run's name and status, and each node's with its timing and size. Raises DataError if `run` is not a run.

    A node whose process died is "interrupted": its lock is free, and the same command continues it.
    """
    spec = read_spec(run)
    store = Store(run.parent)
    nodes = [_node_status(store, node) for node in spec["nodes"]]
    status = spec["status"]
    if status == "running" and not any(node["status"] == "running" for node in nodes):
        status = "done" if all(node["status"] == "done" for node in nodes) else "interrupted"
    return {"run": str(run), "name": spec["name"], "status": status, "command": spec["command"], "nodes": nodes}


def _node_status(store: Store, node: dict[str, Any]) -> dict[str, Any]:
    stage, fingerprint, status = node["stage"], node["fingerprint"], node["status"]
    path = store.artifact_path(stage, fingerprint)
    size = 0
    if (path / RECORD).is_file():
        status = "done"
        size = sum(file["bytes"] for file in read_artifact(path).record["files"].values())
    elif status == "done":
        status = "removed"
    elif store.is_being_made(stage, fingerprint):
        status = "running"
    elif status == "running":
        status = "interrupted"
    timing = store.log_path(stage, fingerprint) / "timing.json"
    return {**node, "status": status, "bytes": size, "timing": read_json(timing) if timing.is_file() else None}
