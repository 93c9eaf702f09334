"""What a stage says while it runs: numbers into metrics.jsonl, progress onto the terminal. Rank 0 speaks, others are silent.

Numbers have stable slash names (`train/loss`, `curate/dropped/too_few_words`) and carry `step` and `tokens` where
they have them. metrics.jsonl is a log: after a kill it goes on, and of two rows with one step the later is true.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bloomery.core.trackers import Tracker

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 10.0
"""How often progress is said when stderr is not a terminal."""
NOTE_SECONDS = 2.0
"""How often it is noted, for the speed and for those who look from elsewhere."""
SPEED_POINTS = 16
"""So many of these times give the speed."""


class MetricsLog:
    """Appends rows of numbers to a JSONL file; with `path=None` nothing is written. Rows with a `step` also go to the trackers."""

    def __init__(self, path: Path | None, trackers: Sequence[Tracker] = ()) -> None:
        self.path = path
        self._trackers = trackers

    def write(self, values: Mapping[str, float | int | str]) -> None:
        """Appends one row, with the time (Unix seconds)."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"time": round(time.time(), 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for tracker in self._trackers if "step" in row else ():
            tracker.write(row)

    def close(self) -> None:
        """Ends the trackers."""
        for tracker in self._trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; a torn last line is passed over, a missing file has no rows."""
    rows: list[dict[str, float]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


class Bar:
    """One line of progress; see `progress`."""

    def __init__(self, label: str, total: int, unit: str, bar: Progress | None, file: Path | None = None) -> None:
        self._label, self._total, self._unit, self._bar, self._file = label, total, unit, bar, file
        self._task = bar.add_task(label, total=total, note=unit) if bar else None
        self._done, self._said = 0, time.monotonic()
        self._noted = -NOTE_SECONDS
        self._points: deque[tuple[float, int]] = deque(maxlen=SPEED_POINTS)

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is a few words such as "loss 3.21, 9,500 tokens/s"."""
        self._done += count
        now = time.monotonic()
        if now - self._noted > NOTE_SECONDS:
            self._noted = now
            self._points.append((now, self._done))
            if self._file is not None:
                self._write(self._file)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, note=f"{self._unit} {note}")
        elif now - self._said > PLAIN_LINE_SECONDS and self._total:
            self._said = now
            speed = self._speed()
            told = [f"{self._done}/{self._total} {self._unit}", *([note] if note else [])]
            told += [f"about {(self._total - self._done) / speed:.0f} s left"] if speed else []
            log.info("%s: %s", self._label, ", ".join(told))

    def _speed(self) -> float | None:
        """A second, from the last half minute and not since the beginning: what an earlier, killed run did comes as one big advance."""
        (began, first), (now, done) = self._points[0], self._points[-1]
        return (done - first) / (now - began) if now > began and done > first else None

    def _write(self, file: Path) -> None:
        row = {"time": round(time.time(), 3), "done": self._done, "total": self._total, "unit": self._unit, "per_second": self._speed()}
        with contextlib.suppress(OSError):  # nobody's work may end because progress could not be told
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
            temporary.write_text(json.dumps(row), encoding="utf-8")
            temporary.replace(file)


@contextlib.contextmanager
def progress(label: str, *, total: int, unit: str, quiet: bool = False, file: Path | None = None) -> Iterator[Bar]:
    """A progress bar on a terminal, a plain line every ten seconds elsewhere, nothing when quiet; and every two seconds into `file`.

    What stands there: `time`, `done` of `total` in `unit`, and the speed of the last half minute (`per_second`, null if unknown).
    """
    if quiet:
        yield Bar(label, 0, unit, None)
    elif sys.stderr.isatty():
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            yield Bar(label, total, unit, bar, file)
    else:
        yield Bar(label, total, unit, None, file)
