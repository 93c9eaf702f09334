"""What the votes of a campaign say: ratings with intervals, the win matrix, ratings for answers of equal length, agreement.

Ratings are Bradley-Terry's (evaluate/ratings.py) with a stated prior, so that there is an answer from the first vote on, and with what is
still missing for one that needs no prior. Every vote is a battle; "both bad" is a tie; votes of several annotators on one prompt are
resampled together.
"""

from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any  # Any: JSON

from bloomery.core.errors import DataError
from bloomery.evaluate.agreement import Agreement, fleiss_kappa, krippendorff_alpha, pairwise_kappas
from bloomery.evaluate.length_control import rate_with_lengths
from bloomery.evaluate.ratings import Battle, Side, check_connected, rate
from bloomery.web.labels.reading import Judgement

PRIOR_TIES = 1.0
"""As if every two models had met once more and drawn."""
ENOUGH_BATTLES = 30
"""Battles of each model before its rating is called more than a first impression: below it, the interval is wider than most differences."""
NUM_RESAMPLES = 500
MAX_PAIRS_SHOWN = 50


def battles_of(judgements: Sequence[Judgement]) -> tuple[list[Battle], list[tuple[int, int]]]:
    """Every two answers of different models that were judged, and their lengths in characters."""
    battles, lengths = [], []
    for one in judgements:
        for i, j in combinations(range(len(one.models)), 2):
            if one.models[i] != one.models[j]:
                winner: Side = "tie" if one.ranks[i] == one.ranks[j] else "left" if one.ranks[i] < one.ranks[j] else "right"
                battles.append(Battle(one.prompt, one.models[i], one.models[j], winner))
                lengths.append((one.lengths[i], one.lengths[j]))
    return battles, lengths


def ratings_record(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Any]:
    """Ratings, win matrix and length-controlled ratings as the page shows them; `missing` says what makes them a first impression."""
    battles, lengths = battles_of(judgements)
    if not battles:
        return {"battles": 0, "missing": "No two models have been compared yet.", "ratings": None, "length_controlled": None}
    rated = rate(battles, seed=seed, num_resamples=NUM_RESAMPLES, prior_ties=PRIOR_TIES)
    missing = ""
    fewest = min(rated.standings, key=lambda one: one.rating.count)
    if fewest.rating.count < ENOUGH_BATTLES:
        missing = f"Not enough yet: {fewest.name} has been in {fewest.rating.count} of at least {ENOUGH_BATTLES} battles."
    else:
        try:
            check_connected(rated.points_PP, rated.names)
        except DataError as error:
            missing = f"Without the prior there is no rating: {error}."
    return {
        "battles": len(battles),
        "prompts": len({battle.prompt for battle in battles}),
        "both_bad": sum(one.choice == "both_bad" for one in judgements),
        "identical": sum(one.annotator == "" for one in judgements),
        "prior_ties": PRIOR_TIES,
        "missing": missing,
        "ratings": rated.record(),
        "length_controlled": rate_with_lengths(battles, lengths, seed=seed, prior_ties=PRIOR_TIES).record(),
    }


def agreement_record(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Krippendorff's alpha and Fleiss' kappa of all, Cohen's kappa of every two annotators, all nominal.

    A pair is judged as the first or the second one, a tie, or both bad; a ranking of K answers is C(K, 2) judgements, each of which
    answer is ahead.
    """
    said: dict[str, dict[Any, str]] = {}
    for one in judgements:
        if one.annotator:
            said.setdefault(one.annotator, {}).update(_judgements_of(one))
    units: dict[Any, list[str]] = {}
    for of_one in said.values():
        for unit, value in of_one.items():
            units.setdefault(unit, []).append(value)
    pairs = sorted(pairwise_kappas(said).items(), key=lambda pair: -pair[1].items)
    return {
        "krippendorff_alpha": _record(krippendorff_alpha(list(units.values()))),
        "fleiss_kappa": _record(fleiss_kappa(list(units.values()))),
        "cohen_kappa": [{"annotators": list(names), **_record(found)} for names, found in pairs[:MAX_PAIRS_SHOWN]],
        "num_pairs": len(pairs),
    }


def _judgements_of(one: Judgement) -> dict[Any, str]:
    # Answers lie in the order of their models. Which of two is called first is a coin of the item's: else "the first one" would be
    # what everybody says of a good model, and chance, which is measured by how often each thing is said, would look like agreement.
    found = {}
    for i, j in combinations(range(len(one.ranks)), 2):
        coin = Random(f"agreement/{one.item}/{i}/{j}")
        first, second = (i, j) if coin.random() < 0.5 else (j, i)
        ahead = "first" if one.ranks[first] < one.ranks[second] else "second" if one.ranks[first] > one.ranks[second] else "tie"
        found[one.item, i, j] = one.choice if one.choice == "both_bad" else ahead
    return found


def _record(found: Agreement) -> dict[str, Any]:
    return {"value": found.value, "items": found.items}
