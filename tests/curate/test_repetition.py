"""Gopher's measures of repetition against plain Python written from their definitions."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.kernels import text_column
from bloomery.curate.repetition import Repeats, measure_repeats
from bloomery.curate.signal_names import DUPLICATE_SIZES, TOP_SIZES
from bloomery.curate.word_kernels import cut_words, decode


def measure(*texts: str, unspaced: bool = False) -> Repeats:
    decoded = decode(*text_column(pa.chunked_array([pa.array(texts, pa.large_string())]), lowercase=False))
    return measure_repeats(decoded, cut_words(decoded), unspaced=np.full(len(texts), unspaced))


def top_characters(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def duplicate_characters(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    at = repeated = 0
    while at + n <= len(words):
        gram = tuple(words[at : at + n])
        if gram in seen:
            repeated += len("".join(gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return repeated


def count_repeats(pieces: list[str]) -> list[int]:
    seen: set[str] = set()
    repeats = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]  # add gives None
    return [len(pieces), len(repeats), sum(map(len, repeats))]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "dé"]), max_size=60), min_size=1, max_size=3))
def test_ngrams_that_repeat_are_those_of_plain_python(documents):
    repeats = measure(*(" ".join(words) for words in documents))
    for d, words in enumerate(documents):
        assert repeats.top[d].tolist() == [top_characters(words, n) for n in TOP_SIZES]
        assert repeats.duplicate[d].tolist() == [duplicate_characters(words, n) for n in DUPLICATE_SIZES]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["one line", "another", "ü", "", " ", "\t"]), max_size=12), min_size=1, max_size=3))
def test_lines_and_paragraphs_that_repeat_are_those_of_plain_python(documents):
    texts = ["\n".join(lines) for lines in documents]
    repeats = measure(*texts)
    for d, text in enumerate(texts):
        lines = [line for line in text.split("\n") if line.strip()]
        paragraphs = re.split(r"\n{2,}", text.strip()) if text.strip() else []
        assert repeats.lines[d].tolist() == count_repeats(lines) + count_repeats(paragraphs)


def test_of_equally_common_ngrams_the_first_counts():
    assert measure("long words and x y").top[0, 0] == len("long words")
    assert measure("x y and long words, long words").top[0, 0] == 2 * len("long words")


def test_two_characters_of_a_script_without_spaces_stand_for_a_word():
    text = "炼铁炉渣木炭矿石" + "加" + "炼铁炉渣木炭矿石" + "热" + "炼铁炉渣"
    assert measure(text, unspaced=True).top[0, 0] == 3 * 4
    assert measure("炼铁炉渣木炭矿石加热" * 2, unspaced=True).duplicate[0].tolist() == [10] + [0] * 5
    assert measure("炼铁炉渣木炭矿石加热" * 2, unspaced=False).duplicate[0, 0] == 10
