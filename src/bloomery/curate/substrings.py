"""Substring deduplication: passages of 50 words or more that occur twice anywhere are cut out (Lee et al., arXiv:2107.06499).

A passage repeats if each of its runs of `min_tokens` words does, so the question is which runs of that length occur more
than once in the corpus, across all files. Two steps, and neither needs the whole corpus in memory:

1. Every such run has a smallest hash among its runs of half the length (winnowing). Equal runs have equal smallest
   hashes; so a run whose smallest hash occurs at one place of the corpus only occurs once itself. One hash for about
   every thirteen words is compared by shuffle; in text that repeats nothing, this ends the matter.
2. What remains are the stretches of words that may repeat. They go into one suffix array (libdivsufsort) with common
   prefixes; or, where they are too many for memory, their runs are compared by 128-bit hashes and another shuffle.
   Both give the same cuts, and the same as a plain loop (tests/curate/test_substrings.py).

Tokens are words as in `curate/run_kernels.py`: characters in scripts without spaces. Lee et al. count BPE tokens, of
which 50 are about 38 English words.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
from pydantic import Field
from pydivsufsort import divsufsort

from bloomery.core.config import Config
from bloomery.core.documents import read_document_batches
from bloomery.curate.kernels import POLYNOMIAL, TextColumn, text_column
from bloomery.curate.passages import CutText, cut_passages, to_characters
from bloomery.curate.run_kernels import common_prefixes, list_runs, locate_words_of_texts, merge_cuts, window_minima, word_tables

SECOND_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)

MAX_ARRAY_WORDS = 1 << 25
"""Words that one suffix array is built of: about 40 bytes each, so 1.3 GB."""

WORD_SHIFT = 40
"""A word's number over all files is its file's, shifted so far, plus its number in the file."""

Integers = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class DedupSubstringsConfig(Config):
    """Which repeated passages are cut out, and what is left of a document."""

    min_tokens: int = Field(default=50, ge=2)
    """Words in a row that must occur twice to be a repeat."""
    keep: Literal["first", "none"] = "first"
    """`first`: a repeated passage stays where it stands first (in order of inputs and rows). `none`: nowhere."""
    min_characters_left: int = Field(default=50, ge=0)
    """A document that lost passages and has fewer characters left is dropped."""


class Words(NamedTuple):
    """All words of a batch of texts: hashes, places in bytes, and bounds: text i has words bounds[i] : bounds[i + 1]."""

    column: TextColumn
    hashes: Hashes
    starts: Integers
    ends: Integers
    bounds: Integers


def find_words(texts: pa.ChunkedArray) -> Words:
    """The words of each text."""
    column = text_column(texts, lowercase=False)
    return Words(column, *locate_words_of_texts(column.data, column.offsets, word_tables()))


def state_minima(config: DedupSubstringsConfig, path: Path, shard: int) -> pa.Table:
    """The smallest hashes (`key`) that runs of words of a file have, one row for each place of one: `place` (its number)."""
    keys, places, first_word = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], shard << WORD_SHIFT
    for table in read_document_batches(path):
        words = find_words(table.column("text"))
        minima, where = window_minima(words.hashes, words.bounds, config.min_tokens, _gram(config))
        chosen, firsts = np.unique(where[where >= 0], return_index=True)
        keys.append(minima[where >= 0][firsts])
        places.append(first_word + chosen)
        first_word += len(words.hashes)
    return pa.table({"key": np.concatenate(keys), "place": np.concatenate(places)})


def judge_minima(stated: pa.Table) -> pa.Table:
    """The places of smallest hashes that occur at more than one place: `shard`, `place`."""
    key, place = stated.column("key").to_numpy(), stated.column("place").to_numpy()
    order = np.argsort(key, kind="stable")
    key, place = key[order], place[order]
    same = key[1:] == key[:-1]
    repeated = np.zeros(len(key), np.bool_)
    repeated[1:] |= same
    repeated[:-1] |= same
    return pa.table({"shard": place[repeated] >> WORD_SHIFT, "place": place[repeated]})


class Candidates(NamedTuple):
    """What of a file may repeat: the first words of runs (numbers in the file), and the hashes of the words they cover, of
    which word `numbers[i]` has hashes[i] and, where opens[i], begins a text."""

    runs: Integers
    numbers: Integers
    hashes: Hashes
    opens: np.ndarray[Any, np.dtype[np.bool_]]
    keys: Hashes
    checks: Hashes


def find_candidates(config: DedupSubstringsConfig, path: Path, places: Integers) -> Candidates:
    """The runs of a file whose smallest hash stands at one of `places` (numbers in the file), and the words they cover."""
    parts: list[Candidates] = []
    first_word = 0
    for table in read_document_batches(path):
        words = find_words(table.column("text"))
        _, where = window_minima(words.hashes, words.bounds, config.min_tokens, _gram(config))
        chosen = np.flatnonzero((where >= 0) & np.isin(where, places - first_word))
        covered = np.zeros(len(words.hashes) + 1, np.int64)
        np.add.at(covered, chosen, 1)
        np.add.at(covered, chosen + config.min_tokens, -1)
        inside = np.flatnonzero(np.cumsum(covered)[:-1])
        named = [
            list_runs(words.hashes, config.min_tokens, multiplier)[chosen] if len(chosen) else np.zeros(0, np.uint64)
            for multiplier in (POLYNOMIAL, SECOND_MULTIPLIER)
        ]
        opens = np.isin(inside, words.bounds[:-1])
        parts.append(Candidates(first_word + chosen, first_word + inside, words.hashes[inside], opens, named[0], named[1]))
        first_word += len(words.hashes)
    return Candidates(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def judge_runs(config: DedupSubstringsConfig, stated: pa.Table) -> pa.Table:
    """The cuts that follow from runs of words named by `key` and `check`, with their first `word`; see `cut_repeats`."""
    key, check, word = (stated.column(name).to_numpy() for name in ("key", "check", "word"))
    order = np.lexsort((word, check, key))
    key, check, word = key[order], check[order], word[order]
    starts = np.ones(len(key), np.bool_)
    starts[1:] = (key[1:] != key[:-1]) | (check[1:] != check[:-1])
    group = np.cumsum(starts) - 1
    return cut_repeats(word, word[starts][group], np.bincount(group)[group] if len(group) else group, config)


def judge_by_suffix_array(
    config: DedupSubstringsConfig, hashes: Hashes, numbers: Integers, opens: np.ndarray[Any, np.dtype[np.bool_]]
) -> pa.Table:
    """The cuts in stretches of words: word numbers[i] (over all files, ascending) has hashes[i]; a gap in the numbers, or a
    word that opens a text, ends a stretch. Of a suffix array of the words with the lengths of common prefixes; see `cut_repeats`."""
    if not len(hashes):
        return cut_repeats(numbers, numbers, numbers, config)
    breaks = np.flatnonzero((np.diff(numbers) != 1) | opens[1:]) + 1
    _, symbols = np.unique(hashes, return_inverse=True)
    # Symbol 0 ends a stretch; the others are as many as there are different words.
    sequence = np.append(np.insert(symbols.reshape(-1) + 1, breaks, 0), 0).astype(np.uint32)
    where = np.append(np.insert(numbers, breaks, -1), -1)
    order = divsufsort(sequence).astype(np.int64)
    shared = common_prefixes(sequence, order, config.min_tokens)
    group = np.cumsum(shared < config.min_tokens) - 1
    word = where[order]
    sizes = np.bincount(group)
    firsts = np.full(len(sizes), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(firsts, group, word)
    repeated = sizes[group] > 1
    return cut_repeats(word[repeated], firsts[group][repeated], sizes[group][repeated], config)


def cut_repeats(word: Integers, first: Integers, occurrences: Integers, config: DedupSubstringsConfig) -> pa.Table:
    """What to cut for runs of words that begin at `word`, of which the first equal one begins at `first`: `shard`, `start`,
    `end` (numbers of words in the file).

    A run that overlaps the first one equal to it (as in "a a a a") leaves that one whole.
    """
    gone = (occurrences > 1) & ((word != first) if config.keep == "first" else True)
    word, first = word[gone], first[gone]
    start = (
        np.maximum(word, np.where(first + config.min_tokens > word, first + config.min_tokens, word)) if config.keep == "first" else word
    )
    shard = word >> WORD_SHIFT
    base = shard << WORD_SHIFT
    return pa.table({"shard": shard, "start": start - base, "end": word + config.min_tokens - base})


def merge_intervals(cuts: pa.Table) -> Integers:
    """The union of cuts of one file, in order: rows of (first word, end)."""
    start, end = cuts.column("start").to_numpy(), cuts.column("end").to_numpy()
    order = np.lexsort((end, start))
    merged: Integers = merge_cuts(start[order], end[order])
    return merged


def cut_words(text: str, words: Words, number: int, cuts: Integers) -> CutText:
    """The text of this number in its batch without the words of `cuts` (rows of first word and end, in the batch)."""
    low, high = words.bounds[number], words.bounds[number + 1]
    offset, stop = words.column.offsets[number], words.column.offsets[number + 1]
    spans = []
    for first, end in cuts.tolist():
        first, end = max(first, low), min(end, high)
        if first < end:
            spans.append((int(words.starts[first] - offset), int(words.ends[end - 1] - offset)))
    return cut_passages(text, to_characters(words.column.data[offset:stop], spans))


def _gram(config: DedupSubstringsConfig) -> int:
    return max(1, config.min_tokens // 2)
