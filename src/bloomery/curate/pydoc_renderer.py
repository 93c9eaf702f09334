"""Runs in a process of its own: renders the documentation of modules with Python's `pydoc`, each in a fork.

Started by `curate/pydoc_pages.py` as a script; imports nothing outside the standard library, so that what a page
shows never depends on bloomery. One JSON request on stdin, one JSON line a module on stdout. Importing a stranger's
module may crash, hang, print, open a browser or start threads: so each top-level package is imported in a fork of this
process, each of its modules in a fork of that one, and the fork is thrown away with everything it started.
"""

import contextlib
import functools
import importlib
import json
import os
import pydoc
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

WALL_SECONDS_PER_CPU_SECOND = 3
"""A module that sleeps uses no CPU time; it is given up after so many times its limit on the clock."""

REFUSED_EVENTS = {"webbrowser.open": "opens a window", "socket.connect": "connects to the network", "os.system": "runs a command"}
"""Audit events that no import should cause, and the reason they give for skipping the module."""

ADDRESS = re.compile(
    r"\b(at(?: |&nbsp;)0x)[0-9a-fA-F]{6,16}\b"
    r"|\b(?:0x)?(?:7[ef]|5[5-7])[0-9a-f]{10}\b"  # as Linux places libraries and the heap
    r"|\b1(?:39|40)\d{12}\b|\b9[345]\d{12}\b"  # the same, in decimal
)
"""Addresses of objects in memory: after "at 0x" as Python prints them, or as bare numbers."""

UNIX_TIME = re.compile(r"\b\d{10}(?:\.\d+)?\b")
SECONDS_OF_A_DAY = 86_400
"""A number that is within a day of the clock is the time at which its module was imported."""

NO_RANDOM_ADDRESSES = 0x0040000
"""Linux's personality flag ADDR_NO_RANDOMIZE: every process finds its objects at the same addresses."""

violations: list[str] = []
"""Refused events seen in this process: a module may swallow the error, but not the entry here."""


class Scrubber(NamedTuple):
    """Replaces what differs between two machines, or two runs, with the same environment: folders, addresses, times."""

    folders: tuple[tuple[str, str], ...]

    def __call__(self, text: str) -> str:
        for folder, name in self.folders:
            text = text.replace(folder, name)
        text = ADDRESS.sub(lambda match: f"{match[1] or '0x'}...", text)
        now = time.time()
        return UNIX_TIME.sub(lambda match: "0" if abs(float(match[0]) - now) < SECONDS_OF_A_DAY else match[0], text)


def main() -> None:
    """Reads {"modules", "seconds", "folders", "path"} from stdin; writes a line for each module.

    A line is {"module", "html"} or {"module", "reason", "detail"}.
    """
    _fix_addresses()
    request = json.loads(sys.stdin.read())
    results = os.dup(1)
    _silence()
    die_with_parent()
    sys.path[:] = request["path"]
    sys.argv = sys.orig_argv = ["pydoc"]  # shown on the page of `sys`
    sys.executable = re.sub(r"[^/]*$", "python3", sys.executable)  # shown too, and it has several names in one environment
    scrub, cram = Scrubber(tuple((f, n) for f, n in request["folders"])), pydoc.cram
    # pydoc shortens long values in their middle, after which half an address or folder could not be recognised.
    pydoc.cram = functools.wraps(cram)(lambda text, maxlen: cram(scrub(text), maxlen))
    packages: dict[str, list[str]] = {}
    for module in request["modules"]:
        packages.setdefault(module.partition(".")[0], []).append(module)
    for package, modules in packages.items():
        for row in render_package(package, modules, seconds=request["seconds"]):
            _write_line(results, row)


def render_package(package: str, modules: list[str], *, seconds: float) -> Iterator[dict[str, str]]:
    """One row for each module, in order. The package is imported once, in a fork that the modules' forks start from."""

    def serve(send: Callable[[dict[str, str]], None]) -> None:
        with _watch_output() as printed:
            _import(package)
            reason = _misbehaviour(printed())
        if reason:
            send({"module": package, "reason": reason, "detail": f"while importing {package}"})
            return
        send({"module": package})  # imported: the clock of the modules starts
        for module in modules:
            send(render_module(module, seconds=seconds))

    rows = _forked(serve, seconds=seconds, seconds_per_row=seconds * WALL_SECONDS_PER_CPU_SECOND + 10)
    first = next(rows)
    if "reason" in first:
        yield from ({**first, "module": module} for module in modules)
        return
    for module in modules:
        row = next(rows, {"module": module, "reason": "crashed", "detail": f"the process of {package} ended"})
        yield {**row, "module": module}


def render_module(module: str, *, seconds: float) -> dict[str, str]:
    """The page of one module, rendered in a fork of this process."""

    def render(send: Callable[[dict[str, str]], None]) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, int(time.process_time() + seconds) + 2))
        with _watch_output() as printed:
            value = _import(module)
            html = pydoc.html.page(pydoc.describe(value), pydoc.html.document(value, module))
            reason = _misbehaviour(printed())
        send({"module": module, "reason": reason, "detail": ""} if reason else {"module": module, "html": html})

    row = next(_forked(render, seconds=seconds, seconds_per_row=0))
    return {**row, "module": module}


def die_with_parent() -> None:
    """Asks the kernel (Linux) to kill this process with its parent, so that a killed run leaves nothing behind."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError, ImportError):
            importlib.import_module("ctypes").CDLL(None).prctl(1, signal.SIGKILL)


def _fix_addresses() -> None:
    # The order of a set of objects follows from their addresses, and no scrubbing mends an order. Where the kernel
    # does not allow this (some containers), such pages may differ from run to run.
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError, ImportError):
        personality = importlib.import_module("ctypes").CDLL(None).personality
        now = personality(0xFFFFFFFF)
        if now >= 0 and not now & NO_RANDOM_ADDRESSES and personality(now | NO_RANDOM_ADDRESSES) >= 0:
            os.execv(sys.executable, sys.orig_argv)  # takes effect from here on


def _forked(
    body: Callable[[Callable[[dict[str, str]], None]], None], *, seconds: float, seconds_per_row: float
) -> Iterator[dict[str, str]]:
    # Yields the rows that `body` sends from a fork; ends with a row that has a reason when the fork fails or hangs.
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(body, read_end, write_end)
    os.close(write_end)
    buffer, limit, started = b"", seconds * WALL_SECONDS_PER_CPU_SECOND, time.monotonic()
    ending: dict[str, str] | None = None
    try:
        while ending is None:
            ready, _, _ = select.select([read_end], [], [], max(started + limit - time.monotonic(), 0))
            if not ready:
                ending = {"reason": "takes too long", "detail": f"more than {limit:g} s on the clock"}
                break
            chunk = os.read(read_end, 1 << 20)
            buffer += chunk
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                yield json.loads(line)
                limit, started = seconds_per_row, time.monotonic()
            if not chunk:
                break
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    yield ending or _describe_end(status, seconds)


def _run_child(body: Callable[[Callable[[dict[str, str]], None]], None], read_end: int, write_end: int) -> NoReturn:
    try:
        os.setsid()  # a group of its own: what the module starts is killed with it
        die_with_parent()
        os.close(read_end)
        body(lambda row: _write_line(write_end, row))
    except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt of a stranger's module too)
        reason = violations[0] if violations else "fails"
        _write_line(write_end, {"reason": reason, "detail": f"{type(error).__name__}: {error}"[:300]})
    finally:
        os._exit(0)  # no atexit handlers of the module


def _describe_end(status: int, seconds: float) -> dict[str, str]:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return {"reason": "takes too long", "detail": f"more than {seconds:g} s of CPU time"}
    if os.WIFSIGNALED(status):
        return {"reason": "crashed", "detail": signal.Signals(os.WTERMSIG(status)).name}
    return {"reason": "crashed", "detail": f"exit status {os.waitstatus_to_exitcode(status)}"}


def _import(module: str) -> object:
    return importlib.import_module(module)


def _misbehaviour(printed: bool) -> str:
    if violations:
        return violations[0]
    return "prints" if printed else ""


@contextlib.contextmanager
def _watch_output() -> Iterator[Callable[[], bool]]:
    # Descriptors, not sys.stdout: C libraries print too.
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

        def printed() -> bool:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            return os.fstat(file.fileno()).st_size > 0

        try:
            yield printed
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _write_line(descriptor: int, row: dict[str, str]) -> None:
    data = json.dumps(row).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event in REFUSED_EVENTS:
        violations.append(REFUSED_EVENTS[event])
        raise PermissionError(f"{event} is not allowed while a module is imported")


if __name__ == "__main__":
    sys.addaudithook(_refuse)
    main()
