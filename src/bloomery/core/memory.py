"""What a process has needed of memory, as the kernel counts it."""

import contextlib
import resource
import sys
from pathlib import Path


def peak_memory_bytes() -> int:
    """The most physical memory that this process has held (VmHWM on Linux, where it can be reset; else its lifetime's)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
