"""Which models should meet next: those whose comparison a further vote makes most certain.

    weight(a, b) = sqrt(p (1 - p)) (1 / sqrt(n + 1) - 1 / sqrt(n + 2)),    p = (points of a + 1) / (n + 2),    n votes so far

Chatbot Arena's rule (arXiv:2403.04132, sec. 6, eq. 9): the drop in the standard error of a pair's win rate that one more vote
brings. One vote is counted as made for everybody, and p starts at one half, so that pairs without votes have a weight, the highest
there is.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations


def contest_weights(votes: Iterable[tuple[Sequence[Hashable], Sequence[int], int]], contests: Sequence[Sequence[Hashable]]) -> list[float]:
    """How much each contest (the players who meet in it) is worth a vote; of more than two players, the sum over their pairs.

    `votes` are (players, their ranks, how often this was said); equal ranks are half a point each.

    >>> one, other = contest_weights([("ab", (1, 2), 8)], ["ab", "ac"])
    >>> one < other
    True
    """
    points: dict[frozenset[Hashable], float] = {}
    counts: dict[frozenset[Hashable], int] = {}
    first: dict[frozenset[Hashable], Hashable] = {}
    for players, ranks, count in votes:
        for i, j in combinations(range(len(players)), 2):
            pair = frozenset((players[i], players[j]))
            ahead = 0.5 if ranks[i] == ranks[j] else 1.0 if ranks[i] < ranks[j] else 0.0
            share = ahead if first.setdefault(pair, players[i]) == players[i] else 1.0 - ahead
            points[pair] = points.get(pair, 0.0) + count * (0.5 if len(pair) == 1 else share)
            counts[pair] = counts.get(pair, 0) + count
    weights = []
    for players in contests:
        pairs = [frozenset(pair) for pair in combinations(players, 2)]
        weights.append(sum(_weight(points.get(pair, 0.0), counts.get(pair, 0)) for pair in pairs))
    return weights


def _weight(points: float, count: int) -> float:
    share = (points + 1.0) / (count + 2.0)
    return math.sqrt(share * (1.0 - share)) * (1.0 / math.sqrt(count + 1.0) - 1.0 / math.sqrt(count + 2.0))
