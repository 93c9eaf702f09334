"""All data parallelism: map one function over shards, results in order. The shard is the unit of work and of resume.

A worker gets a module-level function and one picklable item, and returns something small; documents travel through
files. Results never depend on the number of workers.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from bloomery.core.errors import DataError

PRELOADED = ("numpy", "pyarrow.parquet", "polars", "numba", "bloomery.core.documents")
"""Imported once by the server that workers are forked from. None starts a thread when it is merely imported."""

ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""Environment of workers: the workers are the parallelism."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Protocol):
    """Where map runs: this machine's processes now, a Ray cluster's later."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of every item, in the order of the items. An exception in a worker is raised here."""
        ...


class LocalPool:
    """A pool of processes on this machine; with one worker, this process itself."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See Pool.map. At most two items a worker are in flight, so memory does not grow with the number of items."""
        if self.workers == 1:
            yield from map(function, items)
            return
        _start_fork_server()
        # Not a plain fork: Polars', numba's and torch's threads do not survive one.
        context = multiprocessing.get_context("forkserver")
        with concurrent.futures.ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker) as executor:
            waiting: deque[concurrent.futures.Future[Result]] = deque()
            try:
                for item in items:
                    waiting.append(executor.submit(function, item))
                    if len(waiting) > 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise DataError(
                    "a worker process died (out of memory, or killed). Finished shards are kept: run the same command again, "
                    "with fewer --workers if memory was short."
                ) from error
            finally:
                for future in waiting:
                    future.cancel()


def _start_fork_server() -> None:
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # libraries read these when they are loaded, so the server must start with them
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG (Linux): dies with the forkserver
    threading.Thread(target=_die_with_main_process, daemon=True).start()


def _die_with_main_process() -> None:
    # The forkserver lives as long as any worker does, so a worker must watch the main process itself: without this,
    # the workers of a killed run wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
