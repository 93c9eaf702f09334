"""Resume and stop: the two things that the page of runs changes in the world.

A run is resumed from what the store holds: spec.json has the recipe with every setting, which is written beside it as resume.toml and
run by a process of its own that outlives this server. What it says goes into resume.log. A run is stopped by SIGTERM to the process that
spec.json names, once it is certain that this is still that process. Both can be asked for twice: the second time changes nothing.
"""

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: the values of JSON records

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import Store, explain_os_errors
from bloomery.core.errors import StoreError
from bloomery.core.files import write_json, write_text
from bloomery.core.processes import is_alive
from bloomery.pipeline.sources import PREFIX
from bloomery.web.directory import RunEntry
from bloomery.web.runs.states import RESUME_LOCK, STOP_FILE, read_state
from bloomery.web.runs.toml import to_toml

RECIPE, LOG = "resume.toml", "resume.log"
TAIL_BYTES = 16 << 10


class Resumer:
    """Starts processes that continue runs, and waits for their ends so that they do not stay as zombies."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._started: list[subprocess.Popen[bytes]] = []

    def resume(self, entry: RunEntry) -> dict[str, Any]:
        """Continues a run. Raises Refusal (409) with the reason if there is nothing to continue, or it cannot be done from here."""
        self.reap()
        state = read_state(entry, self._store)
        if state.state in ("running", "stopping"):
            if state.state == "stopping":
                raise Refusal(409, "it is stopping: resume it when it has stopped", code="stopping")
            return {"started": False, "message": f"it runs already ({state.reason})"}
        if not state.can_resume:
            raise Refusal(409, f"nothing to resume: the run is {state.state}", code="nothing_to_do")
        if "recipe" not in entry.spec:
            raise Refusal(409, "its spec.json has no recipe: run the recipe again from the command line", code="no_recipe")
        folder = _working_folder(entry.spec)
        try:
            with explain_os_errors(entry.folder), (entry.folder / RESUME_LOCK).open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return {"started": False, "message": "it is being started already"}
                (entry.folder / STOP_FILE).unlink(missing_ok=True)
                self._start(entry, folder, lock.fileno())
        except StoreError as error:
            raise Refusal(409, str(error), code="store") from error
        return {"started": True, "message": "started"}

    def _start(self, entry: RunEntry, folder: Path, lock: int) -> None:
        recipe = entry.folder.absolute() / RECIPE
        command = entry.spec.get("command", [])
        head = f"# The recipe of this run with every setting, from spec.json. Its command was: {_one_line(command)}\n"
        write_text(recipe, head + to_toml(entry.spec["recipe"]))
        options = resume_options(entry.spec)
        with (entry.folder / LOG).open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} bloomery run {RECIPE} {' '.join(options)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "bloomery", "run", str(recipe), "--store", str(self._store.root.absolute()), *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # neither Ctrl-C in our terminal nor our end is its own
                pass_fds=[lock],  # held as long as it lives, by whoever asks
                env={name: value for name, value in os.environ.items() if name != "BLOOMERY_TOKEN"},
            )
        self._started.append(process)

    def reap(self) -> None:
        """Takes note of processes that have ended."""
        self._started = [process for process in self._started if process.poll() is None]


def stop(entry: RunEntry, store: Store) -> dict[str, Any]:
    """Asks a run's process to stop. Raises Refusal (409) with the reason if that cannot be done from here."""
    state = read_state(entry, store)
    if state.state == "stopping":
        # A second SIGTERM would end a training at once, before it has saved.
        return {"sent": False, "message": "it was asked to stop already"}
    if state.state != "running":
        return {"sent": False, "message": f"it does not run: it is {state.state}"}
    if not state.can_stop or state.process is None:
        raise Refusal(409, state.refusal or "its process is not known yet: try again in a moment", code="cannot_stop")
    process, pid = state.process, int(state.process["pid"])
    try:
        with _certain(pid) as send:
            if is_alive(process) is not True:
                return {"sent": False, "message": "it has just ended"}
            with explain_os_errors(entry.folder):
                write_json(entry.folder / STOP_FILE, {**process, "asked": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
            send()
    except ProcessLookupError:
        return {"sent": False, "message": "it has just ended"}
    except (PermissionError, StoreError) as error:
        (entry.folder / STOP_FILE).unlink(missing_ok=True)
        raise Refusal(409, f"process {pid} cannot be stopped from here: {error}", code="cannot_stop") from error
    return {"sent": True, "message": "asked to stop: a training saves its step first"}


@contextlib.contextmanager
def _certain(pid: int) -> Any:  # Any: a context of a function that sends SIGTERM
    """A hold on a process, so that between the look and the signal its number cannot become another's (Linux)."""
    if not hasattr(os, "pidfd_open"):
        yield lambda: os.kill(pid, signal.SIGTERM)
        return
    handle = os.pidfd_open(pid)
    try:
        yield lambda: signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        os.close(handle)


def resume_options(spec: Mapping[str, Any]) -> list[str]:
    """What of the first command is not in its recipe: `--workers`, and `--only` of a run that was to make one stage."""
    words = " ".join(str(part) for part in spec.get("command", [])).replace("--workers=", "--workers ").split()
    counts = [after for word, after in itertools.pairwise(words) if word == "--workers" and after.isdecimal()]
    options = ["--workers", counts[-1]] if counts else []
    for node in spec["nodes"]:
        if node["status"] == "left out" and str(node.get("reason", "")).startswith("--only "):
            only = str(node["reason"]).removeprefix("--only ")
            return [*options, "--only", only] if any(only == other["id"] for other in spec["nodes"]) else options
    return options


def read_log(entry: RunEntry) -> str:
    """The end of what resumed processes said."""
    try:
        with (entry.folder / LOG).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _working_folder(spec: Mapping[str, Any]) -> Path:
    folder = Path(str(spec.get("folder") or Path.cwd()))
    sources = [source for stage in spec["recipe"]["stages"].values() for found in stage["inputs"].values() for source in found]
    relative = [source for source in sources if source.startswith(PREFIX) and not _is_absolute(source.removeprefix(PREFIX))]
    if relative and not (spec.get("folder") and folder.is_dir()):
        where = spec.get("folder") or "an unknown folder"
        raise Refusal(
            409, f"its input {relative[0]} is relative to {where}, which is not here: run the recipe where it is", code="elsewhere"
        )
    return folder if folder.is_dir() else Path.cwd()


def _is_absolute(source: str) -> bool:
    return "://" in source or source.startswith("~") or Path(source).is_absolute()


def _one_line(command: Sequence[str]) -> str:
    text = " ".join(str(part) for part in command)
    return "".join(letter if letter.isprintable() else " " for letter in text)
