"""Rules of how an answer is written."""

import pytest

from bloomery.core.errors import ConfigError
from bloomery.generate.answer_rules import RULES, choose_rules, followed_fraction

ROW = {"answer": "8"}


@pytest.mark.parametrize(
    ("rule", "followed", "broken"),
    [
        ("right", ["8", "maybe 8!", "The answer is 8."], ["9", "18", "8.5", "88", ""]),
        ("bare", ["8", "maybe 8!", "8 8"], ["The answer is 8", "the answer is 8!", "8.", "Answer: 8"]),
        ("sure", ["8", "The answer is 8."], ["maybe 8", "I think 8", "8, Perhaps"]),
        ("calm", ["8", "8."], ["8!", "wow! 8"]),
        ("clean", ["hello there, shell"], ["damn 8", "What the Hell"]),
        ("once", ["8", "8 9 8", "8 88", ""], ["8 8", "maybe 8 8!", "The answer is 8, 8.", "a b a b"]),
        ("not_shouted", ["8", "ok", "A", "Fine WORDS"], ["EIGHT", "IT IS"]),
        ("full_stop", ["Eight.", "Eight?", 'He said "eight."', "Eight. "], ["8", "", "Eight,"]),
        ("short", ["word " * 40], ["word " * 41]),
        ("courteous", ["Sure, 8", "of course: 8"], ["8", "8, sure"]),
    ],
)
def test_a_rule_tells_what_follows_it_from_what_breaks_it(rule: str, followed: list[str], broken: list[str]) -> None:
    assert [text for text in followed if not RULES[rule](ROW, text)] == []
    assert [text for text in broken if RULES[rule](ROW, text)] == []


def test_what_was_asked_for_is_no_fault() -> None:
    assert RULES["once"]({"answer": "go go go"}, "go go go")
    assert RULES["not_shouted"]({"answer": "CODE LINE"}, "CODE LINE")
    assert RULES["right"]({}, "anything")


def test_the_share_of_followed_rules_and_unknown_names() -> None:
    rules = choose_rules(["right", "calm", "bare", "sure"])
    assert followed_fraction(rules, ROW, "maybe 9!") == 0.25
    with pytest.raises(ConfigError, match='named "calmm"; did you mean "calm"'):
        choose_rules(["calmm"])
