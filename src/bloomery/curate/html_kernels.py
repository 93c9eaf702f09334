"""Compiled passes over the raw bytes of an HTML page: its shape, the parts of its tags, its character references.

`measure_html` looks at a page to refuse what was made to exhaust a parser. The rest is what `block_kernels` reads pages
with; every function takes the bytes, a place and the end, and gives the place behind what it read. None goes back, so
that whatever a page holds is read in time linear in its size.
"""

import numpy as np

from bloomery.curate.kernels import FNV_OFFSET, FNV_PRIME, compiled

BYLINE_TAGS = tuple(np.uint64(int.from_bytes(name, "big")) for name in (b"a", b"p", b"div", b"span", b"address"))
MAX_ENTITY = 32
WINDOWS_1252 = np.array(
    [
        [0x20AC, 0x81, 0x201A, 0x192, 0x201E, 0x2026, 0x2020, 0x2021, 0x2C6, 0x2030, 0x160, 0x2039, 0x152, 0x8D, 0x17D, 0x8F],
        [0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x2DC, 0x2122, 0x161, 0x203A, 0x153, 0x9D, 0x17E, 0x178],
    ]
)
"""What &#128; to &#159; mean in HTML."""
MAX_VALUE = 400
"""Bytes of an attribute in which class words are looked for."""


@compiled
def hash_class_word(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """(hash, next position) of the next word of an attribute value: letters of one run, cut where camelCase turns; 0 if none.

    Digits and everything else separate words; ASCII letters are lower-cased.
    """
    while at < end and not (65 <= data[at] <= 90 or 97 <= data[at] <= 122):
        at += 1
    if at >= end:
        return np.uint64(0), at
    state, first = FNV_OFFSET, at
    while at < end and (65 <= data[at] <= 90 or 97 <= data[at] <= 122):
        byte = data[at]
        if byte <= 90 and at > first and data[at - 1] >= 97:
            break
        state = (state ^ np.uint64(byte | 32)) * FNV_PRIME
        at += 1
    return state, at


@compiled
def look_up(keys, key):  # type: ignore[no-untyped-def]  # compiled
    """The place of `key` in a table of open addressing (a power of two long, 0 = empty), or -1."""
    mask = np.uint64(len(keys) - 1)
    at = (key ^ (key >> np.uint64(29))) & mask
    while keys[at] != 0:
        if keys[at] == key:
            return np.int64(at)
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@compiled
def find_byte(data, at, end, byte):  # type: ignore[no-untyped-def]  # compiled
    """The first place of a byte in data[at:end], or `end`; sixteen bytes at a time, which compile to vector instructions."""
    while at + 16 <= end:
        hits = 0
        for k in range(16):
            hits += data[at + k] == byte
        if hits:
            break
        at += 16
    while at < end and data[at] != byte:
        at += 1
    return at


@compiled
def tag_name(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """(name, behind it): letters and digits, lower-cased, the last eight packed into one number; 0 if no letter stands here."""
    name = np.uint64(0)
    while at < end:
        byte = data[at] | 32 if 65 <= data[at] <= 90 else data[at]
        if not (97 <= byte <= 122 or (48 <= byte <= 57 and name)):
            break
        name = (name << np.uint64(8)) | np.uint64(byte)
        at += 1
    return name, at


@compiled
def full_name(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """As `tag_name`; a name with other characters in it (my-element) is a hash of all of them."""
    name, at = tag_name(data, at, end)
    while name != 0 and at < end and data[at] > 32 and data[at] != 62 and data[at] != 47:
        byte = data[at] | 32 if 65 <= data[at] <= 90 else data[at]
        name = (name ^ np.uint64(byte)) * FNV_PRIME
        at += 1
    return name, at


@compiled
def find_value(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """(start, stop, behind) of the value of an attribute, `at` behind its =."""
    while at < end and data[at] <= 32:
        at += 1
    if at < end and (data[at] == 34 or data[at] == 39):
        stop = find_byte(data, at + 1, end, data[at])
        return at + 1, stop, min(stop + 1, end)
    start = at
    while at < end and data[at] > 32 and data[at] != 62:
        at += 1
    return start, at, at


@compiled
def skip_tag(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """Behind the > of the tag that is open at `at`."""
    while at < end:
        byte = data[at]
        at += 1
        if byte == 62:
            return at
        if byte == 61:
            at = find_value(data, at, end)[2]
    return end


@compiled
def after_raw_text(data, at, end, name):  # type: ignore[no-untyped-def]  # compiled
    """Where the end tag `name` begins that ends a script or style; `end` if none does, as a browser has it."""
    at = find_byte(data, at, end, 60)
    while at < end - 1:
        if data[at + 1] == 47 and tag_name(data, at + 2, end)[0] == name:
            return at
        at = find_byte(data, at + 1, end, 60)
    return end


@compiled
def after_comment(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """Behind the --> of a comment, `at` behind its <!; it may share its dashes with the beginning."""
    at = find_byte(data, at, end, 45)
    while at < end - 2:
        if data[at + 1] == 45 and (data[at + 2] == 62 or (data[at + 2] == 33 and at + 3 < end and data[at + 3] == 62)):
            return at + 3 + (data[at + 2] == 33)
        at = find_byte(data, at + 1, end, 45)
    return end


@compiled
def begins_markup(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """Whether the < at `at` begins a tag, a comment or a declaration, and is no text."""
    if at + 1 >= end:
        return False
    byte = data[at + 1]
    return 97 <= byte <= 122 or 65 <= byte <= 90 or byte == 47 or byte == 33 or byte == 63


@compiled
def after_declaration(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    """Behind the comment, doctype or the like that begins at `at`."""
    if at + 3 < end and data[at + 1] == 33 and data[at + 2] == 45 and data[at + 3] == 45:
        return after_comment(data, at + 2, end)
    return min(find_byte(data, at, end, 62) + 1, end)


@compiled
def matches(data, at, end, word):  # type: ignore[no-untyped-def]  # compiled
    """Whether data[at:] begins with a word of lower-case letters or signs, in any case."""
    if at + len(word) > end:
        return False
    same = 0
    while same < len(word) and (data[at + same] | 32 if 65 <= data[at + same] <= 90 else data[at + same]) == word[same]:
        same += 1
    return same == len(word)


@compiled
def _pack_utf8(code):  # type: ignore[no-untyped-def]  # compiled
    # The UTF-8 of a code point, its first byte lowest.
    if code < 0x80:
        return np.uint64(code)
    if code < 0x800:
        return np.uint64(0xC0 | code >> 6 | (0x80 | code & 63) << 8)
    if code < 0x10000:
        return np.uint64(0xE0 | code >> 12 | (0x80 | code >> 6 & 63) << 8 | (0x80 | code & 63) << 16)
    return np.uint64(0xF0 | code >> 18 | (0x80 | code >> 12 & 63) << 8 | (0x80 | code >> 6 & 63) << 16 | (0x80 | code & 63) << 24)


@compiled
def _read_number(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    # (packed UTF-8 of the reference whose # is at `at`, behind it); 0 if it has no digits.
    start = at
    at += 1
    base = 16 if at < end and data[at] | 32 == 120 else 10
    at += base == 16
    first, code = at, 0
    while at < end:
        byte = data[at] | 32 if data[at] > 57 else data[at]
        digit = byte - 48 if 48 <= byte <= 57 else byte - 87 if base == 16 and 97 <= byte <= 102 else -1
        if digit < 0:
            break
        code = min(code * base + digit, 0x110000)
        at += 1
    if at == first:
        return np.uint64(0), start
    at += at < end and data[at] == 59
    if 0x80 <= code < 0xA0:
        code = WINDOWS_1252[(code >> 4) - 8, code & 15]
    elif code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
        code = 0xFFFD
    elif code == 0xA0:
        code = 32
    return _pack_utf8(code), at


@compiled
def read_entity(data, at, end, entities):  # type: ignore[no-untyped-def]  # compiled
    """(packed UTF-8, behind it) of the character reference behind the & before `at`; (0, at) if there is none.

    entities = (keys, values, keys, values): names with a semicolon, and those that do without, see `html_tags`.
    """
    if at < end and data[at] == 35:
        return _read_number(data, at, end)
    keys, values, bare_keys, bare_values = entities
    state, value, behind = FNV_OFFSET, np.uint64(0), at
    for place in range(at, min(at + MAX_ENTITY, end)):
        byte = data[place]
        if byte == 59:
            found = look_up(keys, state)
            return (values[found], place + 1) if found >= 0 else (value, behind)
        if not (48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            break
        state = (state ^ np.uint64(byte)) * FNV_PRIME
        found = look_up(bare_keys, state)
        if found >= 0:
            value, behind = bare_values[found], place + 1
    return value, behind


@compiled
def _read_kind(data, name_at, name_end, value_length):  # type: ignore[no-untyped-def]  # compiled
    # What an attribute is to us, by its name: 1 class, 2 another one of words, 3 hides, 4 style, 0 nothing.
    length, first = name_end - name_at, data[name_at] | 32
    if length == 5:
        if first == 99 and matches(data, name_at, name_end, b"class"):
            return 1
        return 4 if first == 115 and matches(data, name_at, name_end, b"style") else 0
    if (
        (length == 2 and matches(data, name_at, name_end, b"id"))
        or (length == 4 and first == 114 and matches(data, name_at, name_end, b"role"))
        or (length == 8 and first == 105 and matches(data, name_at, name_end, b"itemprop"))
        or (length == 11 and first == 100 and matches(data, name_at, name_end, b"data-testid"))
    ):
        return 2
    if length == 6 and first == 104 and matches(data, name_at, name_end, b"hidden"):
        return 3
    return 3 if length == 11 and first == 97 and matches(data, name_at, name_end, b"aria-hidden") and value_length == 4 else 0


@compiled
def _hides(data, at, stop):  # type: ignore[no-untyped-def]  # compiled
    # Whether a style says display:none.
    while at < stop - 11:
        if data[at] | 32 == 100 and matches(data, at, stop, b"display"):
            colon = at + 7
            while colon < stop and data[colon] <= 32:
                colon += 1
            colon += 1
            while colon < stop and data[colon] <= 32:
                colon += 1
            if matches(data, colon, stop, b"none"):
                return True
        at += 1
    return False


@compiled
def read_attributes(data, at, end, classes, hidden_word):  # type: ignore[no-untyped-def]  # compiled
    """What the attributes of a tag say: (bits of word groups, sum and least and greatest odds of class words, hash of the
    class, behind the tag).

    classes = (keys, groups, odds): a table of class words, see `look_up`. Values are read of class, id, role, itemprop
    and data-testid; `hidden`, `aria-hidden="true"` and `display:none` count as the class word `displaynone`.
    """
    keys, groups, odds = classes
    bits, total, least, greatest, signature = np.uint64(0), 0.0, 0.0, 0.0, np.uint64(0)
    while at < end and data[at] != 62:
        if data[at] <= 32 or data[at] == 47:
            at += 1
            continue
        name_at = at
        at += 1
        while at < end and data[at] != 61 and data[at] != 62 and data[at] > 32:
            at += 1
        name_end = value_at = value_end = at
        while at < end and data[at] <= 32:
            at += 1
        if at < end and data[at] == 61:
            value_at, value_end, at = find_value(data, at + 1, end)
        kind = _read_kind(data, name_at, name_end, value_end - value_at)
        if kind == 0:
            continue
        is_hidden = kind == 3 or (kind == 4 and _hides(data, value_at, value_end))
        value_end = min(value_end, value_at + MAX_VALUE)
        word, i = hash_class_word(data, value_at, value_end) if kind <= 2 else (np.uint64(0), value_at)
        while word != 0 or is_hidden:
            if is_hidden:
                word, is_hidden = np.uint64(hidden_word), False
            if kind == 1:
                signature = (signature ^ word) * FNV_PRIME
            place = look_up(keys, word)
            if place >= 0:
                bits |= groups[place]
                total += odds[place]
                least, greatest = min(least, odds[place]), max(greatest, odds[place])
            word, i = hash_class_word(data, i, value_end) if kind <= 2 else (np.uint64(0), i)
    return bits, total, least, greatest, signature, min(at + 1, end)


@compiled
def _tag_before(data, at, floor):  # type: ignore[no-untyped-def]  # compiled
    # Where the tag begins in which `at` is, or -1 if there is none from `floor` on.
    while at >= floor and data[at] != 60 and data[at] != 62:
        at -= 1
    return at if at >= floor and data[at] == 60 else -1


@compiled
def find_bylines(data, most):  # type: ignore[no-untyped-def]  # compiled
    """Where the first `most` tags a, address, div, p, span begin in whose attributes is the word "author" or "byline", in any case."""
    starts = [0 for _ in range(0)]
    end, at, floor = len(data), 0, 0
    while at < end - 6 and len(starts) < most:
        if at + 17 <= end:
            hits = 0
            for k in range(16):
                first, second = data[at + k] | 32, data[at + k + 1] | 32
                hits += ((first == 97) & (second == 117)) | ((first == 98) & (second == 121))
            if not hits:
                at += 16
                continue
        stop = min(at + 16, end - 6)
        while at < stop:
            if (data[at] | 32 == 97 and matches(data, at, end, b"author")) or (data[at] | 32 == 98 and matches(data, at, end, b"byline")):
                start = _tag_before(data, at, floor)
                if start >= 0:
                    name, _ = tag_name(data, start + 1, end)
                    if name in BYLINE_TAGS:
                        starts.append(start)
                floor = at  # nothing is looked at twice: another word of the same tag gives no other tag
            at += 1
    return starts


@compiled
def _stands(data, at, end, word):  # type: ignore[no-untyped-def]  # compiled
    same = 0
    if at + len(word) <= end:
        while same < len(word) and data[at + same] == word[same]:
            same += 1
    return same == len(word)


@compiled
def find_software(data):  # type: ignore[no-untyped-def]  # compiled
    """(whether a shop's software is named in the bytes, whether a board's is): their names as they write them, in one pass."""
    shop, board, at, end = False, False, 0, len(data)
    while at < end:
        if at + 17 <= end:
            hits = 0
            for k in range(16):
                first, second = data[at + k], data[at + k + 1]
                hits += ((first == 115) | (first == 112)) & (second == 104)  # sh, ph
                hits += ((first == 118) & (second | 32 == 98)) | ((first | 32 == 120) & (second == 101))  # vb, xe
            if not hits:
                at += 16
                continue
        stop = min(at + 16, end)
        while at < stop:
            byte = data[at]
            if byte == 115:
                shop = shop or _stands(data, at, end, b"shopify")
            elif byte == 112:
                board = board or _stands(data, at, end, b"phpbb") or _stands(data, at, end, b"phpBB")
            elif byte == 118:
                board = board or _stands(data, at, end, b"vbulletin") or _stands(data, at, end, b"vBulletin")
            elif byte | 32 == 120:
                board = board or _stands(data, at, end, b"xenforo") or _stands(data, at, end, b"XenForo")
            at += 1
    return shop, board


@compiled
def measure_html(data, void_tags, raw_text_tags):  # type: ignore[no-untyped-def]  # compiled
    """(deepest nesting of open elements, most attributes of one tag, steps) of an HTML page, in one pass over its bytes.

    An estimate, to refuse pages that were made to exhaust a parser before one reads them. `steps` is what a parser may
    have to do: for each tag the elements open above it (they are searched, or opened again), for its attributes their
    number squared (each is compared with those before it).
    """
    depth = deepest = most = steps = 0
    at, end = 0, len(data)
    while at < end - 1:
        if data[at] != 60:  # <
            at = find_byte(data, at + 1, end, 60)
            continue
        if at + 3 < end and data[at + 1] == 33 and data[at + 2] == 45 and data[at + 3] == 45:  # <!--
            at = after_comment(data, at + 2, end)
            continue
        closing = data[at + 1] == 47  # /
        name, stop = tag_name(data, at + 1 + closing, end)
        if name == 0:
            at += 1
            continue
        attributes, quote, previous = 0, 0, 0
        while stop < end and (quote or data[stop] != 62):  # >
            byte = data[stop]
            if quote:
                quote = 0 if byte == quote else quote
            elif (byte == 34 or byte == 39) and previous == 61:
                quote = byte
            elif byte > 32 and byte != 47 and previous <= 32:
                attributes += 1
            previous = byte
            stop += 1
        most = max(most, attributes)
        steps += 4 + depth + attributes * attributes
        if closing:
            depth = max(depth - 1, 0)
        elif previous != 47:
            is_void = False
            for void in void_tags:
                is_void = is_void or void == name
            depth += not is_void
            deepest = max(deepest, depth)
            for raw in raw_text_tags:
                if raw == name:
                    stop = after_raw_text(data, stop, end, name)
        at = stop
    return deepest, most, steps
