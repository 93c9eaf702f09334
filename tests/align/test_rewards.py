from collections.abc import Sequence
from typing import Any

import pytest

from bloomery.align.reward_source import Answer, RewardSource
from bloomery.align.rewards import (
    MALFORMED,
    RIGHT,
    UNFINISHED,
    WELL_FORMED,
    RewardSpec,
    RewardSum,
    make_rewards,
    verifier_reward,
)
from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError

NUMBER = {"answer": "12", "format": r"-?\d+"}
LIST = {"answer": "file list", "format": r"[a-z]+( [a-z]+)*"}
JSON = {"answer": '["file", "list"]', "format": r'\["[a-z]+"(, "[a-z]+")*\]'}


@pytest.mark.parametrize(
    ("row", "text", "reward"),
    [
        (NUMBER, "12", RIGHT),
        (NUMBER, "13", WELL_FORMED),
        (NUMBER, "-12", WELL_FORMED),
        (NUMBER, "121", WELL_FORMED),
        (NUMBER, "The answer is 12", MALFORMED),
        (NUMBER, "12 12", MALFORMED),
        (NUMBER, "12.", MALFORMED),
        (NUMBER, "twelve", MALFORMED),
        (NUMBER, "", MALFORMED),
        (LIST, "file list", RIGHT),
        (LIST, "list file", WELL_FORMED),
        (LIST, "file", WELL_FORMED),
        (LIST, "file list file", WELL_FORMED),
        (LIST, "file, list", MALFORMED),
        (LIST, "File List", MALFORMED),
        (LIST, "file\nlist", MALFORMED),
        (JSON, '["file", "list"]', RIGHT),
        (JSON, '["list", "file"]', WELL_FORMED),
        (JSON, '["file", "list"', MALFORMED),
        (JSON, "['file', 'list']", MALFORMED),
    ],
)
def test_a_finished_answer_is_worth_what_its_format_and_content_say(row: dict[str, str], text: str, reward: float) -> None:
    assert verifier_reward([row], [Answer(text, stopped=True)]) == [reward]


def test_an_endless_answer_is_worth_least_even_if_it_is_right() -> None:
    assert verifier_reward([NUMBER] * 2, [Answer("12", stopped=False), Answer("x", stopped=False)]) == [UNFINISHED, UNFINISHED]


def test_rewards_come_in_the_order_of_the_answers() -> None:
    answers = [Answer("13", stopped=True), Answer("12", stopped=True), Answer("?", stopped=True)]
    assert verifier_reward([NUMBER] * 3, answers) == [WELL_FORMED, RIGHT, MALFORMED]


def test_better_kinds_of_answers_are_worth_more() -> None:
    assert RIGHT > WELL_FORMED > MALFORMED > UNFINISHED


def given(values: Sequence[float | None]) -> RewardSource:
    return lambda rows, answers: list(values)


def sum_of(*parts: tuple[RewardSpec, Sequence[float | None]]) -> Any:
    return RewardSum([spec for spec, _ in parts], [given(values) for _, values in parts])


def spec(name: str, **settings: Any) -> RewardSpec:
    return RewardSpec(source="verifier", name=name, **settings)


def test_a_sum_is_weighted_and_keeps_its_parts_as_they_were_given() -> None:
    scores = sum_of((spec("a", weight=2.0), [1.0, 0.5]), (spec("b", weight=-0.5, clip=1.0), [4.0, -4.0]))([{}] * 2, [Answer("", True)] * 2)
    assert scores.total == [1.5, 1.5]
    assert scores.parts == {"a": [1.0, 0.5], "b": [4.0, -4.0]}


def test_a_part_without_an_opinion_counts_nothing_and_an_answer_without_any_is_left_out() -> None:
    scores = sum_of((spec("a"), [1.0, None, None]), (spec("b"), [1.0, 3.0, None]))([{}] * 3, [Answer("", True)] * 3)
    assert scores.total == [2.0, 3.0, None]


def test_whitening_takes_mean_and_size_from_the_answers_that_were_judged() -> None:
    scores = sum_of((spec("a", whiten="batch"), [1.0, None, 5.0, 3.0, 3.0]))([{}] * 5, [Answer("", True)] * 5)
    assert scores.total == [pytest.approx(-(2**0.5)), None, pytest.approx(2**0.5), 0.0, 0.0]
    assert sum_of((spec("a", whiten="batch"), [0.1, 0.1, 0.1]))([{}] * 3, [Answer("", True)] * 3).total == [0.0, 0.0, 0.0]


def test_sources_that_cannot_be_told_apart_or_count_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 sources, of which several are called verifier"):
        make_rewards([RewardSpec(source="verifier")] * 2)
    with pytest.raises(ConfigError, match="no source is named"):
        make_rewards([])
    assert "list it under `gold`" in check_config(RewardSpec, {"source": "verifier", "weight": 0})[1][0]
    with pytest.raises(ConfigError, match='"verifier" gave 1 numbers for 2 answers'):
        RewardSum([RewardSpec(source="verifier")], [given([1.0])])([{}] * 2, [Answer("", True)] * 2)
    assert make_rewards([RewardSpec(source="verifier")])([NUMBER], [Answer("12", True)]).total == [RIGHT]


def of(answers: Sequence[Answer], source: str, **settings: Any) -> list[float | None]:
    rewards = make_rewards([RewardSpec.model_validate({"source": source, **settings})])
    return rewards([{}] * len(answers), answers).total


def test_an_answer_pays_for_its_length_only_near_the_limit() -> None:
    answers = [Answer("a", True, count) for count in (10, 80, 85, 100, 200)]
    assert of(answers, "length", max_length=100, buffer_length=20) == [0.0, 0.0, -0.25, -1.0, -1.0]
    assert of([Answer("one two three", True)], "length", unit="words", max_length=2) == [-1.0]
    assert of([Answer("one two three", True)], "length", unit="characters", max_length=26, buffer_length=26) == [-0.5]
    with pytest.raises(DataError, match="'one' came without its number of tokens"):
        of([Answer("one", True)], "length", max_length=10)


def test_an_answer_pays_for_saying_the_same_again_and_earns_for_ending() -> None:
    texts = ["a b c a b c", "a b c d", "a a a a a", "", "a"]
    assert of([Answer(text, True) for text in texts], "repetition") == [-0.25, 0.0, pytest.approx(-2 / 3), 0.0, 0.0]
    assert of([Answer("a", True), Answer("a", False)], "stopped", weight=0.5) == [0.5, 0.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "exact", "tolerance": 0.1}, 'source = "exact" does not read tolerance; its settings are: column, where, compare'),
        ({"source": "stopped", "max_length": 3}, "its settings are: none of its own"),
        ({"source": "exact", "where": "last"}, 'for source = "exact" it is "final" or "whole"'),
        ({"source": "length", "max_length": 5, "buffer_length": 9}, "max_length = 5 with buffer_length = 9"),
        ({"source": "format", "pattern": "("}, "is not a regular expression"),
        ({"source": "judged"}, "source"),
    ],
)
def test_settings_that_a_source_does_not_have_are_refused(values: dict[str, Any], message: str) -> None:
    assert message in check_config(RewardSpec, values)[1][0]


def test_a_reward_model_that_is_not_among_the_inputs_is_refused() -> None:
    with pytest.raises(ConfigError, match='"model" is number 1 of the input `reward_models`, from 0; there are 0'):
        make_rewards([RewardSpec(source="model", model=1)])


def test_a_judge_that_nobody_named_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="a judge is needed: give the input `judge`"):
        make_rewards([RewardSpec(source="judge", constitution="manners", opponents=1)])


def test_a_specification_names_the_columns_it_needs_and_itself() -> None:
    assert RewardSpec(source="number").needed_columns == ("answer",)
    assert RewardSpec(source="number", column="gold").needed_columns == ("gold",)
    assert RewardSpec(source="format", pattern="a").needed_columns == () == RewardSpec(source="model").needed_columns
    assert RewardSpec(source="function", function="f").part == "f" and RewardSpec(source="function", name="n", function="f").part == "n"


def test_rules_of_writing_are_a_reward_by_the_share_that_is_followed() -> None:
    source = make_rewards([RewardSpec(source="rules", rules=["right", "calm", "bare", "sure"])])
    texts = ["8", "8!", "maybe 9!", "The answer is 8."]
    scores = source([{"messages": [{"role": "user", "content": "3 + 5?"}], "answer": "8"}] * 4, [Answer(text, True) for text in texts])
    assert scores.total == [1.0, 0.75, 0.25, 0.75]
    with pytest.raises(ValueError, match="needs the names of some"):
        RewardSpec(source="rules")
    with pytest.raises(ValueError, match='did you mean "calm"'):
        RewardSpec(source="rules", rules=["calmm"])
