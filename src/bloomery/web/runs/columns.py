"""metrics.jsonl in columns: read once, then only what was added, and little of it kept.

A file of 50,000 rows is 17 MB of JSON and takes polars 0.07 s of a core, pyarrow 0.1 s, Python's json 0.35 s, so a first read goes
through polars and what is added later, a few lines a second, through json. Kept are three axes and the columns that were
asked for, as arrays that are never changed in place: 0.2 MB a column. Whoever writes may be killed inside a line, or write the file anew.
"""

import contextlib
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import numpy as np
import polars as pl

AXES = ("step", "tokens", "time")
BUDGET_BYTES = 192 << 20
BLOCK_BYTES = 32 << 20
SMALL_BLOCK_BYTES = 64 << 10
NAME_BYTES = 32 << 10
"""The beginning and the end of a file that are looked through for the names of its columns."""
MARK_BYTES = 64
MAX_EVENTS = 1000
EVENT_COLUMNS = ("spike/data_step", "rollback/to_step", "early_stop/to_step")
"""Numbers of which rows about what was left out or undone have one, and others none."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A metrics file as it was at one moment. `generation` counts how often it was begun anew; rows are in the file's order.

    `axes` are float64 (NaN where a row has none), `values` float32. `events` are rows about what was left out or undone.
    """

    rows: int = 0
    generation: int = 0
    axes: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    names: frozenset[str] = frozenset()
    events: tuple[Mapping[str, Any], ...] = ()


class MetricsReader:
    """Columns of many files, within a budget of memory: those that nobody asked for longest are read again when they are needed."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, names: Collection[str] = ()) -> Columns:
        """The file's axes and those columns, as far as it is written. A missing file has no rows, an unknown column is all NaN."""
        with self._lock:
            file = self._files.setdefault(path, _File(path))
            self._files.move_to_end(path)
        with file.lock:
            columns = file.read(names)
        self._forget(path)
        return columns

    @property
    def num_bytes(self) -> int:
        """What is kept at the moment."""
        with self._lock:
            return sum(file.num_bytes for file in self._files.values())

    def _forget(self, newest: Path) -> None:
        with self._lock:
            total = sum(file.num_bytes for file in self._files.values())
            for path in list(self._files):
                if total <= self._budget or path == newest:
                    return
                total -= self._files.pop(path).num_bytes


class _File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._generation = -1
        self._begin()

    def _begin(self) -> None:
        self._generation += 1
        self._inode, self._offset, self._mark, self._rows = -1, 0, b"", 0
        self._axes = {name: np.empty(0) for name in AXES}
        self._values: dict[str, np.ndarray] = {}
        self._absent: set[str] = set()  # asked for, and nowhere in the file so far: nothing is kept of these
        self._names: set[str] = set()
        self._events: list[dict[str, Any]] = []

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in (*self._axes.values(), *self._values.values()))

    def read(self, names: Collection[str]) -> Columns:
        try:
            with self.path.open("rb") as file:
                self._follow(file, names)
        except FileNotFoundError:
            if self._offset:
                self._begin()
        return Columns(
            rows=self._rows,
            generation=self._generation,
            axes=dict(self._axes),
            values={name: self._values.get(name, np.full(self._rows, np.nan, np.float32)) for name in names},
            names=frozenset(self._names),
            events=tuple(self._events),
        )

    def _follow(self, file: Any, names: Collection[str]) -> None:  # Any: a binary file
        stat = os.fstat(file.fileno())
        if self._offset and (stat.st_ino != self._inode or stat.st_size < self._offset or not self._is_as_left(file)):
            self._begin()  # written anew: whatever was known is of another file
        self._inode = stat.st_ino
        missing = [name for name in names if name not in self._values and name not in self._absent]
        if missing and self._offset:
            self._add_columns(file, missing)
        else:
            self._absent |= set(missing)
        file.seek(self._offset)
        while block := _whole_lines(file):
            self._append(block)

    def _is_as_left(self, file: Any) -> bool:
        file.seek(self._offset - len(self._mark))
        return bool(file.read(len(self._mark)) == self._mark)

    def _append(self, block: bytes) -> None:
        wanted = [*self._values, *self._absent]
        columns, rows = parse(block, [*wanted, *EVENT_COLUMNS])
        if not self._offset:
            self._names |= _names_in(block[:NAME_BYTES])
        self._names |= _names_in(block[-NAME_BYTES:])
        if any(np.isfinite(columns[name]).any() for name in EVENT_COLUMNS):
            self._events = [*self._events, *_events_in(block)][-MAX_EVENTS:]
        self._axes = {name: np.concatenate([self._axes[name], columns[name]]) for name in AXES}
        for name in wanted:
            if name in self._values or np.isfinite(columns[name]).any():
                before = self._values.get(name, np.full(self._rows, np.nan, np.float32))
                self._values[name] = np.concatenate([before, columns[name]])
        self._absent -= self._values.keys()
        self._rows += rows
        self._offset += len(block)
        self._mark = block[-MARK_BYTES:]

    def _add_columns(self, file: Any, names: Sequence[str]) -> None:
        file.seek(0)
        parts, rows = [], 0
        end = self._offset
        while rows < self._rows and file.tell() < end and (block := _whole_lines(file, limit=end - file.tell())):
            found, count = parse(block, names)
            parts.append(found)
            rows += count
        if rows != self._rows:  # changed under our hands: everything once more
            known = {*self._values, *self._absent, *names}
            self._begin()
            self._absent = known
            return
        for name in names:
            column = np.concatenate([part[name] for part in parts])
            if np.isfinite(column).any():
                self._values[name] = column
            else:
                self._absent.add(name)


def parse(block: bytes, names: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    """The axes and the columns `names` of whole lines of JSON, and how many rows they are. What is not a number is NaN; a line that is
    no JSON object is no row."""
    if len(block) > SMALL_BLOCK_BYTES:
        schema: dict[str, Any] = dict.fromkeys(AXES, pl.Float64) | dict.fromkeys(names, pl.Float32)
        with contextlib.suppress(pl.exceptions.PolarsError):
            frame = pl.read_ndjson(io.BytesIO(block), schema=schema)
            return {name: frame[name].fill_null(float("nan")).to_numpy() for name in schema}, frame.height
    rows = [row for line in block.splitlines() if (row := _row(line)) is not None]
    columns = {name: np.array([_number(row.get(name)) for row in rows], np.float64) for name in AXES}
    with np.errstate(over="ignore"):
        columns |= {name: np.array([_number(row.get(name)) for row in rows], np.float64).astype(np.float32) for name in names}
    return columns, len(rows)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else float("nan")


def _names_in(block: bytes) -> set[str]:
    """The names of numbers; a first line that is cut is passed over."""
    rows = [row for line in block.splitlines() if (row := _row(line)) is not None and "step" in row]
    return {name for row in rows for name, value in row.items() if name not in AXES and isinstance(value, int | float)}


def _events_in(block: bytes) -> list[dict[str, Any]]:
    words = [f'"{name}"'.encode() for name in EVENT_COLUMNS]
    lines = [line for line in block.splitlines() if any(word in line for word in words)]
    return [row for line in lines[-MAX_EVENTS:] if (row := _row(line)) is not None]


def _whole_lines(file: Any, limit: int = BLOCK_BYTES) -> bytes:
    """The next lines that are whole; what is behind the last line's end stays for later."""
    block: bytes = file.read(min(limit, BLOCK_BYTES))
    end = block.rfind(b"\n") + 1
    file.seek(end - len(block), 1)
    return block[:end]
