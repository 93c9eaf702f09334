"""How far annotators agree beyond chance: Cohen's kappa of two, Fleiss' kappa of any number, Krippendorff's alpha with gaps.

    kappa = (agreement seen - agreement by chance) / (1 - agreement by chance)     alpha = 1 - disagreement seen / disagreement by chance

1 is full agreement, 0 what chance gives, below 0 is less. Cohen 1960: chance from each one's own shares, over items that both judged.
Fleiss 1971: chance from the shares of all, over items that were judged equally often. Krippendorff (2011, "Computing Krippendorff's
alpha-reliability"), nominal: any number of judgements of an item, items with one left out; it is the one to quote where not everybody
judged everything.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple


class Agreement(NamedTuple):
    """A coefficient, and how many items it rests on. None where it is not defined: nothing was judged twice, or everybody always
    said one thing."""

    value: float | None
    items: int


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """Cohen's kappa of two annotators who judged the same items in the same order.

    >>> cohen_kappa("aabb", "aaba").value
    0.5
    """
    count = len(first)
    if not count:
        return Agreement(None, 0)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / count
    ours, theirs = Counter(first), Counter(second)
    return Agreement(_beyond_chance(seen, sum(ours[one] * theirs[one] for one in ours) / count**2), count)


def fleiss_kappa(items: Sequence[Sequence[Hashable]]) -> Agreement:
    """Fleiss' kappa of items with everything that was said of each. Only items with as many judgements as most have are counted."""
    sizes = Counter(len(said) for said in items if len(said) > 1)
    if not sizes:
        return Agreement(None, 0)
    raters = max(sizes, key=lambda size: (sizes[size], size))
    counted = [Counter(said) for said in items if len(said) == raters]
    seen = sum(sum(n * (n - 1) for n in said.values()) for said in counted) / (len(counted) * raters * (raters - 1))
    totals: Counter[Hashable] = sum(counted, Counter())
    chance = sum((n / (len(counted) * raters)) ** 2 for n in totals.values())
    return Agreement(_beyond_chance(seen, chance), len(counted))


def krippendorff_alpha(items: Sequence[Sequence[Hashable]]) -> Agreement:
    """Krippendorff's alpha for nominal values, of items with everything that was said of each.

    >>> krippendorff_alpha(["aa", "bb", "ab", "a"]).items
    3
    """
    counted = [Counter(said) for said in items if len(said) > 1]
    totals: Counter[Hashable] = sum(counted, Counter())
    values = sum(totals.values())
    if not counted:
        return Agreement(None, 0)
    pairs = sum((sum(said.values()) ** 2 - sum(n * n for n in said.values())) / (sum(said.values()) - 1) for said in counted)
    apart = (values**2 - sum(n * n for n in totals.values())) / (values - 1)
    return Agreement(None if apart == 0 else 1.0 - pairs / apart, len(counted))


def pairwise_kappas(said: Mapping[str, Mapping[Hashable, Hashable]]) -> dict[tuple[str, str], Agreement]:
    """Cohen's kappa of every two annotators who share an item; said[annotator][item] is what was said."""
    found = {}
    for a, b in combinations(sorted(said), 2):
        shared = [item for item in said[a] if item in said[b]]
        if shared:
            found[a, b] = cohen_kappa([said[a][item] for item in shared], [said[b][item] for item in shared])
    return found


def _beyond_chance(seen: float, chance: float) -> float | None:
    return None if chance == 1.0 else (seen - chance) / (1.0 - chance)
