"""What every step of a run trains on: a pure function of the plan, the seed and the step.

A plan is a list of phases, each with a length of row, a batch and a mixture of sources. It knows nothing of processes or
micro-batches: each takes its part of the rows of a step, so a run goes on with the same rows on other machines. Any
step is found by look-up, the millionth as fast as the first; nothing is drawn, so nothing has to be restored.

A source is read in epochs, each in an order of its own. Where phases have rows of one length, a source goes on where it
was; with another length its documents are packed and shuffled anew, and only the number of epochs is carried over.
"""

import bisect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from bloomery.core.errors import ConfigError
from bloomery.tokens.kernels import shuffled
from bloomery.tokens.mixing import Turns, whole_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps of one kind. `weights`: one for each source, in any unit."""

    num_steps: int
    batch_rows: int
    row_tokens: int
    weights: Sequence[float | Fraction]


class Draw(NamedTuple):
    """The rows of a step, int64 [B] each: row `row` of source `source`, which is place `place` in that source's stream."""

    row_tokens: int
    source: np.ndarray
    row: np.ndarray
    place: np.ndarray


class _Stretch(NamedTuple):
    """Places of a phase over which the mixture is one: until a source is used up, others take its share."""

    first: int
    num_places: int
    turns: Turns
    drawn: np.ndarray
    """Rows of the phase's length that each source had given before."""


class UsedUp(NamedTuple):
    """A source that has been read `max_epochs` times."""

    source: int
    step: int


class Plan:
    """See `make_plan`."""

    def __init__(
        self,
        phases: Sequence[Phase],
        num_rows: Mapping[int, np.ndarray],
        rows_an_epoch: Mapping[int, Sequence[Fraction]],
        *,
        seed: int,
        max_epochs: float,
    ) -> None:
        self.phases = tuple(phases)
        self.used_up: list[UsedUp] = []
        self._num_rows, self._rows_an_epoch, self._seed, self._max_epochs = num_rows, rows_an_epoch, seed, max_epochs
        self._first_step = np.cumsum([0, *(phase.num_steps for phase in phases)]).tolist()
        self._stretches: list[list[_Stretch]] = []
        drawn = {row_tokens: np.zeros(len(rows), dtype=np.int64) for row_tokens, rows in num_rows.items()}
        for number, phase in enumerate(phases):
            self._stretches.append(self._lay_out(number, phase, drawn))

    @property
    def num_steps(self) -> int:
        """Of all phases."""
        return int(self._first_step[-1])

    def first_step(self, phase: int) -> int:
        """The number of a phase's first step."""
        return int(self._first_step[phase])

    def phase_of(self, step: int) -> int:
        """The number of the phase that step `step` (from 0) belongs to; the last one's for steps beyond the end."""
        return min(bisect.bisect_right(self._first_step, step) - 1, len(self.phases) - 1)

    def draw(self, step: int) -> Draw:
        """The rows that all processes together train on in step `step`; beyond the last step the last mixture goes on."""
        number = self.phase_of(step)
        phase, first = self.phases[number], (step - self._first_step[number]) * self.phases[number].batch_rows
        place = np.arange(first, first + phase.batch_rows, dtype=np.int64)
        source, in_source = np.empty_like(place), np.empty_like(place)
        stretches = self._stretches[number]
        for stretch in stretches:
            inside = place >= stretch.first
            if stretch is not stretches[-1]:
                inside &= place < stretch.first + stretch.num_places
            if inside.any():
                found, turn = stretch.turns.at(place[inside] - stretch.first)
                source[inside], in_source[inside] = found, turn + stretch.drawn[found]
        size = self._num_rows[phase.row_tokens][source]
        return Draw(phase.row_tokens, source, shuffled(in_source, size, source, np.uint64(self._seed % 2**64)), in_source)

    def new_epochs(self, draw: Draw) -> list[tuple[int, int]]:
        """(source, number of the epoch, from 2) of each that begins in a step's rows."""
        size = self._num_rows[draw.row_tokens][draw.source]
        begins = (draw.place >= size) & (draw.place % size == 0)
        return list(zip(draw.source[begins].tolist(), (draw.place[begins] // size[begins] + 1).tolist(), strict=True))

    def rows_drawn(self, step: int) -> dict[int, np.ndarray]:
        """Rows that each source has given before step `step`, by their length."""
        total = {row_tokens: np.zeros(len(rows), dtype=np.int64) for row_tokens, rows in self._num_rows.items()}
        for number, phase in enumerate(self.phases):
            steps = min(max(step - self._first_step[number], 0), phase.num_steps)
            for stretch in self._stretches[number]:
                places = min(max(steps * phase.batch_rows - stretch.first, 0), stretch.num_places)
                total[phase.row_tokens] += stretch.turns.count(places)
        return total

    def places_drawn(self, step: int) -> np.ndarray:
        """Places of rows (tokens, and the little padding) that each source has given before step `step`."""
        parts = [rows * row_tokens for row_tokens, rows in self.rows_drawn(step).items()]
        return np.asarray(np.sum(parts, axis=0), dtype=np.int64)

    def epochs(self, step: int) -> np.ndarray:
        """How often each source has been read before step `step`."""
        parts = [rows / np.maximum(np.array(self._rows_an_epoch[length], float), 1e-9) for length, rows in self.rows_drawn(step).items()]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float64)

    def _lay_out(self, number: int, phase: Phase, drawn: dict[int, np.ndarray]) -> list[_Stretch]:
        weights = [Fraction(0) if not w else w if isinstance(w, Fraction) else Fraction(repr(w)) for w in phase.weights]
        num_places, first = phase.num_steps * phase.batch_rows, 0
        stretches = []
        while first < num_places:
            allowed = self._allowed(phase.row_tokens, drawn)
            gone = [i for i, w in enumerate(weights) if w and allowed is not None and allowed[i] <= 0]
            for i in gone:
                weights[i] = Fraction(0)
                self.used_up.append(UsedUp(i, self._first_step[number] + first // phase.batch_rows))
            if not any(weights):
                raise ConfigError(self._too_little(number, first))
            whole, left = whole_weights(weights), num_places - first
            if allowed is not None:  # worked out no further than to where a source must be used up
                left = min(left, *(-(-(int(a) + 1) * sum(whole) // w) for a, w in zip(allowed, whole, strict=True) if w))
            turns = Turns(whole, num_places=left)
            length = left if allowed is None else turns.first_to_exceed(allowed, num_places=left)
            stretches.append(_Stretch(first, length, turns, drawn[phase.row_tokens].copy()))
            drawn[phase.row_tokens] = drawn[phase.row_tokens] + turns.count(length)
            first += length
        return stretches

    def _allowed(self, row_tokens: int, drawn: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """Rows of this length that each source may still give; None where sources repeat for ever."""
        if not self._max_epochs:
            return None
        cap = Fraction(repr(self._max_epochs))
        allowed = []
        for i, size in enumerate(self._rows_an_epoch[row_tokens]):
            read = sum(int(rows[i]) / self._rows_an_epoch[length][i] for length, rows in drawn.items() if rows[i])
            # A source that holds less than a row is read once, though that may be more often than asked.
            allowed.append(int((cap - read) * size) if read else max(int(cap * size), 1))
        return np.array(allowed, dtype=np.int64)

    def _too_little(self, number: int, first: int) -> str:
        phase = self.phases[number]
        found, asked = first * phase.row_tokens, phase.num_steps * phase.batch_rows * phase.row_tokens
        where = f"stage {number + 1} of the curriculum" if len(self.phases) > 1 else "this run"
        return (
            f"{where} asks for {asked:,} tokens, but its sources hold {found:,} more with max_epochs = {self._max_epochs}. "
            "Train on fewer tokens, allow more epochs, or add documents."
        )


def make_plan(
    phases: Sequence[Phase],
    num_rows: Mapping[int, Sequence[int]],
    *,
    seed: int,
    max_epochs: float = 0.0,
    rows_an_epoch: Mapping[int, Sequence[Fraction]] | None = None,
) -> Plan:
    """The plan of a run over sources with `num_rows` rows each, by the length of a row.

    `rows_an_epoch` is how many of them hold as many tokens as the source has (None: all of them). `max_epochs` is how often a
    source is read at most; it then drops out and the others share its part by their weights (0: for ever). Raises
    ConfigError if the sources together hold too little for that.
    """
    sizes = {row_tokens: np.array(rows, dtype=np.int64) for row_tokens, rows in num_rows.items()}
    for phase in phases:
        assert all(rows > 0 for rows, weight in zip(num_rows[phase.row_tokens], phase.weights, strict=True) if weight)
    whole = {row_tokens: [Fraction(count) for count in rows] for row_tokens, rows in num_rows.items()}
    return Plan(phases, sizes, rows_an_epoch or whole, seed=seed, max_epochs=max_epochs)
