"""A function that must not hold its caller for longer than some seconds, however it is stuck: it runs in a process beside us.

A C loop cannot be interrupted from within, so the only sure end is that of a process. The helper is a fresh interpreter
(no fork: threads do not survive one), started when it is first needed, kept for the next call, killed when time is up;
it ends with its parent. A spare one is started beside it, so that nobody waits for a new interpreter after a kill.
"""

import contextlib
import ctypes
import functools
import multiprocessing
import resource
import signal
import subprocess
import sys
import time
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


class _Served:
    """One such process; `is_ready` once its rehearsal is through."""

    def __init__(self, function: Callable[..., Any], rehearsal: tuple[Any, ...]) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"]
        with theirs:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
        self.is_ready = False
        with contextlib.suppress(ConnectionError):  # one that died at once is found out when it is waited for
            self.connection.send(function)
            self.connection.send(rehearsal)

    def wait(self, seconds: float) -> bool:
        """Whether it is ready within these seconds. Raises EOFError or ConnectionError if it died."""
        if not self.is_ready and self.connection.poll(seconds):
            self.connection.recv()
            self.is_ready = True
        return self.is_ready

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class Helper:
    """A process that calls one module-level function for us, again and again, and a spare one that takes its place at once."""

    def __init__(self, function: Callable[..., Any], rehearsal: tuple[Any, ...]) -> None:
        self._function, self._rehearsal = function, rehearsal
        self._active: _Served | None = None
        self._spare: _Served | None = None

    def start(self) -> None:
        """Starts both processes and waits until the first is ready, so that no call is charged with it. Raises HelperDied."""
        if self._active is None:
            self._active, self._spare = _Served(self._function, self._rehearsal), _Served(self._function, self._rehearsal)
            try:
                is_ready = self._active.wait(START_SECONDS)
            except (EOFError, ConnectionError) as error:
                self.close()
                raise HelperDied from error
            if not is_ready:
                self.close()
                raise HelperDied

    def call(self, *arguments: Any, seconds: float) -> Any:
        """The function's result. Raises OutOfTime or HelperDied.

        `seconds` are for the call and for waiting for a spare one that is still starting, not for `start`.
        """
        self.start()
        assert self._active is not None, "started above"
        until = time.monotonic() + seconds
        try:
            if not self._active.wait(max(seconds, 0.0)):
                raise OutOfTime  # it may go on starting: no page is in it
            self._active.connection.send(arguments)
            if self._active.connection.poll(max(until - time.monotonic(), 0.0)):
                return self._active.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._replace()
            raise HelperDied from error
        self._replace()
        raise OutOfTime

    def close(self) -> None:
        """Ends the processes; the next call starts others."""
        for served in filter(None, (self._active, self._spare)):
            served.end()
        self._active = self._spare = None

    def _replace(self) -> None:
        # The spare one takes over, and another starts in the background.
        if self._active is not None:
            self._active.end()
        self._active, self._spare = self._spare, _Served(self._function, self._rehearsal)


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
