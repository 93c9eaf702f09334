"""Carries out a plan: for each node that is not done, lock, launch, commit; and keeps the run's folder true.

    STORE/<recipe name>/spec.json    the resolved recipe, each node's fingerprint, artifact, status, reason and problem; the process
    STORE/<recipe name>/<id>         a link to the artifact of that node
    STORE/<recipe name>/report.*     written by pipeline/report.py from the above

Killed at any moment, the same call continues: finished artifacts are found, half-made ones go on in their work folder.
"""

import contextlib
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.core.artifact import Artifact, Store, explain_os_errors
from bloomery.core.errors import BloomeryError, DataError, Stopped, StoreError
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog
from bloomery.core.pool import LocalPool
from bloomery.core.processes import this_process
from bloomery.pipeline.launch import OpenPool, launch, open_cluster
from bloomery.pipeline.locate import SPEC, read_spec
from bloomery.pipeline.meter import Meter
from bloomery.pipeline.plan import Plan, Step
from bloomery.pipeline.sources import PREFIX, FileHashes, find_source

log = logging.getLogger(__name__)

MAX_PROBLEM_CHARACTERS = 2000
"""Of an error's message that are kept in spec.json."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did: its folder, the nodes it made (in order), and those it found done."""

    folder: Path
    made: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def run_plan(plan: Plan, store: Store, *, workers: int = 1, command: Sequence[str] = ()) -> RunResult:
    """Makes every artifact of the plan that is not there yet. `workers`: 0 is as many as a Ray cluster has cores.

    Raises BloomeryError for what a user can mend; the artifact that was being made then does not exist, those before do.
    """
    folder = store.root / plan.recipe.name
    result = RunResult(folder=folder)
    with explain_os_errors(store.root):
        folder.mkdir(parents=True, exist_ok=True)
        for step in plan.steps:
            if step.state == "run":
                _forget_if_stale(step, store)
        spec = _Spec(folder / SPEC, plan, command)
        for step in plan.steps:
            _link(folder, step, store)
        with open_cluster(plan.recipe.cluster) as open_pool:
            for step in plan.steps:
                if step.state == "left out":
                    continue
                with spec.following(step):
                    is_new = step.state == "run" and _make(step, store, workers=workers, open_pool=open_pool)
                (result.made if is_new else result.found).append(step.node.id)
                _link(folder, step, store)
        spec.finish()
    return result


def _forget_if_stale(step: Step, store: Store) -> None:
    # Before the first node runs, not one by one: a run killed halfway must not leave old artifacts below rebuilt ones.
    if step.reason.startswith(("--rebuild", "input rebuilt", "damaged")):
        store.discard(step.node.stage.name, step.fingerprint)


def _make(step: Step, store: Store, *, workers: int, open_pool: OpenPool = LocalPool) -> bool:
    """Makes one artifact; False if another process made it while we waited for its lock."""
    node = step.node

    def say_wait(holder: str) -> None:
        log.info("%s: waiting for %s, which is making it now", node.id, holder)

    with store.begin(node.stage.name, step.fingerprint, on_wait=say_wait) as work:
        if store.find(node.stage.name, step.fingerprint) is not None:
            log.info("%s: done by another run", node.id)
            return False
        if store.recover(work, node.stage.name, step.fingerprint) is not None:
            log.info("%s: done (an interrupted commit is now complete)", node.id)
            return True
        again = "continues" if any(work.iterdir()) else node.stage.name
        log.info("%s: %s (%s)", node.id, again, step.reason)
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        log_folder = store.log_path(node.stage.name, step.fingerprint)
        with _explain_missing_inputs(step, store), Meter() as meter:
            _check_files_are_unchanged(step, store)
            metrics = launch(step, out=work, log_folder=log_folder, workers=workers, open_pool=open_pool)
            _check_files_are_unchanged(step, store)
        write_json(log_folder / "timing.json", _timing(step, meter, started, workers))
        numbers = {f"{node.stage.name}/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
        MetricsLog(log_folder / "metrics.jsonl").write({**numbers, "stage/seconds": round(meter.seconds, 3)})
        artifact = store.commit(work, {**step.record(), "metrics": dict(metrics)})
        log.info("%s: done in %s", node.id, _describe(artifact, meter))
        return True


def _timing(step: Step, meter: Meter, started: str, workers: int) -> dict[str, Any]:
    return {
        "seconds": round(meter.seconds, 3),
        "peak_memory_bytes": meter.peak_memory_bytes,
        "started": started,
        "host": platform.node(),
        "cores": os.cpu_count(),
        "workers": workers,
        "devices": step.node.launch.devices,
        "python": platform.python_version(),
    }


def _describe(artifact: Artifact, meter: Meter) -> str:
    size = sum(file["bytes"] for file in artifact.record["files"].values())
    return f"{meter.seconds:.1f} s, {meter.peak_memory_bytes / 2**20:,.0f} MB of memory at most, {size / 2**20:,.1f} MB written"


@contextlib.contextmanager
def _explain_missing_inputs(step: Step, store: Store) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        missing = [path for paths in step.paths.values() for path in paths if not path.exists()]
        if not missing:
            raise  # not an input: a bug of ours, and a traceback tells more
        message = f"{step.node.id}: its input {missing[0]} has disappeared. Run the same command again: it makes what is missing."
        raise DataError(message) from error


def _check_files_are_unchanged(step: Step, store: Store) -> None:
    """An artifact is named after the bytes of its inputs, so these must be the same from plan to commit."""
    hashes = FileHashes(store.root / "files.json")
    for slot, sources in step.node.inputs.items():
        for source, planned in zip(sources, step.inputs[slot], strict=True):
            if source.startswith(PREFIX):
                found = find_source(source.removeprefix(PREFIX), step.node.stage.inputs[slot], hashes).fingerprint
                if found != planned:
                    raise DataError(f"{step.node.id}.inputs.{slot}: {source} changed during the run. Run the same command again.")


def _link(folder: Path, step: Step, store: Store) -> None:
    link = folder / step.node.id
    target = store.artifact_path(step.node.stage.name, step.fingerprint)
    if not target.exists():
        link.unlink(missing_ok=True)  # what an earlier plan made is not what this recipe says
        return
    wanted = Path(os.path.relpath(target, folder))
    if link.is_symlink() and link.readlink() == wanted:
        return
    temporary = folder / f".{step.node.id}.tmp-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(wanted)
    temporary.replace(link)


class _Spec:
    """spec.json of a run, rewritten whenever a node's status changes."""

    def __init__(self, path: Path, plan: Plan, command: Sequence[str]) -> None:
        self._path = path
        before = _read_spec_before(path)
        recipe = plan.recipe
        self._nodes = {step.node.id: _spec_node(step, before.get("nodes", [])) for step in plan.steps}
        nothing_to_do = all(step.state == "done" for step in plan.steps)
        self._content: dict[str, Any] = {
            "name": recipe.name,
            "seed": recipe.seed,
            "recipe_file": str(recipe.path),
            "overrides": list(recipe.overrides),
            "command": before.get("command", list(command)) if nothing_to_do else list(command),
            "folder": before.get("folder", str(Path.cwd())) if nothing_to_do else str(Path.cwd()),
            "process": before.get("process", this_process()) if nothing_to_do else this_process(),
            "bloomery": importlib.metadata.version("bloomery"),
            "status": "done" if nothing_to_do else "running",
            "nodes": list(self._nodes.values()),
            "recipe": resolved_recipe(plan),
        }
        self._write()

    @contextlib.contextmanager
    def following(self, step: Step) -> Iterator[None]:
        """Keeps a node's status while it is made; a failure is the run's, too."""
        node = self._nodes[step.node.id]
        if node["status"] == "done":
            yield
            return
        node["status"] = "running"
        self._write()
        try:
            yield
        except BaseException as error:  # also Ctrl-C, which is passed on like everything else
            node["status"] = self._content["status"] = "interrupted" if isinstance(error, KeyboardInterrupt | Stopped) else "failed"
            node["problem"] = _problem(error)
            with contextlib.suppress(OSError, StoreError):  # a full disk is told by the error itself
                self._write()
            raise
        node["status"] = "done"
        self._write()

    def finish(self) -> None:
        """Says that nothing is left to do."""
        self._content["status"] = "done" if all(node["status"] == "done" for node in self._nodes.values()) else "partial"
        self._write()

    def _write(self) -> None:
        if not self._path.is_file() or read_json(self._path) != self._content:
            write_json(self._path, self._content)


def _problem(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    text = str(error) if isinstance(error, BloomeryError) else f"{type(error).__name__}: {error}"
    return text[:MAX_PROBLEM_CHARACTERS]


def resolved_recipe(plan: Plan) -> dict[str, Any]:
    """The recipe with every default filled in, as a recipe file would have it."""
    stages = {
        step.node.id: {
            "stage": step.node.stage.name,
            "inputs": {slot: list(sources) for slot, sources in step.node.inputs.items()},
            "config": step.node.config.model_dump(mode="json"),
            "launch": step.node.launch.model_dump(mode="json"),
        }
        for step in plan.steps
    }
    return {"name": plan.recipe.name, "seed": plan.recipe.seed, "cluster": plan.recipe.cluster.model_dump(mode="json"), "stages": stages}


def _spec_node(step: Step, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reason: dict[str, Any] = {"reason": step.reason, "differences": list(step.differences), "nearest": step.nearest}
    if step.state == "done":  # why it was made stays interesting; that it is done is its status
        same = [node for node in before if (node.get("id"), node.get("fingerprint")) == (step.node.id, step.fingerprint)]
        reason = {key: same[0].get(key) for key in reason} if same else reason
    name = f"{step.node.stage.name}-{step.fingerprint[:16]}"
    return {
        "id": step.node.id,
        "stage": step.node.stage.name,
        "fingerprint": step.fingerprint,
        "artifact": f"artifacts/{name}",
        "status": {"done": "done", "run": "waiting", "left out": "left out"}[step.state],
        **reason,
    }


def _read_spec_before(path: Path) -> Mapping[str, Any]:
    try:
        return read_spec(path.parent)
    except DataError:
        return {}  # the first run, or a damaged spec, which is written anew
