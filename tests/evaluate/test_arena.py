"""Battles are fair and anonymous; ratings are the likeliest ones, whoever computes them."""

import math
import random
from typing import ClassVar

import numpy as np
import pytest

from bloomery.core.errors import DataError
from bloomery.evaluate.arena import Duel, Left, gold_score, hold_battles, model_judge, person_judge, plan_pairings, score_judge
from bloomery.evaluate.ratings import POINTS_PER_NAT, Battle, rate, strengths


def draw_battles(strength: dict[str, float], *, num_prompts: int, ties: float, seed: int) -> list[Battle]:
    rng, names, battles = random.Random(seed), list(strength), []
    for prompt in range(num_prompts):
        for a, b in ((a, b) for a in names for b in names if a < b):
            chance = 1 / (1 + math.exp(strength[b] - strength[a]))
            winner = "tie" if rng.random() < ties else "left" if rng.random() < chance else "right"
            battles.append(Battle(prompt, a, b, winner))
    return battles


def test_strengths_are_those_of_scikit_learns_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    battles = draw_battles({"a": 0.8, "b": 0.2, "c": -0.3, "d": -0.7}, num_prompts=40, ties=0.2, seed=1)
    found = rate(battles, seed=0, num_resamples=0)
    rows, won, weight = [], [], []
    for battle in battles:
        sign = [float(name == battle.left) - float(name == battle.right) for name in found.names]
        # Without an intercept, and a tie as half a win and half a loss.
        for label, share in {"left": ((1, 1.0),), "right": ((0, 1.0),), "tie": ((1, 0.5), (0, 0.5))}[battle.winner]:
            rows.append(sign), won.append(label), weight.append(share)
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(rows, won, sample_weight=weight)
    theirs = fit.coef_[0] - fit.coef_[0].mean()
    ours = {standing.name: (standing.rating.value - 1000) / POINTS_PER_NAT for standing in found.standings}
    np.testing.assert_allclose([ours[name] for name in found.names], theirs, atol=1e-5)
    assert sum(standing.wins for standing in found.standings) == sum(standing.losses for standing in found.standings)
    assert found.battles_PP.sum() == 2 * len(battles) == sum(standing.rating.count for standing in found.standings)


def test_planted_strengths_lie_in_their_intervals_about_19_times_in_20() -> None:
    planted, inside = {"a": 0.7, "b": 0.1, "c": -0.8}, 0
    for seed in range(40):
        found = rate(draw_battles(planted, num_prompts=60, ties=0.0, seed=seed), seed=seed, num_resamples=150)
        assert [standing.name for standing in found.standings][-1] == "c"
        inside += sum(
            standing.rating.low <= 1000 + POINTS_PER_NAT * planted[standing.name] <= standing.rating.high for standing in found.standings
        )
    assert 0.88 <= inside / 120 <= 0.99, inside / 120


def test_400_points_are_odds_of_ten_to_one_and_the_same_battles_give_the_same_ratings() -> None:
    battles = [Battle(i, "a", "b", "left" if i < 10 else "right") for i in range(11)]
    found = rate(battles, seed=3)
    best, worst = found.standings
    assert best.name == "a" and best.rating.value - worst.rating.value == pytest.approx(400.0)
    assert best.rating.low < best.rating.value < best.rating.high and (best.wins, best.ties, best.losses) == (10, 0, 1)
    assert rate(battles, seed=3).record() == found.record()
    assert found.points_PP.tolist() == [[0.0, 10.0], [1.0, 0.0]]


def test_a_very_lopsided_table_still_has_its_likeliest_strengths() -> None:
    points_PP = np.array([[0.0, 1e6, 1e-3], [1e-3, 0.0, 1e6], [1e-3, 1e-3, 0.0]])
    strength_P = strengths(points_PP)
    chance_PP = 1 / (1 + np.exp(strength_P[None, :] - strength_P[:, None]))
    gradient_P = (points_PP - (points_PP + points_PP.T) * chance_PP).sum(axis=1)
    assert np.abs(gradient_P).max() < 1e-6 and abs(strength_P.mean()) < 1e-9


def test_battles_that_no_finite_rating_explains_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"b never won against nor drew with a: .* leave b out"):
        rate([Battle(0, "a", "b", "left")], seed=0)
    apart = [Battle(0, "a", "b", "tie"), Battle(1, "c", "d", "tie")]
    with pytest.raises(DataError, match="never won against nor drew with"):
        rate(apart, seed=0)
    with pytest.raises(DataError, match="nothing to rate"):
        rate([], seed=0)


def test_every_pair_meets_once_a_prompt_and_stands_left_about_half_the_time() -> None:
    plan = plan_pairings(["a", "b", "c"], 200, seed=5)
    assert len(set(plan)) == len(plan) == 600
    assert {(p.prompt, frozenset((p.left, p.right))) for p in plan} == {
        (i, frozenset(pair)) for i in range(200) for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    }
    assert 250 < sum(p.left < p.right for p in plan) < 350
    assert len({p.prompt for p in plan[:60]}) > 40  # the beginning is no block of a few prompts


ROWS = [{"answer": "4", "format": "[0-9]"}, {"answer": "7", "format": "[0-9]"}]
ANSWERS = {"good": ["4", "7"], "bad": ["5", "x"], "same": ["5", "7"]}


def test_a_judge_of_scores_sees_no_names_and_equal_answers_are_a_tie_without_asking() -> None:
    seen: list[Duel] = []

    def judge(duel: Duel) -> str:
        seen.append(duel)
        return score_judge(gold_score)(duel)

    plan = plan_pairings(list(ANSWERS), 2, seed=0)
    battles = list(hold_battles(plan, rows=ROWS, prompts=["2+2?", "3+4?"], answers=ANSWERS, judge=judge))
    points = dict.fromkeys(ANSWERS, 0.0)
    for battle in battles:
        for name, side in ((battle.left, "left"), (battle.right, "right")):
            points[name] += 0.5 if battle.winner == "tie" else float(battle.winner == side)
    assert points == {"good": 3.5, "same": 2.0, "bad": 0.5}
    assert len(battles) == 6 and len(seen) == 4 and not any(name in str(seen) for name in ANSWERS)
    rest = hold_battles(plan, rows=ROWS, prompts=["2+2?", "3+4?"], answers=ANSWERS, judge=judge, done=battles[:4])
    assert [*battles[:4], *rest] == battles


def test_a_person_decides_skips_and_leaves_and_no_answer_reaches_the_terminal_raw() -> None:
    keys, shown = iter(["?", "L", "s", "t", "q"]), []
    judge = person_judge(read=lambda prompt: next(keys), write=shown.append)
    assert judge(Duel("p", "\x1b[31mred", "", {})) == "left"
    assert "\x1b" not in "".join(shown) and "(nothing)" in "".join(shown)
    assert [judge(Duel("p", "a", "b", {})) for _ in range(2)] == ["skip", "tie"]
    with pytest.raises(Left):
        judge(Duel("p", "a", "b", {}))
    plan = plan_pairings(["good", "bad"], 2, seed=0)
    answers = iter(["s", "r"])
    judge = person_judge(read=lambda prompt: next(answers), write=shown.append)
    (battle,) = hold_battles(plan, rows=ROWS, prompts=["", ""], answers=ANSWERS, judge=judge)
    assert battle == Battle(plan[1].prompt, plan[1].left, plan[1].right, "right")


def test_a_model_that_always_prefers_the_first_place_decides_nothing() -> None:
    class Words:
        begin: tuple[int, ...] = ()
        end_id = 0
        special_ids: ClassVar[dict[str, int]] = {"<|system|>": 1, "<|user|>": 2, "<|assistant|>": 3}

        def encode(self, text: str) -> list[int]:
            self.asked = text
            return [10 + ord(character) for character in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(chr(i - 10) for i in ids if i >= 10)

    class Scripted:
        context_tokens = 10_000

        def __init__(self, reply) -> None:
            self.reply = reply

        def generate(self, prompts, params, *, seeds):
            from bloomery.generate.engine import Sample

            texts = ["".join(chr(i - 10) for i in prompt if i >= 10) for prompt in prompts]
            return [Sample([10 + ord(c) for c in self.reply(text)], [0.0], "end") for text in texts]

    duel = Duel("2+2?", "4", "5", {})
    assert model_judge(Scripted(lambda text: "A"), Words())(duel) == "tie"
    assert model_judge(Scripted(lambda text: "A" if "Answer A:\n4" in text else "B."), Words())(duel) == "left"
    assert model_judge(Scripted(lambda text: "Answer B" if "Answer A:\n4" in text else "A"), Words())(duel) == "right"
    assert model_judge(Scripted(lambda text: "hm"), Words())(duel) == "tie"
