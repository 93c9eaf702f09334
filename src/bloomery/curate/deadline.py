"""A function that must not hold its caller for longer than some seconds, however it is stuck: it runs in a process beside us.

A C loop cannot be interrupted from within, so the only sure end is that of a process. The helper is a fresh interpreter
(no fork: threads do not survive one), started when it is first needed, kept for the next call, killed when time is up;
it ends with its parent.
"""

import contextlib
import ctypes
import functools
import multiprocessing
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any  # Any: whatever travels to the helper and back

START_SECONDS = 120.0
"""For the helper's imports and its rehearsal, which are not the page's fault."""
MAX_HELPER_BYTES = 6 << 30
"""Address space of the helper: what a page can make a parser ask for ends there and not with the machine's memory."""


class OutOfTime(Exception):
    """The function had not returned in time; its process was killed."""


class HelperDied(Exception):
    """The helper ended without an answer: a crash, or no memory left."""


class Helper:
    """A process that calls one module-level function for us, again and again."""

    def __init__(self, function: Callable[..., Any], rehearsal: tuple[Any, ...]) -> None:
        self._function, self._rehearsal = function, rehearsal
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def call(self, *arguments: Any, seconds: float) -> Any:
        """The function's result. Raises OutOfTime or HelperDied."""
        connection = self._start()
        try:
            connection.send(arguments)
            if connection.poll(seconds):
                return connection.recv()
        except (EOFError, ConnectionError) as error:
            self.close()
            raise HelperDied from error
        self.close()
        raise OutOfTime

    def close(self) -> None:
        """Ends the helper; the next call starts another."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._connection is not None:
            return self._connection
        self.close()
        ours, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"]
        with theirs:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        self._connection = ours
        try:
            ours.send(self._function)
            ours.send(self._rehearsal)
            if ours.poll(START_SECONDS):
                ours.recv()
                return ours
        except (EOFError, ConnectionError) as error:
            self.close()
            raise HelperDied from error
        self.close()
        raise HelperDied


@functools.cache
def helper_for(function: Callable[..., Any], *rehearsal: Any) -> Helper:
    """This process's helper for a module-level function; `rehearsal` are the arguments of a first call that has no limit."""
    return Helper(function, rehearsal)


def serve(descriptor: int) -> None:
    """What the helper does: receives a function, then arguments until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG (Linux): dies with its parent, also inside a C loop
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_HELPER_BYTES, MAX_HELPER_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, ConnectionError, MemoryError), Connection(descriptor) as connection:
        function = connection.recv()
        while True:
            connection.send(function(*connection.recv()))
