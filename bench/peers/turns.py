"""A training that pauses after each step, so that two of them can take turns: for the processes that a benchmark starts."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator


class Turns:
    """Holds a training after each step until it is this process's turn again, and says how long the step took."""

    def __init__(self) -> None:
        self.answers, self.started = os.fdopen(os.dup(1), "w"), 0.0
        os.dup2(2, 1)  # what else is printed must not come between answers
        self.facts: dict[str, float] = {}
        sys.stdin.readline()
        self.started = time.perf_counter()

    def end_step(self, loss: float) -> None:
        """The step is over; returns when the next may begin."""
        seconds = time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak, "loss": loss, **self.facts}), file=self.answers, flush=True)
        sys.stdin.readline()
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Measures what is in it as the computation of the reference."""
        started = time.perf_counter()
        yield
        self.facts["reference_seconds"] = time.perf_counter() - started
