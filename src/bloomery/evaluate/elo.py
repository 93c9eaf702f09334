"""Elo ratings of the same battles: what the boards of chess and of chat models show, beside the likeliest strengths of ratings.py.

    after each battle    rating += k * (points - expected)        expected = 1 / (1 + 10^((opponent - rating) / 400))      Elo 1978

An online rule: the same battles in another order give other ratings, the last ones counting most, by about k. Models do not
change while they are compared, so the order means nothing here, and the mean over many shuffled orders is shown; `order_spread` is how far
one order may be from it. Intervals resample prompts (as in ratings.py), each resample in an order of its own.

Legend: R resamples or orders, P players, N prompts, T battles one after another.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: the values of a JSON record, and numpy's shapes

import numpy as np
import numpy.typing as npt

from bloomery.core.errors import DataError
from bloomery.evaluate.metrics import Interval
from bloomery.evaluate.ratings import MEAN_RATING, POINTS_OF_LEFT, Battle

K_FACTOR = 8.0
"""Small, so that the last battles do not decide; chess takes 10 to 40, Chatbot Arena took 4."""
NUM_ORDERS = 200


class EloRating(NamedTuple):
    """A player's mean Elo over orders with its 95 % interval over prompts, and the deviation between orders of the same battles."""

    name: str
    rating: Interval
    order_spread: float

    def record(self) -> dict[str, Any]:
        """As ratings.json holds it."""
        return {"name": self.name, "rating": self.rating.record(), "order_spread": self.order_spread}


def online_elo(battles: Sequence[Battle], *, k: float = K_FACTOR) -> dict[str, float]:
    """Ratings after the battles in this order, everybody beginning at 1000.

    >>> online_elo([Battle(0, "a", "b", "left")], k=32)
    {'a': 1016.0, 'b': 984.0}
    """
    names, left_T, right_T, points_T = _arrays(battles)
    order_1T = np.arange(len(battles))[None]
    return dict(zip(names, _run(order_1T, left_T, right_T, points_T, len(names), k)[0].tolist(), strict=True))


def elo_ratings(battles: Sequence[Battle], *, seed: int, k: float = K_FACTOR, num_orders: int = NUM_ORDERS) -> list[EloRating]:
    """Everybody from the best to the worst. Raises DataError if there is no battle."""
    if not battles:
        raise DataError("no battle has been decided, so there is nothing to rate")
    names, left_T, right_T, points_T = _arrays(battles)
    rng = np.random.default_rng([seed, len(battles)])
    shuffled_RT = np.argsort(rng.random((num_orders, len(battles))), axis=1)
    of_order_RP = _run(shuffled_RT, left_T, right_T, points_T, len(names), k)
    drawn_RP = _run(_resample(battles, rng, num_orders), left_T, right_T, points_T, len(names), k)
    # A resample has the noise of its one order, too, which the mean over orders has not.
    centre_P, spread_P = of_order_RP.mean(axis=0), of_order_RP.std(axis=0)
    deviation_P = np.sqrt(np.maximum(drawn_RP.var(axis=0) - spread_P**2, 0.0) + spread_P**2 / num_orders)
    count_P = np.bincount(np.concatenate([left_T, right_T]), minlength=len(names))
    rated = [
        EloRating(
            name,
            Interval(
                float(centre_P[p]), float(centre_P[p] - 1.96 * deviation_P[p]), float(centre_P[p] + 1.96 * deviation_P[p]), int(count_P[p])
            ),
            float(spread_P[p]),
        )
        for p, name in enumerate(names)
    ]
    return sorted(rated, key=lambda one: (-one.rating.value, one.name))


def _arrays(battles: Sequence[Battle]) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    names = sorted({name for battle in battles for name in (battle.left, battle.right)})
    place = {name: p for p, name in enumerate(names)}
    left, right = (np.array([place[getattr(battle, side)] for battle in battles], dtype=np.int64) for side in ("left", "right"))
    return names, left, right, np.array([POINTS_OF_LEFT[battle.winner] for battle in battles])


def _resample(battles: Sequence[Battle], rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """[R, T]: numbers of battles; each row has those of as many prompts, drawn with repetition, in a shuffled order; -1 fills up."""
    of_prompt: dict[int, list[int]] = {}
    for t, battle in enumerate(battles):
        of_prompt.setdefault(battle.prompt, []).append(t)
    groups = list(of_prompt.values())
    rows = []
    for _ in range(count):
        drawn = [t for n in rng.integers(0, len(groups), len(groups)) for t in groups[n]]
        rows.append(rng.permutation(drawn))
    filled = np.full((count, max(map(len, rows))), -1, dtype=np.int64)
    for row, drawn_T in zip(filled, rows, strict=True):
        row[: len(drawn_T)] = drawn_T
    return filled


def _run(
    order_RT: npt.NDArray[Any], left_T: npt.NDArray[Any], right_T: npt.NDArray[Any], points_T: npt.NDArray[Any], num_players: int, k: float
) -> npt.NDArray[np.float64]:
    """[R, P]: the ratings after each row's battles, all rows side by side."""
    rating_RP = np.full((len(order_RT), num_players), MEAN_RATING)
    row_R = np.arange(len(order_RT))
    for battle_R in order_RT.T:
        left_R, right_R = left_T[battle_R], right_T[battle_R]
        ahead_R = rating_RP[row_R, left_R] - rating_RP[row_R, right_R]
        change_R = k * (points_T[battle_R] - 1.0 / (1.0 + 10.0 ** (-ahead_R / 400.0))) * (battle_R >= 0)
        rating_RP[row_R, left_R] += change_R
        rating_RP[row_R, right_R] -= change_R
    return rating_RP
