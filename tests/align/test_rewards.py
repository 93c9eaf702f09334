import pytest

from bloomery.align.rewards import MALFORMED, RIGHT, UNFINISHED, WELL_FORMED, Answer, verifier_reward

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
    assert verifier_reward(row, [Answer(text, stopped=True)]) == [reward]


def test_an_endless_answer_is_worth_least_even_if_it_is_right() -> None:
    assert verifier_reward(NUMBER, [Answer("12", stopped=False), Answer("x", stopped=False)]) == [UNFINISHED, UNFINISHED]


def test_rewards_come_in_the_order_of_the_answers() -> None:
    answers = [Answer("13", stopped=True), Answer("12", stopped=True), Answer("?", stopped=True)]
    assert verifier_reward(NUMBER, answers) == [WELL_FORMED, RIGHT, MALFORMED]


def test_better_kinds_of_answers_are_worth_more() -> None:
    assert RIGHT > WELL_FORMED > MALFORMED > UNFINISHED
