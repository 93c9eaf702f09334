"""Bad words by lists: how many a document has, in its own language and in English, as signals.

A list is a JSONL file of {lang, words}, as the LDNOOBW lists (27 languages) come. Words and phrases are compared as runs of
word hashes, as the n-grams of decontamination are: whole words, any case, any punctuation between. Where a script writes
no spaces every character is a word, so a phrase is found inside a line as it must be. No list is shipped: whether a
word is bad depends on who reads, and dropping by lists alone drops whole groups of people (arXiv:2104.08758, sec. 5.3).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: arrays of numpy

import numpy as np
import pyarrow as pa

from bloomery.core.errors import DataError
from bloomery.core.files import read_jsonl
from bloomery.curate.kernels import compiled, find_ngrams, hash_words, list_ngrams, text_column

ALWAYS = "en"
"""English words are looked for in every document: pages of every language have them."""


class WordList(NamedTuple):
    """The bad words of one language: sorted hashes of the runs of words, and the lengths that occur."""

    runs: np.ndarray[Any, np.dtype[np.uint64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]


WordLists = Mapping[str, WordList]
"""By ISO 639-1 code."""


def load_word_lists(paths: Sequence[Path]) -> WordLists:
    """The lists of all files, those of one language put together. Raises DataError if a row is not {lang, words}."""
    words: dict[str, list[str]] = {}
    for path in paths:
        for i, row in enumerate(read_jsonl(path)):
            if not isinstance(row.get("lang"), str) or not isinstance(row.get("words"), list):
                raise DataError(
                    f'{path}:{i + 1}: not a word list: expected {{"lang": "en", "words": [...]}}, found the keys {", ".join(row)}'
                )
            words.setdefault(row["lang"].lower(), []).extend(str(word) for word in row["words"])
    return {language: make_word_list(words[language]) for language in sorted(words)}


def make_word_list(words: Sequence[str]) -> WordList:
    """A list of these words and phrases; those without a letter or digit are passed over."""
    hashed = [(count, _hash_run(run, count)) for run, count in map(_hash_words, words) if count]
    runs = np.unique(np.array([key for _, key in hashed], np.uint64))
    return WordList(runs, np.array(sorted({count for count, _ in hashed}), np.int64))


def add_bad_word_signals(table: pa.Table, lists: WordLists) -> pa.Table:
    """The table with `signal_bad_words` (how many there are) and `signal_bad_word_fraction` (of all words)."""
    column = text_column(table.column("text"), lowercase=True)
    found, total = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    languages = np.array([(code or "").split("-")[0] for code in table.column("language").to_pylist()], object)
    for language, bad in lists.items():
        mask = np.ones(len(table), bool) if language == ALWAYS else languages == language
        if not mask.any() or not len(bad.runs):
            continue
        rows = np.flatnonzero(mask)
        owners = np.zeros(len(bad.runs), np.int64)
        found[rows] += find_in_rows(column.data, column.offsets, rows, bad.lengths, bad.runs, owners)
    count_words(column.data, column.offsets, total)
    values = {"signal_bad_words": found.astype(np.float64), "signal_bad_word_fraction": found / np.maximum(total, 1)}
    table = table.drop_columns([name for name in values if name in table.column_names])
    for name, array in values.items():
        table = table.append_column(pa.field(name, pa.float64()), pa.array(array, pa.float64()))
    return table


@compiled
def find_in_rows(data, offsets, rows, lengths, table, owners):  # type: ignore[no-untyped-def]  # compiled
    """How many runs of the sorted `table` each of the documents `rows` has (int64)."""
    counts = np.zeros(len(rows), np.int64)
    for i in range(len(rows)):
        counts[i] = find_ngrams(data, offsets[rows[i] : rows[i] + 2], lengths, table, owners)[0, 0]
    return counts


@compiled
def count_words(data, offsets, out):  # type: ignore[no-untyped-def]  # compiled
    """Fills `out` with the number of words of each document."""
    for d in range(len(offsets) - 1):
        words = np.empty(offsets[d + 1] - offsets[d] + 1, np.uint64)
        out[d] = hash_words(data, offsets[d], offsets[d + 1], words)


def _hash_words(phrase: str) -> tuple[Any, int]:
    column = text_column(pa.chunked_array([pa.array([phrase], pa.large_string())]), lowercase=True)
    words = np.empty(len(column.data) + 1, np.uint64)
    count = int(hash_words(column.data, 0, len(column.data), words))
    return words[:count], count


def _hash_run(words: Any, count: int) -> int:
    return int(list_ngrams(words, count)[0])
