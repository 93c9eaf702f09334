"""What is watched, what is warned of, and the rule that stops."""

import logging
import math

import pytest
import torch

from bloomery.align.episodes import Episode, Episodes, make_episodes
from bloomery.align.monitor import (
    StopRule,
    describe_episodes,
    describe_values,
    distinct_ngrams,
    judge_drift,
    judge_gold,
    largest_drift,
    standard_error,
    warn_of_silence,
)
from bloomery.align.rollouts import Rollout
from bloomery.core.errors import DataError

NAN = math.nan


def episodes_of(answers: list[list[int]], stopped: list[bool] | None = None) -> Episodes:
    stops = stopped or [True] * len(answers)
    return make_episodes([Episode([1], a, [True] * len(a), [-1.0] * len(a), s) for a, s in zip(answers, stops, strict=True)])


def rollout_of(rewards: list[float], *, group_size: int, trained: bool = True) -> Rollout:
    found = episodes_of([[2]] * len(rewards))
    values = {"reward": torch.tensor(rewards, dtype=torch.float64)}
    return Rollout(
        episodes=found, values=values, trained_N=torch.full((len(rewards),), trained), group_size=group_size, carried={}, numbers={}
    )


def curve(*golds: float, error: float = 0.1) -> list[dict[str, float]]:
    return [{"step": 10 * i, "gold": gold, "gold_error": error, "reward": float(i)} for i, gold in enumerate(golds)]


def test_a_run_ends_at_its_best_when_gold_stays_below_it_while_the_trained_reward_rises() -> None:
    rule = StopRule(errors=2.0, checks=2)
    verdict = judge_gold(curve(0.1, 0.5, 0.9, 0.5, 0.4), rule=rule)
    assert verdict.best_step == 20
    assert "fell from 0.9 (step 20) to 0.4, the trained reward from 2 to 4" in verdict.reason


@pytest.mark.parametrize(
    "golds",
    [
        (0.9, 0.5),  # below once only
        (0.9, 0.5, 0.85),  # and up again
        (0.9, 0.7, 0.65),  # not by more than two errors of a difference, 0.28
        (0.1, 0.2, 0.3),  # rising
    ],
)
def test_a_run_goes_on_while_gold_is_not_surely_or_not_long_below_its_best(golds) -> None:
    verdict = judge_gold(curve(*golds), rule=StopRule(errors=2.0, checks=2))
    assert verdict.reason == "" and verdict.best_step == 10 * golds.index(max(golds))


def test_without_gold_or_with_the_rule_turned_off_nothing_stops_a_run() -> None:
    assert judge_gold([{"step": 0}, {"step": 7}], rule=StopRule(2.0, 1)) == (7, "")
    assert judge_gold(curve(0.9, 0.1, 0.1), rule=StopRule(0.0, 1)).reason == ""


def test_a_rollout_in_which_no_group_has_any_spread_warns(caplog) -> None:
    # jsboige/CoursIA #11304: a constant reward trains nothing, and says nothing.
    with caplog.at_level(logging.WARNING):
        warn_of_silence(rollout_of([1.0, 1.0, 0.5, 0.5], group_size=2), 3)
    assert "rollout 3: the 2 answers to each prompt are all worth the same" in caplog.text
    caplog.clear()
    warn_of_silence(rollout_of([1.0, 1.0, 0.5, 0.4], group_size=2), 3)
    assert caplog.text == ""
    warn_of_silence(rollout_of([0.5, 0.5, 0.5], group_size=1), 3)
    assert "rollout 3: all 3 answers are worth the same" in caplog.text
    caplog.clear()
    warn_of_silence(rollout_of([0.5, 0.5, 0.4], group_size=1), 3)
    assert caplog.text == ""
    warn_of_silence(rollout_of([1.0, 0.0], group_size=2, trained=False), 4)
    assert "every answer is left out of the loss" in caplog.text


def test_rewards_that_are_all_unknown_end_the_run() -> None:
    with pytest.raises(DataError, match="rollout 5: none of 2 answers has a reward"):
        warn_of_silence(rollout_of([NAN, NAN], group_size=2), 5)


def test_a_sampler_that_has_drifted_is_an_error_in_float32_and_a_warning_in_bfloat16(caplog) -> None:
    judge_drift(9e-4, dtype=torch.float32, number=1)
    with pytest.raises(DataError, match=r"rollout 1: the sampler's log-probability of a token is 0\.012 nats off"):
        judge_drift(0.012, dtype=torch.float32, number=1)
    with caplog.at_level(logging.WARNING):
        judge_drift(0.012, dtype=torch.bfloat16, number=1)
    assert "0.012 nats off" in caplog.text


def test_drift_is_the_largest_difference_where_something_was_said() -> None:
    one, other = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.5, NAN]])
    assert largest_drift(one, other, torch.tensor([[True, True, False]])).item() == 0.5


def test_answers_are_described_by_length_stops_variety_and_kl_an_answer() -> None:
    found = episodes_of([[5, 6, 7], [5, 6], [5, 6]], [True, False, True])
    logp, reference = torch.full((3, 3), -1.0), torch.full((3, 3), -1.5)
    numbers = describe_episodes(found, logp_NT=logp, reference_NT=reference)
    assert numbers["length"] == pytest.approx(7 / 3) and numbers["stopped"] == pytest.approx(2 / 3)
    assert numbers["length_p95"] == pytest.approx(2.9)
    assert numbers["kl"] == pytest.approx(0.5 * 7 / 3) and numbers["kl_k3"] == pytest.approx((math.exp(-0.5) - 0.5) * 7 / 3, rel=1e-6)
    assert numbers["distinct_1"] == pytest.approx(3 / 7) and numbers["distinct_2"] == pytest.approx(2 / 4)
    assert distinct_ngrams(episodes_of([[5], [6]]), 2) == 1.0


def test_means_are_over_what_is_known_and_parts_are_told_beside_the_total() -> None:
    values = {
        "reward": torch.tensor([1.0, NAN, 3.0]),
        "reward/format": torch.tensor([NAN, NAN, NAN]),
        "gold": torch.tensor([0.0, 1.0, 1.0]),
    }
    found = describe_values(values)
    assert found["reward"] == 2.0 and found["reward_deviation"] == 1.0 and found["gold"] == pytest.approx(2 / 3)
    assert "reward/format" not in found


def test_the_error_of_a_mean_counts_prompts_and_not_answers() -> None:
    alike = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert standard_error(alike, group_size=2) == pytest.approx(torch.tensor([1.0, 0.0, 1.0, 0.0]).std().item() / 2)
    assert standard_error(torch.tensor([1.0, NAN]), group_size=2) == 0.0
