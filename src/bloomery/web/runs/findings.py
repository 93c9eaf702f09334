"""What the doctor finds in the trainings of a run, from their logs as far as they are written."""

import dataclasses
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any  # Any: JSON

import numpy as np

from bloomery.core.errors import DataError
from bloomery.diagnosis.columns import Columns
from bloomery.diagnosis.diagnose import diagnose
from bloomery.diagnosis.finding import Finding
from bloomery.pipeline.checkup import Training, find_trainings
from bloomery.web.directory import RunEntry
from bloomery.web.runs.columns import MetricsReader

MAX_KEPT = 256
"""Trainings whose findings are remembered until their log changes."""


class Doctor:
    """Findings of trainings, worked out again only when a log has grown or a training has finished."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[Any, list[dict[str, Any]]]] = OrderedDict()
        self._lock = threading.Lock()

    def findings(self, entry: RunEntry) -> list[dict[str, Any]]:
        """{node, code, severity, title, evidence, remedy, step} of each, training by training, of each the worst first."""
        try:
            trainings = find_trainings(entry.folder)
        except (DataError, KeyError, TypeError, ValueError):
            return []  # a damaged record is told by the run's own state
        return [finding for training in trainings for finding in self._of(training)]

    def _of(self, training: Training) -> list[dict[str, Any]]:
        try:
            stat = training.metrics.stat()
        except OSError:
            return []
        looks = (stat.st_ino, stat.st_size, stat.st_mtime_ns, training.facts.finished)
        with self._lock:
            known = self._known.get(training.metrics)
        if known is None or known[0] != looks:
            known = looks, [_plain(finding) for finding in diagnose(read_all(training.metrics), training.facts)]
            with self._lock:
                self._known[training.metrics] = known
                while len(self._known) > MAX_KEPT:
                    self._known.popitem(last=False)
        return known[1]


def read_all(path: Path) -> Columns:
    """Every column of a log, for one look: none of it stays in memory."""
    reader = MetricsReader(budget_bytes=0)
    names = reader.read(path).names
    found = reader.read(path, names)
    return {**found.axes, **{name: values.astype(np.float64) for name, values in found.values.items()}}


def _plain(finding: Finding) -> dict[str, Any]:
    return {**dataclasses.asdict(finding), "evidence": {name: float(value) for name, value in finding.evidence.items()}}
