"""Ratings with the length taken out, against scikit-learn's logistic regression, and the rule of who meets next."""

import random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bloomery.evaluate.active import contest_weights
from bloomery.evaluate.length_control import fit, make_design, rate_with_lengths
from bloomery.evaluate.ratings import Battle, rate

NAMES = ["a", "b", "c"]


def draw_battles(
    count: int, *, strengths: dict[str, float], length_weight: float, seed: int = 0
) -> tuple[list[Battle], list[tuple[int, int]]]:
    drawn = random.Random(seed)
    battles, lengths = [], []
    for prompt in range(count):
        left, right = drawn.sample(NAMES, 2)
        sizes = (drawn.randint(20, 400), drawn.randint(20, 400))
        logit = strengths[left] - strengths[right] + length_weight * (sizes[0] - sizes[1]) / sum(sizes)
        battles.append(Battle(prompt, left, right, "left" if drawn.random() < 1 / (1 + np.exp(-logit)) else "right"))
        lengths.append(sizes)
    return battles, lengths


def test_coefficients_are_those_of_sklearn_without_regularisation():
    battles, lengths = draw_battles(300, strengths={"a": 1.0, "b": 0.0, "c": -1.0}, length_weight=2.0)
    design, points = make_design(battles, lengths, NAMES)
    ours = fit(design, points, np.ones(len(battles)), prior_ties=0.0)
    # Without c's column: its strength is the zero that sklearn's are measured from.
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design[:, [0, 1, 3]], points)
    expected = theirs.coef_[0]
    # Ours has a normal prior of variance 100 on the length's weight, which moves it by a ten thousandth.
    assert ours[0] - ours[2] == pytest.approx(expected[0], abs=2e-3) and ours[1] - ours[2] == pytest.approx(expected[1], abs=2e-3)
    assert ours[3] == pytest.approx(expected[2], abs=2e-3)


def test_a_tie_is_half_a_win_of_each_as_in_sklearn_with_both_rows_weighted_half():
    battles, lengths = draw_battles(200, strengths={"a": 0.5, "b": 0.0, "c": -0.5}, length_weight=1.0)
    battles = [battle._replace(winner="tie") if battle.prompt % 4 == 0 else battle for battle in battles]
    design, points = make_design(battles, lengths, NAMES)
    ours = fit(design, points, np.ones(len(battles)), prior_ties=0.0)
    twice, labels = np.concatenate([design, design]), np.concatenate([np.ones(len(points)), np.zeros(len(points))])
    weights = np.concatenate([points, 1 - points])
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    expected = theirs.fit(twice[:, [0, 1, 3]], labels, sample_weight=weights).coef_[0]
    assert [ours[0] - ours[2], ours[1] - ours[2], ours[3]] == pytest.approx(list(expected), abs=2e-3)


def test_a_model_that_only_wins_by_length_loses_its_lead_when_length_is_taken_out():
    drawn = random.Random(3)
    battles, lengths = [], []
    for prompt in range(400):
        sizes = (drawn.randint(200, 300), drawn.randint(80, 220))
        longer_wins = drawn.random() < 1 / (1 + np.exp(-4 * (sizes[0] - sizes[1]) / sum(sizes)))
        battles.append(Battle(prompt, "long", "short", "left" if longer_wins else "right"))
        lengths.append(sizes)
    plain = {one.name: one.rating.value for one in rate(battles, seed=0, num_resamples=0).standings}
    controlled = rate_with_lengths(battles, lengths, seed=0, num_resamples=50)
    fair = {name: rating.value for name, rating in controlled.ratings}
    assert plain["long"] - plain["short"] > 100
    assert abs(fair["long"] - fair["short"]) < 0.4 * (plain["long"] - plain["short"])
    assert controlled.length_points.low > 0


def test_with_answers_of_one_length_the_ratings_are_plain_bradley_terry():
    battles, _ = draw_battles(120, strengths={"a": 1.0, "b": 0.0, "c": -1.0}, length_weight=0.0)
    controlled = rate_with_lengths(battles, [(50, 50)] * len(battles), seed=0, num_resamples=0, prior_ties=1.0)
    plain = rate(battles, seed=0, num_resamples=0, prior_ties=1.0)
    assert {name: rating.value for name, rating in controlled.ratings} == pytest.approx(
        {one.name: one.rating.value for one in plain.standings}, abs=1e-4
    )


def test_an_undefeated_model_has_a_finite_rating_with_a_prior_and_its_interval_is_wide():
    battles = [Battle(prompt, "a", "b", "left") for prompt in range(3)]
    rated = rate(battles, seed=0, num_resamples=200, prior_ties=1.0)
    best = rated.standings[0]
    # Three wins and one tie are 3.5 points of 4: odds of seven to one.
    assert best.name == "a" and best.rating.value == pytest.approx(1000 + 200 * np.log10(7), abs=1e-6)
    assert (best.wins, best.ties, best.losses, best.rating.count) == (3, 0, 0, 3)


def test_pairs_that_met_often_or_are_decided_are_worth_less_than_new_and_open_ones():
    votes = [(("a", "b"), (1, 2), 10), (("b", "c"), (1, 2), 5), (("b", "c"), (2, 1), 5)]
    decided, open_, new = contest_weights(votes, [("a", "b"), ("b", "c"), ("a", "c")])
    assert decided < open_ < new
    assert contest_weights(votes, [("a", "b", "c")]) == pytest.approx([decided + open_ + new])
