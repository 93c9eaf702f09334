"""Signals that a reader can check by head, and rules that drop what they say and nothing else."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.documents import document_table
from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.rules import RULE_SETS, Rule, apply_rules, choose_rules, find_broken
from bloomery.curate.signal_names import SIGNALS
from bloomery.curate.signals import add_signals

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


def test_ordinary_prose_passes():
    assert broken_by({"text": PROSE}) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to learn from, and that is all.", "too_few_words"),
        ("word " * 100_001, "too_many_words"),
        ("a b c d e f g " * 20, "short_words"),
        ("incomprehensibilities counterrevolutionaries " * 30, "long_words"),
        (PROSE + " #tag" * 30, "too_many_hashes"),
        (PROSE.replace(",", "...") * 2 + " and ... so on" * 20, "too_many_ellipses"),
        (PROSE.replace("\n", "\n- ").removesuffix("- ").replace("The furnace", "- The furnace", 1), "too_many_bullets"),
        (PROSE.replace(".\n", "...\n"), "too_many_ellipsis_lines"),
        (PROSE + " 12345" * 30, "too_few_alphabetic"),
        ("furnace charcoal ore slag iron bloom hammer " * 10, "too_few_stop_words"),
        ("\n".join([line for line in PROSE.split("\n") if line] * 3), "duplicate_lines"),
        ((PROSE + "\n\n") * 3, "duplicate_paragraphs"),
        (PROSE[:207] + "\n\n" + "\n\n".join(["a b", "c d", "e f", "g h", PROSE[:207]]), "duplicate_paragraph_characters"),
        (PROSE + "a b\nc d\ne f\ng h\ni j\n" + PROSE[:207], "duplicate_line_characters"),
        (PROSE + PROSE[:190].replace("\n", " "), "duplicate_5_grams"),
    ],
)
def test_a_document_is_dropped_by_the_rule_made_for_it(text, rule):
    assert broken_by({"text": text}) == rule


@pytest.mark.parametrize(("text", "language"), [(CHINESE, "zh"), (JAPANESE, "ja"), (THAI, "th")])
def test_scripts_without_spaces_are_not_dropped_for_having_no_words(text, language):
    row = {"text": text, "language": language}
    sets = ("language", "gopher_quality", "fineweb", "mission")
    assert broken_by(row, sets=sets, languages=()) is None
    assert broken_by({**row, "text": text[:40]}, languages=()) == "too_few_characters"
    # Not even where the language was guessed wrong: the script decides.
    assert broken_by({**row, "language": None}, sets=sets, languages=()) is None


def test_repetition_is_judged_fairly_in_scripts_without_spaces():
    once = CHINESE[: len(CHINESE) // 4] + "铸铁则要在更高的炉温下才能得到,它又硬又脆,不能锻打,只能浇铸成器,后来人们又学会了把它炒成熟铁。"
    row = {"text": once, "language": "zh"}
    assert broken_by(row, sets=("gopher",), languages=()) is None
    assert broken_by({**row, "text": once + once[:60]}, sets=("gopher",), languages=()) == "duplicate_5_grams"


def test_stop_words_are_asked_of_languages_whose_stop_words_are_known():
    german = "Der Ofen wird mit Holzkohle und Eisenerz gefüllt, dann wird einen ganzen Tag lang Luft in den Ofen geblasen. " * 4
    assert broken_by({"text": german, "language": "de"}, sets=("gopher_quality",)) is None
    assert broken_by({"text": german, "language": "en"}, sets=("gopher_quality",)) == "too_few_stop_words"
    assert broken_by({"text": german, "language": "la"}, sets=("gopher_quality",)) is None


def test_languages_not_asked_for_and_uncertain_ones_are_dropped_first():
    assert broken_by({"text": PROSE, "language": "de"}) == "wrong_language"
    assert broken_by({"text": "short", "language": None}) == "wrong_language"
    assert broken_by({"text": PROSE, "language_score": 0.5}) == "uncertain_language"
    assert broken_by({"text": PROSE, "language": "de"}, sets=("language",), languages=("de", "en")) is None
    assert broken_by({"text": PROSE, "language": "xx"}, languages=()) is None


def test_a_value_equal_to_its_threshold_passes():
    assert broken_by({"text": PROSE, "language_score": 0.65}) is None
    words = len(PROSE.split())  # as many as words without punctuation
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


def test_every_rule_is_on_a_signal_that_is_measured_and_means_one_thing():
    rules: dict[str, Rule] = {}
    for rule in (rule for rules in RULE_SETS.values() for rule in rules):
        assert rules.setdefault(rule.name, rule) == rule, "one name, one rule, in whatever set"
    given_elsewhere = {"language_listed", "language_score", "perplexity_bucket", "bad_words"}
    assert {rule.signal for rule in rules.values()} <= set(SIGNALS) | given_elsewhere


# What each of datatrove 0.10.1's filters, run with one threshold at a time, drops of these texts.
DATATROVE = {
    PROSE: "too_few_sentences few_long_lines",
    "Too short to learn from, and that is all.": "too_few_words top_2_grams top_3_grams top_4_grams too_few_sentences few_long_lines",
    PROSE + " #tag" * 30: "too_many_hashes too_few_alphabetic top_2_grams top_3_grams top_4_grams duplicate_5_grams duplicate_6_grams "
    "duplicate_7_grams duplicate_8_grams duplicate_9_grams duplicate_10_grams too_few_sentences few_long_lines",
    "\n".join(f"Item {i}" for i in range(60)): "short_words too_few_alphabetic too_few_stop_words too_few_sentences few_long_lines "
    "few_line_ends short_lines too_many_newlines",
    ("We sing of the iron and of the slag, we sing of it.\n\n" + PROSE) * 2: "duplicate_lines duplicate_line_characters duplicate_5_grams "
    "duplicate_6_grams duplicate_7_grams duplicate_8_grams duplicate_9_grams duplicate_10_grams few_long_lines repeated_lines",
    "\n\n".join(["The iron of it is here.", "And that is good to have."] * 4 + [PROSE]): "duplicate_lines duplicate_paragraphs "
    "duplicate_line_characters duplicate_paragraph_characters duplicate_5_grams duplicate_6_grams duplicate_7_grams duplicate_8_grams "
    "duplicate_9_grams duplicate_10_grams few_long_lines repeated_lines",
    PROSE + "The {iron} of it is here, and that is good.\n": "curly_bracket few_long_lines",
    PROSE + "Here stands lorem ipsum, and nothing else is to be had.\n": "lorem_ipsum few_long_lines",
    "Home\nAbout us\nContact\n" * 8 + PROSE: "duplicate_lines duplicate_line_characters top_4_grams duplicate_5_grams duplicate_6_grams "
    "duplicate_7_grams duplicate_8_grams duplicate_9_grams duplicate_10_grams too_few_sentences few_long_lines short_lines repeated_lines",
    "the iron bloom " * 70: "too_few_stop_words top_2_grams top_3_grams top_4_grams duplicate_5_grams duplicate_6_grams "
    "duplicate_7_grams duplicate_8_grams duplicate_9_grams duplicate_10_grams too_few_sentences few_long_lines few_line_ends",
}


@pytest.mark.parametrize(("text", "expected"), list(DATATROVE.items()))
def test_rules_drop_what_datatrove_drops(text, expected):
    rules = choose_rules(("gopher", "c4", "mc4", "fineweb"), thresholds={})
    assert sorted(find_broken(documents({"text": text}), rules, languages=())[0]) == sorted(expected.split())


def test_thresholds_of_a_language_replace_those_of_all():
    rules = choose_rules(("language",), thresholds={})
    table = documents({"text": PROSE, "language": "de", "language_score": 0.68}, {"text": PROSE, "language_score": 0.68})
    verdicts = apply_rules(table, rules, languages=(), language_thresholds={"de": {"uncertain_language": 0.7}})
    assert verdicts.keep.to_pylist() == [False, True]
    assert verdicts.ledger.to_pylist()[0]["threshold"] == 0.7


def test_a_rule_of_ones_own_reads_any_signal_and_passes_documents_without_a_value():
    table = documents({"text": PROSE}, {"text": PROSE}, {"text": PROSE})
    table = table.append_column("signal_dull", pa.array([0.9, None, 0.1], pa.float64()))
    mine = Rule(name="too_dull", signal="dull", drops="above", threshold=0.5)
    verdicts = apply_rules(table, choose_rules((), thresholds={}, extra=[mine]), languages=())
    assert verdicts.keep.to_pylist() == [False, True, True]
    with pytest.raises(ConfigError, match='named "too_few_words" already'):
        choose_rules(("gopher",), thresholds={}, extra=[mine.model_copy(update={"name": "too_few_words"})])


def test_a_signal_that_nobody_measured_is_named():
    with pytest.raises(DataError, match=r'"perplexity_tail" needs signal_perplexity_bucket.*scorers'):
        apply_rules(documents({"text": PROSE}), choose_rules(("ccnet",), thresholds={}), languages=())


def test_every_document_is_judged_on_all_rules_for_later_questions():
    table = documents({"text": "a b c", "language": "de"}, {"text": PROSE})
    judged = apply_rules(table, choose_rules(("language", "gopher_quality"), thresholds={}), languages=("en",)).judged.to_pylist()
    assert [row["rule"] for row in judged] == ["wrong_language", None]
    assert judged[0]["broken"] == ["wrong_language", "too_few_words", "short_words", "too_few_stop_words"] and judged[1]["broken"] == []
    assert judged[0]["signal_words"] == 3 and "text" not in judged[0]
