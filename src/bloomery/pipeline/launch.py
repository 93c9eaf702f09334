"""Runs one stage's function: in this process, or in several that torchrun starts.

The function, its config and its inputs are the same in both; what differs is the Runtime. With several devices each
process is `python -m bloomery.pipeline.rank SPEC.json` and rank 0 leaves the metrics where this process reads them.
"""

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any  # Any: metrics are whatever numbers a stage gives

from bloomery.core.errors import DataError, Stopped
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog
from bloomery.core.pool import WORKER_MEMORY_BYTES, LocalPool, Pool
from bloomery.core.stage import Cluster, Launch, Runtime, Stage
from bloomery.core.stopping import never, watch_for_sigterm
from bloomery.core.trackers import open_trackers, require_trackers
from bloomery.pipeline.plan import Step, input_paths

log = logging.getLogger(__name__)

SCRATCH = ".launch"
"""Hidden folder in the work folder for what torchrun's processes are told and answer."""

STOP = "stop"
"""The file in that folder whose presence asks the processes to save and end."""

OpenPool = Callable[[int], Pool]
"""Makes the pool of a stage, given the number of workers."""


@contextlib.contextmanager
def open_cluster(cluster: Cluster) -> Iterator[OpenPool]:
    """Where the pools of a run come from. A connection to a Ray cluster is made by the first map, and ends with the context."""
    if cluster.kind == "local":
        yield LocalPool
        return
    # By name, when it is asked for: Ray is an optional package, and takes a second to import.
    connection = importlib.import_module("bloomery.core.ray_pool").RayCluster(cluster.address)
    try:
        yield connection.open_pool
    finally:
        connection.close()


def launch(
    step: Step, *, out: Path, log_folder: Path, workers: int, quiet: bool = False, open_pool: OpenPool = LocalPool
) -> Mapping[str, Any]:
    """Runs the step's stage into the folder `out` and returns its metrics. Raises whatever the stage raises, Stopped after a SIGTERM."""
    # Absolute: workers may be on other machines, in other folders.
    arguments = {slot: _to_absolute(value) for slot, value in input_paths(step).items()}
    node = step.node
    if node.launch.devices > 1:
        return _launch_ranks(node.stage, node.launch, step, arguments, out=out, log_folder=log_folder, workers=workers)
    log_path = log_folder / "metrics.jsonl"
    # Only training looks between its steps whether it is to stop; other stages end at once and go on from their last shard.
    watch = watch_for_sigterm() if node.stage.spmd else contextlib.nullcontext(never)
    trackers = open_trackers(node.launch.trackers, folder=log_folder, label=node.id, settings=node.config.model_dump(mode="json"))
    with watch as stop_requested:
        runtime = Runtime(
            workers=workers,
            metrics=MetricsLog(log_path, trackers),
            label=node.id,
            quiet=quiet,
            open_pool=open_pool,
            launch=node.launch,
            stop_requested=stop_requested,
        )
        try:
            metrics: Mapping[str, Any] = node.stage.run(node.config, **arguments, out=out.absolute(), runtime=runtime)
        finally:
            runtime.metrics.close()
            peak = runtime.close()
    if peak > WORKER_MEMORY_BYTES and workers != 1:  # one worker is this process, with all that it holds besides
        found, expected = f"{peak / 2**30:.1f} GB", f"{WORKER_MEMORY_BYTES >> 30} GB"
        log.warning("%s: a worker needed %s of memory; at most %s are expected", node.id, found, expected)
    return metrics


def _launch_ranks(
    stage: Stage, launch: Launch, step: Step, arguments: Mapping[str, Any], *, out: Path, log_folder: Path, workers: int
) -> Mapping[str, Any]:
    folder = out / SCRATCH
    spec, result, problem, stopped = (folder / name for name in ("spec.json", "result.json", "error.json", "stopped.json"))
    for leftover in (problem, stopped, folder / STOP):
        leftover.unlink(missing_ok=True)
    write_json(
        spec,
        {
            "stage": stage.name,
            "config": step.node.config.model_dump(mode="json"),
            "arguments": {slot: _to_plain(value) for slot, value in arguments.items()},
            "out": str(out.absolute()),
            "metrics": str((log_folder / "metrics.jsonl").absolute()),
            "label": step.node.id,
            "workers": workers,
            "launch": launch.model_dump(mode="json"),
        },
    )
    require_trackers(launch.trackers)  # before the processes start, where the message would be one among many
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.devices)]
    # SIGTERM to us reaches the ranks through the file, not through torchrun, which kills what has not ended in 30 seconds.
    with watch_for_sigterm(flag=folder / STOP):
        process = subprocess.Popen(
            [*command, "-m", "bloomery.pipeline.rank", str(spec.absolute())],
            env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // launch.devices)), **os.environ},
            preexec_fn=die_with_parent,
        )
        try:
            code = process.wait()
        except BaseException:  # also Ctrl-C: torchrun must not outlive us
            process.terminate()
            process.wait()
            raise
    if stopped.is_file():
        raise Stopped(read_json(stopped)["message"])
    if code != 0:
        reason = read_json(problem)["message"] if problem.is_file() else f"torchrun ended with exit code {code}; its own messages are above"
        raise DataError(f"{step.node.id}: {reason}")
    metrics: Mapping[str, Any] = read_json(result)
    return metrics


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the one that started it dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _to_absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [path.absolute() for path in value]
    return None if value is None else value.absolute()


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [str(path) for path in value]
    return None if value is None else str(value)
