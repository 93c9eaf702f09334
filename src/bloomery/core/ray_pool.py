"""The pool over a Ray cluster: every item is a Ray task, on whatever machine has a free core.

Only functions, items and small results travel through Ray; documents travel through files, so every machine must see
the store under the same absolute path (a shared disk), and have bloomery installed. Ray replaces workers and machines
that die and does their tasks again; whoever starts the run again after its own process died finds the finished
shards on the disk. Imported by `pipeline/launch.py`, and only where `[cluster] kind = "ray"` asks for it.
"""

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any  # Any: Ray's own types, which it does not declare

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.pool import ONE_THREAD, Item, Result, died_too_often, measure

try:
    import ray
    import ray.exceptions
except ImportError as error:
    raise ConfigError("[cluster] kind = \"ray\" needs Ray: pip install 'bloomery[ray]'") from error

NAMESPACE = "bloomery"

MAX_TRIES = 6
"""Of one item. More than a LocalPool's: until a dead machine is known to be dead, Ray may give it the same task again."""

OBJECT_STORE_BYTES = 256 << 20
"""Of a cluster that is started here: functions and counts pass through it, never documents."""


class RayCluster:
    """A connection to a Ray cluster, made when the first pool maps and kept over the stages of a run."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connected_here = False

    def open_pool(self, workers: int) -> "RayPool":
        """A pool of at most so many tasks at once; 0 means one for each core of the cluster."""
        return RayPool(self, workers)

    def connect(self, workers: int) -> None:
        """Connects, once; with the address "local" after starting a cluster of so many workers on this machine.

        Raises ConfigError if no cluster answers. A connection that the calling program has already made is used as it is.
        """
        if ray.is_initialized():
            return
        if self.address.startswith("ray://"):
            raise ConfigError(f'[cluster] address = "{self.address}": Ray Client is not supported; run on one of its machines, with "auto"')
        # No message about the run may leave the machine, and Ray asks for none but this.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # As often as after a death of another cause; Ray's default is for ever.
        os.environ.setdefault("RAY_task_oom_retries", str(MAX_TRIES - 1))
        started: dict[str, Any] = {}
        if self.address == "local":
            # Ray's workers are nice (15) to everything else on a machine; ours are to be as fast as local ones.
            os.environ.setdefault("RAY_worker_niceness", "0")
            started = {"num_cpus": workers or None, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=self.address,
                namespace=NAMESPACE,
                runtime_env={"env_vars": ONE_THREAD},
                log_to_driver=False,
                logging_level=logging.ERROR,
                **started,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f'[cluster] address = "{self.address}": no Ray cluster to be had there: {error}. Start one with `ray start --head`, '
                'or use address = "local".'
            ) from error
        self._connected_here = True

    def close(self) -> None:
        """Ends the connection if it was made here, and the cluster if it was started here."""
        if self._connected_here:
            ray.shutdown()
            self._connected_here = False


class RayPool:
    """See Pool. Tasks stay with the cluster's own workers; this holds only what is on its way."""

    def __init__(self, cluster: RayCluster, workers: int) -> None:
        self.workers = workers
        self.worker_peak_bytes = 0
        self._cluster = cluster

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See Pool.map. At most `workers` tasks are in flight; if that is the whole cluster, twice as many, so that none waits."""
        self._cluster.connect(self.workers)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own
        cores = max(1, int(resources.get("CPU", 1)))
        limit = self.workers if 0 < self.workers < cores else 2 * cores
        name = f"bloomery {_name_of(function)}"
        task: Any = ray.remote(measure).options(name=name, num_cpus=1, max_retries=MAX_TRIES - 1, retry_exceptions=False)
        shared = ray.put(function)  # pickled once: some carry an index of many megabytes
        waiting: deque[tuple[Item, Any]] = deque()
        try:
            for item in items:
                waiting.append((item, task.remote(shared, item)))
                if len(waiting) >= limit:
                    yield self._take(*waiting.popleft())
            while waiting:
                yield self._take(*waiting.popleft())
        finally:
            for _, reference in waiting:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(reference)

    def close(self) -> None:
        """See Pool.close. The workers are the cluster's; see RayCluster.close."""

    def _take(self, item: object, reference: Any) -> Any:
        try:
            result, peak = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RayError):
                raise _failed(item, error.cause) from error
            raise error.cause from error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
            raise died_too_often(item, MAX_TRIES) from error
        except ray.exceptions.RayError as error:
            raise _failed(item, error) from error
        self.worker_peak_bytes = max(self.worker_peak_bytes, peak)
        return result


def _failed(item: object, error: Exception) -> DataError:
    return DataError(
        f"{item}: the Ray cluster could not do it. Every machine needs bloomery and sees the store under the same path; is it so? "
        f"Finished shards are kept: run the same command again. Ray says: {error}"
    )


def _name_of(function: Callable[..., Any]) -> str:
    while hasattr(function, "func"):  # functools.partial, also of a partial
        function = function.func
    return getattr(function, "__name__", "task")  # a callable object has none
