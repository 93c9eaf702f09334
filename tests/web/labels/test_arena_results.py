"""What votes become on the results tab: battles, and agreement that does not take a good model for chance."""

from bloomery.web.arena.results import agreement_record, battles_of
from bloomery.web.labels.reading import Judgement


def judged(item, annotator, choice, ranks, models=("good", "poor")):
    return Judgement(item, item, annotator, list(models), [10] * len(models), choice, ranks)


def test_annotators_who_always_prefer_the_same_model_agree():
    votes = [judged(item, name, "a", [1, 2]) for item in range(40) for name in ("ann", "bob")]
    found = agreement_record(votes)
    assert found["krippendorff_alpha"] == {"value": 1.0, "items": 40}
    assert found["cohen_kappa"] == [{"annotators": ["ann", "bob"], "value": 1.0, "items": 40}]


def test_annotators_who_never_prefer_the_same_answer_disagree():
    votes = [judged(item, "ann", "a", [1, 2]) for item in range(40)] + [judged(item, "bob", "b", [2, 1]) for item in range(40)]
    assert agreement_record(votes)["krippendorff_alpha"]["value"] < -0.9


def test_a_ranking_is_a_battle_and_a_judgement_of_every_two_answers():
    votes = [judged(0, name, "ranking", [1, 2, 2], models=("x", "y", "z")) for name in ("ann", "bob")]
    battles, _ = battles_of(votes)
    assert [(one.left, one.right, one.winner) for one in battles] == 2 * [("x", "y", "left"), ("x", "z", "left"), ("y", "z", "tie")]
    assert agreement_record(votes)["fleiss_kappa"]["items"] == 3
