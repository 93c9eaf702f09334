"""All data parallelism: map one function over shards, results in order. The shard is the unit of work and of resume.

A worker gets a module-level function and one picklable item, and returns something small; documents travel through
files. Results never depend on the number of workers, on where they are (`LocalPool` here, `core/ray_pool.py` on a
cluster), or on how many of them died on the way.
"""

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.process
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar  # Any: what travels to a worker and back

from bloomery.core.errors import DataError
from bloomery.core.memory import peak_memory_bytes

log = logging.getLogger(__name__)

ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""Environment of workers: the workers are the parallelism."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

WORKER_MEMORY_BYTES = 2 << 30
"""What a worker may need: batches of documents, not shards, are in memory. Measured for every map, not enforced: the
libraries map far more than they touch, so that no limit of the kernel (RLIMIT_AS, RLIMIT_DATA) would be about memory."""

MAX_DEATHS = 3
"""How often an item may be in the hands of workers that die."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Protocol):
    """Where map runs: this machine's processes, or a Ray cluster's."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function` of every item, in the order of the items. An exception in a worker is raised here.

        A worker that dies (killed, out of memory) is replaced and its items are done again, so `function` must be one
        that can be called again. Raises DataError naming the item if that happens again and again.
        """
        ...

    @property
    def worker_peak_bytes(self) -> int:
        """The most memory that one worker has held so far; 0 before the first map."""
        ...

    def close(self) -> None:
        """Ends the workers; a later map starts new ones."""
        ...


class LocalPool:
    """A pool of processes on this machine, started by the first map and kept; with one worker, this process itself.

    Not concurrent.futures: there a dead worker breaks the whole pool, does not tell which item it had, and a death while
    others are being started can hang (CPython 3.11: a worker started in that moment is joined, but never ended).
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.worker_peak_bytes = 0
        self._workers: list[_Worker] = []
        weakref.finalize(self, _end, self._workers)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See Pool.map. At most two items a worker are in flight, so memory does not grow with the number of items."""
        if self.workers == 1:
            for item in items:
                yield self._note_peak(measure(function, item))
            return
        # Pickled once for all items: some carry an index of many megabytes.
        packed = pickle.dumps(function, protocol=pickle.HIGHEST_PROTOCOL)
        waiting: deque[_Call] = deque()  # in the order of the items
        try:
            for item in items:
                waiting.append(_Call(item))
                self._give(packed, waiting)
                if len(waiting) > 2 * self.workers:
                    yield self._take_first(packed, waiting)
            while waiting:
                yield self._take_first(packed, waiting)
        finally:
            for worker in [worker for worker in self._workers if worker.call is not None]:
                self._lose(worker)  # only after an error: nobody waits for what it is at, and files are whole or absent

    def close(self) -> None:
        """See Pool.close."""
        _end(self._workers)

    def _take_first(self, packed: bytes, waiting: "deque[_Call]") -> Any:
        while waiting[0].answer is None:
            self._give(packed, waiting)
            busy = [worker for worker in self._workers if worker.call is not None]
            ready = multiprocessing.connection.wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                self._receive(worker)
        answer = waiting.popleft().answer
        if isinstance(answer, BaseException):
            raise answer
        return self._note_peak(answer)

    def _give(self, packed: bytes, waiting: "deque[_Call]") -> None:
        """Gives the next calls to workers that have none. The last try of a call is alone: it has all the memory then."""
        given = [worker.call for worker in self._workers if worker.call is not None]
        for call in waiting:
            if call.answer is not None or call in given:
                continue
            is_last_try = call.deaths == MAX_DEATHS - 1
            if len(given) == self.workers or (given and (is_last_try or given[-1].deaths == MAX_DEATHS - 1)):
                return
            idle = next((worker for worker in self._workers if worker.call is None), None) or self._start()
            try:
                idle.give(packed, call)
            except OSError:  # it was killed while it had nothing to do
                self._lose(idle)
                self._give(packed, waiting)
                return
            given.append(call)

    def _receive(self, worker: "_Worker") -> None:
        call = worker.call
        assert call is not None, "only busy workers are listened to"
        try:
            call.answer = worker.connection.recv()
            worker.call = None
        except (EOFError, OSError):
            self._lose(worker)
            call.deaths += 1
            if call.deaths == MAX_DEATHS:
                raise died_too_often(call.item, MAX_DEATHS) from None
            log.warning("a worker process died (killed, or out of memory) on %s, which is done again", _shorten(call.item))

    def _start(self) -> "_Worker":
        start_fork_server()
        # Not a plain fork: Polars', numba's and torch's threads do not survive one.
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # so that ours ends when the worker does
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _lose(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        worker.call = None
        worker.process.kill()
        _end([worker])

    def _note_peak(self, measured: tuple[Result, int]) -> Result:
        result, peak = measured
        self.worker_peak_bytes = max(self.worker_peak_bytes, peak)
        return result


class _Call:
    """An item in flight, how often it was in the hands of a worker that died, and what became of it."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.deaths = 0
        self.answer: Any = None


class _Worker:
    """A process, the pipe to it, and the call that it is at."""

    def __init__(self, process: multiprocessing.process.BaseProcess, connection: "multiprocessing.connection.Connection[Any, Any]") -> None:
        self.process = process
        self.connection = connection
        self.call: _Call | None = None
        self._packed: bytes | None = None

    def give(self, packed: bytes, call: _Call) -> None:
        """Raises OSError if the process is no more."""
        self.connection.send((None if packed is self._packed else packed, call.item))
        self._packed, self.call = packed, call


def start_fork_server() -> None:
    """Starts the server that workers of this process are forked from, if there is none, and does not wait for it.

    The first map does so, too; who knows earlier that there will be one spares it the wait, as the server imports meanwhile.
    """
    multiprocessing.set_forkserver_preload(["bloomery.core.preload"])
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


def measure(function: Callable[[Item], Result], item: Item) -> tuple[Result, int]:
    """The function of an item, and the most memory that this process has held until now."""
    return function(item), peak_memory_bytes()


def died_too_often(item: object, times: int) -> DataError:
    """The error that names the item which no worker survives."""
    return DataError(
        f"a worker process died {times} times on {_shorten(item)}: killed from outside, or out of "
        f"memory (a worker should need at most {WORKER_MEMORY_BYTES >> 30} GB). Finished shards are kept: run the same command again, with "
        "fewer --workers if memory was short. If it dies on the same shard again, take that file out of the inputs and look at it."
    )


def _shorten(item: object) -> str:
    name = repr(item)
    return name if len(name) <= 500 else name[:500] + "..."


def _end(workers: "list[_Worker]") -> None:
    """Ends workers that are waiting for work, or dead."""
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join()
        worker.process.close()
    workers.clear()


def _work(connection: "multiprocessing.connection.Connection[Any, Any]") -> None:
    """A worker's life: a function and an item come, what it gives goes back, until the pipe is closed."""
    _prepare_worker()
    function: Callable[[Any], Any] = _no_function
    while True:
        try:
            packed, item = connection.recv()
        except EOFError:
            return
        try:
            if packed is not None:
                function = pickle.loads(packed)
            connection.send(measure(function, item))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is raised in the main process)
            connection.send(_portable(error))


def _no_function(item: Any) -> Any:
    raise AssertionError("the first call brings the function")


def _portable(error: Exception) -> Exception:
    """An exception that can travel, with the traceback as a note."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  (an exception's own pickling may fail in any way)
        return RuntimeError(f"in a worker process:\n{text}")
    return error


def _prepare_worker() -> None:
    # Rows of documents have no cycles: looking for garbage took a twentieth of the time.
    gc.set_threshold(100_000, 20, 20)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG (Linux): dies with the forkserver
        # Else glibc gives the memory of a page's arrays back, and takes other for the next page: a thirtieth of the time. That of
        # batches of documents, which are larger, is still given back.
        libc.mallopt(M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 32 << 20)
    threading.Thread(target=_die_with_main_process, daemon=True).start()


def _die_with_main_process() -> None:
    # The forkserver lives as long as any worker does, so a worker must watch the main process itself: without this,
    # the workers of a killed run wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
