"""Compiled loops over the UTF-8 bytes of documents: words, shingles, MinHash, repeated lines, n-gram look-up.

A column of texts comes as Arrow keeps it: one array of bytes and the offsets where each text starts. A WORD here is a
maximal run of letters and digits of any alphabet, lower-cased; in scripts that write no spaces between words (Chinese,
Japanese kana, Thai, Lao, Khmer, Burmese, Tibetan) every character is a word of its own. So "word 5-grams" are
character 5-grams there, with no branch by language, and no text is too strange to have words.

Compiled at first use and cached beside this file where that can be written, else in the user's cache folder.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple  # Any: what numba makes of a function has no useful type

import numba
import numpy as np
import polars as pl
import pyarrow as pa

from bloomery.core.cached_arrays import cached_table

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
POLYNOMIAL = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of the window hash: odd, so that it is invertible modulo 2**64."""

ASCII_FOLDED = np.array([i | 32 if 65 <= i <= 90 else i if 48 <= i <= 57 or 97 <= i <= 122 or i == 95 else 0 for i in range(256)], np.uint8)
"""Lower-case letters, digits and underscore of ASCII as they are, capitals in lower case, 0 between words."""


class TextColumn(NamedTuple):
    """Texts as Arrow keeps them: document i is bytes[offsets[i] : offsets[i + 1]]."""

    data: np.ndarray[Any, np.dtype[np.uint8]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]


def text_column(texts: pa.ChunkedArray, *, lowercase: bool) -> TextColumn:
    """The bytes of a column of strings; a missing text is empty. `lowercase` in the sense of Unicode."""
    series = pl.Series(values=texts).cast(pl.String).fill_null("")
    array = (series.str.to_lowercase() if lowercase else series).rechunk().to_arrow().cast(pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int64)
    return TextColumn(np.frombuffer(data, dtype=np.uint8) if data and data.size else np.zeros(0, np.uint8), bounds)


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled by numba, cached where a folder for it can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no folder to cache in (read-only installation without a home)
        return numba.njit(nogil=True)(function)


@compiled
def decode_character(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """(code point, length in bytes) of the UTF-8 character at `at`."""
    first = data[at]
    if first < 0x80:
        return np.uint32(first), 1
    length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    point = np.uint32(first & (0xFF >> (length + 1)))
    for i in range(1, min(length, end - at)):
        point = (point << np.uint32(6)) | np.uint32(data[at + i] & 0x3F)
    return point, length


@compiled
def word_kind(point):  # type: ignore[no-untyped-def]  # compiled
    """0 for a code point between words, 1 inside a word, 2 for one that is a word by itself."""
    if point < 0x80:
        return 1 if (48 <= point <= 57) or (97 <= point <= 122) or (65 <= point <= 90) or point == 95 else 0
    if point < 0xC0:
        return 1 if point == 0xAA or point == 0xB5 or point == 0xBA else 0
    if point < 0x0E00:
        return 0 if point == 0xD7 or point == 0xF7 else 1
    if point <= 0x109F or 0x1780 <= point <= 0x17FF:
        return 2  # Thai, Lao, Tibetan, Myanmar; Khmer
    if 0x2000 <= point <= 0x2BFF or 0x2E00 <= point <= 0x2E7F or 0x3000 <= point <= 0x3004 or 0x3008 <= point <= 0x3020:
        return 0  # punctuation, symbols, arrows, box drawing
    if 0x2E80 <= point <= 0x9FFF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x3FFFF:
        return 2  # radicals, kana, Han
    if 0xFE10 <= point <= 0xFE6F or 0xFF00 <= point <= 0xFF0F or 0xFF1A <= point <= 0xFF20 or 0xE000 <= point <= 0xF8FF:
        return 0
    if 0xFF66 <= point <= 0xFF9F:
        return 2  # half-width kana
    return 0 if 0x1F000 <= point <= 0x1FAFF or point == 0xFFFD or point == 0xFEFF else 1


@compiled
def _mix(value):  # type: ignore[no-untyped-def]  # compiled
    # The finaliser of MurmurHash3: every bit of the input changes every bit of the output with probability 1/2.
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled
def hash_words(data, start, end, out):  # type: ignore[no-untyped-def]  # compiled
    """Fills `out` with a 64-bit hash for each word of data[start:end], in order; returns the number of words."""
    count, inside, at = 0, 0, start
    state = FNV_OFFSET
    while at < end:
        # No branch on what a byte of ASCII is: words are so short that it would be guessed wrong at each.
        while at < end and data[at] < 0x80:
            gap = int(ASCII_FOLDED[data[at]] == 0)
            out[count] = state
            count += inside & gap
            longer = (state ^ np.uint64(data[at])) * FNV_PRIME
            state = FNV_OFFSET if gap else longer
            inside = 1 - gap
            at += 1
        if at >= end:
            break
        point, length = decode_character(data, at, end)
        kind = word_kind(point)
        if kind == 1:
            for i in range(at, min(at + length, end)):
                state = (state ^ np.uint64(data[i])) * FNV_PRIME
            inside = 1
        else:
            if inside:
                out[count] = state
                count, inside = count + 1, 0
            state = FNV_OFFSET
            if kind == 2:
                out[count] = np.uint64(point) * FNV_PRIME + FNV_OFFSET
                count += 1
        at += length
    out[count] = state
    count += inside
    for i in range(count):
        out[i] = _mix(out[i])
    return count


@functools.cache
def folded_characters() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """For each character of the basic plane what `sign_documents` takes it for: itself in lower case, 0 between words.

    One character for one: the two that lower-case to more than one stay as they are, and a final sigma is a sigma.
    """
    return cached_table(_fold_each)


def _fold_each() -> np.ndarray[Any, np.dtype[np.uint16]]:
    folded = np.array([ord(chr(i).lower()) if len(chr(i).lower()) == 1 else i for i in range(1 << 16)], np.uint16)
    folded[0x3C2] = 0x3C3
    folded[np.asarray(_kinds(1 << 16)) == 0] = 0
    return folded


@compiled
def _kinds(num_points):  # type: ignore[no-untyped-def]  # compiled
    kinds = np.empty(num_points, np.uint8)
    for i in range(num_points):
        kinds[i] = word_kind(np.uint32(i))
    return kinds


@compiled
def _hash_folded_words(data, start, end, folded, out):  # type: ignore[no-untyped-def]  # compiled
    # As hash_words, of text in any case, and not mixed: n-grams are.
    count, inside, at = 0, 0, start
    state = FNV_OFFSET
    while at < end:
        while at < end and data[at] < 0x80:
            letter = ASCII_FOLDED[data[at]]
            gap = int(letter == 0)
            out[count] = state
            count += inside & gap
            longer = (state ^ np.uint64(letter)) * FNV_PRIME
            state = FNV_OFFSET if gap else longer
            inside = 1 - gap
            at += 1
        if at >= end:
            break
        point, length = decode_character(data, at, end)
        at += length
        kind = int(word_kind(point)) if point >= 0x0E00 else int(folded[point] != 0)
        if kind == 1:
            state = (state ^ np.uint64(folded[point] if point < 0x10000 else point)) * FNV_PRIME
            inside = 1
        else:
            if inside:
                out[count] = state
                count, inside = count + 1, 0
            state = FNV_OFFSET
            if kind == 2:
                out[count] = np.uint64(point) * FNV_PRIME + FNV_OFFSET
                count += 1
    out[count] = state
    return count + inside


@compiled
def _hash_ngrams(words, count, size, out):  # type: ignore[no-untyped-def]  # compiled
    # A 32-bit hash of every run of `size` words (of fewer words: of all of them); returns how many.
    size = min(count, size)
    if size == 0:
        return 0
    power, value = np.uint64(1), np.uint64(0)
    for w in range(size):
        power *= POLYNOMIAL
        value = value * POLYNOMIAL + words[w]
    length = np.uint64(size) * FNV_PRIME
    out[0] = np.uint32(_mix(value + length) >> np.uint64(32))
    for w in range(size, count):
        value = value * POLYNOMIAL + words[w] - words[w - size] * power
        out[w - size + 1] = np.uint32(_mix(value + length) >> np.uint64(32))
    return count - size + 1


@compiled
def sign_documents(data, offsets, ngram_words, multipliers, addends, folded):  # type: ignore[no-untyped-def]  # compiled
    """MinHash signatures (uint32, documents x hashes) of the sets of word n-grams (Broder 1997), of texts in any case.

    Hash p of n-gram h is multipliers[p] * h + addends[p] modulo 2**32. A text of fewer words than n is one n-gram; a
    text of none keeps the largest value everywhere. `folded` is `folded_characters()`.
    """
    num_documents, num_hashes = len(offsets) - 1, len(multipliers)
    signatures = np.full((num_documents, num_hashes), np.uint32(0xFFFFFFFF), np.uint32)
    longest = 0
    for d in range(num_documents):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words, ngrams = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint32)
    for d in range(num_documents):
        count = _hash_folded_words(data, offsets[d], offsets[d + 1], folded, words)
        count = _hash_ngrams(words, count, ngram_words, ngrams)
        for p in range(num_hashes):
            # This way round the compiler keeps the smallest in registers and takes 8 or 16 n-grams at a time.
            multiplier, addend, smallest = multipliers[p], addends[p], np.uint32(0xFFFFFFFF)
            for i in range(count):
                smallest = min(smallest, np.uint32(multiplier * ngrams[i] + addend))
            signatures[d, p] = smallest
    return signatures


@compiled
def hash_normalised(data, offsets, lower):  # type: ignore[no-untyped-def]  # compiled
    """128 bits (uint64, texts x 2) of each text in lower case, every run of white space one space, none at the ends.

    `lower` gives for each character of the basic plane its lower case, 0 for white space.
    """
    num_documents = len(offsets) - 1
    hashes = np.empty((num_documents, 2), np.uint64)
    longest = 0
    for d in range(num_documents):
        longest = max(longest, offsets[d + 1] - offsets[d])
    # Lower case may be longer in UTF-8 (at most 3 bytes for 2), and it is written one byte past its end.
    words = np.empty(longest // 4 + 4, np.uint64)
    text = words.view(np.uint8)
    for d in range(num_documents):
        at, end = offsets[d], offsets[d + 1]
        size, after_space = 0, 1
        while at < end:
            while at < end and data[at] < 0x80:
                letter = lower[data[at]]
                space = int(letter == 0)
                text[size] = 32 if space else np.uint8(letter)
                size += 1 - (space & after_space)
                after_space = space
                at += 1
            if at >= end:
                break
            point, length = decode_character(data, at, end)
            letter = np.uint32(lower[point]) if point < 0x10000 else point
            if letter == 0:
                text[size] = 32
                size += 1 - after_space
                after_space = 1
            elif letter == point:
                for i in range(at, min(at + length, end)):
                    text[size] = data[i]
                    size += 1
                after_space = 0
            else:
                size = _append_character(text, size, letter)
                after_space = 0
            at += length
        if size and after_space:
            size -= 1
        for i in range(size, (size + 7) // 8 * 8):
            text[i] = 0
        first, second = np.uint64(size), np.uint64(size) ^ POLYNOMIAL
        for w in range((size + 7) // 8):
            first = _mix(first ^ words[w])
            second = _mix((second + words[w]) * POLYNOMIAL)
        hashes[d, 0], hashes[d, 1] = first, second
    return hashes


@compiled
def _append_character(text, size, point):  # type: ignore[no-untyped-def]  # compiled
    # Writes a character of the basic plane in UTF-8; returns the new size.
    if point < 0x80:
        text[size] = point
        return size + 1
    if point < 0x800:
        text[size], text[size + 1] = 0xC0 | (point >> 6), 0x80 | (point & 0x3F)
        return size + 2
    text[size], text[size + 1], text[size + 2] = 0xE0 | (point >> 12), 0x80 | ((point >> 6) & 0x3F), 0x80 | (point & 0x3F)
    return size + 3


@compiled
def band_keys(signatures, bands):  # type: ignore[no-untyped-def]  # compiled
    """One uint64 key for each document and band: equal rows of a band give equal keys."""
    num_documents, rows = signatures.shape[0], signatures.shape[1] // bands
    keys = np.empty((num_documents, bands), np.uint64)
    for d in range(num_documents):
        for b in range(bands):
            key = np.uint64(b + 1)
            for r in range(b * rows, (b + 1) * rows):
                key = _mix(key * POLYNOMIAL + np.uint64(signatures[d, r]))
            keys[d, b] = key
    return keys


@compiled
def measure_lines(data, offsets):  # type: ignore[no-untyped-def]  # compiled
    """For each text: non-empty lines, lines that repeat an earlier one, and the bytes of those (float64, texts x 3).

    Lines are compared without the spaces at their ends (Gopher, arXiv:2112.11446, table A1).
    """
    num_documents = len(offsets) - 1
    result = np.zeros((num_documents, 3), np.float64)
    for d in range(num_documents):
        start, end = offsets[d], offsets[d + 1]
        breaks = 1
        for i in range(start, end):
            breaks += data[i] == 10
        hashes, sizes, count = np.empty(breaks, np.uint64), np.empty(breaks, np.int64), 0
        at = start
        while at < end:
            stop = at
            while stop < end and data[stop] != 10:
                stop += 1
            first, last = at, stop
            while first < last and (data[first] == 32 or data[first] == 9 or data[first] == 13):
                first += 1
            while last > first and (data[last - 1] == 32 or data[last - 1] == 9 or data[last - 1] == 13):
                last -= 1
            if last > first:
                state = FNV_OFFSET
                for i in range(first, last):
                    state = (state ^ np.uint64(data[i])) * FNV_PRIME
                hashes[count], sizes[count] = _mix(state), last - first
                count += 1
            at = stop + 1
        order = np.argsort(hashes[:count])
        for k in range(1, count):
            if hashes[order[k]] == hashes[order[k - 1]]:
                result[d, 1] += 1
                result[d, 2] += sizes[order[k]]
        result[d, 0] = count
    return result


@compiled
def measure_words(data, offsets):  # type: ignore[no-untyped-def]  # compiled
    """For each text: characters that are not white space, runs of them, runs with a letter, letters, letters of scripts
    without spaces (float64, texts x 5).
    """
    num_documents = len(offsets) - 1
    result = np.zeros((num_documents, 5), np.float64)
    for d in range(num_documents):
        characters = words = lettered = letters = unspaced = 0
        inside = has_letter = False
        at, end = offsets[d], offsets[d + 1]
        while at < end:
            point, length = decode_character(data, at, end)
            at += length
            if point <= 32 or point == 0x85 or point == 0xA0 or 0x2000 <= point <= 0x200A or 0x2028 <= point <= 0x2029 or point == 0x3000:
                inside = False
                continue
            if not inside:
                inside, has_letter = True, False
                words += 1
            characters += 1
            kind = word_kind(point)
            if kind and not (48 <= point <= 57 or point == 95):
                letters += 1
                unspaced += kind == 2
                lettered += not has_letter
                has_letter = True
        result[d, 0], result[d, 1], result[d, 2], result[d, 3], result[d, 4] = characters, words, lettered, letters, unspaced
    return result


@compiled
def find_ngrams(data, offsets, lengths, table, owners):  # type: ignore[no-untyped-def]  # compiled
    """Looks up every run of lengths[k] words in the sorted `table` of run hashes; `owners[i]` names whose run table[i] is.

    For each text (int64, texts x 2): how many of its runs are in the table, and the owner of the first (-1 for none).
    """
    num_documents = len(offsets) - 1
    found = np.zeros((num_documents, 2), np.int64)
    for d in range(num_documents):
        words = np.empty(offsets[d + 1] - offsets[d] + 1, np.uint64)
        count = hash_words(data, offsets[d], offsets[d + 1], words)
        runs = run_hashes(words[:count])
        found[d, 1] = -1
        for length in lengths:
            power = np.uint64(1)
            for _ in range(length):
                power *= POLYNOMIAL
            for first in range(count - length + 1):
                key = _mix(runs[first + length] - runs[first] * power + np.uint64(length))
                place = np.searchsorted(table, key)
                if place < len(table) and table[place] == key:
                    found[d, 0] += 1
                    if found[d, 1] < 0:
                        found[d, 1] = owners[place]
    return found


@compiled
def run_hashes(words):  # type: ignore[no-untyped-def]  # compiled
    """Prefix sums from which the hash of words[i:j] follows: prefix[j] - prefix[i] * POLYNOMIAL**(j - i), modulo 2**64."""
    prefix = np.zeros(len(words) + 1, np.uint64)
    for i in range(len(words)):
        prefix[i + 1] = prefix[i] * POLYNOMIAL + words[i]
    return prefix


@compiled
def list_ngrams(words, length):  # type: ignore[no-untyped-def]  # compiled
    """The hash of every run of `length` words, as `find_ngrams` computes it."""
    runs = run_hashes(words)
    power = np.uint64(1)
    for _ in range(length):
        power *= POLYNOMIAL
    out = np.empty(max(len(words) - length + 1, 0), np.uint64)
    for first in range(len(out)):
        out[first] = _mix(runs[first + length] - runs[first] * power + np.uint64(length))
    return out
