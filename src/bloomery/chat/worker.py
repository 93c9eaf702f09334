"""The thread that owns a Batcher: requests come in from the event loop, tokens go back to it.

A Batcher knows no threads, and its steps are long in the measure of an event loop. So one thread adds, cancels and steps,
and everybody else leaves it notes. A step that fails (memory, a bug) fails the requests that were in it; the thread goes on
with a new Batcher.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bloomery.core.errors import DataError
from bloomery.generate.batcher import Batcher, Event
from bloomery.generate.sampling import SamplingParams

log = logging.getLogger(__name__)


class Failure(NamedTuple):
    """A request that will get no more tokens: refused because of its prompt, or lost."""

    message: str
    refused: bool


class Job:
    """One answer in the making. `events` yields Event after Event, or a Failure."""

    def __init__(self, prompt: Sequence[int], params: SamplingParams, seed: int) -> None:
        self.prompt, self.params, self.seed = prompt, params, seed
        self.events: asyncio.Queue[Event | Failure] = asyncio.Queue()
        self.cancelled = False
        self.request_id: int | None = None


class Worker:
    """Starts its thread with `start`, which an event loop calls; `close` ends it."""

    def __init__(self, make_batcher: Callable[[], Batcher]) -> None:
        self._make_batcher = make_batcher
        self._batcher = make_batcher()
        self._jobs: dict[int, Job] = {}
        self._new: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._notes = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="bloomery-batcher", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def num_open(self) -> int:
        """Answers that are being made or wait to be."""
        return len(self._jobs) + len(self._new)

    @property
    def num_active(self) -> int:
        """Answers that get a token at each step."""
        return self._batcher.num_active

    def start(self) -> None:
        """Begins to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the step it is in; what is unfinished fails."""
        with self._notes:
            self._closed = True
            self._notes.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def submit(self, prompt: Sequence[int], params: SamplingParams, *, seed: int) -> Job:
        """Asks for an answer. A prompt that cannot be answered comes back as a Failure."""
        job = Job(prompt, params, seed)
        with self._notes:
            self._new.append(job)
            self._notes.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Nobody wants this answer any more: its row is free from the next step on."""
        with self._notes:
            job.cancelled = True
            self._cancelled.append(job)
            self._notes.notify()

    def _work(self) -> None:
        while self._read_notes():
            try:
                events = self._batcher.step()
            except Exception as error:
                log.exception("a step of the model failed; %d answers are lost", len(self._jobs))
                self._fail(f"the model failed: {type(error).__name__}")
                self._batcher = self._make_batcher()
                continue
            told = [(job, event) for event in events if (job := self._jobs.get(event.request_id)) is not None]
            for event in events:
                if event.finish is not None:
                    self._jobs.pop(event.request_id, None)
            self._tell(told)
        self._jobs |= {-1 - i: job for i, job in enumerate(self._new)}
        self._fail("the server stops")

    def _read_notes(self) -> bool:
        with self._notes:
            while not (self._closed or self._new or self._cancelled or self._batcher.num_active or self._batcher.num_waiting):
                self._notes.wait()
            new, self._new = self._new, deque()
            cancelled, self._cancelled = self._cancelled, deque()
            self._admit([job for job in new if not job.cancelled])
        for job in cancelled:
            # The number alone is not enough: after a failed step a new Batcher counts from the beginning.
            if job.request_id is not None and self._jobs.get(job.request_id) is job:
                del self._jobs[job.request_id]
                self._batcher.cancel(job.request_id)
        return not self._closed

    def _admit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                job.request_id = self._batcher.add(job.prompt, job.params, seed=job.seed)
                self._jobs[job.request_id] = job
            except DataError as error:
                self._tell([(job, Failure(str(error), refused=True))])

    def _fail(self, message: str) -> None:
        jobs, self._jobs = list(self._jobs.values()), {}
        self._tell([(job, Failure(message, refused=False)) for job in jobs])

    def _tell(self, told: Sequence[tuple[Job, Event | Failure]]) -> None:
        # One call a step, not one a token: each wakes the event loop.
        if told and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, told)


def _deliver(told: Sequence[tuple[Job, Event | Failure]]) -> None:
    for job, event in told:
        job.events.put_nowait(event)
