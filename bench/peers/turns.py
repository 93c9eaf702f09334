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
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what else is printed must not come between answers
        self.facts: dict[str, float] = {}
        self._wait()

    def end_step(self, loss: float) -> None:
        """The step is over; returns when the next may begin."""
        seconds, cpu_seconds = time.perf_counter() - self.started, time.process_time() - self.cpu_started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        facts = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak, "loss": loss, **self.facts}
        print(json.dumps(facts), file=self.answers, flush=True)
        self._wait()

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Measures what is in it as the computation of the reference."""
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        self.facts["reference_seconds"] = time.perf_counter() - started
        self.facts["reference_cpu_seconds"] = time.process_time() - cpu_started

    def _wait(self) -> None:
        sys.stdin.readline()
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
