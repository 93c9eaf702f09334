"""Curves as CSV, every true row of them, for people who take numbers elsewhere."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any  # Any: the size of a float

import numpy as np

from bloomery.web.runs.columns import Columns
from bloomery.web.runs.curves import axis_of, last_of_each_step, true_rows

LINES_AT_ONCE = 2000
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(sources: Mapping[tuple[str, str], Columns], metrics: Sequence[str]) -> Iterator[bytes]:
    """A header, then a line for each row that has one of the metrics: run, stage, step, tokens, seconds, flops, the metrics."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # RFC 4180
    writer.writerow([safe_text(name) for name in ("run", "stage", "step", "tokens", "seconds", "flops", *metrics)])
    for (run, stage), columns in sources.items():
        step = columns.axes["step"]
        is_true, known = true_rows(step), np.zeros(columns.rows, bool)
        values = []
        for metric in metrics:
            value = np.full(columns.rows, np.nan, np.float32)
            shown = last_of_each_step(step, is_true & np.isfinite(columns.values[metric]))
            value[shown] = columns.values[metric][shown]
            values.append(value)
            known[shown] = True
        places = np.flatnonzero(known)
        axes = [step, columns.axes["tokens"], axis_of(columns, "time")[0], axis_of(columns, "flops")[0]]
        head = [safe_text(run), safe_text(stage)]
        for first in range(0, len(places), LINES_AT_ONCE):
            for place in places[first : first + LINES_AT_ONCE]:
                writer.writerow([*head, *(_cell(array[place]) for array in axes), *(_cell(value[place]) for value in values)])
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def safe_text(text: str) -> str:
    """Text that no spreadsheet takes for a formula: one that begins like one gets an apostrophe before it (OWASP, CSV injection).

    >>> safe_text("=HYPERLINK(1)"), safe_text("train/loss")
    ("'=HYPERLINK(1)", 'train/loss')
    """
    return f"'{text}" if text.startswith(DANGEROUS) else text


def _cell(value: np.floating[Any]) -> str:
    if not np.isfinite(value):
        return ""
    # The shortest text that reads back as the same number; whole ones without a point.
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else str(value)
