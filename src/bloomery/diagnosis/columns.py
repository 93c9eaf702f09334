"""The rows of a metrics.jsonl as columns, and the few ways in which checks look at a curve.

A column has a value for each row, NaN where the row has none. Of two rows with one step the later is true (a run that was
killed, or rolled back, writes a step again), so a check reads a column by `curve_of`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple  # Any: metrics.jsonl also holds words

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Columns = Mapping[str, np.ndarray]
"""float64 by name, all of one length; "step" among them."""


class Curve(NamedTuple):
    """A metric over steps: int64 and float64, steps ascending, each once."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:  # of its points, not of the pair
        return len(self.values)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The numbers of rows, by name; words are left out.

    >>> columns_of([{"step": 1, "train/loss": 2.5}, {"step": 2, "spike/reason": "high"}])["train/loss"].tolist()
    [2.5, nan]
    """
    found: dict[str, np.ndarray] = {"step": np.full(len(rows), np.nan)}
    for i, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, int | float):
                column = found.get(name)
                if column is None:
                    column = found[name] = np.full(len(rows), np.nan)
                column[i] = value
    return found


def curve_of(columns: Columns, name: str) -> Curve:
    """The curve of one metric; empty if nothing logged it."""
    column, steps = columns.get(name), columns.get("step")
    if column is None or steps is None:
        return Curve(np.zeros(0, dtype=np.int64), np.zeros(0))
    kept = np.isfinite(column) & np.isfinite(steps)
    values, at = column[kept][::-1], steps[kept][::-1].astype(np.int64)
    unique, first = np.unique(at, return_index=True)
    return Curve(unique, values[first])


def stretches(columns: Columns, curve: Curve) -> list[slice]:
    """The parts of a curve over which the data are of one kind: one, or one for each stage of a curriculum.

    >>> columns = {"step": np.arange(4.0), "train/loss": np.ones(4), "train/curriculum_stage": np.array([0.0, 0, 0, 1])}
    >>> stretches(columns, curve_of(columns, "train/loss"))
    [slice(0, 3, None), slice(3, 4, None)]
    """
    stages = curve_of(columns, "train/curriculum_stage")
    if not len(stages) or not len(curve):
        return [slice(0, len(curve))]
    at = np.clip(np.searchsorted(stages.steps, curve.steps, side="right") - 1, 0, None)
    cuts = (np.flatnonzero(np.diff(stages.values[at])) + 1).tolist()
    return [slice(*ends) for ends in itertools.pairwise([0, *cuts, len(curve)])]


def smooth(values: np.ndarray, *, width: int = 5) -> np.ndarray:
    """Running medians, of the same length: one odd value among five does not show."""
    if len(values) < width:
        return values
    padded = np.concatenate([np.repeat(values[:1], width // 2), values, np.repeat(values[-1:], width // 2)])
    return np.asarray(np.median(sliding_window_view(padded, width), axis=-1))


def noise_of(values: np.ndarray) -> float:
    """The standard deviation of a value around the curve's trend, from neighbours' differences; outliers do not count.

    0.6745 is the third quartile of a normal distribution, which a median of absolute values stands at.
    """
    if len(values) < 3:
        return 0.0
    return float(np.median(np.abs(np.diff(values))) / 0.6745 / np.sqrt(2))


def ends(values: np.ndarray, *, share: float = 0.2) -> tuple[float, float]:
    """The mean of the first tenth (at least 3) and of the last `share`."""
    head, tail = max(3, len(values) // 10), max(3, int(share * len(values)))
    return float(values[:head].mean()), float(values[-tail:].mean())


def late(values: np.ndarray) -> np.ndarray:
    """The second half: what a run is like when it has settled."""
    return values[len(values) // 2 :]
