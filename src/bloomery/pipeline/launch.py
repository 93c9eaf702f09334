"""Runs one stage's function: in this process, or in several that are started for it.

The function, its config and its inputs are the same in both; what differs is the Runtime. With several devices each
process is `python -m bloomery.pipeline.rank SPEC.json` (see ranks.py) and rank 0 leaves the metrics where this process
reads them. What of a launch does not fit the model is told before any is started.
"""

import contextlib
import importlib
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any  # Any: metrics are whatever numbers a stage gives

from bloomery.core.errors import ConfigError, DataError, Stopped
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog
from bloomery.core.pool import WORKER_MEMORY_BYTES, LocalPool, Pool
from bloomery.core.stage import Cluster, Launch, Runtime, Stage
from bloomery.core.stopping import never, watch_for_sigterm
from bloomery.core.trackers import find_missing, open_trackers
from bloomery.pipeline.plan import Step, input_paths
from bloomery.pipeline.ranks import run_ranks

log = logging.getLogger(__name__)

SCRATCH = ".launch"
"""Hidden folder in the work folder for what the processes of a group are told and answer."""

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
    if misfits := [*node.stage.check_launch(node.config, node.launch, arguments), *find_missing(node.launch.trackers)]:
        raise ConfigError("\n  ".join([f"{node.id}: {len(misfits)} mistake(s)", *misfits]))
    if node.launch.num_processes > 1:
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
    # SIGTERM to us reaches the ranks through the file: between two steps they look for it, save and end.
    with watch_for_sigterm(flag=folder / STOP):
        code = run_ranks(spec, launch)
    if stopped.is_file():
        raise Stopped(read_json(stopped)["message"])
    if problem.is_file():
        told = read_json(problem)
        raise (ConfigError if told["kind"] == "ConfigError" else DataError)(f"{step.node.id}: {told['message']}")
    if code < 0:
        raise DataError(
            f"{step.node.id}: one of {launch.num_processes} processes was ended by {signal.Signals(-code).name}. A SIGKILL that nobody "
            "sent is the system's, for want of memory: then a smaller launch.micro_batch_tokens helps. The same command continues."
        )
    if code != 0:
        raise DataError(f"{step.node.id}: one of {launch.num_processes} processes ended with exit code {code}; its own messages are above")
    metrics: Mapping[str, Any] = read_json(result)
    return metrics


def _to_absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [path.absolute() for path in value]
    return None if value is None else value.absolute()


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [str(path) for path in value]
    return None if value is None else str(value)
