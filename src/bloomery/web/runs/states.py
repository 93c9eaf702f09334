"""How far runs are: state, reason and time left of each stage, read from the store alone, also while others write it.

Who makes an artifact holds its lock. The lock is asked first; on a disk that other machines share it may not be told to us, and then
what was written last decides: a process of another machine that has written nothing for ten minutes counts as stopped, and the reason
says that this is a guess.
"""

import contextlib
import fcntl
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal  # Any: the values of JSON records

from bloomery.core.artifact import RECORD, Store
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.core.processes import is_alive
from bloomery.web.directory import RunEntry

State = Literal["done", "running", "stopping", "stopped", "failed", "waiting", "left out", "removed"]
QUIET_SECONDS = 600.0
RESUME_LOCK = ".resume.lock"
STOP_FILE = ".stop.json"
"""In a run's folder: which process was asked to stop, and when."""


@dataclass(frozen=True, kw_only=True)
class StageState:
    """One stage of a run. `holder` is the process that makes it, `progress` what it said last, `seconds_left` for what it is at now."""

    id: str
    stage: str
    state: State
    reason: str
    progress: Mapping[str, Any] | None = None
    seconds_left: float | None = None
    holder: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run. `seconds_left` is None where nothing is known; `left_is_complete` whether every stage still to come is in it."""

    state: State
    reason: str
    stages: tuple[StageState, ...]
    process: Mapping[str, Any] | None
    seconds_left: float | None
    left_is_complete: bool
    can_stop: bool
    can_resume: bool
    refusal: str
    """Why it can be neither stopped nor resumed from here, if it cannot."""


def read_state(entry: RunEntry, store: Store, *, now: float | None = None) -> RunState:
    """The state of a run and of each of its stages. Raises DataError if its record is not one that bloomery writes."""
    try:
        return _read_state(entry, store, time.time() if now is None else now)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{entry.name}: its spec.json is damaged ({type(error).__name__}: {error}). Run its recipe again to write it anew."
        raise DataError(message) from error


def _read_state(entry: RunEntry, store: Store, now: float) -> RunState:
    process = entry.spec.get("process")
    stages = tuple(_stage_state(node, entry, store, now) for node in entry.spec["nodes"])
    at_work = [stage for stage in stages if stage.state == "running"]
    state, reason = _run_state(entry, stages, process)
    if state == "running" and is_stopping(entry, process):
        state, reason = "stopping", "asked to stop: a training saves its step first"
        stages = tuple(_replace_state(stage, "stopping") if stage.state == "running" else stage for stage in stages)
    left, is_complete = _time_left(stages, entry, store) if state == "running" else (None, False)
    can_stop, refusal = _can_stop(process, at_work) if state == "running" else (False, "")
    return RunState(
        state=state,
        reason=reason,
        stages=stages,
        process=process,
        seconds_left=left,
        left_is_complete=is_complete,
        can_stop=can_stop,
        can_resume=state in ("stopped", "failed", "removed"),
        refusal=refusal,
    )


def is_stopping(entry: RunEntry, process: Mapping[str, Any] | None) -> bool:
    """Whether this very process was asked to stop before."""
    with contextlib.suppress(DataError, AttributeError):
        asked = read_json(entry.folder / STOP_FILE)
        return bool(process) and all(asked.get(key) == (process or {}).get(key) for key in ("pid", "host", "start"))
    return False


def is_starting(entry: RunEntry) -> bool:
    """Whether a process that was started to resume this run lives, also before it has written anything: it has the lock from us."""
    try:
        with (entry.folder / RESUME_LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_holder(store: Store, stage: str, fingerprint: str) -> dict[str, Any]:
    """Who holds the lock of an artifact, or held it last, in its own words; empty if nobody ever did."""
    try:
        holder = json.loads(store.lock_path(stage, fingerprint).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def same_process(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two records are of one process."""
    return bool(one and other) and all((one or {}).get(key) == (other or {}).get(key) for key in ("pid", "host"))


def describe(process: Mapping[str, Any] | None) -> str:
    """`process 4711 on node3`."""
    return f"process {process.get('pid')} on {process.get('host')}" if process else "an unknown process"


def _stage_state(node: Mapping[str, Any], entry: RunEntry, store: Store, now: float) -> StageState:
    stage, fingerprint, status = node["stage"], node["fingerprint"], node["status"]
    made = {"id": node["id"], "stage": stage}
    why = str(node.get("reason") or "")
    if (store.artifact_path(stage, fingerprint) / RECORD).is_file():
        return StageState(**made, state="done", reason=f"made because: {why}" if why not in ("", "done") else "")
    if status == "done":
        return StageState(**made, state="removed", reason="its artifact has been removed: resume makes it again")
    holder = read_holder(store, stage, fingerprint)
    process = entry.spec.get("process")
    if store.is_being_made(stage, fingerprint):
        reason = why if same_process(holder, process) else f"another run makes it: {describe(holder)}"
        return _running(made, reason, holder, store, fingerprint, now)
    if status == "running":
        if (holder or process or {}).get("host") not in (None, socket.gethostname()):
            age = now - _last_written(entry, store, stage, fingerprint)
            if age < QUIET_SECONDS:
                reason = f"{why}; wrote {age:.0f} s ago, by {describe(holder)}" if why else f"wrote {age:.0f} s ago, by {describe(holder)}"
                return _running(made, reason, holder, store, fingerprint, now)
            return StageState(**made, state="stopped", reason=f"{describe(holder)} has written nothing for {age / 60:.0f} min: a guess")
        return StageState(**made, state="stopped", reason="its process ended before it was done (killed, or the machine went down)")
    problem = str(node.get("problem") or "")
    if status == "failed":
        return StageState(**made, state="failed", reason=problem or "failed; the terminal it ran in says why")
    if status == "interrupted":
        return StageState(**made, state="stopped", reason=problem or "stopped")
    return StageState(**made, state="left out" if status == "left out" else "waiting", reason=why)


def _running(made: Mapping[str, str], reason: str, holder: Mapping[str, Any], store: Store, fingerprint: str, now: float) -> StageState:
    progress = None
    with contextlib.suppress(DataError, OSError, KeyError, TypeError):
        said = read_json(store.log_path(made["stage"], fingerprint) / "progress.json")
        begun = store.lock_path(made["stage"], fingerprint).stat().st_mtime
        # What an earlier, killed process said is older than the lock that is held now.
        progress = said if said["time"] >= begun - 1 else None
    left = None
    if progress and progress.get("per_second"):
        left = max(0.0, (progress["total"] - progress["done"]) / progress["per_second"] - max(0.0, now - progress["time"]))
    return StageState(
        id=made["id"], stage=made["stage"], state="running", reason=reason, progress=progress, seconds_left=left, holder=holder
    )


def _last_written(entry: RunEntry, store: Store, stage: str, fingerprint: str) -> float:
    logs, lock = store.log_path(stage, fingerprint), store.lock_path(stage, fingerprint)
    times = [0.0]
    for path in (logs / "progress.json", logs / "metrics.jsonl", lock, lock.with_suffix(""), entry.folder / "spec.json"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _run_state(entry: RunEntry, stages: tuple[StageState, ...], process: Mapping[str, Any] | None) -> tuple[State, str]:
    by_state: dict[str, list[StageState]] = {}
    for stage in stages:
        by_state.setdefault(stage.state, []).append(stage)
    alive = is_alive(process or {})
    if at_work := by_state.get("running"):
        return "running", ", ".join(stage.id for stage in at_work)
    if entry.spec["status"] == "running" and alive:
        return "running", "between two stages"
    if is_starting(entry):
        return "running", "starting: it reads the recipe and looks what is done"
    if failed := by_state.get("failed"):
        return "failed", f"{failed[0].id}: {failed[0].reason}"
    if stopped := by_state.get("stopped"):
        return "stopped", f"{stopped[0].id}: {stopped[0].reason}"
    if removed := by_state.get("removed"):
        return "removed", f"{', '.join(stage.id for stage in removed)}: removed from the store"
    if waiting := by_state.get("waiting"):
        return "stopped", f"{waiting[0].id} and what comes after it are not made"
    if by_state.get("left out"):
        return "done", f"all but {len(by_state['left out'])} left out"
    return "done", ""


def _time_left(stages: tuple[StageState, ...], entry: RunEntry, store: Store) -> tuple[float | None, bool]:
    """Of the running stages what they say themselves; of those to come what the nearest older artifact took."""
    known, unknown = 0.0, 0
    nearest = {node["id"]: node.get("nearest") for node in entry.spec["nodes"]}
    for stage in stages:
        if stage.state == "running":
            seconds = stage.seconds_left
        elif stage.state == "waiting":
            seconds = _seconds_of(nearest[stage.id], store)
        else:
            continue
        known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
    return (known if known else None), not unknown


def _seconds_of(artifact: str | None, store: Store) -> float | None:
    with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
        return float(read_json(store.root / "logs" / Path(str(artifact or "-")).name / "timing.json")["seconds"])
    return None


def _can_stop(process: Mapping[str, Any] | None, at_work: list[StageState]) -> tuple[bool, str]:
    holder = next((stage.holder for stage in at_work if stage.holder), process)
    who = process or holder or {}
    if who.get("host") != socket.gethostname():
        return False, f"it runs on {who.get('host')}: stop it there (kill {who.get('pid')}), or with `bloomery web` on that machine"
    if is_alive(process or {}) is not True:
        return (
            False,
            f"{describe(holder)} is not of this run, or out of sight (another container): stop it where it runs",
        )
    return True, ""


def _replace_state(stage: StageState, state: State) -> StageState:
    return StageState(**{**stage.__dict__, "state": state})
