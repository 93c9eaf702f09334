"""Which process something belongs to, so that a number given to another process later is not taken for it."""

import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: the values of a JSON record


def this_process() -> dict[str, Any]:
    """`pid`, `host` and `start` of this process, for a record that others read."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "start": process_start(os.getpid())}


def process_start(pid: int) -> str | None:
    """When a process of this machine was started, in the kernel's own words; None if there is none, or it has ended (a zombie)."""
    if Path("/proc/self/stat").exists():
        try:
            # The name before it, in brackets, may hold anything; state is the 3rd field and the start, in ticks since the boot, the 22nd.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return None if fields[0] in "ZX" else f"{boot[:8]}:{fields[19]}"
    found = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(int(pid))], capture_output=True, text=True, check=False)
    state, _, started = found.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def is_alive(record: Mapping[str, Any]) -> bool | None:
    """Whether the process of such a record still runs; None if that cannot be known here (another machine, or no such record)."""
    pid, start = record.get("pid"), record.get("start")
    if record.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0 or not start:
        return None
    return bool(process_start(pid) == start)
