"""Signals that a reader can check by head, and formulas against plain Python."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.documents import document_table
from bloomery.curate.signal_names import SIGNALS, STOP_WORDS
from bloomery.curate.signals import add_signals


def signals_of(text: str, *, language: str = "en") -> dict[str, Any]:
    row = add_signals(document_table([{"id": "0", "text": text, "language": language}])).to_pylist()[0]
    return {name: row[f"signal_{name}"] for name in SIGNALS}


def test_signals_of_a_text_that_can_be_counted_by_head():
    text = "- The cat and 3 dogs…\n- The cat and 3 dogs…\n\nEND #1"
    repeated = len("- The cat and 3 dogs…")
    signals = signals_of(text)
    assert {name: value for name, value in signals.items() if value} == {
        "length": len(text),
        "characters": 16 + 16 + 5,
        "words": 12,  # The cat and 3 dogs, twice; END, 1
        "mean_word_characters": pytest.approx((3 + 3 + 3 + 1 + 4 + 3 + 3 + 3 + 1 + 4 + 3 + 1) / 12),
        "hash_word_ratio": pytest.approx(1 / 17),  # the bullets, ellipses and the hash sign are five more
        "ellipsis_word_ratio": pytest.approx(2 / 17),
        "alphabetic_word_fraction": pytest.approx(9 / 17),
        "stop_words": 1,  # "and", but not "The"
        "lines": 3,
        "bullet_line_fraction": pytest.approx(2 / 3),
        "ellipsis_line_fraction": pytest.approx(2 / 3),
        "duplicate_line_fraction": pytest.approx(1 / 3),
        "duplicate_line_character_fraction": pytest.approx(repeated / len(text)),
        "top_2_gram_character_fraction": pytest.approx(2 * len("- The") / len(text)),
        "top_3_gram_character_fraction": pytest.approx(2 * len("- The cat") / len(text)),
        "top_4_gram_character_fraction": pytest.approx(2 * len("- The cat and") / len(text)),
        "duplicate_5_gram_character_fraction": pytest.approx(len("-Thecatand3") / len(text)),
        "duplicate_6_gram_character_fraction": pytest.approx(len("-Thecatand3dogs") / len(text)),
        "duplicate_7_gram_character_fraction": pytest.approx(len("-Thecatand3dogs…") / len(text)),
        "third_longest_line_characters": len("END #1"),
        "short_line_fraction": 1,
        "repeated_line_character_fraction": pytest.approx(repeated / (len(text) - 3)),
        "newline_word_ratio": pytest.approx(3 / 17),
        "uppercase_line_fraction": pytest.approx(1 / 3),
        "refinedweb_word_fraction": pytest.approx(2 / 14),
        "few_word_line_fraction": pytest.approx(1 / 3),
        "commonest_word_fraction": pytest.approx(2 / 14),
        "letter_fraction": pytest.approx(29 / len(text)),
        "paragraphs": 2,
    }


def test_lines_that_refinedweb_takes_out_are_told_apart():
    signals = signals_of("BUY IT NOW AND SAVE\n12:30 - 14.50\n3 likes\nMenu\nThe furnace is charged with ore.\n2 more are here.")
    kinds = ("uppercase", "numeric", "counter", "one_word")
    assert [signals[f"{kind}_line_fraction"] for kind in kinds] == [pytest.approx(1 / 6)] * 4
    assert signals["refinedweb_word_fraction"] == pytest.approx((5 + 3 + 2 + 1) / 21)


def test_c4_counts_what_its_line_rules_leave():
    text = (
        "Home page\nThe bloom is hot. It is hammered.[12]\nRead more about it...\nToo short.\nPlease enable JavaScript to read.\n"
        'We use cookies, as most of them do.\nSay {iron} to them.\nLorem Ipsum is here.\nHe said that it was "iron"\n'
    )
    signals = signals_of(text)
    assert signals["c4_kept_line_fraction"] == pytest.approx(4 / 9)
    assert (signals["c4_sentences"], signals["c4_curly_bracket_lines"], signals["c4_lorem_ipsum_lines"]) == (5, 1, 1)


def test_sentences_and_line_ends_are_found_in_other_scripts():
    assert signals_of("这是一句话。这是第二句!还有一句。")["c4_sentences"] == 3
    assert signals_of("लोहा गरम है। उसे पीटा जाता है।")["line_end_fraction"] == 1
    thai = signals_of("เหล็กร้อนมาก ช่างตีเหล็ก แล้วก็เสร็จ", language="th")
    assert thai["line_end_fraction"] == 1 and thai["c4_sentences"] == 3


def test_a_character_counts_twice_for_the_length_of_a_line_without_spaces():
    assert signals_of("块炼铁是古老的炼铁方法矿石在炉中")["short_line_fraction"] == 0  # 16 characters
    assert signals_of("sixteen letters.")["short_line_fraction"] == 1


def test_stop_words_are_those_of_the_language():
    for language, words in STOP_WORDS.items():
        assert len(set(words)) == 8
        assert signals_of(" ".join(words), language=language)["stop_words"] == 8, language
    assert signals_of("the and of", language="de")["stop_words"] == 0
    assert signals_of("the and of", language="la")["stop_words"] == 0


def plain_mission_score(text: str) -> float:
    """The mission documents' QualityFilter.score, but for blank lines, which are not short ones here."""
    words = text.split()
    if not 50 <= len(words) <= 100_000:
        return 0.0
    lines = [line for line in text.split("\n") if line.strip()]
    score = 1.0 - sum(len(line.split()) < 3 for line in lines) / len(lines)
    if Counter(words).most_common(1)[0][1] / len(words) > 0.1:
        score *= 0.5
    if sum(c.isalpha() for c in text) / len(text) < 0.5:
        score *= 0.3
    if len([p for p in text.split("\n\n") if p.strip()]) > 2:
        score *= 1.1
    return min(1.0, score)


WORDS = ("iron", "ore", "slag", "bloom", "air", "hot", "welded", "12345", "é", "—", "blast")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=14), max_size=14))
def test_the_mission_score_is_that_of_its_documents(lines):
    text = "\n".join(" ".join(words) for words in lines)
    assert signals_of(text)["mission_score"] == pytest.approx(plain_mission_score(text))


def test_measuring_in_batches_gives_the_same(monkeypatch):
    table = document_table([{"id": str(i), "text": f"Line {i} of it.\n" * (i % 7), "language": "en"} for i in range(40)])
    whole = add_signals(table)
    monkeypatch.setattr("bloomery.curate.signals._BATCH_BYTES", 100)
    assert add_signals(table).equals(whole)


def test_an_empty_table_and_an_empty_text_have_all_signals():
    assert set(signals_of("").values()) == {0.0}
    assert add_signals(document_table([])).num_columns == document_table([]).num_columns + len(SIGNALS)
