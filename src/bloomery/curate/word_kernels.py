"""Words of written text, cut as spaCy cuts English, in compiled loops over code points.

Gopher, C4 and FineWeb count words, and their thresholds were set with tokenizers that make a full stop, a quote and the
"n't" of "don't" words of their own. datatrove uses spaCy's English tokenizer, so these loops follow its algorithm: runs
between white space lose affixes from both ends until nothing changes, known exceptions stay as they are, addresses stay
whole, and the rest is cut at infixes. What differs is measured and explained in docs/rules.md. A character of a script
without spaces (Chinese, Japanese, Thai, ...) is a word by itself: spaCy would take a whole sentence for one.
"""

import functools
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from bloomery.core.cached_arrays import cached_table
from bloomery.curate.kernels import compiled

Array = np.ndarray[Any, Any]

ALPHA, LOWER, UPPER, DIGIT, PREFIX, SUFFIX, QUOTE, SPACE = 1, 2, 4, 8, 16, 32, 64, 128
ICON, CURRENCY, BEFORE_DOT, HOST, LETTER, UNSPACED, SYMBOL, PUNCTUATION = 256, 512, 1024, 2048, 4096, 8192, 16384, 32768
TERMINAL, CASED_UPPER, INNER, RARE, BRACE, UNMARKED = 65536, 131072, 262144, 524288, 1048576, 2097152
"""Classes of a character, one bit each. LOWER and UPPER both hold letters without case (as spaCy has it), CASED_UPPER only
true capitals; SYMBOL is what datatrove does not count as a word; PUNCTUATION is Unicode's category P; TERMINAL ends a
sentence (Unicode's Sentence_Terminal); INNER may cut a word in two;
RARE are the letters j, k, v and m, one of which is in every phrase that C4 seeks; UNMARKED
belong to scripts that end a sentence with a space (Thai, Lao, Tibetan)."""

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
MAX_EXCEPTION = 12
"""Characters of the longest exception."""

_LAST = 0x20000
_SIEVE = 1 << 15
_SENTENCE_TERMINAL = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA 1803 "
    "1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF "
    "A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 "
    "10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C "
    "115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F "
    "16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
_UNSPACED = "E00-109F 1780-17FF 2E80-2FFF 3005-3007 3021-9FFF F900-FAFF FF66-FF9F 20000"
_PUNCT = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴" + "".join(map(chr, range(0x20A0, 0x20C0)))
_OTHER_SYMBOLS = "´»«—–’“”…∶━►、。「」《》【】％１，；：（）～"

UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB kb KB "
    "gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ "
    "гб Тб ТБ тб"
)
"""Units that part from the number before them: "10km" is two words."""


class Exceptions(NamedTuple):
    """Strings with a cut of their own, in an open hash table: `keys` (0 = free), `cuts` (where words 2 and 3 begin).

    `sieve` has a one for each combination of first character, last character and length that occurs.
    """

    keys: Array
    cuts: Array
    sieve: Array


class Words(NamedTuple):
    """Words of several texts: word i is points[starts[i] : ends[i]]; those of text d are bounds[d] .. bounds[d + 1]."""

    starts: Array
    ends: Array
    hashes: Array
    bounds: Array


class Texts(NamedTuple):
    """Texts as code points with the classes of each; text d is points[bounds[d] : bounds[d + 1]]."""

    points: Array
    classes: Array
    bounds: Array


def decode(data: Array, offsets: Array) -> Texts:
    """The code points of UTF-8 texts (`kernels.TextColumn`), with their classes."""
    return Texts(*_decode(data, offsets, character_classes()))


def cut_words(texts: Texts) -> Words:
    """The words of every text, in order, each with a 64-bit hash of its characters."""
    exceptions, units = word_exceptions(), unit_names()
    return Words(*_cut_words(texts.points, texts.classes, texts.bounds, exceptions.keys, exceptions.cuts, exceptions.sieve, units.keys))


@functools.cache
def character_classes() -> Array:
    """Classes of every character up to U+20000; all later letters are Han."""
    return cached_table(_classify_characters)


def _classify_characters() -> Array:
    table = np.zeros(_LAST + 1, np.uint32)
    for point in range(_LAST + 1):
        character = chr(point)
        category = unicodedata.category(character)
        if category == "Cn":
            continue
        bits = 0
        if category[0] in "LM":
            upper = category in ("Lu", "Lt")
            bits |= ALPHA | (UPPER | CASED_UPPER if upper else LOWER)
            bits |= UPPER if category in ("Lo", "Lm") or category[0] == "M" else 0
        bits |= LETTER if category[0] == "L" else 0
        bits |= SPACE if character.isspace() else 0
        bits |= PUNCTUATION if category[0] == "P" else 0
        bits |= PREFIX | SUFFIX | ICON | INNER if category == "So" else 0
        bits |= HOST if 0xA1 <= point <= 0xFFFF else 0
        bits |= SYMBOL if category == "Cc" and point not in (9, 10) else 0
        table[point] = bits
    for point in range(128):
        character = chr(point)
        if character.isalnum():
            table[point] |= HOST
        if character.isdigit():
            table[point] |= DIGIT | BEFORE_DOT
        if unicodedata.category(character)[0] in "PS":
            table[point] |= SYMBOL
    _mark(table, _PUNCT, PREFIX | SUFFIX | BEFORE_DOT)
    _mark(table, _QUOTES, PREFIX | SUFFIX | BEFORE_DOT | QUOTE)
    _mark(table, "—–", PREFIX | SUFFIX)
    _mark(table, "§%=" + _CURRENCY, PREFIX)
    _mark(table, _CURRENCY, CURRENCY)
    _mark(table, "%²-+|", BEFORE_DOT)
    _mark(table, _OTHER_SYMBOLS, SYMBOL)
    _mark(table, ".…+-*^,–—~:<>=/", INNER)
    _mark(table, "jkvmJKVM", RARE)
    _mark(table, "{", BRACE)
    table[table & LOWER > 0] |= BEFORE_DOT
    for first, last in _ranges(_SENTENCE_TERMINAL):
        table[first : last + 1] |= TERMINAL | SYMBOL
    table[0xE00:0x1000][table[0xE00:0x1000] & ALPHA > 0] |= UNMARKED
    for first, last in _ranges(_UNSPACED):
        table[first : last + 1][table[first : last + 1] & ALPHA > 0] |= UNSPACED
    return table


@functools.cache
def word_exceptions() -> Exceptions:
    """The exceptions of `exception_words`, packed."""
    return pack_exceptions(exception_words())


@functools.cache
def unit_names() -> Exceptions:
    """UNITS, packed."""
    return pack_exceptions({unit: (unit,) for unit in UNITS.split()})


def exception_words() -> dict[str, tuple[str, ...]]:
    """English strings with a cut of their own: contractions with and without apostrophe, abbreviations, emoticons."""
    cuts: dict[str, tuple[str, ...]] = {}

    def contract(words: str, endings: str) -> None:
        for word in words.split():
            for ending in endings.split():
                for head in (word, word.title()):
                    parts = (head, *ending.split("+"))
                    cuts["".join(parts)] = parts
                    bare = (head, *(part.replace("'", "") for part in parts[1:]))
                    cuts["".join(bare)] = bare

    contract("i", "'m 'm+a")
    contract("i you he she it we they", "'ll 'll+'ve 'd 'd+'ve")
    contract("i you we they", "'ve")
    contract("you we they who what when where why how there these those", "'re")
    contract("he she it who what when where why how there that this", "'s")
    contract("who what when where why how there that this these those", "'ll 'll+'ve 'd 'd+'ve")
    contract("who what when where why how there these those could might must should would", "'ve")
    contract("ca could do does did had may might must need ought sha should wo would", "n't n't+'ve")
    contract("ai are is was were have has dare", "n't")
    no_contractions = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
    for word in no_contractions.split():
        cuts.pop(word, None)
    for hour in range(1, 13):
        for half in ("am", "pm", "a.m.", "p.m."):
            cuts[f"{hour}{half}"] = (str(hour), half)
    others = (
        "y'+all y+all how+'d+'y How+'d+'y not+'ve not+ve Not+'ve Not+ve can+not Can+not gon+na Gon+na got+ta Got+ta let+'s Let+'s "
        "c'm+on C'm+on"
    )
    for joined in others.split():
        cuts[joined.replace("+", "")] = tuple(joined.split("+"))
    whole = (
        "em ll nuff doin goin nothin nuthin ol somethin lovin havin Doin Goin Nothin Nuthin Ol Somethin Lovin Havin "
        "doin' goin' nothin' nuthin' ol' somethin' lovin' havin' Doin' Goin' Nothin' Nuthin' Ol' Somethin' Lovin' Havin' "
        "'em 'll 'nuff 'S 's 're 'd 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock O'clock ' '' and/or w/o "
        "Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. "
        "La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. "
        "Tenn. Va. Wash. Wis. a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. "
        "Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. C++ — ‘s ‘S \\t \\n <space> ä. ö. ü. "
        ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( :((( "
        ":-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 "
        "=3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V "
        "o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*)"
    )
    for word in whole.split() + [f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz"]:
        cuts[word] = (word,)
    for unit in "cfkCFK":
        cuts[f"°{unit}."] = ("°", unit, ".")
    for word, parts in list(cuts.items()):
        if "'" in word:
            cuts[word.replace("'", "’")] = tuple(part.replace("'", "’") for part in parts)
    return cuts


def pack_exceptions(cuts: dict[str, tuple[str, ...]]) -> Exceptions:
    """A hash table that compiled loops can search."""
    size = 1 << (4 * len(cuts)).bit_length()
    keys, starts, sieve = np.zeros(size, np.uint64), np.zeros((size, 2), np.int32), np.zeros(_SIEVE, np.bool_)
    for word, parts in cuts.items():
        key = hash_string(word)
        slot = key & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot] = key
        sieve[_sieve_place(ord(word[0]), ord(word[-1]), len(word))] = True
        starts[slot, 0] = len(parts[0]) if len(parts) > 1 else 0
        starts[slot, 1] = len(parts[0]) + len(parts[1]) if len(parts) > 2 else 0
    return Exceptions(keys, starts, sieve)


def hash_string(word: str) -> int:
    """The hash that `cut_words` gives to a word of these characters.

    >>> hash_string("the") == hash_string("the"), hash_string("the") == hash_string("The")
    (True, False)
    """
    mask = 0xFFFFFFFFFFFFFFFF
    state = int(FNV_OFFSET)
    for character in word:
        state = ((state ^ ord(character)) * int(FNV_PRIME)) & mask
    state ^= state >> 33
    state = (state * 0xFF51AFD7ED558CCD) & mask
    return state ^ (state >> 33)


def inlined(function: Callable[..., Any]) -> Any:
    """The function compiled into its callers: a call would cost more than most of these small loops do."""
    return numba.njit(nogil=True, forceinline=True)(function)


def _mark(table: Array, characters: str, bits: int) -> None:
    for character in characters:
        table[ord(character)] |= bits


def _ranges(text: str) -> list[tuple[int, int]]:
    return [(int(first, 16), int(last or first, 16)) for first, _, last in (part.partition("-") for part in text.split())]


@compiled
def _decode(data, offsets, classes_of):  # type: ignore[no-untyped-def]  # compiled
    num_texts = len(offsets) - 1
    size = offsets[num_texts] - offsets[0]
    points, classes = np.empty(size, np.uint32), np.empty(size, np.uint32)
    bounds = np.zeros(num_texts + 1, np.int64)
    count = 0
    for d in range(num_texts):
        at, end = offsets[d], offsets[d + 1]
        while at < end:
            first = data[at]
            if first < 0x80:
                points[count], classes[count] = first, classes_of[first]
                at += 1
            else:
                length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
                point = np.uint32(first & (0xFF >> (length + 1)))
                for i in range(1, min(length, end - at)):
                    point = (point << np.uint32(6)) | np.uint32(data[at + i] & 0x3F)
                points[count] = point
                classes[count] = classes_of[point] if point < 0x20000 else classes_of[0x20000] if point < 0x40000 else 0
                at += length
            count += 1
        bounds[d + 1] = count
    return points[:count], classes[:count], bounds


@inlined
def _finish(state):  # type: ignore[no-untyped-def]  # compiled
    state ^= state >> np.uint64(33)
    state *= np.uint64(0xFF51AFD7ED558CCD)
    return state ^ (state >> np.uint64(33))


@inlined
def _hash(points, start, end):  # type: ignore[no-untyped-def]  # compiled
    state = FNV_OFFSET
    for i in range(start, end):
        state = (state ^ np.uint64(points[i])) * FNV_PRIME
    return _finish(state)


@inlined
def _find(keys, key):  # type: ignore[no-untyped-def]  # compiled
    # The slot of a key, or -1.
    mask = np.uint64(len(keys) - 1)
    slot = key & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return np.int64(slot)
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


@inlined
def _sieve_place(first, last, length):  # type: ignore[no-untyped-def]  # compiled
    return (first * 37 + last * 1021 + length * 4099) & 0x7FFF


@inlined
def _exception(points, start, end, keys, sieve):  # type: ignore[no-untyped-def]  # compiled
    if end - start > MAX_EXCEPTION or end <= start or not sieve[_sieve_place(points[start], points[end - 1], end - start)]:
        return np.int64(-1)
    return _find(keys, _hash(points, start, end))


@inlined
def _put(points, start, end, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    starts[count], ends[count], hashes[count] = start, end, _hash(points, start, end)
    return count + 1


@inlined
def _put_word(points, classes, start, end, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    # One word, or one for each character of a script without spaces and for the punctuation among them.
    unspaced = False
    for i in range(start, end):
        unspaced = unspaced or (classes[i] & UNSPACED) != 0
    if not unspaced:
        return _put(points, start, end, starts, ends, hashes, count)
    first = start
    for i in range(start, end):
        if classes[i] & (UNSPACED | PUNCTUATION):
            if first < i:
                count = _put(points, first, i, starts, ends, hashes, count)
            count = _put(points, i, i + 1, starts, ends, hashes, count)
            first = i + 1
    if first < end:
        count = _put(points, first, end, starts, ends, hashes, count)
    return count


@inlined
def _put_exception(points, start, end, slot, cuts, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    second, third = cuts[slot, 0], cuts[slot, 1]
    if second == 0:
        return _put(points, start, end, starts, ends, hashes, count)
    count = _put(points, start, start + second, starts, ends, hashes, count)
    if third:
        count = _put(points, start + second, start + third, starts, ends, hashes, count)
        return _put(points, start + third, end, starts, ends, hashes, count)
    return _put(points, start + second, end, starts, ends, hashes, count)


@inlined
def _prefix(points, classes, start, end):  # type: ignore[no-untyped-def]  # compiled
    # Length of what parts from the front of a word, or 0.
    point = points[start]
    if point == 46:  # two full stops and more
        at = start
        while at < end and points[at] == 46:
            at += 1
        return at - start if at - start > 1 else 0
    if point == 43:  # + before anything but a digit
        return 0 if start + 1 < end and classes[start + 1] & DIGIT else 1
    if classes[start] & PREFIX:
        return 1
    if (point == 67 or point == 65) and start + 1 < end and points[start + 1] == 36:  # C$ A$
        return 2
    if point == 85 and start + 2 < end and points[start + 1] == 83 and points[start + 2] == 36:  # US$
        return 3
    return 0


@inlined
def _suffix(points, classes, start, end, units):  # type: ignore[no-untyped-def]  # compiled
    # Length of what parts from the back of a word, or 0: the longest of all that end there.
    if end <= start:
        return 0
    last = points[end - 1]
    before = classes[end - 2] if end - 1 > start else np.uint32(0)
    longest = 0
    if classes[end - 1] & SUFFIX:
        longest = 2 if last == 0x2026 and end - 1 > start and points[end - 2] == 0x2026 else 1
    elif last == 46:
        at = end
        while at > start and points[at - 1] == 46:
            at -= 1
        if end - at > 1:
            longest = end - at
        elif before & BEFORE_DOT or (before & UPPER and end - 2 > start and classes[end - 3] & UPPER):
            longest = 1
        elif end - 2 > start and points[end - 3] == 0xB0 and before & LETTER:  # 20°C.
            letter = points[end - 2] | np.uint32(32)
            longest = 1 if letter == 99 or letter == 102 or letter == 107 else 0
    elif (last == 115 or last == 83) and end - 1 > start and (points[end - 2] == 39 or points[end - 2] == 0x2019):  # 's
        longest = 2
    elif last == 43 and before & DIGIT:
        longest = 1
    elif classes[end - 1] & CURRENCY:
        at = end - 1
        if at - 2 > start and points[at - 1] == 83 and points[at - 2] == 85:
            at -= 2
        elif at - 1 > start and (points[at - 1] == 67 or points[at - 1] == 65):
            at -= 1
        if at > start and classes[at - 1] & DIGIT:
            longest = end - at
        elif before & DIGIT:
            longest = 1
    if longest < 2:
        at = end
        while at > start and end - at < 5 and not classes[at - 1] & DIGIT:
            at -= 1
        if at > start and at < end and classes[at - 1] & DIGIT and end - at > longest and _find(units, _hash(points, at, end)) >= 0:
            longest = end - at
    return longest


@inlined
def _infix(points, classes, start, at, end):  # type: ignore[no-untyped-def]  # compiled
    # Length of what cuts the word points[start:end] at `at`, or 0.
    point, kind = points[at], classes[at]
    if point == 46:
        stop = at
        while stop < end and points[stop] == 46:
            stop += 1
        if stop - at > 1:
            return stop - at
    if kind & ICON or point == 0x2026:
        return 1
    before = classes[at - 1] if at > start else np.uint32(0)
    after = classes[at + 1] if at + 1 < end else np.uint32(0)
    if point == 43 or point == 45 or point == 42 or point == 94:
        next_fits = after & DIGIT != 0 or (at + 1 < end and points[at + 1] == 45)
        if before & DIGIT and next_fits:
            return 1
    if point == 46:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if point == 44:
        return 1 if before & ALPHA and after & ALPHA else 0
    if point == 45 or point == 0x2013 or point == 0x2014 or point == 126:
        if not before & (ALPHA | DIGIT):
            return 0
        longest = 3 if point == 45 else 2 if point == 0x2014 else 1
        for length in range(1, longest + 1):
            if at + length >= end or (length > 1 and points[at + length - 1] != point):
                return 0
            if classes[at + length] & ALPHA:
                return length
        return 0
    if point == 58 or point == 60 or point == 62 or point == 61 or point == 47:
        return 1 if before & (ALPHA | DIGIT) and after & ALPHA else 0
    return 0


@compiled
def _is_host(points, classes, start, end):  # type: ignore[no-untyped-def]  # compiled
    # Whether an address begins at `start`: labels with dots between and a top-level name of letters, or four numbers;
    # then nothing, a port, or a path.
    at = start
    while at < end and (classes[at] & HOST or points[at] == 45 or points[at] == 95 or points[at] == 46):
        at += 1
    stop = at
    if at < end and points[at] == 58:
        at += 1
        digits = at
        while at < end and classes[at] & DIGIT:
            at += 1
        if at - digits < 2 or at - digits > 5:
            return False
    if at < end and points[at] != 47 and points[at] != 63 and points[at] != 35:
        return False
    dots, label, numeric, letters = 0, start, True, 0
    for i in range(start, stop + 1):
        if i < stop and points[i] != 46:
            numeric = numeric and classes[i] & DIGIT != 0
            letters += classes[i] & LOWER != 0
            continue
        if i == label or i - label > 64 or not classes[label] & HOST or not classes[i - 1] & HOST:
            return False
        if i == stop:
            break
        label, dots, letters = i + 1, dots + 1, 0
    if numeric:
        return dots == 3 and stop - label <= 3
    return dots > 0 and letters == stop - label and letters >= 2


@compiled
def _is_address(points, classes, start, end):  # type: ignore[no-untyped-def]  # compiled
    # Whether a word is a URL or an e-mail address, with or without its scheme.
    host = start
    for i in range(start, end - 2):
        if points[i] == 58 and points[i + 1] == 47 and points[i + 2] == 47:
            host = i + 3 if i - start >= 2 else host
            break
        if not (classes[i] & (ALPHA | DIGIT) or points[i] == 43 or points[i] == 45 or points[i] == 46 or points[i] == 95):
            break
    if host < end and _is_host(points, classes, host, end):
        return True
    tried = 0
    for i in range(host + 1, end - 1):
        if points[i] == 64:
            if _is_host(points, classes, i + 1, end):
                return True
            tried += 1
            if tried == 4:  # so that a line of thousands of @ is not quadratic
                return False
    return False


@inlined
def _cut_run(points, classes, start, end, keys, cuts, sieve, units, suffixes, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    # The words of one run between white space.
    num_suffixes, size, first_word = 0, -1, count
    slot = np.int64(-1)
    while start < end and end - start != size:
        slot = _exception(points, start, end, keys, sieve)
        if slot >= 0:
            break
        size = end - start
        prefix = _prefix(points, classes, start, end)
        if prefix and prefix < size:
            slot = _exception(points, start + prefix, end, keys, sieve)
            if slot >= 0:
                count = _put(points, start, start + prefix, starts, ends, hashes, count)
                start += prefix
                break
        suffix = _suffix(points, classes, start + prefix, end, units)
        if suffix and suffix < size:
            slot = _exception(points, start, end - suffix, keys, sieve)
            if slot >= 0:
                suffixes[num_suffixes] = suffix
                num_suffixes += 1
                end -= suffix
                break
        if prefix:
            count = _put(points, start, start + prefix, starts, ends, hashes, count)
            start += prefix
        if suffix:
            suffixes[num_suffixes] = suffix
            num_suffixes += 1
            end -= suffix
    if start < end:
        if slot < 0:
            slot = _exception(points, start, end, keys, sieve)
        if slot >= 0:
            count = _put_exception(points, start, end, slot, cuts, starts, ends, hashes, count)
        else:
            count = _cut_inside(points, classes, start, end, starts, ends, hashes, count)
    at = end
    for k in range(num_suffixes - 1, -1, -1):
        count = _put(points, at, at + suffixes[k], starts, ends, hashes, count)
        at += suffixes[k]
    if slot >= 0 and cuts[slot, 0]:
        first_word = count - num_suffixes  # the parts of an exception stay apart
    return _join_exceptions(points, first_word, keys, cuts, starts, ends, hashes, count)


@compiled
def _join_exceptions(points, first, keys, cuts, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    # Words side by side that are one exception together, such as the colon and bracket of a smile, become one again.
    if count - first < 2:
        return count
    out = first
    at = first
    while at < count:
        joined = at
        for last in range(min(count - 1, at + 4), at, -1):
            # A row of apostrophes (an underline of reStructuredText) stays a row of single ones.
            if ends[last] - starts[at] <= 5 and ends[last] - starts[last] == 1 and points[starts[at]] != 39:
                slot = _find(keys, _hash(points, starts[at], ends[last]))
                if slot >= 0 and cuts[slot, 0] == 0:
                    joined = last
                    break
        if joined > at:
            _put(points, starts[at], ends[joined], starts, ends, hashes, out)
        else:
            starts[out], ends[out], hashes[out] = starts[at], ends[at], hashes[at]
        out += 1
        at = joined + 1
    return out


@inlined
def _cut_inside(points, classes, start, end, starts, ends, hashes, count):  # type: ignore[no-untyped-def]  # compiled
    # A run without affixes, cut at its infixes.
    has_dot = has_inner = False
    for i in range(start, end):
        has_dot = has_dot or points[i] == 46
        has_inner = has_inner or (classes[i] & INNER) != 0
    if not has_inner or (has_dot and _is_address(points, classes, start, end)):
        return _put_word(points, classes, start, end, starts, ends, hashes, count)
    first = at = start
    while at < end:
        length = _infix(points, classes, start, at, end) if classes[at] & INNER else 0
        if length == 0 or at == start:
            at += max(length, 1)
            continue
        if first < at:
            count = _put_word(points, classes, first, at, starts, ends, hashes, count)
        count = _put(points, at, at + length, starts, ends, hashes, count)
        at += length
        first = at
    if first < end:
        count = _put_word(points, classes, first, end, starts, ends, hashes, count)
    return count


@inlined
def _parts_alone(points, classes, start, end):  # type: ignore[no-untyped-def]  # compiled
    # Whether the mark after some letters parts from them whatever the letters are.
    if points[end - 1] != 46:
        return classes[end - 1] & SUFFIX != 0
    before = classes[end - 2]
    return before & LOWER != 0 or (end - start > 2 and before & UPPER != 0 and classes[end - 3] & UPPER != 0)


@compiled
def _cut_words(points, classes, bounds, keys, cuts, sieve, units):  # type: ignore[no-untyped-def]  # compiled
    size = len(points)
    # Never more words than characters; pages of these arrays that are not written are not held in memory.
    starts, ends, hashes = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.uint64)
    num_texts = len(bounds) - 1
    word_bounds = np.zeros(num_texts + 1, np.int64)
    suffixes = np.empty(64, np.int32)
    count = 0
    for d in range(num_texts):
        at, end = bounds[d], bounds[d + 1]
        while at < end:
            if classes[at] & SPACE:
                at += 1
                continue
            start, state = at, FNV_OFFSET
            every, some = np.uint32(0xFFFFFFFF), np.uint32(0)
            state_before, every_before = state, every
            while at < end and not classes[at] & SPACE:
                state_before, every_before = state, every
                every &= classes[at]
                some |= classes[at]
                state = (state ^ np.uint64(points[at])) * FNV_PRIME
                at += 1
            size = at - start
            if every & (ALPHA | DIGIT) and not some & UNSPACED:
                key = _finish(state)
                slot = np.int64(-1)
                if size <= MAX_EXCEPTION and sieve[_sieve_place(points[start], points[at - 1], size)]:
                    slot = _find(keys, key)
                if slot >= 0:
                    count = _put_exception(points, start, at, slot, cuts, starts, ends, hashes, count)
                else:
                    starts[count], ends[count], hashes[count] = start, at, key
                    count += 1
                continue
            # Letters and one mark at their end: by far the most frequent of all runs that are not letters alone.
            letters_and_mark = size > 1 and every_before & ALPHA != 0 and some & UNSPACED == 0
            if (
                letters_and_mark
                and _parts_alone(points, classes, start, at)
                and _exception(points, start, at, keys, sieve) < 0
                and _exception(points, start, at - 1, keys, sieve) < 0
            ):
                starts[count], ends[count], hashes[count] = start, at - 1, _finish(state_before)
                count = _put(points, at - 1, at, starts, ends, hashes, count + 1)
                continue
            if at - start > len(suffixes):
                suffixes = np.empty(2 * (at - start), np.int32)
            count = _cut_run(points, classes, start, at, keys, cuts, sieve, units, suffixes, starts, ends, hashes, count)
        word_bounds[d + 1] = count
    return starts[:count], ends[:count], hashes[:count], word_bounds
