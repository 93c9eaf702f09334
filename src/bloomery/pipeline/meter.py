"""How long a stage took and how much memory it needed at most, with the processes it started.

On Linux the process's own peak comes from the kernel (VmHWM, reset before); that of its children is sampled, because
pool workers are grandchildren that getrusage never sees. Elsewhere only the process's own lifetime peak is known.
"""

import contextlib
import threading
import time
from pathlib import Path

from bloomery.core.memory import peak_memory_bytes

SAMPLE_SECONDS = 0.5


class Meter:
    """Use as a context; `seconds` and `peak_memory_bytes` hold after it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_memory_bytes = 0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the memory in use now
        self._started = time.monotonic()
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._stop.set()
        self._sampler.join()
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes())

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory_of_tree())


def memory_of_tree() -> int:
    """Memory in use by this process and all below it, now; pages that several share are counted once. 0 without /proc."""
    if not Path("/proc/self/stat").exists():
        return 0
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    total, waiting = 0, [int(Path("/proc/self").resolve().name)]
    while waiting:
        process = waiting.pop()
        waiting.extend(children.get(process, []))
        total += _share_of_memory(process)
    return total


def _share_of_memory(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
