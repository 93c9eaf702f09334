"""Compiled loops over runs of words and where they stand: for cutting repeats and leaked prompts out of texts.

Unlike `curate/kernels.py`, these read the text as it is written and fold it themselves, so that every word comes with its
place in the original bytes. Two texts have the same words here if they differ only in case, width (NFKC), diacritics,
punctuation, white space, and characters that are not seen (soft hyphens, zero-width spaces). A run of words is named by
a 64-bit polynomial hash that follows from prefix sums, so that any run of any length costs one multiplication.
"""

import functools
import unicodedata
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np

from bloomery.curate.kernels import FNV_OFFSET, FNV_PRIME, POLYNOMIAL, compiled

U8 = np.ndarray[Any, np.dtype[np.uint8]]
I64 = np.ndarray[Any, np.dtype[np.int64]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]

PUNCTUATION, LETTER, LONE, SPACE, UNSEEN, APOSTROPHE, HYPHEN, UNDERSCORE = range(8)
"""Kinds of characters. LONE: of a script without spaces, a word by itself. UNSEEN: as if it were not there."""

SEPARATE, GLUE_APOSTROPHES, GLUE_PUNCTUATION, JOIN_LINES, GLUE_ALL_BUT_UNDERSCORES = range(5)
"""What punctuation between two letters does: it parts words ("don t"); apostrophes do not ("dont", "well known"); none does
("wellknown"); only a hyphen at the end of a line does not (contami-/nation); only an underscore does ("my_f(x)": "my fx")."""

FOLDED_POINTS = 0x20000
FOLD_LENGTH = 3

LONE_RANGES = (
    (0x0E00, 0x10A0),  # Thai, Lao, Tibetan, Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x2E80, 0x3000),  # radicals
    (0x3005, 0x3008),
    (0x3021, 0x3130),  # kana, bopomofo
    (0x3190, 0xA000),  # Han
    (0xF900, 0xFB00),
    (0xFF66, 0xFFA0),  # half-width kana
)
APOSTROPHES = "'’‘ʼ`´＇"
HYPHENS = "-‐\u2010\u2011\u00ac"
"""U+00AC is what some extractors make of a soft hyphen at the end of a line."""


class WordTables(NamedTuple):
    """For each code point below FOLDED_POINTS: what it is folded to (up to three code points, then zeros), and its kind."""

    fold: np.ndarray[Any, np.dtype[np.uint32]]
    kinds: U8


class RunTable(NamedTuple):
    """Runs of words to search for, and the short answers that some of them must stand near.

    `keys` are sorted run hashes with `owners` (whose run) and `partial` (1: counts only near one of its owner's answers).
    `anchors` is a bitmap of the hashes of the first lengths[0] words of all runs: most words of a text need no more.
    `buckets` says where keys of the same top bits begin. The answers of owner i are answer_bounds[j] : answer_bounds[j + 1]
    of answer_words for j from answers_of[i] to answers_of[i + 1].
    """

    keys: U64
    owners: I64
    partial: U8
    lengths: I64
    anchors: U64
    buckets: I64
    answers_of: I64
    answer_bounds: I64
    answer_words: U64
    window: I64


@functools.cache
def word_tables() -> WordTables:
    """The tables that `locate_words` reads, made once in a process (a tenth of a second)."""
    fold = np.zeros((FOLDED_POINTS, FOLD_LENGTH), np.uint32)
    kinds = np.zeros(FOLDED_POINTS, np.uint8)
    for start, end in LONE_RANGES:
        kinds[start:end] = LONE
        fold[start:end, 0] = np.arange(start, end)
    kinds[0xAC00:0xD7A4] = LETTER
    fold[0xAC00:0xD7A4, 0] = np.arange(0xAC00, 0xD7A4)
    for point in np.flatnonzero(kinds == PUNCTUATION).tolist():
        kinds[point], folded = _fold_character(chr(point))
        fold[point, : len(folded)] = folded
    for kind, characters in ((APOSTROPHE, APOSTROPHES), (HYPHEN, HYPHENS), (UNDERSCORE, "_")):
        kinds[[ord(c) for c in characters]] = kind
    return WordTables(fold, kinds)


def _fold_character(character: str) -> tuple[int, list[int]]:
    if character.isspace():
        return SPACE, []
    category = unicodedata.category(character)
    if category == "Cf" or _is_mark(character):
        return UNSEEN, []
    plain = [c for c in unicodedata.normalize("NFKD", character.casefold()).casefold() if not _is_mark(c)]
    folded = [ord(c) for c in unicodedata.normalize("NFC", "".join(plain)) if unicodedata.category(c)[0] in "LNM"][:FOLD_LENGTH]
    return (LETTER if folded and category[0] in "LNM" else PUNCTUATION), folded


def _is_mark(character: str) -> bool:
    # Accents, vowel points of Hebrew and Arabic, the Arabic stroke that only lengthens, variation selectors. The vowel signs of
    # Indic scripts are letters.
    ranges = (("\u0300", "\u036f"), ("\u0591", "\u05c7"), ("\u064b", "\u065f"), ("\u0670", "\u0670"), ("\ufe00", "\ufe0f"))
    return character == "\u0640" or (any(first <= character <= last for first, last in ranges) and unicodedata.category(character) == "Mn")


@compiled
def _decode(data, at, end):  # type: ignore[no-untyped-def]  # compiled; a twin of kernels.decode_character: numba's cache sees one file only
    first = data[at]
    if first < 0x80:
        return np.uint32(first), 1
    length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    point = np.uint32(first & (0xFF >> (length + 1)))
    for i in range(1, min(length, end - at)):
        point = (point << np.uint32(6)) | np.uint32(data[at + i] & 0x3F)
    return point, length


@compiled
def _scramble(value):  # type: ignore[no-untyped-def]  # compiled
    # The finaliser of MurmurHash3.
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled
def _kind_of(point, kinds):  # type: ignore[no-untyped-def]  # compiled
    if point < len(kinds):
        return kinds[point]
    return np.uint8(2) if point < 0x40000 else np.uint8(0)


@compiled
def _after_line_break(data, at, end, kinds):  # type: ignore[no-untyped-def]  # compiled
    # Where the next line's first letter stands if only white space with a line break is between; else -1.
    broken = False
    while at < end and (data[at] == 32 or data[at] == 9 or data[at] == 10 or data[at] == 13):
        broken = broken or data[at] == 10
        at += 1
    if not broken or at >= end:
        return -1
    point, _ = _decode(data, at, end)
    return at if _kind_of(point, kinds) == 1 else -1


@compiled
def locate_words(data, start, end, tables, mode, hashes, starts, ends):  # type: ignore[no-untyped-def]  # compiled
    """Fills the last three arrays with the hash and the place (bytes) of each word of data[start:end].

    Returns the number of words, and whether some line ends in a hyphen inside a word. `mode` is SEPARATE, ...; the arrays
    must have room for as many words as there are bytes.
    """
    count, at, inside, hyphenated = 0, start, False, False
    state = FNV_OFFSET
    while at < end:
        point, length = _decode(data, at, end)
        kind = _kind_of(point, tables.kinds)
        here = at
        at += length
        if kind == 1:
            if not inside:
                state, inside = FNV_OFFSET, True
                starts[count] = here
            state = (state ^ np.uint64(tables.fold[point, 0])) * FNV_PRIME
            if point >= 0x80:
                for f in range(1, FOLD_LENGTH):
                    if tables.fold[point, f]:
                        state = (state ^ np.uint64(tables.fold[point, f])) * FNV_PRIME
            ends[count] = min(at, end)
            continue
        if kind == 4 or (kind == 5 and mode == 1) or (mode == 2 and (kind == 0 or kind >= 5)):
            continue
        if mode == 4 and (kind == 0 or kind == 5 or kind == 6):
            continue
        if kind == 6 and inside:
            following = _after_line_break(data, at, end, tables.kinds)
            hyphenated = hyphenated or following >= 0
            if mode == 3 and following >= 0:
                at = following
                continue
        if inside:
            hashes[count] = _scramble(state)
            count, inside = count + 1, False
        if kind == 2:
            hashes[count] = _scramble(np.uint64(point) * FNV_PRIME + FNV_OFFSET)
            starts[count], ends[count] = here, min(at, end)
            count += 1
    if inside:
        hashes[count] = _scramble(state)
        count += 1
    return count, hyphenated


@compiled
def locate_words_of_texts(data, offsets, tables):  # type: ignore[no-untyped-def]  # compiled
    """Of all words of all texts: their hashes and places, and `bounds`: text i has words bounds[i] : bounds[i + 1]."""
    num_texts = len(offsets) - 1
    room = offsets[-1] - offsets[0] + 1
    # Pages of these that no word reaches are never touched, so they cost no memory.
    hashes, starts, ends = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    bounds = np.zeros(num_texts + 1, np.int64)
    for d in range(num_texts):
        at = bounds[d]
        count, _ = locate_words(data, offsets[d], offsets[d + 1], tables, 0, hashes[at:], starts[at:], ends[at:])
        bounds[d + 1] = at + count
    total = bounds[num_texts]
    return hashes[:total].copy(), starts[:total].copy(), ends[:total].copy(), bounds


@compiled
def prefix_sums(words, count, multiplier):  # type: ignore[no-untyped-def]  # compiled
    """prefix[j] - prefix[i] * multiplier**(j - i) is the hash of words[i:j], modulo 2**64."""
    prefix = np.zeros(count + 1, np.uint64)
    for i in range(count):
        prefix[i + 1] = prefix[i] * multiplier + words[i]
    return prefix


@compiled
def _power(multiplier, exponent):  # type: ignore[no-untyped-def]  # compiled
    result = np.uint64(1)
    for _ in range(exponent):
        result *= multiplier
    return result


@compiled
def list_runs(words, length, multiplier):  # type: ignore[no-untyped-def]  # compiled
    """The hash of every run of `length` words."""
    prefix = prefix_sums(words, len(words), multiplier)
    power = _power(multiplier, length)
    out = np.empty(max(len(words) - length + 1, 0), np.uint64)
    for first in range(len(out)):
        out[first] = _scramble(prefix[first + length] - prefix[first] * power + np.uint64(length))
    return out


@compiled
def _near_answer(words, count, first, last, owner, runs):  # type: ignore[no-untyped-def]  # compiled
    # First word and end of an answer of `owner` within the window after words[first:last], or before; else (-1, -1).
    for j in range(runs.answers_of[owner], runs.answers_of[owner + 1]):
        begin, size = runs.answer_bounds[j], runs.answer_bounds[j + 1] - runs.answer_bounds[j]
        for place in range(max(first - runs.window[0] - size, 0), min(last + runs.window[0], count - size) + 1):
            if place + size > first and place < last:
                continue  # a word of the question itself
            same = True
            for k in range(size):
                if words[place + k] != runs.answer_words[begin + k]:
                    same = False
                    break
            if same:
                return place, place + size
    return -1, -1


@compiled
def _search_words(words, count, prefix, powers, runs, max_owners, hits, num_hits):  # type: ignore[no-untyped-def]  # compiled
    # Appends (first word, end, owner, partial) of every run that is found; returns the array, grown if need be, and its length.
    anchor = runs.lengths[0]
    anchor_shift = np.uint64(64 - int(np.log2(len(runs.anchors) * 64)))
    bucket_shift = np.uint64(64 - int(np.log2(len(runs.buckets) - 1)))
    for first in range(count - anchor + 1):
        bit = _scramble(prefix[first + anchor] - prefix[first] * powers[0] + np.uint64(anchor)) >> anchor_shift
        if not (runs.anchors[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
            continue
        for k in range(len(runs.lengths)):
            length = runs.lengths[k]
            if first + length > count:
                break
            key = _scramble(prefix[first + length] - prefix[first] * powers[k] + np.uint64(length))
            bucket = key >> bucket_shift
            low, high = runs.buckets[bucket], runs.buckets[bucket + np.uint64(1)]
            while low < high:
                middle = (low + high) // 2
                if runs.keys[middle] < key:
                    low = middle + 1
                else:
                    high = middle
            reported = 0
            while low < len(runs.keys) and runs.keys[low] == key and reported < max_owners:
                begin, stop = first, first + length
                if runs.partial[low]:
                    answer, answer_end = _near_answer(words, count, begin, stop, runs.owners[low], runs)
                    if answer < 0:
                        low += 1
                        continue
                    begin, stop = min(begin, answer), max(stop, answer_end)
                if num_hits == len(hits):
                    larger = np.empty((2 * len(hits), 4), np.int64)
                    larger[:num_hits] = hits
                    hits = larger
                hits[num_hits] = begin, stop, runs.owners[low], np.int64(runs.partial[low])
                num_hits += 1
                reported += 1
                low += 1
    return hits, num_hits


@compiled
def search_runs(data, offsets, tables, runs, max_owners):  # type: ignore[no-untyped-def]  # compiled
    """Every run of `runs` in every text: rows of (text, first byte, end, owner, partial), int64.

    A text with words hyphenated over lines is read twice, with these words apart and joined. At most `max_owners` owners
    are reported for a run that many have.
    """
    num_texts = len(offsets) - 1
    found, num_found = np.empty((64, 5), np.int64), 0
    if len(runs.keys) == 0:
        return found[:0]
    powers = np.empty(len(runs.lengths), np.uint64)
    for k in range(len(powers)):
        powers[k] = _power(POLYNOMIAL, runs.lengths[k])
    longest = 0
    for d in range(num_texts):
        longest = max(longest, offsets[d + 1] - offsets[d])
    words, starts, ends = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    hits = np.empty((64, 4), np.int64)
    for d in range(num_texts):
        mode, hyphenated = 0, False
        while True:
            count, hyphenated = locate_words(data, offsets[d], offsets[d + 1], tables, mode, words, starts, ends)
            prefix = prefix_sums(words, count, POLYNOMIAL)
            hits, num_hits = _search_words(words, count, prefix, powers, runs, max_owners, hits, 0)
            while num_found + num_hits > len(found):
                larger = np.empty((2 * len(found), 5), np.int64)
                larger[:num_found] = found[:num_found]
                found = larger
            for h in range(num_hits):
                found[num_found] = d, starts[hits[h, 0]] - offsets[d], ends[hits[h, 1] - 1] - offsets[d], hits[h, 2], hits[h, 3]
                num_found += 1
            if mode == 3 or not hyphenated:
                break
            mode = 3
    return found[:num_found]


@compiled
def split_units(data, offsets, by_paragraph):  # type: ignore[no-untyped-def]  # compiled
    """The lines of each text, or its paragraphs (lines between blank ones): rows of (text, first byte, end), int64.

    A unit begins and ends with a character that is not white space; white space alone is none.
    """
    found, count = np.empty((64, 3), np.int64), 0
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        unit, unit_end = -1, -1
        while at <= end:
            stop = at
            while stop < end and data[stop] != 10:
                stop += 1
            first, last = at, stop
            while first < last and (data[first] == 32 or 9 <= data[first] <= 13):
                first += 1
            while last > first and (data[last - 1] == 32 or 9 <= data[last - 1] <= 13):
                last -= 1
            blank = first == last
            if not blank:
                unit, unit_end = (first if unit < 0 else unit), last
            if unit >= 0 and (blank or not by_paragraph or stop >= end):
                if count == len(found):
                    larger = np.empty((2 * count, 3), np.int64)
                    larger[:count] = found
                    found = larger
                found[count] = d, unit, unit_end
                count += 1
                unit = -1
            at = stop + 1
    return found[:count]


@compiled
def hash_units(data, units, tables, multiplier):  # type: ignore[no-untyped-def]  # compiled
    """Of each unit: two independent hashes of its words, their number, and the number of its characters.

    The hashes are uint64 (units x 2), the numbers int64 (units x 2).
    """
    keys, sizes = np.empty((len(units), 2), np.uint64), np.empty((len(units), 2), np.int64)
    longest = 0
    for u in range(len(units)):
        longest = max(longest, units[u, 2] - units[u, 1])
    words, starts, ends = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    for u in range(len(units)):
        count, _ = locate_words(data, units[u, 1], units[u, 2], tables, 0, words, starts, ends)
        one, other = np.uint64(count), np.uint64(count)
        for w in range(count):
            one, other = one * POLYNOMIAL + words[w], other * multiplier + _scramble(words[w])
        keys[u, 0], keys[u, 1] = _scramble(one), _scramble(other)
        characters = 0
        for i in range(units[u, 1], units[u, 2]):
            characters += (data[i] & 0xC0) != 0x80
        sizes[u, 0], sizes[u, 1] = count, characters
    return keys, sizes


@compiled
def hash_unit_ngrams(data, units, tables, length):  # type: ignore[no-untyped-def]  # compiled
    """The hash of every run of `length` words of each unit, one after another (uint64), and where each unit's begin (int64).

    A unit of fewer words is one run; one of none has none.
    """
    total, longest = 0, 0
    for u in range(len(units)):
        longest = max(longest, units[u, 2] - units[u, 1])
        total += units[u, 2] - units[u, 1]
    out, bounds = np.empty(total + 1, np.uint64), np.zeros(len(units) + 1, np.int64)
    words, starts, ends = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    for u in range(len(units)):
        count, _ = locate_words(data, units[u, 1], units[u, 2], tables, 0, words, starts, ends)
        runs = list_runs(words[:count], min(length, count), POLYNOMIAL) if count else words[:0]
        out[bounds[u] : bounds[u] + len(runs)] = runs
        bounds[u + 1] = bounds[u] + len(runs)
    return out[: bounds[len(units)]].copy(), bounds


@compiled
def window_minima(words, bounds, window, gram):  # type: ignore[no-untyped-def]  # compiled
    """For each run of `window` words (of those that start at word i and end within its text): the smallest hash of the runs
    of `gram` words in it, and the word where that one starts, the last of equal ones.

    Returns (uint64, int64), one for each word; the place is -1 where no such run starts. Runs that are equal have equal
    minima at the same distance from their start (winnowing, Schleimer et al. 2003).
    """
    minima, places = np.zeros(len(words), np.uint64), np.full(len(words), -1, np.int64)
    span = window - gram + 1
    for d in range(len(bounds) - 1):
        start, end = bounds[d], bounds[d + 1]
        if end - start < window:
            continue
        grams = list_runs(words[start:end], gram, POLYNOMIAL)
        best = -1
        for i in range(end - start - window + 1):
            if best < i:
                best = i
                for j in range(i + 1, i + span):
                    if grams[j] <= grams[best]:
                        best = j
            elif grams[i + span - 1] <= grams[best]:
                best = i + span - 1
            minima[start + i], places[start + i] = grams[best], start + best
    return minima, places


@compiled
def merge_cuts(firsts, ends):  # type: ignore[no-untyped-def]  # compiled
    """The union of the intervals [firsts[i], ends[i]), given in order of their firsts: rows of (first, end)."""
    merged, count = np.empty((len(firsts), 2), np.int64), 0
    for i in range(len(firsts)):
        if ends[i] <= firsts[i]:
            continue
        if count and firsts[i] <= merged[count - 1, 1]:
            merged[count - 1, 1] = max(merged[count - 1, 1], ends[i])
        else:
            merged[count] = firsts[i], ends[i]
            count += 1
    return merged[:count]


@compiled
def common_prefixes(symbols, order, most):  # type: ignore[no-untyped-def]  # compiled
    """For each place k of a suffix array `order`: how many symbols the suffixes order[k - 1] and order[k] share, at most
    `most` (Kasai et al. 2001). A symbol 0 ends a text and equals nothing.
    """
    count = len(symbols)
    rank, shared = np.empty(count, np.int64), np.zeros(count, np.int64)
    for k in range(count):
        rank[order[k]] = k
    length = 0
    for i in range(count):
        if rank[i] == 0:
            length = 0
            continue
        j = order[rank[i] - 1]
        while i + length < count and j + length < count and symbols[i + length] == symbols[j + length] and symbols[i + length] != 0:
            length += 1
        shared[rank[i]] = min(length, most)
        length = max(length - 1, 0)
    return shared
