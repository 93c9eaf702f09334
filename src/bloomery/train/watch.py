"""A look at the log while it grows: what `bloomery doctor` would find, as warnings, each once.

The checks are those of diagnosis/. They are made when there are an eighth more rows than at the last time, so that all of
them together cost as much as a few over the whole log; nothing that is made depends on them.
"""

import logging
from collections.abc import Mapping, Sequence

from bloomery.diagnosis.diagnose import diagnose
from bloomery.diagnosis.finding import Facts

log = logging.getLogger(__name__)

FIRST_LOOK = 32
"""Rows before which a log says little."""
GROWTH = 1.125


class Watch:
    """The rows of one training so far and what was said of them; `rows` are those of an earlier process."""

    def __init__(self, facts: Facts, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self._facts = facts
        self._rows = list(rows)
        self._next = max(FIRST_LOOK, int(GROWTH * len(self._rows)))
        self._said: set[str] = set()

    def see(self, row: Mapping[str, float]) -> None:
        """Takes in a row of the log, and warns if it is time to look and something new is wrong."""
        self._rows.append(row)
        if len(self._rows) >= self._next:
            self._next = int(GROWTH * len(self._rows)) + 1
            self._look()

    def _look(self) -> None:
        for finding in diagnose(self._rows, self._facts):
            if finding.severity != "note" and finding.code not in self._said:
                self._said.add(finding.code)
                log.warning("%s (%s). %s", finding.title, finding.code, finding.remedy)
