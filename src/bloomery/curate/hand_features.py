"""The features of the mission documents' quality filter, exactly as its Python code counts them, in one compiled pass.

Words are `str.split`'s, letters are `str.isalpha`'s: both come from tables made of Python's own answers for every code
point, so that the score equals the documents' function to the last bit. `curate/classifier.py` learns from the
features; the score made of them by hand is the heuristic that a learned score is compared with.
"""

import functools
from typing import Any  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa

from bloomery.curate.kernels import FNV_OFFSET, FNV_PRIME, compiled, text_column

HAND_FEATURES = ("words", "short_line_fraction", "most_common_word_fraction", "alphabetic_fraction", "paragraphs")
"""Words; share of lines of fewer than three words; the commonest word's share of the words; share of the characters
that are letters; paragraphs, which are what stands between empty lines."""

MIN_WORDS, MAX_WORDS = 50, 100_000
MAX_COMMON_FRACTION, COMMON_PENALTY = 0.1, 0.5
MIN_ALPHABETIC_FRACTION, ALPHABETIC_PENALTY = 0.5, 0.3
MANY_PARAGRAPHS, PARAGRAPH_BONUS = 2, 1.1

SPACE, LETTER = 1, 2
Matrix = np.ndarray[Any, np.dtype[np.float64]]


def measure_hand_features(texts: pa.ChunkedArray) -> Matrix:
    """HAND_FEATURES of every text (float64, texts x 5); a missing text counts as an empty one."""
    return np.asarray(_measure(*text_column(texts, lowercase=False), _character_classes()))


def mission_scores(features: Matrix) -> Matrix:
    """The mission documents' heuristic quality in 0..1 (QualityFilter.score), from the features of each text."""
    words, short, common, alphabetic, paragraphs = features.T
    score = np.maximum(0.0, 1.0 - short)
    score = np.where(common > MAX_COMMON_FRACTION, score * COMMON_PENALTY, score)
    score = np.where(alphabetic < MIN_ALPHABETIC_FRACTION, score * ALPHABETIC_PENALTY, score)
    score = np.where(paragraphs > MANY_PARAGRAPHS, score * PARAGRAPH_BONUS, score)
    return np.where((words < MIN_WORDS) | (words > MAX_WORDS), 0.0, np.minimum(1.0, score))


@functools.cache
def _character_classes() -> np.ndarray[Any, np.dtype[np.uint8]]:
    points = [chr(point) for point in range(0x110000)]
    spaces = np.fromiter(map(str.isspace, points), np.uint8, len(points))
    letters = np.fromiter(map(str.isalpha, points), np.uint8, len(points))
    return spaces * np.uint8(SPACE) + letters * np.uint8(LETTER)


@compiled
def _measure(data, offsets, classes):  # type: ignore[no-untyped-def]  # compiled
    num_documents = len(offsets) - 1
    result = np.zeros((num_documents, 5), np.float64)
    for d in range(num_documents):
        start, end = offsets[d], offsets[d + 1]
        hashes = np.empty((end - start) // 2 + 1, np.uint64)
        words = characters = letters = lines = short = words_before_line = paragraphs = breaks = 0
        inside, in_paragraph = False, False
        state, at = FNV_OFFSET, start
        while at < end:
            first = data[at]
            length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            point = np.uint32(first) if length == 1 else np.uint32(first & (0xFF >> (length + 1)))
            for i in range(1, min(length, end - at)):
                point = (point << np.uint32(6)) | np.uint32(data[at + i] & 0x3F)
            kind = classes[point]
            characters += 1
            letters += (kind & 2) != 0
            if kind & 1:
                if inside:
                    hashes[words] = state
                    words, inside = words + 1, False
                if first == 10:
                    lines += 1
                    short += words - words_before_line < 3
                    words_before_line, breaks = words, breaks + 1
                    in_paragraph = in_paragraph and breaks < 2
                else:
                    breaks = 0
            else:
                if not inside:
                    state, inside = FNV_OFFSET, True
                for i in range(at, min(at + length, end)):
                    state = (state ^ np.uint64(data[i])) * FNV_PRIME
                paragraphs += not in_paragraph
                in_paragraph, breaks = True, 0
            at += length
        if inside:
            hashes[words] = state
            words += 1
        lines += 1
        short += words - words_before_line < 3
        ordered = np.sort(hashes[:words])
        most = run = 0
        for i in range(words):
            run = run + 1 if i and ordered[i] == ordered[i - 1] else 1
            most = max(most, run)
        result[d, 0], result[d, 1], result[d, 4] = words, short / lines, paragraphs
        result[d, 2] = most / words if words else 0.0
        result[d, 3] = letters / characters if characters else 1.0
    return result
