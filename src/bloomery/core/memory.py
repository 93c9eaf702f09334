"""What a process has needed of memory, as the kernel counts it, and how a server keeps it small."""

import contextlib
import ctypes
import os
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


M_ARENA_MAX = -8
"""Of glibc's mallopt."""


def return_memory_at_once() -> None:
    """Asks every allocator of this process to give freed memory back: for a server that reads large tables for a moment.

    Call it before pyarrow and polars are imported: they read their settings then. What the environment says already stays.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")  # the jemalloc inside polars
    if sys.platform.startswith("linux") and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_ARENA_MAX, 2)
