"""Functions for workers of pools. Not in a test file: a worker imports the module of its function, and can import no test."""

import os
import signal
import time
from pathlib import Path

from bloomery.core.errors import DataError


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def square_but_die_first(folder: Path, number: int) -> int:
    """The square; but the first worker that is given a multiple of 3 is killed."""
    mark = folder / str(number)
    if number % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die_on(victim: int, number: int) -> int:
    """The number; but no worker survives `victim`."""
    if number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


def fill_memory(num_bytes: int) -> int:
    return len(bytearray(num_bytes).replace(b"\x00", b"\x01"))


def refuse(number: int) -> int:
    if number == 2:
        raise DataError(f"shard {number} is damaged")
    return number


def wait_for(folder: Path, number: int) -> int:
    """Says that it has begun, and ends when the file `go` is there."""
    (folder / f"begun-{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    return number
