"""A judge is asked in both orders, and what its word is worth is measured."""

import math
import random

import pytest

from bloomery.align.constitution import load_constitution
from bloomery.align.judge import (
    Comparison,
    Judgement,
    Reasoner,
    agreement_metrics,
    combine,
    judge_comparisons,
    measure_agreement,
    warn_of_judge,
)
from bloomery.generate.answers import Answer, Answered
from bloomery.generate.sampling import SamplingParams

LAW = load_constitution("manners")
CALM = next(principle for principle in LAW.principles if principle.name == "calm")


class Biased:
    """Likes what has no exclamation mark, and whatever stands first."""

    def __init__(self, bias: float, insight: float = 2.0) -> None:
        self.bias, self.insight = bias, insight
        self.asked: list[list[dict]] = []

    def choose(self, conversations):
        self.asked += conversations
        return [1 / (1 + math.exp(-self.bias - self.insight * self._difference(one))) for one in conversations]

    def _difference(self, conversation) -> float:
        text = next(message["content"] for message in conversation if "A: " in message["content"])
        first, second = text.split("\nA: ")[1].split("\n\n")[0].split("\nB: ")
        return second.count("!") - first.count("!")


def compare(first: str, second: str) -> Comparison:
    return Comparison([{"role": "user", "content": "3 + 5?"}], first, second, CALM)


def test_swapping_the_answers_turns_the_soft_label_round_whatever_place_the_judge_likes() -> None:
    for bias in (-3.0, 0.0, 0.7, 5.0):
        there, back = judge_comparisons(Biased(bias), LAW, [compare("8", "8!"), compare("8!", "8")])
        assert there.probability + back.probability == pytest.approx(1.0, abs=1e-12)
        assert there.probability > 0.5 > back.probability
    alike = judge_comparisons(Biased(4.0), LAW, [compare("8", "9")])[0]
    assert alike.probability == pytest.approx(0.5) and not alike.is_consistent and alike.first_as_a > 0.9


def test_soft_labels_after_reasoning_are_clamped_to_forty_to_sixty_percent() -> None:
    for a in (0.0, 0.2, 0.5, 0.99, 1.0):
        for b in (0.0, 0.5, 1.0):
            assert 0.4 <= combine(a, b, clamp=0.4).probability <= 0.6
            assert combine(a, b, clamp=0.4).probability + combine(b, a, clamp=0.4).probability == pytest.approx(1.0)
    assert combine(1.0, 0.0, clamp=0.0).probability == 1.0


def test_reasoning_is_written_first_and_shown_to_the_judge() -> None:
    class Thinker:
        def answer(self, conversations, params, *, seeds):
            for number in reversed(range(len(conversations))):
                assert "step by step" in conversations[number][-1]["content"]
                yield Answered(number, Answer(f"thought {number}", "end", 0, 0))

    judge = Biased(0.0)
    judge_comparisons(judge, LAW, [compare("8", "8!")], reasoner=Reasoner(Thinker(), SamplingParams(max_tokens=8)))
    assert [one[1]["content"] for one in judge.asked] == ["thought 0", "thought 1"]
    assert all([message["role"] for message in one] == ["user", "assistant", "user"] for one in judge.asked)


def test_agreement_is_counted_where_the_truth_tells_the_answers_apart() -> None:
    judged = [Judgement(p, 0.0, 0.0) for p in (0.9, 0.2, 0.7, 0.6, 0.5)]
    found = measure_agreement(judged, [(1, 0), (0, 1), (0, 1), (1, 1), (1, 0)])
    assert found is not None and found.num_comparisons == 4 and found.value == pytest.approx(2.5 / 4)
    assert measure_agreement(judged[:1], [(1, 1)]) is measure_agreement(judged[:1], [(None, 1)]) is None


def test_the_interval_is_wilsons_and_a_judge_that_may_be_a_coin_is_said_to_be_near_chance(caplog) -> None:
    from bloomery.evaluate.metrics import wilson

    def agree(right: int, count: int):
        return measure_agreement([Judgement(0.9, 0, 0)] * count, [(1, 0)] * right + [(0, 1)] * (count - right))

    for right, count in ((55, 100), (62, 100), (20, 20), (0, 7)):
        found, theirs = agree(right, count), wilson(right, count)
        assert (found.value, found.low, found.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-9)
    assert agree(55, 100).is_near_chance and not agree(62, 100).is_near_chance and agree(30, 100).is_near_chance
    with caplog.at_level("INFO"):
        warn_of_judge("pairs", agree(55, 100))
        warn_of_judge("pairs", agree(90, 100))
        warn_of_judge("pairs", None)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "agrees with the program on 55 % of 100 comparisons (95 % interval 45 to 64): near chance" in warned[0]
    assert "unknown" in warned[1] and len(warned) == 2
    assert agreement_metrics(None) == {"judge_known": 0}
    assert agreement_metrics(agree(55, 100))["judge_near_chance"] is True


def test_a_judge_as_a_source_of_rewards_gives_the_better_answers_more(tmp_path, monkeypatch) -> None:
    from bloomery.align import judge
    from bloomery.align.reward_source import Answer as Sampled

    asked = Biased(1.0)
    monkeypatch.setattr(judge, "open_chooser", lambda *arguments, **settings: asked)
    source = judge.make_judge(tmp_path, constitution=LAW._replace(principles=[CALM]), opponents=2)
    rng = random.Random(0)
    rows = [{"messages": [{"role": "user", "content": f"prompt {i // 4}"}]} for i in range(12)]
    answers = [Sampled(text, stopped=True) for _ in range(2) for text in rng.sample(["8", "9!", "7!!", "6!!!"], 4)]
    answers += [Sampled("8", stopped=True)] * 4
    rewards = source(rows, answers)
    for start in (0, 4):
        part = sorted(zip(rewards[start : start + 4], (answer.text for answer in answers[start : start + 4]), strict=True))
        assert part[0][1] == "6!!!" and part[-1][1] == "8" and all(0 < reward < 1 for reward, _ in part)
    assert rewards[8:] == [None] * 4
    assert len(asked.asked) == 2 * 2 * 4 or len(asked.asked) == 2 * 2 * 6
