"""Bad words by list, and who appears with what: small texts whose counts a reader can make by hand."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.documents import document_table
from bloomery.core.errors import DataError
from bloomery.core.files import read_jsonl, write_jsonl
from bloomery.curate.bias import ATTRIBUTES, IDENTITIES, BiasConfig, add_counts, bias_table, count_cooccurrences, measure_bias
from bloomery.curate.safety import add_bad_word_signals, load_word_lists

LDNOOBW = Path(__file__).parents[3] / "shared" / "data" / "filters" / "ldnoobw_badwords.jsonl.gz"


@pytest.fixture
def lists(tmp_path):
    rows = [{"lang": "en", "words": ["darn", "rotten apple", "***"]}, {"lang": "de", "words": ["Mist"]}, {"lang": "zh", "words": ["坏蛋"]}]
    write_jsonl(tmp_path / "words.jsonl.gz", rows)
    return load_word_lists([tmp_path / "words.jsonl.gz"])


def bad_words(text, language, lists):
    table = add_bad_word_signals(document_table([{"id": "a", "text": text, "language": language}]), lists)
    return table.column("signal_bad_words")[0].as_py(), table.column("signal_bad_word_fraction")[0].as_py()


@pytest.mark.parametrize(
    ("text", "language", "count"),
    [
        ("Darn! That rotten-apple again, DARN.", "en", 3),
        ("Darned darning rotten pineapple", "en", 0),
        ("So ein Mist", "de", 1),
        ("So ein Mist", "en", 0),
        ("Der Misthaufen", "de", 0),
        ("darn, ein Mist", "de", 2),
        ("你是坏蛋吗", "zh", 1),
        ("你是坏 人蛋", "zh", 0),
        ("rotten\napple", None, 1),
        ("", "en", 0),
    ],
)
def test_whole_words_and_phrases_of_the_documents_language_and_of_english_are_counted(lists, text, language, count):
    assert bad_words(text, language, lists)[0] == count


def test_the_fraction_is_of_all_words(lists):
    assert bad_words("darn it all now", "en", lists) == (1.0, 0.25)


def test_measuring_again_replaces_the_columns(lists):
    table = document_table([{"id": "a", "text": "darn", "language": "en"}])
    once = add_bad_word_signals(table, lists)
    assert add_bad_word_signals(once, lists).equals(once)


def test_a_file_that_is_no_word_list_is_named(tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [{"lang": "en", "words": ["x"]}, {"language": "en"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not a word list.*language"):
        load_word_lists([tmp_path / "bad.jsonl"])


def test_lists_in_27_languages_agree_with_a_plain_search_of_whole_words():
    if not LDNOOBW.exists():
        pytest.skip("the LDNOOBW lists are not here")
    lists = load_word_lists([LDNOOBW])
    assert len(lists) == 27
    rows = {row["lang"]: row["words"] for row in read_jsonl(LDNOOBW)}
    for language in ("en", "de", "fr", "ru"):
        words = [word for word in rows[language] if re.fullmatch(r"\w+", word)][:30]
        text = " and ".join(words)
        table = add_bad_word_signals(document_table([{"id": "a", "text": text, "language": language}]), {language: lists[language]})
        known = {word.lower() for word in rows[language]}
        assert table.column("signal_bad_words")[0].as_py() >= sum(word.lower() in known for word in re.findall(r"\w+", text))


def pairs_of(counts):
    names = [(i, a) for i in IDENTITIES for a in ATTRIBUTES]
    return {name: int(n) for name, n in zip(names, counts.pairs.ravel(), strict=True) if n}


def count(*texts, window=3):
    return count_cooccurrences(pa.chunked_array([pa.array(texts, pa.large_string())]), BiasConfig(window_words=window))


def test_words_inside_the_window_are_pairs_and_others_are_not():
    assert pairs_of(count("She is a nurse.")) == {("women", "nursing"): 1}
    assert pairs_of(count("She is not at all a nurse.")) == {}
    assert pairs_of(count("The nurse and her doctor")) == {("women", "nursing"): 1, ("women", "medicine"): 1}
    assert pairs_of(count("She smiled.", "A nurse.")) == {}


def test_counts_agree_with_plain_loops_and_add_up_over_shards():
    draw = np.random.default_rng(3)
    vocabulary = ["she", "he", "nurse", "beautiful", "muslims", "bomb", "the", "of", "doctor", "stone"]
    texts = [" ".join(draw.choice(vocabulary, 40)) for _ in range(20)]
    expected: Counter = Counter()
    for text in texts:
        words = text.split()
        for i, word in enumerate(words):
            for j in range(max(i - 3, 0), min(i + 4, len(words))):
                for identity, terms in IDENTITIES.items():
                    for attribute, others in ATTRIBUTES.items():
                        if i != j and word in terms.split() and words[j] in others.split():
                            expected[identity, attribute] += 1
    whole = count(*texts)
    assert pairs_of(whole) == dict(expected)
    parts = add_counts([count(*texts[:7]), count(*texts[7:])])
    assert parts.words == whole.words == 800 and (parts.pairs == whole.pairs).all()


def test_words_that_fall_as_they_like_have_no_association_and_planted_ones_have():
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(["she", "he", "nurse", "doctor", *"abcdefgh"], 400)) for _ in range(60)]
    config = BiasConfig(window_words=5)
    chance = {(row.identity, row.attribute): row for row in measure_bias(count(*texts, window=5), config)}
    assert all(abs(row.pmi) < 0.15 for row in chance.values()) and len(chance) == 4
    planted = measure_bias(count(*[text.replace("nurse", "nurse she") for text in texts], window=5), config)
    assert (planted[0].identity, planted[0].attribute) == ("women", "nursing") and planted[0].low > 0.1
    assert math.isclose(planted[0].pmi, math.log2(planted[0].pairs / planted[0].expected))
    assert bias_table(planted).num_rows == len(planted)


def test_every_term_is_one_word_and_of_one_identity():
    terms = [word for words in IDENTITIES.values() for word in words.split()]
    assert len(set(terms)) == len(terms)
    assert not set(terms) & {word for words in ATTRIBUTES.values() for word in words.split()}
