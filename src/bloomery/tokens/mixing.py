"""Whose turn it is: several sources in asked proportions, with no random numbers and no state.

Weights become whole numbers with a total W; after W places every source has had exactly its turns, so the order
repeats. It is worked out once (`kernels.take_turns`) and any place of an endless stream is then a look-up.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bloomery.tokens.kernels import take_turns

MAX_PERIOD = 1 << 22
"""Weights that need a longer period (a ninth digit, sizes of files) are rounded to so many parts: a share is then off by
less than one in eight million, half a row in a whole period. 24 bytes a place while a plan is open."""
CHECKPOINT = 4096
"""Turns are counted up to every so many places, and on from there."""


def whole_weights(weights: Sequence[float | Fraction]) -> list[int]:
    """Whole numbers in the proportions of `weights`, as they are written in decimal, with the least total.

    >>> whole_weights([0.7, 0.2, 0.1]), whole_weights([3, 0, 6])
    ([7, 2, 1], [1, 0, 2])

    Raises ValueError unless all are finite, none is negative and one is above zero.
    """
    if not weights or not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ValueError(f"weights = {list(weights)}: expected numbers, none negative and not all zero")
    exact = [w if isinstance(w, Fraction) else Fraction(repr(w)) for w in weights]
    common = math.lcm(*(w.denominator for w in exact))
    whole = [int(w * common) for w in exact]
    divisor = math.gcd(*whole)
    whole = [w // divisor for w in whole]
    return whole if sum(whole) <= MAX_PERIOD else _round_to_total(whole, MAX_PERIOD)


def _round_to_total(whole: Sequence[int], total: int) -> list[int]:
    # Largest remainders; a source that would vanish keeps one part.
    before = sum(whole)
    parts = [max(w * total // before, 1) if w else 0 for w in whole]
    order = sorted(range(len(whole)), key=lambda i: (-(w * total % before) if (w := whole[i]) * total >= before else 0, i))
    for i in order[: max(total - sum(parts), 0)]:
        parts[i] += 1
    return parts


class Turns:
    """The endless order of sources of some weights, from `whole_weights`.

    Only the first `num_places` places are asked for: a longer period is worked out no further, and repeats from there.
    """

    def __init__(self, weights: Sequence[int], *, num_places: int) -> None:
        self.weights = np.array(weights, dtype=np.int64)
        self.period = min(int(self.weights.sum()), max(num_places, 1))
        self._source = np.empty(self.period, dtype=np.uint16 if len(weights) <= 2**16 else np.int32)
        self._turn = np.empty(self.period, dtype=np.int32)
        take_turns(self.weights, self.period, self._source, self._turn)
        starts = range(0, self.period, CHECKPOINT)
        counts = [np.bincount(self._source[s : s + CHECKPOINT], minlength=len(weights)) for s in starts]
        self._counts = np.cumsum([np.zeros(len(weights), dtype=np.int64), *counts], axis=0)

    def at(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, its how-many-th turn, from 0) of each place, int64."""
        cycle, inside = np.divmod(place, self.period)
        source = self._source[inside].astype(np.int64)
        return source, cycle * self._counts[-1][source] + self._turn[inside]

    def count(self, num_places: int) -> np.ndarray:
        """The turns that each source has in the first `num_places` places, int64."""
        cycle, inside = divmod(num_places, self.period)
        before = inside // CHECKPOINT
        rest = np.bincount(self._source[before * CHECKPOINT : inside], minlength=len(self.weights))
        return np.asarray(cycle * self._counts[-1] + self._counts[before] + rest, dtype=np.int64)

    def first_to_exceed(self, allowed: np.ndarray, *, num_places: int) -> int:
        """The first place whose source has had its `allowed` turns before; `num_places` if there is none among so many."""
        total, best = int(self.weights.sum()), num_places
        # A source of weight w takes turn c (from 0) between places c W / w and (c + 1) W / w, so few can be first.
        earliest = {i: int(allowed[i]) * total // int(self.weights[i]) for i in np.flatnonzero(self.weights).tolist()}
        for i in sorted(earliest, key=lambda i: (earliest[i], i)):
            if earliest[i] >= best:
                break
            cycle, turn = divmod(int(allowed[i]), max(int(self._counts[-1][i]), 1))
            found = np.flatnonzero((self._source == i) & (self._turn == turn))
            if len(found):
                best = min(best, cycle * self.period + int(found[0]))
        return best
