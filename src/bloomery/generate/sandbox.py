"""Runs programs that a model wrote against tests, and trusts them with nothing; see docs/sandbox.md.

Each program gets a bare interpreter with an empty environment in a session of its own, and in it a process behind walls
(sandbox_walls.py), apart from the one that holds the tests (sandbox_child.py). This side reads the verdict and the output, watches
the clock and the scratch folder, and kills whatever is left. Whatever a program does, it has passed only if the judge says so.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal  # Any: JSON messages of the judge's

from pydantic import PositiveFloat, PositiveInt

from bloomery.core.config import Config
from bloomery.core.errors import ConfigError
from bloomery.generate.sandbox_child import write_message

Reason = Literal["passed", "wrong", "error", "ended", "time", "memory", "output", "files"]
POLL_SECONDS = 0.005
"""How often the scratch folder is looked at while a program runs."""
MAX_SOURCE_BYTES = 1 << 20
MAX_VERDICT_BYTES = 1 << 16
REFUSAL = "programs of a model cannot be run safely here, so none is run"
START = "import sys; sys.path.insert(0, {root!r}); from bloomery.generate import sandbox_child; sys.path.pop(0); sandbox_child.run_inside()"


class SandboxLimits(Config):
    """What one program may use, its tests included."""

    cpu_seconds: PositiveInt = 3
    """Of the program, and of its tests: each its own. human-eval's 3 seconds."""
    wall_seconds: PositiveFloat = 15.0
    """Of both, asleep or waiting for a processor too."""
    memory_mb: PositiveInt = 512
    """Address space of each of the two processes."""
    output_bytes: PositiveInt = 65_536
    files: PositiveInt = 64
    """In the scratch folder."""
    files_mb: PositiveInt = 8
    """Of one file, and about that of all together."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and its tests. `source` is not trusted; `setup` and `tests` come with the task and run apart from it."""

    source: str
    tests: str
    """Python that ends without an exception if the program is right; names it does not define are the program's."""
    setup: str = ""
    """What the tests need: imports, helpers."""
    functions: tuple[str, ...] = ()
    """Names that are the program's although `setup` defines them too."""


@dataclass(frozen=True)
class Judgement:
    """What became of a program. `reason` is "passed" or why not, `detail` says it in words, `output` is what it printed."""

    reason: Reason
    detail: str
    output: str

    @property
    def passed(self) -> bool:
        """Whether every test ran and held."""
        return self.reason == "passed"


def judge_programs(
    programs: Sequence[Program], limits: SandboxLimits, *, workers: int = 1, on_done: Callable[[], None] = lambda: None
) -> list[Judgement]:
    """A judgement for each program, in their order; `workers` run at a time. `on_done` is called after each. Raises as `judge`."""

    def one(program: Program) -> Judgement:
        judgement = judge(program, limits)
        on_done()
        return judgement

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, programs))


def judge(program: Program, limits: SandboxLimits) -> Judgement:
    """Runs one program against its tests. Raises ConfigError where this system cannot hold it: nothing is run bare."""
    if len(program.source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        return Judgement("error", f"the program is longer than {MAX_SOURCE_BYTES:,} bytes", "")
    if sys.platform != "linux":
        raise ConfigError(f"{REFUSAL}: the sandbox is made of Linux's walls, and this is {sys.platform}")
    scratch = Path(tempfile.mkdtemp(prefix="bloomery-sandbox-"))
    try:
        with _started(program, limits, scratch) as child:
            return child.watch()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_sandbox() -> None:
    """Raises ConfigError where programs cannot be run safely, before a model is asked for any."""
    judge(Program(source="", tests=""), SandboxLimits())


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    verdict: int
    limits: SandboxLimits
    scratch: Path

    def watch(self) -> Judgement:
        """Until the verdict, or until a limit is passed."""
        deadline = time.monotonic() + self.limits.wall_seconds
        verdict, output = bytearray(), bytearray()
        assert self.process.stdout is not None
        still_open = {self.verdict: verdict, self.process.stdout.fileno(): output}
        while self.verdict in still_open:
            _read_some(still_open, seconds=POLL_SECONDS)
            if len(output) > self.limits.output_bytes:
                return self._judgement("output", f"printed more than {self.limits.output_bytes:,} bytes", output)
            if crowd := self._crowd():
                return self._judgement("files", crowd, output)
            if time.monotonic() > deadline:
                return self._judgement("time", f"not done after {self.limits.wall_seconds:g} s", output)
            if len(verdict) > MAX_VERDICT_BYTES:
                break
        while len(output) <= self.limits.output_bytes and _read_some(still_open, seconds=0.0):
            pass  # what was printed before the verdict is in the pipe by now
        return self._read_verdict(bytes(verdict), output)

    def _read_verdict(self, verdict: bytes, output: bytearray) -> Judgement:
        messages = _split(verdict)
        if not messages:  # not even behind walls
            said = output.decode("utf-8", "replace").strip()[-500:] or f"exit status {self.process.wait()}"
            raise ConfigError(f"{REFUSAL}: the bare interpreter {sys.executable} did not start: {said}")
        found = messages[-1]
        if found.get("reason") == "unsafe":
            raise ConfigError(f"{REFUSAL}: {found['detail']}")
        if "reason" not in found:
            # The judge itself was ended, by a limit: its tests, not the program, ran out of time or memory.
            return self._judgement("ended", "the tests ended before they were through", output)
        return self._judgement(found["reason"], found["detail"], output)

    def _judgement(self, reason: Reason, detail: str, output: bytearray) -> Judgement:
        text = bytes(output[: self.limits.output_bytes]).decode("utf-8", "replace")
        return Judgement(reason, detail.encode("utf-8", "replace").decode(), text)

    def _crowd(self) -> str:
        num_files, num_bytes = 0, 0
        with os.scandir(self.scratch) as entries:
            for entry in entries:
                num_files += 1
                with contextlib.suppress(OSError):
                    num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
        if num_files > self.limits.files:
            return f"made more than {self.limits.files} files"
        if num_bytes > self.limits.files_mb << 20:
            return f"wrote more than {self.limits.files_mb} MB"
        return ""


def _read_some(into: dict[int, bytearray], *, seconds: float) -> bool:
    """Reads what is there within some time, and forgets a descriptor at its end. Whether there was anything."""
    poller = select.poll()  # not select.select, which knows no descriptor above 1023
    for descriptor in into:
        poller.register(descriptor, select.POLLIN)
    ready = poller.poll(1000 * seconds)
    for descriptor, _ in ready:
        part = os.read(descriptor, 65_536)
        into[descriptor].extend(part)
        if not part:
            del into[descriptor]
    return bool(ready)


def _split(stream: bytes) -> list[dict[str, Any]]:
    """The whole messages of the judge's."""
    found = []
    while len(stream) >= 4 and len(stream) >= 4 + (size := int.from_bytes(stream[:4], "little")):
        found.append(json.loads(stream[4 : 4 + size]))
        stream = stream[4 + size :]
    return found


@contextlib.contextmanager
def _started(program: Program, limits: SandboxLimits, scratch: Path) -> Iterator[_Child]:
    root = str(Path(__file__).resolve().parents[2])
    reader, writer = os.pipe()
    command = [sys.executable, "-s", "-S", "-P", "-B", "-u", "-X", "utf8", "-c", START.format(root=root)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=scratch,
        env={"PYTHONHASHSEED": "0"},
        pass_fds=(writer,),
        start_new_session=True,
    )
    try:
        os.close(writer)
        _send(process, program, limits, scratch, verdict=writer)
        yield _Child(process, reader, limits, scratch)
    finally:
        # Before `wait`: a process that was not waited for keeps its number, and nobody else can get the group's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reader)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _send(process: subprocess.Popen[bytes], program: Program, limits: SandboxLimits, scratch: Path, *, verdict: int) -> None:
    assert process.stdin is not None
    first = {
        "parent": os.getpid(),
        "limits": [limits.cpu_seconds, limits.memory_mb << 20, limits.files_mb << 20],
        "program": program.source,
        "scratch": str(scratch),
        "verdict": verdict,
    }
    second = {"setup": program.setup, "tests": program.tests, "functions": program.functions}
    with contextlib.suppress(BrokenPipeError):  # then it ended before it began, and there will be no verdict
        for message in (first, second):
            write_message(process.stdin.fileno(), json.dumps(message).encode())
