"""SIGTERM as a wish: whoever works in steps looks here between them, saves what is needed to go on, and raises Stopped.

Schedulers (Slurm, Kubernetes, spot machines) send SIGTERM some time before they kill. A second SIGTERM acts at once.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

log = logging.getLogger(__name__)

StopRequested = Callable[[], bool]


def never() -> bool:
    """Nobody asks to stop."""
    return False


@contextlib.contextmanager
def watch_for_sigterm(*, flag: Path | None = None) -> Iterator[StopRequested]:
    """Gives a function that says whether this process was sent SIGTERM since, or whether the file `flag` is there.

    The first SIGTERM also makes that file, so that the processes of a group can be told through it. Outside of a
    program's main thread signals cannot be caught, and only the file is looked at.
    """
    received = threading.Event()
    before = signal.getsignal(signal.SIGTERM)

    def receive(number: int, frame: FrameType | None) -> None:
        received.set()
        if flag is not None:
            with contextlib.suppress(OSError):
                flag.touch()
        log.warning("SIGTERM: will save and stop after this step")
        signal.signal(signal.SIGTERM, before)

    def requested() -> bool:
        return received.is_set() or (flag is not None and flag.exists())

    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        signal.signal(signal.SIGTERM, receive)
    try:
        yield requested
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
