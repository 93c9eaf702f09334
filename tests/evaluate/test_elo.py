"""Elo and Bradley-Terry of the same battles; win rates whose two sides make one."""

import itertools
import math
import random

import pytest

from bloomery.core.errors import DataError
from bloomery.evaluate.arena import Duel, likelihood_judge
from bloomery.evaluate.elo import elo_ratings, online_elo
from bloomery.evaluate.ratings import POINTS_PER_NAT, Battle, battles_of_ranks, rate, win_rates

PLANTED = {"a": 0.9, "b": 0.3, "c": 0.0, "d": -0.4, "e": -0.8}


def play(num_games: int, *, ties: float = 0.0, seed: int = 0) -> list[Battle]:
    rng, pairs, battles = random.Random(seed), list(itertools.combinations(PLANTED, 2)), []
    for game in range(num_games):
        a, b = rng.sample(pairs[game % len(pairs)], 2)
        chance = 1 / (1 + math.exp(PLANTED[b] - PLANTED[a]))
        battles.append(Battle(game, a, b, "tie" if rng.random() < ties else "left" if rng.random() < chance else "right"))
    return battles


def kl_to_planted(rating: dict[str, float]) -> float:
    """The mean over pairs of KL(planted chance of a win || that of the ratings), in nats."""
    total = []
    for a, b in itertools.combinations(PLANTED, 2):
        p = 1 / (1 + math.exp(PLANTED[b] - PLANTED[a]))
        q = 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
        total.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return sum(total) / len(total)


def test_both_find_planted_strengths_again_in_five_thousand_games() -> None:
    battles = play(5000)
    likeliest = {one.name: one.rating.value for one in rate(battles, seed=0, num_resamples=0).standings}
    elo = {one.name: one.rating.value for one in elo_ratings(battles, seed=0, num_orders=50)}
    assert kl_to_planted(likeliest) < 0.002 and kl_to_planted(elo) < 0.01
    assert list(elo) == list(PLANTED)
    assert likeliest["a"] - likeliest["e"] == pytest.approx(1.7 * POINTS_PER_NAT, abs=40)


def test_the_order_of_battles_changes_online_elo_and_not_bradley_terry() -> None:
    battles = play(600, ties=0.2, seed=1)
    turned = battles[::-1]
    there, back = online_elo(battles, k=32), online_elo(turned, k=32)
    assert max(abs(there[name] - back[name]) for name in PLANTED) > 5
    ours, theirs = rate(battles, seed=0, num_resamples=0), rate(turned, seed=0, num_resamples=0)
    for one, other in zip(ours.standings, theirs.standings, strict=True):
        assert one.name == other.name and one.rating.value == pytest.approx(other.rating.value, abs=1e-6)
    # The mean over orders hardly depends on the order given, and says how far one order is from it.
    means = [{one.name: one for one in elo_ratings(some, seed=3, k=32)} for some in (battles, turned)]
    for name in PLANTED:
        assert abs(means[0][name].rating.value - means[1][name].rating.value) < means[0][name].order_spread / 2
        assert 3 < means[0][name].order_spread < 60


def test_online_elo_is_the_rule_written_out() -> None:
    battles = play(40, ties=0.3, seed=2)
    rating = dict.fromkeys(PLANTED, 1000.0)
    for battle in battles:
        expected = 1 / (1 + 10 ** ((rating[battle.right] - rating[battle.left]) / 400))
        change = 16 * ({"left": 1, "tie": 0.5, "right": 0}[battle.winner] - expected)
        rating[battle.left] += change
        rating[battle.right] -= change
    assert online_elo(battles, k=16) == pytest.approx(rating)
    assert sum(online_elo(battles).values()) == pytest.approx(5000.0)


def test_elos_interval_holds_the_mean_of_other_draws_of_the_same_players() -> None:
    inside = 0
    many = {one.name: one.rating.value for one in elo_ratings(play(2000, seed=99), seed=0, num_orders=40, k=4)}
    for seed in range(12):
        found = elo_ratings(play(400, seed=seed), seed=seed, num_orders=60, k=4)
        widths = [one.rating.high - one.rating.low for one in found]
        inside += sum(one.rating.low - 40 <= many[one.name] <= one.rating.high + 40 for one in found)
        assert all(5 < width < 200 for width in widths)
    assert inside >= 40
    assert elo_ratings(play(50), seed=1) == elo_ratings(play(50), seed=1)
    with pytest.raises(DataError, match="nothing to rate"):
        elo_ratings([], seed=0)


def test_a_win_rate_and_that_of_the_other_side_make_one_whoever_stood_left() -> None:
    battles = play(500, ties=0.25, seed=4)
    rates = win_rates(battles, seed=0)
    for a, b in itertools.combinations(PLANTED, 2):
        ours, theirs = rates[a][b], rates[b][a]
        assert ours.interval.value + theirs.interval.value == pytest.approx(1.0, abs=1e-12)
        assert ours.interval.low + theirs.interval.high == pytest.approx(1.0, abs=1e-9)
        assert (ours.wins, ours.ties, ours.losses) == (theirs.losses, theirs.ties, theirs.wins) and ours.interval.count == 50
    mirrored = [Battle(b.prompt, b.right, b.left, {"left": "right", "right": "left", "tie": "tie"}[b.winner]) for b in battles]
    assert win_rates(mirrored, seed=0) == rates


def test_equal_worth_is_a_tie_and_every_sample_meets_its_counterpart() -> None:
    battles = battles_of_ranks({"a": [[2, 0], [1, 1]], "b": [[0, 0], [1, 2]]})
    assert [(battle.prompt, battle.winner) for battle in battles] == [(0, "left"), (0, "tie"), (1, "tie"), (1, "right")]
    found = win_rates(battles, seed=0)["a"]["b"]
    assert found.interval.value == 0.5 and found.interval.count == 2 and (found.wins, found.ties, found.losses) == (1, 2, 1)


def test_a_judges_love_of_a_place_is_taken_out_and_swapped_sides_swap_the_verdict() -> None:
    class LikesShortAndFirst:
        def choose(self, conversations):
            chances = []
            for (message,) in conversations:
                first = message["content"].split("Answer A:\n")[1].split("\n\nAnswer B:")[0]
                second = message["content"].split("Answer B:\n")[1].split("\n\nReply")[0]
                chances.append(1 / (1 + math.exp(-3.0 - 0.5 * (len(second) - len(first)))))
            return chances

    judge = likelihood_judge(LikesShortAndFirst())
    assert judge(Duel("?", "long answer", "short", {})) == "right" and judge(Duel("?", "short", "long answer", {})) == "left"
    assert judge(Duel("?", "abc", "xyz", {})) == "tie"
