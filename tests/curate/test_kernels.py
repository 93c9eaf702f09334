"""The compiled loops against plain Python written from their definitions."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.kernels import hash_words, measure_lines, measure_words, text_column

ALPHABET = "ab Z9_-.,\n\t\r é\xa0ß你好世、。あアไทยกข한국Жж—…"


def column(texts: list[str], *, lowercase: bool = False):
    return text_column(pa.chunked_array([pa.array(texts, pa.large_string())]), lowercase=lowercase)


def words_of(texts: list[str]) -> list[list[int]]:
    data, offsets = column(texts, lowercase=True)
    out = np.empty(len(data) + 1, np.uint64)
    return [out[: hash_words(data, offsets[i], offsets[i + 1], out)].tolist() for i in range(len(texts))]


def plain_words(text: str) -> list[str]:
    unspaced = "[\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u9fff\uf900-\ufaff]"
    return re.findall(rf"{unspaced}|(?:(?!{unspaced})\w)+", text.lower())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=30), min_size=1, max_size=4))
def test_words_are_runs_of_letters_and_single_characters_of_unspaced_scripts(texts):
    known: dict[str, int] = {}
    for text, hashes in zip(texts, words_of(texts), strict=True):
        expected = plain_words(text)
        assert len(hashes) == len(expected), (text, expected)
        for word, value in zip(expected, hashes, strict=True):
            assert known.setdefault(word, value) == value
    assert len(set(known.values())) == len(known)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab \n\t…", max_size=40), max_size=4))
def test_repeated_lines_are_counted_as_a_plain_loop_counts_them(texts):
    measured = measure_lines(*column(texts))
    for i, text in enumerate(texts):
        lines = [line.strip(" \t\r") for line in text.split("\n")]
        lines = [line for line in lines if line]
        repeats = [line for k, line in enumerate(lines) if line in lines[:k]]
        assert measured[i].tolist() == [len(lines), len(repeats), sum(len(line.encode()) for line in repeats)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab9_ \n\t…é你ไ\xa0\u3000", max_size=30), max_size=4))
def test_words_and_letters_are_counted_as_a_plain_loop_counts_them(texts):
    measured = measure_words(*column(texts))
    for i, text in enumerate(texts):
        words = text.split()
        letters = [c for c in text if c.isalpha()]
        lettered = [w for w in words if any(map(str.isalpha, w))]
        assert measured[i].tolist() == [sum(map(len, words)), len(words), len(lettered), len(letters), sum(c in "你ไ" for c in letters)]


def test_missing_texts_slices_and_empty_tables_are_texts_too():
    texts = pa.chunked_array([pa.array(["x", None, "one two"], pa.large_string()), pa.array(["three"], pa.large_string())])
    data, offsets = text_column(texts.slice(1), lowercase=False)
    assert [bytes(data[offsets[i] : offsets[i + 1]]) for i in range(3)] == [b"", b"one two", b"three"]
    assert measure_words(*column([])).shape == (0, 5)
