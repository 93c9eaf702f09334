"""Signals: numbers measured once for each document and kept as `signal_*` columns, so that thresholds can move freely.

Text becomes code points and words (`curate/word_kernels.py`), over which compiled loops count (`line_kernels.py`,
`repetition.py`); here the counts become shares. Words are cut as in spaCy, for which the thresholds of Gopher, C4 and
FineWeb were set; a character of a script without spaces is a word. docs/rules.md lists the rule of each signal.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from bloomery.curate.kernels import text_column
from bloomery.curate.line_kernels import (
    C4_COUNTS,
    LINE_COUNTS,
    WORD_COUNTS,
    StopWords,
    measure_c4,
    measure_lines,
    measure_words,
    pack_stop_words,
)
from bloomery.curate.repetition import measure_repeats
from bloomery.curate.signal_names import DUPLICATE_SIZES, MOSTLY_UNSPACED, SIGNALS, STOP_WORDS, TOP_SIZES
from bloomery.curate.word_kernels import Texts, cut_words, decode

CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
"""What C4 takes out of lines before it looks at them."""

_BATCH_BYTES = 4 << 20

Array = np.ndarray[Any, Any]


def add_signals(table: pa.Table) -> pa.Table:
    """The table with every `signal_*` column of SIGNALS (float64), measured anew."""
    table = table.drop_columns([n for n in table.column_names if n.removeprefix("signal_") in SIGNALS and n.startswith("signal_")])
    measured = [measure_signals(part) for part in split_batches(table)]
    for name in SIGNALS:
        values = np.concatenate([part[name] for part in measured]) if measured else np.zeros(0)
        table = table.append_column(pa.field(f"signal_{name}", pa.float64()), pa.array(values, pa.float64()))
    return table


def measure_signals(table: pa.Table) -> dict[str, Array]:
    """Every signal of a few documents, as float64 arrays."""
    column = text_column(table.column("text"), lowercase=False)
    texts = decode(*column)
    words = cut_words(texts)
    word_counts = measure_words(texts, words, stop_words=_stop_words(), languages=table.column("language").to_pylist())
    counts = dict(zip(WORD_COUNTS, word_counts.T.astype(np.float64), strict=True))
    unspaced = _share(counts["unspaced"], counts["letters"])
    lines = measure_lines(texts, unspaced=unspaced > MOSTLY_UNSPACED)
    line_counts = dict(zip(LINE_COUNTS, lines.T.astype(np.float64), strict=True))
    repeats = measure_repeats(texts, words, unspaced=unspaced > MOSTLY_UNSPACED)
    length = np.diff(texts.bounds).astype(np.float64)
    c4 = dict(zip(C4_COUNTS, _measure_c4(table, texts, words).T.astype(np.float64), strict=True))
    repeated = dict(zip(("lines", "repeats", "characters", "paragraphs", "repeats_p", "characters_p"), repeats.lines.T, strict=True))
    # Two characters of a script without spaces are about one word.
    all_words = np.where(unspaced > MOSTLY_UNSPACED, counts["all_words"] / 2, counts["all_words"])
    num_lines = line_counts["lines"]
    return {
        "length": length,
        "characters": counts["characters"],
        "words": counts["words"],
        "mean_word_characters": _share(counts["word_characters"], counts["words"]),
        "hash_word_ratio": _share(counts["hashes"], counts["all_words"]),
        "ellipsis_word_ratio": _share(counts["ellipses"], counts["all_words"]),
        "alphabetic_word_fraction": _share(counts["lettered"], counts["all_words"]),
        "stop_words": counts["stop_words"],
        "unspaced_fraction": unspaced,
        "lines": num_lines,
        "bullet_line_fraction": _share(line_counts["bullets"], num_lines),
        "ellipsis_line_fraction": _share(line_counts["ellipsis_ends"], num_lines),
        "duplicate_line_fraction": _share(repeated["repeats"], repeated["lines"]),
        "duplicate_line_character_fraction": _share(repeated["characters"], length),
        "duplicate_paragraph_fraction": _share(repeated["repeats_p"], repeated["paragraphs"]),
        "duplicate_paragraph_character_fraction": _share(repeated["characters_p"], length),
        **{f"top_{n}_gram_character_fraction": _share(repeats.top[:, k], length) for k, n in enumerate(TOP_SIZES)},
        **{f"duplicate_{n}_gram_character_fraction": _share(repeats.duplicate[:, k], length) for k, n in enumerate(DUPLICATE_SIZES)},
        "c4_kept_line_fraction": _share(c4["kept"], c4["lines"]),
        "c4_sentences": c4["sentences"],
        "c4_curly_bracket_lines": c4["curly_brackets"],
        "c4_lorem_ipsum_lines": c4["lorem_ipsum"],
        "third_longest_line_characters": line_counts["third_longest"],
        "line_end_fraction": _share(line_counts["sentence_ends"], num_lines),
        "short_line_fraction": _share(line_counts["short"], num_lines),
        "repeated_line_character_fraction": _share(repeated["characters"], length - line_counts["newlines"]),
        "newline_word_ratio": _share(line_counts["newlines"], all_words),
        "uppercase_line_fraction": _share(line_counts["uppercase"], num_lines),
        "numeric_line_fraction": _share(line_counts["numeric"], num_lines),
        "counter_line_fraction": _share(line_counts["counters"], num_lines),
        "one_word_line_fraction": _share(line_counts["single"], num_lines),
        "refinedweb_word_fraction": _share(line_counts["flagged_words"], line_counts["runs"]),
        "few_word_line_fraction": _share(line_counts["few_runs"], num_lines),
        "commonest_word_fraction": _share(line_counts["commonest_run"], line_counts["runs"]),
        "letter_fraction": _share(counts["letters"], length),
        "paragraphs": line_counts["paragraphs"],
        "mission_score": _mission_score(line_counts, letters=_share(counts["letters"], length)),
    }


@functools.cache
def _stop_words() -> StopWords:
    return pack_stop_words(STOP_WORDS)


def _mission_score(lines: Mapping[str, Array], *, letters: Array) -> Array:
    """The score of the mission documents' QualityFilter: 1, less for short lines, one dominant word, few letters; a tenth
    more for paragraphs; 0 outside of 50 to 100,000 words. Blank lines are not counted as short ones here.
    """
    words = lines["runs"]
    score = 1 - _share(lines["few_runs"], lines["lines"])
    score = score * np.where(_share(lines["commonest_run"], words) > 0.1, 0.5, 1.0)
    score = score * np.where(letters < 0.5, 0.3, 1.0)
    score = np.minimum(1.0, score * np.where(lines["paragraphs"] > 2, 1.1, 1.0))
    return np.where((words < 50) | (words > 100_000), 0.0, score)


def _measure_c4(table: pa.Table, texts: Texts, words: Any) -> Array:
    # C4 takes citations like [12] out before it looks at a line: texts that have some are measured without.
    counts = measure_c4(texts, words)
    column = pl.Series(values=table.column("text")).cast(pl.String).fill_null("")
    cited = column.str.contains(CITATION).arg_true().to_numpy()
    if len(cited):
        clean = [re.sub(CITATION, "", text) for text in column.gather(cited).to_list()]
        part = decode(*text_column(pa.chunked_array([pa.array(clean, pa.large_string())]), lowercase=False))
        counts[cited] = measure_c4(part, cut_words(part))
    return counts


def split_batches(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces of about 4 MB of text: code points and words take thirty times the bytes of their text."""
    sizes = pc.fill_null(pc.binary_length(table.column("text")), 0).to_numpy(zero_copy_only=False)
    group = np.cumsum(sizes) // _BATCH_BYTES
    starts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(table)] if len(table) else [0]
    for start, stop in itertools.pairwise(starts):
        yield table.slice(start, stop - start)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
