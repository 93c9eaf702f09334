"""Signals that a reader can check by head, and rules that drop what they say and nothing else."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.documents import document_table
from bloomery.core.errors import ConfigError
from bloomery.curate.rules import RULE_SETS, apply_rules, choose_rules
from bloomery.curate.signals import SIGNALS, add_signals

PROSE = (
    "The furnace is charged with charcoal and iron ore, and air is blown into it for the whole of the day.\n"
    "At the end of that time a spongy mass of iron and slag can be drawn out, which the smiths call a bloom.\n"
    "It has to be hammered while it is hot, so that most of the slag runs out of it and the iron is welded.\n"
    "What remains is wrought iron, and those who have worked with it say that nothing else is as forgiving.\n"
)
CHINESE = "块炼铁是一种古老的炼铁方法,矿石在炉中与木炭一起加热,经过还原得到含有炉渣的海绵状铁块,再反复锻打除去炉渣。" * 4
JAPANESE = "たたら製鉄は、砂鉄と木炭を用いて粘土製の炉で鉄を作る日本の伝統的な製鉄法であり、三日三晩にわたって風を送り続ける。" * 3
THAI = "การถลุงเหล็กแบบโบราณใช้ถ่านไม้และแร่เหล็กในเตาดินเหนียวแล้วสูบลมเข้าไปเป็นเวลาหลายชั่วโมงจนได้ก้อนเหล็ก" * 3


def documents(*rows: dict[str, Any]) -> pa.Table:
    return add_signals(document_table([{"id": str(i), "language": "en", "language_score": 0.99, **row} for i, row in enumerate(rows)]))


def broken_by(
    row: dict[str, Any], *, sets: tuple[str, ...] = ("language", "gopher"), languages: tuple[str, ...] = ("en",), **thresholds: float
) -> Any:
    """The rule that drops a document, or None."""
    verdicts = apply_rules(documents(row), choose_rules(sets, thresholds=thresholds), languages=languages)
    rules = verdicts.ledger.column("rule").to_pylist()
    assert verdicts.keep.to_pylist() == [not rules]
    return rules[0] if rules else None


def test_signals_of_a_text_that_can_be_counted_by_head():
    row = documents({"text": "- The cat and 3 dogs…\n- The cat and 3 dogs…\n\nEnd #1"}).to_pylist()[0]
    signals = {name: row[f"signal_{name}"] for name in SIGNALS}
    assert signals == {
        "characters": 16 + 16 + 5,
        "words": 14,
        "mean_word_characters": pytest.approx(37 / 14),
        "symbol_word_ratio": pytest.approx(3 / 14),
        "alphabetic_word_fraction": pytest.approx(9 / 14),
        "stop_words": 2,
        "unspaced_fraction": 0,
        "lines": 3,
        "bullet_line_fraction": pytest.approx(2 / 3),
        "ellipsis_line_fraction": pytest.approx(2 / 3),
        "duplicate_line_fraction": pytest.approx(1 / 3),
        "duplicate_line_byte_fraction": pytest.approx(23 / len("- The cat and 3 dogs…\n- The cat and 3 dogs…\n\nEnd #1".encode())),
    }


def test_ordinary_prose_passes():
    assert broken_by({"text": PROSE}) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to learn from, and that is all.", "too_few_words"),
        ("word " * 100_001, "too_many_words"),
        ("a b c d e f g " * 20, "short_words"),
        ("incomprehensibilities counterrevolutionaries " * 30, "long_words"),
        (PROSE + " #tag" * 30, "too_many_symbols"),
        (PROSE.replace("\n", "\n- ").removesuffix("- ").replace("The furnace", "- The furnace", 1), "too_many_bullets"),
        (PROSE.replace(".\n", "...\n"), "too_many_ellipses"),
        (PROSE + " 12345" * 30, "too_few_alphabetic"),
        ("furnace charcoal ore slag iron bloom hammer " * 10, "too_few_stop_words"),
        ("\n".join([line for line in PROSE.split("\n") if line] * 3), "duplicate_lines"),
        (PROSE + "a b\nc d\ne f\ng h\ni j\n" + PROSE[:207], "duplicate_line_bytes"),
    ],
)
def test_a_document_is_dropped_by_the_rule_made_for_it(text, rule):
    assert broken_by({"text": text}) == rule


@pytest.mark.parametrize(("text", "language"), [(CHINESE, "zh"), (JAPANESE, "ja"), (THAI, "th")])
def test_scripts_without_spaces_are_not_dropped_for_having_no_words(text, language):
    row = {"text": text, "language": language}
    assert broken_by(row, languages=()) is None
    assert broken_by({**row, "text": text[:40]}, languages=()) == "too_few_characters"
    # Not even where the language was guessed wrong: the script decides.
    assert broken_by({**row, "language": None}, languages=()) is None


def test_stop_words_are_asked_of_english_alone():
    german = "Der Ofen wird mit Holzkohle und Eisenerz gefüllt, dann wird einen ganzen Tag lang Luft hineingeblasen. " * 4
    assert broken_by({"text": german.replace(". ", ".\n", 1), "language": "de"}, sets=("gopher",)) is None


def test_languages_not_asked_for_and_uncertain_ones_are_dropped_first():
    assert broken_by({"text": PROSE, "language": "de"}) == "wrong_language"
    assert broken_by({"text": "short", "language": None}) == "wrong_language"
    assert broken_by({"text": PROSE, "language_score": 0.5}) == "uncertain_language"
    assert broken_by({"text": PROSE, "language": "de"}, languages=("de", "en")) is None
    assert broken_by({"text": PROSE, "language": "xx"}, languages=()) is None


def test_a_value_equal_to_its_threshold_passes():
    assert broken_by({"text": PROSE, "language_score": 0.65}) is None
    words = len(PROSE.split())
    assert broken_by({"text": PROSE}, too_few_words=words) is None
    assert broken_by({"text": PROSE}, too_few_words=words + 1) == "too_few_words"


def test_the_ledger_names_the_first_rule_with_value_threshold_and_sample():
    table = documents({"text": "a b c", "url": "http://a.example/"}, {"text": PROSE}, {"text": PROSE, "language": "fr"})
    verdicts = apply_rules(table, choose_rules(("language", "gopher"), thresholds={"too_few_words": 20}), languages=("en",))
    assert verdicts.keep.to_pylist() == [False, True, False]
    first, second = verdicts.ledger.to_pylist()
    assert (first["id"], first["url"], first["rule"], first["value"], first["threshold"]) == (
        "0",
        "http://a.example/",
        "too_few_words",
        3,
        20,
    )
    assert first["text_sample"] == "a b c"
    assert (second["id"], second["rule"], second["detail"]) == ("2", "wrong_language", "fr")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab9#.…-\n 你ไ\x00", max_size=80), max_size=8))
def test_every_document_is_kept_or_in_the_ledger_once(texts):
    table = documents(*({"text": text} for text in texts)) if texts else documents()
    verdicts = apply_rules(table, choose_rules(("language", "gopher"), thresholds={"too_few_words": 3}), languages=("en",))
    kept = table.filter(verdicts.keep).column("id").to_pylist()
    assert sorted(kept + verdicts.ledger.column("id").to_pylist()) == sorted(table.column("id").to_pylist())


def test_measuring_again_changes_nothing():
    table = documents({"text": PROSE})
    assert add_signals(table).equals(table)


def test_unknown_names_are_answered_with_the_nearest_known():
    with pytest.raises(ConfigError, match=r'"too_few_wrds".*did you mean "too_few_words"'):
        choose_rules(("gopher",), thresholds={"too_few_wrds": 3})
    with pytest.raises(ConfigError, match='did you mean "gopher"'):
        choose_rules(("gofer",), thresholds={})


def test_every_rule_is_on_a_signal_that_is_measured_and_has_a_name_of_its_own():
    rules = [rule for rules in RULE_SETS.values() for rule in rules]
    assert {rule.signal for rule in rules} <= set(SIGNALS) | {"language_listed", "language_score"}
    assert len({rule.name for rule in rules}) == len(rules)
