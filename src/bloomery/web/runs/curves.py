"""Curves of metrics: what of a log is still true, over which axis, in as few points as a screen can show without losing a spike."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: JSON

import numpy as np

from bloomery.web.runs.columns import Columns

Axis = Literal["step", "tokens", "time", "flops"]
FLOPS_PER_TOKEN = "train/flops_per_token"
MAX_EVENTS_SHOWN = 100


class Curve(NamedTuple):
    """x rises; float64 both. `problem` says why there is no such axis."""

    x: np.ndarray
    y: np.ndarray
    problem: str = ""


def make_curves(columns: Columns, metrics: Sequence[str], axis: Axis, *, first_row: int = 0) -> dict[str, Curve]:
    """The points of each metric that are still true (see `true_rows`); of two at one step the later. Only rows from `first_row` on."""
    x, problem = axis_of(columns, axis)
    step = columns.axes["step"]
    shown = true_rows(step) & np.isfinite(x)
    shown[:first_row] = False
    curves = {}
    for metric in metrics:
        y = columns.values[metric]
        places = last_of_each_step(step, shown & np.isfinite(y))
        curves[metric] = Curve(x[places], y[places].astype(np.float64), problem)
    return curves


def last_of_each_step(step: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The places of the rows that are shown, of two at one step the later."""
    places = np.flatnonzero(shown)
    at = step[places]
    return places[np.append(at[1:] != at[:-1], True)] if len(places) else places


def true_rows(step: np.ndarray) -> np.ndarray:
    """Which rows nothing later has undone: after a rollback, or a run that went on from a snapshot, a step comes a second time, and
    what was logged of it and of later steps before that is not the past of the model any more.

    >>> true_rows(np.array([1.0, 2.0, 3.0, 2.0, 3.0, np.nan])).tolist()
    [True, True, False, True, True, False]
    """
    known = np.where(np.isfinite(step), step, np.inf)
    later = np.append(np.minimum.accumulate(known[::-1])[::-1][1:], np.inf)
    alive: np.ndarray = np.isfinite(step) & (step <= later)
    return alive


def axis_of(columns: Columns, axis: Axis) -> tuple[np.ndarray, str]:
    """x of every row: step, tokens, seconds since the first row (pauses included), or FLOPs; and why it is unknown, if it is."""
    if axis == "time":
        time = columns.axes["time"]
        known = time[np.isfinite(time)]
        return time - (known[0] if len(known) else 0.0), ""
    if axis == "flops":
        return _flops(columns)
    return columns.axes[axis], ""


def _flops(columns: Columns) -> tuple[np.ndarray, str]:
    """Tokens times FLOPs per token, summed from row to row, because the length of the rows may change in a training."""
    x = np.full(columns.rows, np.nan)
    per_token = columns.values.get(FLOPS_PER_TOKEN)
    places = np.flatnonzero(true_rows(columns.axes["step"]) & np.isfinite(columns.axes["tokens"]))
    if per_token is None or not len(places) or not np.isfinite(per_token[places]).any():
        return x, f"this stage logged no {FLOPS_PER_TOKEN}, so its FLOPs are unknown"
    rate = per_token[places].astype(np.float64)
    known = np.flatnonzero(np.isfinite(rate))
    # A row without it (a validation) has that of the row before, the first ones that of the first.
    rate = rate[known[np.clip(np.searchsorted(known, np.arange(len(rate)), side="right") - 1, 0, None)]]
    x[places] = np.cumsum(np.maximum(np.diff(columns.axes["tokens"][places], prepend=0.0), 0.0) * rate)
    return x, ""


def within(curve: Curve, low: float | None, high: float | None) -> Curve:
    """The part from `low` to `high` with one more point on each side, so that lines reach the edge."""
    begin = 0 if low is None else max(0, int(np.searchsorted(curve.x, low, side="left")) - 1)
    end = len(curve.x) if high is None else int(np.searchsorted(curve.x, high, side="right")) + 1
    return curve._replace(x=curve.x[begin:end], y=curve.y[begin:end])


class Shown(NamedTuple):
    """A curve in few points: extremes of each part of the axis, and the means of the parts (to be smoothed; None = nothing left out)."""

    extremes: Curve
    means: Curve | None = None


def downsample(curve: Curve, buckets: int, *, log_x: bool = False) -> Shown:
    """At most two points for each of so many equal parts of the axis, its least and its greatest: no spike is lost.

    >>> downsample(Curve(np.arange(6.0), np.array([0.0, 9.0, 1.0, 1.0, 1.0, 2.0])), 2).extremes.y.tolist()
    [0.0, 9.0, 1.0, 2.0]
    """
    x, y = curve.x, curve.y
    if len(x) <= 2 * buckets:
        return Shown(curve)
    place = np.log(np.maximum(x, x[x > 0].min(initial=np.inf))) if log_x and (x > 0).any() else x
    span = place[-1] - place[0]
    if not span > 0:
        return Shown(curve._replace(x=x[[0, -1]], y=y[[0, -1]]))
    bucket = np.minimum((place - place[0]) * (buckets / span), buckets - 1).astype(np.int64)
    starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
    counts = np.diff(np.append(starts, len(x)))
    number = np.repeat(np.arange(len(starts)), counts)
    kept = [np.array([0, len(x) - 1])]
    for extreme in (np.minimum, np.maximum):
        hits = np.flatnonzero(y == extreme.reduceat(y, starts)[number])
        kept.append(hits[np.append(True, number[hits][1:] != number[hits][:-1])])
    places = np.unique(np.concatenate(kept))
    means = Curve(np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts)
    return Shown(curve._replace(x=x[places], y=y[places]), means)


def rounded(values: np.ndarray, digits: int) -> list[float]:
    """Numbers with so many significant digits: a curve of floats in full would be three times as long on the wire.

    >>> rounded(np.array([0.123456789, 0.0, 98765.4321]), 4)
    [0.1235, 0.0, 98770.0]
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        short = np.round(values * scale) / scale
    found: list[float] = np.where(np.isfinite(short), short, values).tolist()
    return found


def marks(columns: Columns, axis: Axis) -> list[dict[str, Any]]:
    """Where on the axis a step was left out, or the training went back; the latest so many."""
    x, _ = axis_of(columns, axis)
    found = []
    for event in columns.events[-MAX_EVENTS_SHOWN:]:
        rows = np.flatnonzero(columns.axes["step"] == event.get("step"))
        if rows.size and np.isfinite(x[rows[-1]]):
            found.append({"x": float(x[rows[-1]]), "step": event["step"], **_words(event)})
    return found


def _words(event: Mapping[str, Any]) -> dict[str, str]:
    if "rollback/to_step" in event:
        return {"kind": "rollback", "text": f"back from step {event.get('rollback/from_step')} to {event['rollback/to_step']}"}
    if "early_stop/to_step" in event:
        return {"kind": "early stop", "text": f"back to step {event['early_stop/to_step']}, and the end: {event.get('early_stop/reason')}"}
    return {"kind": "spike", "text": str(event.get("spike/reason", "step left out"))}
