"""How much of a text repeats itself: Gopher's thirteen measures of repetition (arXiv:2112.11446, table A1), compiled.

Lines and paragraphs are compared as they are written; n-grams are runs of the words of `curate/word_kernels.py`. Where a
script has no spaces a word is one character, and 2n of them stand for n words.
"""

from typing import Any, NamedTuple

import numpy as np

from bloomery.curate.kernels import compiled
from bloomery.curate.signal_names import DUPLICATE_SIZES, TOP_SIZES
from bloomery.curate.word_kernels import Texts, Words

Array = np.ndarray[Any, Any]

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
POLYNOMIAL = np.uint64(0x9E3779B97F4A7C15)


class Repeats(NamedTuple):
    """Per text: lines with text, those that repeat an earlier one and their characters; the same of paragraphs
    (int64, texts x 6, in this order); characters of the commonest n-gram, and of n-grams that repeat an earlier one.
    """

    lines: Array
    top: Array
    duplicate: Array


def measure_repeats(texts: Texts, words: Words, *, unspaced: Array) -> Repeats:
    """Repeats of each text; `unspaced` says (bool, texts) which are written without spaces."""
    top, duplicate = _repeat_ngrams(*words, unspaced, np.array(TOP_SIZES, np.int64), np.array(DUPLICATE_SIZES, np.int64))
    return Repeats(_repeat_lines(texts.points, texts.classes, texts.bounds), top, duplicate)


@compiled
def _mix(value):  # type: ignore[no-untyped-def]  # compiled
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    return value ^ (value >> np.uint64(33))


@compiled
def _is_new(table, mask, key):  # type: ignore[no-untyped-def]  # compiled
    # Puts a key into an open hash table (0 = free), unless it is there. 32 bits of it are kept: among a million keys one
    # is taken for another once in some thousand texts.
    tag = np.uint32(key >> np.uint64(32)) | np.uint32(1)
    slot = key & mask
    while table[slot] != 0:
        if table[slot] == tag:
            return False
        slot = (slot + np.uint64(1)) & mask
    table[slot] = tag
    return True


@compiled
def _table_size(count):  # type: ignore[no-untyped-def]  # compiled
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@compiled
def _repeat_lines(points, classes, bounds):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(bounds) - 1
    result = np.zeros((num_texts, 6), np.int64)
    for d in range(num_texts):
        first, end = bounds[d], bounds[d + 1]
        breaks = 1
        for i in range(first, end):
            breaks += points[i] == 10
        size = _table_size(breaks)
        table, mask = np.zeros(size, np.uint32), np.uint64(size - 1)
        at = first
        while at < end:
            start, state, blank = at, FNV_OFFSET, True
            while at < end and points[at] != 10:
                blank = blank and classes[at] & 128 != 0  # SPACE
                state = (state ^ np.uint64(points[at])) * FNV_PRIME
                at += 1
            if not blank:
                result[d, 0] += 1
                if not _is_new(table, mask, _mix(state)):
                    result[d, 1] += 1
                    result[d, 2] += at - start
            at += 1
        while first < end and classes[first] & 128:
            first += 1
        while end > first and classes[end - 1] & 128:
            end -= 1
        table[:] = 0
        at = first
        while at < end:
            start, state = at, FNV_OFFSET
            while at < end and not (points[at] == 10 and at + 1 < end and points[at + 1] == 10):
                state = (state ^ np.uint64(points[at])) * FNV_PRIME
                at += 1
            result[d, 3] += 1
            if not _is_new(table, mask, _mix(state)):
                result[d, 4] += 1
                result[d, 5] += at - start
            while at < end and points[at] == 10:
                at += 1
    return result


@compiled
def _repeat_ngrams(starts, ends, hashes, bounds, unspaced, top_sizes, duplicate_sizes):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(bounds) - 1
    top = np.zeros((num_texts, len(top_sizes)), np.int64)
    duplicate = np.zeros((num_texts, len(duplicate_sizes)), np.int64)
    longest = 0
    for d in range(num_texts):
        longest = max(longest, bounds[d + 1] - bounds[d])
    capacity = _table_size(longest)
    table, slots = np.empty(capacity, np.uint32), np.empty(capacity, np.int32)
    counts = np.empty(longest + 1, np.int32)
    runs, lengths = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    for d in range(num_texts):
        first, count = bounds[d], bounds[d + 1] - bounds[d]
        if count == 0:
            continue
        runs[0], lengths[0] = 0, 0
        for i in range(count):
            runs[i + 1] = runs[i] * POLYNOMIAL + hashes[first + i]
            lengths[i + 1] = lengths[i] + ends[first + i] - starts[first + i]
        size = _table_size(count)
        mask = np.uint64(size - 1)
        scale = 2 if unspaced[d] else 1
        for k in range(len(top_sizes)):
            n = top_sizes[k] * scale
            if count >= n:
                table[:size] = 0
                at = _commonest(runs, count, n, table, slots, counts, mask)
                gaps = 0 if unspaced[d] else n - 1
                top[d, k] = (lengths[at + n] - lengths[at] + gaps) * counts[at]
        for k in range(len(duplicate_sizes)):
            n = duplicate_sizes[k] * scale
            power = np.uint64(1)
            for _ in range(n):
                power *= POLYNOMIAL
            table[:size] = 0
            at = 0
            while at + n <= count:
                if _is_new(table, mask, _mix(runs[at + n] - runs[at] * power)):
                    at += 1
                else:
                    duplicate[d, k] += lengths[at + n] - lengths[at]
                    at += n
    return top, duplicate


@compiled
def _commonest(runs, count, n, table, slots, counts, mask):  # type: ignore[no-untyped-def]  # compiled
    # Where the commonest run of n words begins, the first of equals; counts[that] is how often it occurs.
    power = np.uint64(1)
    for _ in range(n):
        power *= POLYNOMIAL
    for at in range(count - n + 1):
        key = _mix(runs[at + n] - runs[at] * power)
        tag = np.uint32(key >> np.uint64(32)) | np.uint32(1)
        slot = key & mask
        while table[slot] != 0 and table[slot] != tag:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] == 0:
            table[slot], slots[slot], counts[at] = tag, at, 1
        else:
            counts[at] = 0
            counts[slots[slot]] += 1
    best = 0
    for at in range(count - n + 1):
        if counts[at] > counts[best]:
            best = at
    return best
