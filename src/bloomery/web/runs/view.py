"""Runs as the browser sees them: plain values made of the store's records."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any  # Any: JSON

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import Store
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.pipeline.locate import SPEC
from bloomery.web.directory import RunEntry
from bloomery.web.runs.columns import Columns, MetricsReader
from bloomery.web.runs.control import read_log
from bloomery.web.runs.curves import FLOPS_PER_TOKEN, Axis, Curve, downsample, make_curves, marks, rounded, within
from bloomery.web.runs.states import RunState, read_state

MAX_SOURCES = 64
MAX_METRICS = 24
POINTS_IN_ALL = 48_000
MIN_BUCKETS, MAX_BUCKETS = 100, 1000
MAX_NEW_POINTS = 4000
DONE_SECONDS = 10.0


class Summaries:
    """The lines of the list. Of a run that is done only what its stages left could change: that is looked for every ten seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[RunEntry, float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def rows(self, entries: Iterable[RunEntry], *, now: float | None = None) -> list[dict[str, Any]]:
        """A line for each run, in their order."""
        now = time.monotonic() if now is None else now
        rows = {}
        for entry in entries:
            with self._lock:
                known = self._known.get(entry.id)
            # The directory reads a spec.json again only when it has changed, so the same record is the same object.
            if known is None or known[0].spec is not entry.spec or known[2]["state"] != "done" or now - known[1] > DONE_SECONDS:
                known = entry, now, summary(entry, self._store)
            rows[entry.id] = known
        with self._lock:
            self._known = rows
        return [row for _, _, row in rows.values()]


def summary(entry: RunEntry, store: Store) -> dict[str, Any]:
    """A run as one line of the list; one whose record is damaged says so and leaves the others alone."""
    try:
        return _summary(entry, store)
    except DataError as error:
        idle: dict[str, Any] = {"now": None, "training": [], "updated": _changed(entry), "done": 0, "stages": 0}
        return {"id": entry.id, "name": entry.name, "state": "damaged", "reason": str(error), **idle, **_NO_ACTIONS}


def _summary(entry: RunEntry, store: Store) -> dict[str, Any]:
    state = read_state(entry, store)
    now = next((stage for stage in state.stages if stage.state in ("running", "stopping")), None)
    made = [stage for stage in state.stages if stage.state != "left out"]
    return {
        "id": entry.id,
        "name": entry.name,
        "state": state.state,
        "reason": state.reason,
        "done": sum(stage.state == "done" for stage in made),
        "stages": len(made),
        "now": None if now is None else {"id": now.id, "stage": now.stage, "progress": now.progress, "seconds_left": now.seconds_left},
        "training": [stage.id for stage in state.stages if _has_curves(stage.id, entry, store)],
        "updated": _changed(entry),
        **_actions(state),
    }


def detail(entry: RunEntry, store: Store) -> dict[str, Any]:
    """A run with its stages, links between them, times, sizes, recipe and log."""
    state = read_state(entry, store)
    stages = []
    for stage, node in zip(state.stages, entry.spec["nodes"], strict=True):
        timing = _read(store.log_path(node["stage"], node["fingerprint"]) / "timing.json")
        settings = stage_settings(entry, stage.id)
        parents = [source for sources in settings.get("inputs", {}).values() for source in sources]
        stages.append(
            {
                "id": stage.id,
                "stage": stage.stage,
                "state": stage.state,
                "reason": stage.reason,
                "differences": [str(text) for text in node.get("differences") or []],
                "nearest": node.get("nearest"),
                "artifact": str(node["artifact"]).rpartition("/")[2],
                "progress": stage.progress,
                "seconds_left": stage.seconds_left,
                "parents": [source for source in parents if not source.startswith("file:")],
                "files": [source for source in parents if source.startswith("file:")],
                "seconds": timing.get("seconds") if stage.state == "done" else None,
                "memory_bytes": timing.get("peak_memory_bytes") if stage.state == "done" else None,
                "has_curves": _has_curves(stage.id, entry, store),
                "has_scores": (store.artifact_path(node["stage"], node["fingerprint"]) / "scores.json").is_file(),
            }
        )
    spec = entry.spec
    return {
        "id": entry.id,
        "name": entry.name,
        "state": state.state,
        "reason": state.reason,
        "seed": spec["seed"],
        "command": [str(part) for part in spec.get("command", [])],
        "recipe_file": str(spec["recipe_file"]),
        "overrides": [str(text) for text in spec["overrides"]],
        "process": state.process,
        "folder": str(entry.folder),
        "updated": _changed(entry),
        "stages": stages,
        "log": read_log(entry),
        **_actions(state),
    }


def find_sources(keys: Sequence[str], runs: Mapping[str, RunEntry]) -> dict[str, tuple[RunEntry, Mapping[str, Any]]]:
    """The stages that keys such as RUN_ID.STAGE name. Raises Refusal (404) for a run or stage that is not there, 400 for too many."""
    if len(keys) > MAX_SOURCES:
        raise Refusal(400, f"of: at most {MAX_SOURCES} curves at once; found {len(keys)}", code="invalid_query")
    found = {}
    for key in dict.fromkeys(keys):
        run_id, _, stage_id = key.partition(".")
        entry = runs.get(run_id)
        node = next((node for node in entry.spec["nodes"] if node["id"] == stage_id), None) if entry else None
        if entry is None or node is None:
            raise Refusal(404, f"of: there is no stage {key!r:.80} in this store: it may have been removed", code="not_found")
        found[key] = entry, node
    return found


def read_columns(node: Mapping[str, Any], store: Store, reader: MetricsReader, metrics: Sequence[str]) -> Columns:
    """The metrics of one stage."""
    return reader.read(store.log_path(node["stage"], node["fingerprint"]) / "metrics.jsonl", {*metrics, FLOPS_PER_TOKEN})


def curve_reply(
    columns: Columns, metrics: Sequence[str], axis: Axis, *, low: float | None, high: float | None, log_x: bool, buckets: int
) -> dict[str, Any]:
    """Curves of one stage for the screen, and from which row on what is new comes later."""
    curves = make_curves(columns, metrics, axis)
    shown: dict[str, dict[str, Any]] = {}
    for metric, curve in curves.items():
        if len(curve.x):
            few = downsample(within(curve, low, high), buckets, log_x=log_x)
            shown[metric] = {**_points(few.extremes), "points": len(curve.x)}
            if few.means is not None:
                shown[metric]["means"] = _points(few.means)
    problem = next((curve.problem for curve in curves.values()), "")
    return {
        "cursor": cursor_of(columns),
        "names": sorted(columns.names),
        "curves": shown,
        "marks": marks(columns, axis),
        "problem": problem if columns.names else "",
    }


def new_points(columns: Columns, metrics: Sequence[str], axis: Axis, cursor: str) -> dict[str, Any] | None:
    """What came since `cursor`: points to append, "reload" where that is not enough (too many, the past undone, a file begun anew); None
    if nothing came."""
    if cursor == cursor_of(columns):
        return None
    generation, _, text = cursor.partition(".")
    first = int(text) if text.isdecimal() else -1
    step = columns.axes["step"]
    known = step[:first][step[:first] == step[:first]]  # without NaN
    came = step[first:][step[first:] == step[first:]]
    is_undone = bool(len(known) and len(came) and came.min() < known.max())
    if generation != str(columns.generation) or not 0 <= first <= columns.rows or columns.rows - first > MAX_NEW_POINTS or is_undone:
        return {"cursor": cursor_of(columns), "reload": True}
    curves = make_curves(columns, metrics, axis, first_row=first)
    shown = {metric: _points(curve) for metric, curve in curves.items() if len(curve.x)}
    return {"cursor": cursor_of(columns), "curves": shown, "marks": marks(columns, axis), "names": sorted(columns.names)}


def _points(curve: Curve) -> dict[str, list[float]]:
    return {"x": rounded(curve.x, 9), "y": rounded(curve.y, 6)}


def cursor_of(columns: Columns) -> str:
    """How far a file was read."""
    return f"{columns.generation}.{columns.rows}"


def buckets_for(num_curves: int) -> int:
    """Equal parts of the axis for each of so many curves."""
    return max(MIN_BUCKETS, min(MAX_BUCKETS, POINTS_IN_ALL // (2 * max(num_curves, 1))))


_NO_ACTIONS: dict[str, Any] = {
    "seconds_left": None,
    "left_is_complete": False,
    "can_stop": False,
    "can_resume": False,
    "refusal": "",
    "host": None,
}


def _actions(state: RunState) -> dict[str, Any]:
    return {
        "seconds_left": state.seconds_left,
        "left_is_complete": state.left_is_complete,
        "can_stop": state.can_stop,
        "can_resume": state.can_resume,
        "refusal": state.refusal,
        "host": (state.process or {}).get("host"),
    }


def _has_curves(stage_id: str, entry: RunEntry, store: Store) -> bool:
    """Whether a stage trains: of those, metrics have a step."""
    settings = stage_settings(entry, stage_id).get("config", {})
    return "learning_rate" in settings or "num_validations" in settings


def stage_settings(entry: RunEntry, stage_id: str) -> Mapping[str, Any]:
    """The recipe's table of one stage; empty where a record has none."""
    found: Mapping[str, Any] = entry.spec.get("recipe", {}).get("stages", {}).get(stage_id, {})
    return found


def _changed(entry: RunEntry) -> float:
    try:
        return (entry.folder / SPEC).stat().st_mtime
    except OSError:
        return time.time()


def _read(path: Any) -> dict[str, Any]:
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}
