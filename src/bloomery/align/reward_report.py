"""How good a reward model is on comparisons it has not seen: accuracy, by its own margin, and whether its odds are honest.

A reward model of Bradley and Terry says with which chance one answer is preferred: sigmoid of the difference of rewards. That
is a forecast, and can be held against what was preferred (reliability; Guo et al. 2017, arXiv:1706.04599, eq. 3).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: numbers for a JSON document

import numpy as np

from bloomery.core.plots import draw_curves

NUM_BINS = 10
"""Of confidence, from 0.5 to 1."""
NUM_MARGINS = 4
"""Parts of equal size by the difference of rewards."""
Z95 = 1.959964


class Compared(NamedTuple):
    """Pairs of answers of unequal rank: float64 difference of rewards (better less worse), the number of its prompt, its label's margin."""

    gap_N: np.ndarray
    prompt_N: np.ndarray
    margin_N: np.ndarray


def compare(rewards: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]], margins: Sequence[float]) -> Compared:
    """All pairs of unequal ranks, prompt after prompt."""
    found = [
        ((row[i] - row[j]) * (1 if rank[i] < rank[j] else -1), n, margins[n])
        for n, (row, rank) in enumerate(zip(rewards, ranks, strict=True))
        for i, j in itertools.combinations(range(len(rank)), 2)
        if rank[i] != rank[j]
    ]
    gap, prompt, margin = zip(*found, strict=True) if found else ((), (), ())
    return Compared(np.array(gap, dtype=np.float64), np.array(prompt, dtype=np.int64), np.array(margin, dtype=np.float64))


def report_accuracy(compared: Compared, *, scale: float = 1.0) -> dict[str, Any]:
    """Accuracy with its 95 % interval, calibration, and accuracy by margin. `scale` times a difference of rewards is in nats.

    Equal rewards are half right. The interval takes the pairs of a prompt for one draw, since they share answers.
    """
    gap_N = compared.gap_N
    if len(gap_N) == 0:
        return {"pairs": 0}
    right_N = (gap_N > 0) + 0.5 * (gap_N == 0)
    accuracy = float(right_N.mean())
    by_prompt = np.bincount(compared.prompt_N, weights=right_N - accuracy)
    error = Z95 * math.sqrt(float(np.square(by_prompt).sum())) / len(gap_N)
    bins, calibration_error = _reliability(gap_N * scale, right_N)
    found = {
        "pairs": len(gap_N),
        "accuracy": round(accuracy, 6),
        "accuracy_low": round(max(0.0, accuracy - error), 6),
        "accuracy_high": round(min(1.0, accuracy + error), 6),
        "calibration_error": round(calibration_error, 6),
        "log_loss": round(float(np.logaddexp(0.0, -gap_N * scale).mean()), 6),
        "reliability": bins,
        "by_margin": _by_margin(np.abs(gap_N), right_N),
    }
    if len(np.unique(compared.margin_N)) > 1:
        found["by_labelled_margin"] = _by_margin(compared.margin_N, right_N)
    return found


def draw_reliability(report: dict[str, Any]) -> str:
    """What was forecast against what came true, as SVG."""
    points = [(row["confidence"], row["accuracy"]) for row in report["reliability"]]
    series = {"as said": [(0.5, 0.5), (1.0, 1.0)], "held-out pairs": points}
    return draw_curves(series, x_label="chance that the model gives its choice", y_label="share that was right", width_inches=4.6)


def _reliability(nats_N: np.ndarray, right_N: np.ndarray) -> tuple[list[dict[str, float]], float]:
    confidence_N = 1 / (1 + np.exp(-np.minimum(np.abs(nats_N), 700.0)))
    bin_N = np.minimum(((confidence_N - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    rows, total = [], 0.0
    for number in range(NUM_BINS):
        inside = bin_N == number
        if inside.any():
            confidence, accuracy = float(confidence_N[inside].mean()), float(right_N[inside].mean())
            rows.append({"confidence": round(confidence, 6), "accuracy": round(accuracy, 6), "pairs": int(inside.sum())})
            total += float(inside.mean()) * abs(confidence - accuracy)
    return rows, total


def _by_margin(margin_N: np.ndarray, right_N: np.ndarray) -> list[dict[str, float]]:
    order = np.argsort(margin_N, kind="stable")
    parts = [part for part in np.array_split(order, min(NUM_MARGINS, len(order))) if len(part)]
    return [
        {
            "from": round(float(margin_N[part[0]]), 6),
            "to": round(float(margin_N[part[-1]]), 6),
            "accuracy": round(float(right_N[part].mean()), 6),
            "pairs": len(part),
        }
        for part in parts
    ]
