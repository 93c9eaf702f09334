"""What the words and lines of a text are like: counts for the rules of Gopher, C4, FineWeb, RefinedWeb and the mission.

Compiled loops over the code points and words of `curate/word_kernels.py`. Lines end at a newline, and blank lines count
nowhere. Each function lists the columns of its result.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bloomery.curate.kernels import compiled
from bloomery.curate.word_kernels import Texts, Words, hash_string

Array = np.ndarray[Any, Any]

SHORT_LINE_CHARACTERS, LONG_WORD_CHARACTERS = 30, 1000
"""FineWeb's short line, and C4's word that no language has."""

WORD_COUNTS = ("characters", "letters", "unspaced", "hashes", "ellipses", "all_words", "words", "word_characters", "lettered", "stop_words")
LINE_COUNTS = (
    *("lines", "bullets", "ellipsis_ends", "sentence_ends", "short", "newlines", "third_longest"),
    *("uppercase", "numeric", "counters", "single", "flagged_words", "runs", "few_runs", "commonest_run", "paragraphs"),
)
C4_COUNTS = ("lines", "kept", "sentences", "curly_brackets", "lorem_ipsum")

C4_VERDICTS = ("kept", "blank", "long_word", "no_line_end", "few_words", "javascript", "policy")
REFINEDWEB_VERDICTS = ("kept", "uppercase", "numeric", "counter", "one_word")
"""What a line is taken out for, in the order in which it is tried; the numbers of the verdicts of lines."""


class StopWords(NamedTuple):
    """Stop words of several languages in an open hash table: `keys` (0 = free), `bits` of the word within its language;
    `numbers` of the languages."""

    keys: Array
    bits: Array
    numbers: Mapping[str, int]


def pack_stop_words(words: Mapping[str, Sequence[str]]) -> StopWords:
    """Stop words by language as `measure_words` looks them up."""
    numbers = {language: number for number, language in enumerate(sorted(words), start=1)}
    size = 1 << (4 * sum(map(len, words.values()))).bit_length()
    keys, bits = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for language, number in numbers.items():
        for bit, word in enumerate(words[language]):
            key = (hash_string(word) + number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            slot = key & (size - 1)
            while keys[slot]:
                slot = (slot + 1) & (size - 1)
            keys[slot], bits[slot] = key, bit
    return StopWords(keys, bits, numbers)


def measure_words(texts: Texts, words: Words, *, stop_words: StopWords, languages: Sequence[str | None]) -> Array:
    """WORD_COUNTS of each text (int64): characters that are not white space; letters, and those of scripts without spaces;
    hash signs and ellipses; words, those with more than punctuation, and the characters of these; words with a letter;
    different stop words of the text's language.
    """
    numbers = np.array([stop_words.numbers.get(language or "", 0) for language in languages], np.uint64)
    return _measure_words(*texts, *words, stop_words.keys, stop_words.bits, numbers)  # type: ignore[no-any-return]  # compiled


def measure_lines(texts: Texts, *, unspaced: Array) -> Array:
    """LINE_COUNTS of each text (int64): lines; those that begin with a bullet, end with an ellipsis, end a sentence, are
    short; newlines; characters of the third longest line; lines that RefinedWeb takes out, by reason, and the words in
    them; runs between white space (where there is none, characters); lines of fewer than three; how often the commonest
    occurs; paragraphs (blank lines between).

    `unspaced` (bool) marks texts whose characters count twice in the length of a line.
    """
    return _measure_lines(*texts, unspaced)[0]  # type: ignore[no-any-return]  # compiled


def refinedweb_verdicts(texts: Texts) -> Array:
    """The number of a verdict for every line of every text, blank ones too, one text after another."""
    return _measure_lines(*texts, np.zeros(len(texts.bounds) - 1, np.bool_))[1]  # type: ignore[no-any-return]  # compiled


def measure_c4(texts: Texts, words: Words) -> Array:
    """C4_COUNTS of each text (int64): lines, lines that C4's rules keep, sentences in those, and lines with a curly bracket
    and with "lorem ipsum", where no rule before took the line out.
    """
    return _measure_c4(*texts, *words)[0]  # type: ignore[no-any-return]  # compiled


def c4_verdicts(texts: Texts, words: Words) -> Array:
    """The number of a verdict for every line of every text, blank ones too, one text after another."""
    return _measure_c4(*texts, *words)[1]  # type: ignore[no-any-return]  # compiled


@compiled
def _measure_words(points, classes, bounds, starts, ends, hashes, word_bounds, stop_keys, stop_bits, numbers):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(bounds) - 1
    result = np.zeros((num_texts, 10), np.int64)
    mask = np.uint64(len(stop_keys) - 1)
    for d in range(num_texts):
        characters = letters = unspaced = signs = ellipses = 0
        at, end = bounds[d], bounds[d + 1]
        dots = 0
        for i in range(at, end):
            kind, point = classes[i], points[i]
            characters += kind & 128 == 0  # SPACE
            letters += kind & (4096 | 8192) != 0  # LETTER | UNSPACED
            unspaced += kind & 8192 != 0
            signs += point == 35
            ellipses += point == 0x2026
            if point == 46:
                dots += 1
                ellipses += dots % 3 == 0
            else:
                dots = 0
        words = word_characters = lettered = 0
        stop = np.uint64(0)
        language = numbers[d] * np.uint64(0x9E3779B97F4A7C15)
        for w in range(word_bounds[d], word_bounds[d + 1]):
            every, some = np.uint32(0xFFFFFFFF), np.uint32(0)
            for i in range(starts[w], ends[w]):
                every &= classes[i]
                some |= classes[i]
            if not every & 16384:  # SYMBOL
                words += 1
                word_characters += ends[w] - starts[w]
            lettered += some & (4096 | 8192) != 0
            if language and ends[w] - starts[w] <= 8:
                key = hashes[w] + language
                slot = key & mask
                while stop_keys[slot] != 0 and stop_keys[slot] != key:
                    slot = (slot + np.uint64(1)) & mask
                if stop_keys[slot] == key:
                    stop |= np.uint64(1) << np.uint64(stop_bits[slot])
        different = 0
        while stop:
            different += 1
            stop &= stop - np.uint64(1)
        row = result[d]
        row[0], row[1], row[2], row[3], row[4] = characters, letters, unspaced, signs, ellipses
        row[5], row[6], row[7], row[8], row[9] = word_bounds[d + 1] - word_bounds[d], words, word_characters, lettered, different
    return result


@compiled
def _measure_lines(points, classes, bounds, unspaced):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(bounds) - 1
    result = np.zeros((num_texts, 16), np.int64)
    num_lines = num_texts
    for i in range(len(points)):
        num_lines += points[i] == 10
    verdicts = np.zeros(num_lines, np.int8)
    line = 0
    for d in range(num_texts):
        row = result[d]
        first, end = bounds[d], bounds[d + 1]
        size = 16
        while size < end - first + 2:
            size *= 2
        keys, counts = np.zeros(size, np.uint64), np.zeros(size, np.int32)
        mask = np.uint64(size - 1)
        longest, second, third = 0, 0, 0
        at, blank_before = first, True
        while at <= end:
            start, runs, in_run = at, 0, False
            wide = letters = capitals = digits = 0
            leading_digits = False
            state = np.uint64(0xCBF29CE484222325)
            left = right = -1
            while at < end and points[at] != 10:
                kind = classes[at]
                if kind & 128:  # SPACE
                    if in_run:
                        _count(keys, counts, mask, state, row)
                    in_run = False
                else:
                    left = at if left < 0 else left
                    right = at
                    if kind & 8192 and in_run:  # UNSPACED: a run by itself
                        _count(keys, counts, mask, state, row)
                        in_run = False
                    if not in_run:
                        runs, in_run, state = runs + 1, True, np.uint64(0xCBF29CE484222325)
                        leading_digits = leading_digits if runs > 1 else kind & 8 != 0
                    state = (state ^ np.uint64(points[at])) * np.uint64(0x100000001B3)
                    if kind & 8192:
                        _count(keys, counts, mask, state, row)
                        in_run = False
                        wide += 1
                    letters += kind & 4096 != 0
                    capitals += kind & 131072 != 0
                    digits += kind & 8 != 0
                at += 1
            if in_run:
                _count(keys, counts, mask, state, row)
            length = at - start
            row[5] += at < end
            if length >= longest:
                longest, second, third = length, longest, second
            elif length >= second:
                second, third = length, second
            elif length > third:
                third = length
            if left >= 0:
                row[0] += 1
                point = points[left]
                row[1] += point == 45 or point == 0x2022 or point == 0x2023 or point == 0x25AA or point == 0x25CF or point == 0x25E6
                dots = right >= left + 2 and points[right] == 46 and points[right - 1] == 46 and points[right - 2] == 46
                row[2] += dots or points[right] == 0x2026
                row[3] += classes[at - 1] & (65536 | 2097152) != 0  # TERMINAL | UNMARKED
                row[4] += length + (wide if unspaced[d] else 0) <= 30
                row[12] += runs
                row[13] += runs < 3
                row[15] += blank_before
                verdict = 0
                if letters and 2 * capitals > letters and letters > 1:
                    verdict = 1
                elif digits and not letters:
                    verdict = 2
                elif runs == 2 and leading_digits and letters:
                    verdict = 3
                elif runs == 1:
                    verdict = 4
                verdicts[line] = verdict
                if verdict:
                    row[6 + verdict] += 1
                    row[11] += runs
            blank_before = left < 0
            line += 1
            at += 1
        row[6] = third
    return result, verdicts[:line]


@compiled
def _count(keys, counts, mask, state, row):  # type: ignore[no-untyped-def]  # compiled
    # One more run between white space with this hash; row[14] is the count of the commonest.
    state ^= state >> np.uint64(33)
    state = (state * np.uint64(0xFF51AFD7ED558CCD)) | np.uint64(1)
    slot = (state >> np.uint64(20)) & mask
    while keys[slot] != 0 and keys[slot] != state:
        slot = (slot + np.uint64(1)) & mask
    keys[slot] = state
    counts[slot] += 1
    row[14] = max(row[14], counts[slot])


@compiled
def _measure_c4(points, classes, bounds, starts, ends, hashes, word_bounds):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(bounds) - 1
    result = np.zeros((num_texts, 5), np.int64)
    num_lines = num_texts
    for i in range(len(points)):
        num_lines += points[i] == 10
    verdicts = np.zeros(num_lines, np.int8)
    line = 0
    for d in range(num_texts):
        row = result[d]
        at, end = bounds[d], bounds[d + 1]
        word = word_bounds[d]
        while at <= end:
            runs = run = longest = 0
            left, right, start = -1, at, at
            some = np.uint32(0)
            while at < end and points[at] != 10:
                kind = classes[at]
                some |= kind
                if kind & 128:  # SPACE
                    run = 0
                elif kind & 8192:  # UNSPACED: a word by itself
                    runs, run, right = runs + 1, 0, at
                    left = at if left < 0 else left
                else:
                    runs += run == 0
                    run += 1
                    longest = max(longest, run)
                    left = at if left < 0 else left
                    right = at
                at += 1
            found = left >= 0
            while word < word_bounds[d + 1] and starts[word] < start:
                word += 1
            verdict = _c4_verdict(points, classes, left, right + 1, found, runs, longest)
            if found:
                row[0] += 1
            if verdict == 0:
                phrase = _find_phrase(points, left, right + 1) if some & 524288 else 0  # RARE
                row[4] += phrase & 1
                if phrase & 2:
                    verdict = 5
                else:
                    row[3] += some & 1048576 != 0  # BRACE
                    if phrase & 4:
                        verdict = 6
            verdicts[line] = verdict
            if verdict == 0:
                row[1] += 1
                row[2] += _count_sentences(classes, starts, ends, word, word_bounds[d + 1], at)
            line += 1
            at += 1
    return result, verdicts[:line]


@compiled
def _c4_verdict(points, classes, left, end, found, runs, longest):  # type: ignore[no-untyped-def]  # compiled
    if not found:
        return 1
    if longest > 1000:
        return 2
    last = points[end - 1]
    closes = classes[end - 1] & (65536 | 2097152) != 0 or last == 34 or last == 39  # TERMINAL | UNMARKED, a straight quote
    ellipsis = end - left >= 3 and last == 46 and points[end - 2] == 46 and points[end - 3] == 46
    if not closes or ellipsis:
        return 3
    return 4 if runs < 3 else 0


@compiled
def _count_sentences(classes, starts, ends, word, last, stop):  # type: ignore[no-untyped-def]  # compiled
    # Sentences among the words from `word` that begin before character `stop`: a new one begins with the first word that is
    # no punctuation after a word that is one sentence end.
    sentences, closed, first = 0, False, word
    while word < last and starts[word] < stop:
        sentences = max(sentences, 1)
        terminal = ends[word] - starts[word] == 1 and classes[starts[word]] & 65536 != 0
        punctuation = True
        for i in range(starts[word], ends[word]):
            punctuation = punctuation and classes[i] & 32768 != 0
        if word > first and classes[starts[word]] & classes[ends[word - 1] - 1] & 2097152 and starts[word] > ends[word - 1]:
            closed = True  # UNMARKED: a space ends a sentence
        if closed and not punctuation and not terminal:
            sentences, closed = sentences + 1, False
        elif terminal:
            closed = True
        word += 1
    return sentences


@compiled
def _says(points, at, end, phrase):  # type: ignore[no-untyped-def]  # compiled
    # Whether the lower-cased ASCII characters from `at` are those of `phrase`.
    if at < 0 or at + len(phrase) > end:
        return False
    for k in range(len(phrase)):
        point = points[at + k]
        if 65 <= point <= 90:
            point += np.uint32(32)
        if point != phrase[k]:
            return False
    return True


def _letters(text: str) -> tuple[int, ...]:
    return tuple(text.encode("ascii"))


_LOREM, _JAVASCRIPT, _COOKIE = _letters("lorem ipsum"), _letters("javascript"), _letters("cookie")
_TERMS, _PRIVACY, _COOKIE_POLICY = _letters("terms of use"), _letters("privacy policy"), _letters("cookie policy")
_USES, _USE_OF, _USE = _letters("uses cookies"), _letters("use of cookies"), _letters("use cookies")


@compiled
def _find_phrase(points, start, end):  # type: ignore[no-untyped-def]  # compiled
    # 1 for "lorem ipsum", 2 for "javascript", 4 for C4's policy phrases; each phrase is sought at its rarest letter.
    found = 0
    for at in range(start, end):
        point = points[at] | np.uint32(32)
        if point == 109:  # m
            if at - 4 >= start and _says(points, at - 4, end, _LOREM):
                found |= 1
            elif at - 3 >= start and _says(points, at - 3, end, _TERMS):
                found |= 4
        elif point == 106:  # j
            if _says(points, at, end, _JAVASCRIPT):
                found |= 2
        elif point == 118:  # v
            if at - 3 >= start and _says(points, at - 3, end, _PRIVACY):
                found |= 4
        elif point == 107 and at - 3 >= start and _says(points, at - 3, end, _COOKIE):  # k
            uses = at - 8 >= start and _says(points, at - 8, end, _USES)
            use_of = at - 10 >= start and _says(points, at - 10, end, _USE_OF)
            use = at - 7 >= start and _says(points, at - 7, end, _USE)
            if uses or use_of or use or _says(points, at - 3, end, _COOKIE_POLICY):
                found |= 4
    return found
