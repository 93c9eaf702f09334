"""Compiled passes over the bytes of an HTML page: its shape before it is parsed, and its blocks afterwards.

`measure_html` looks at the bytes as they came, to refuse what was made to exhaust a parser. `find_blocks` reads HTML
that a parser has written out again (every element closed, only `&amp; &lt; &gt; &nbsp;` escaped) and cuts the text into
BLOCKS: runs of text between tags that break a line. Each block remembers its chain of elements, from which
`curate/blocks.py` makes the features that its classifier judges it by.
"""

from typing import Any

import numpy as np

from bloomery.curate.kernels import compiled

VOID_TAGS = (
    "area base br col embed hr img input link meta param source track wbr "
    "p li dt dd tr td th thead tbody tfoot option optgroup html head body"
)
"""Elements without an end tag, or whose end tag may be left out: they do not nest by being left open."""

RAW_TEXT_TAGS = "script style textarea title"
"""Elements whose content is no markup."""

INLINE, BLOCK, VOID, SKIPPED, RAW = 0, 1, 2, 3, 4
_VOID = "area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen"
_RAW = "script style xmp iframe noembed noframes plaintext"
_SKIPPED = "svg textarea select datalist title object video audio canvas map"
_INLINE = (
    "abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark math nobr output q rp rt ruby s samp small span "
    "strike strong sub sup time tt u var picture mi mo mn mrow msup msub mfrac mtext semantics"
)
TAGS: dict[str, int] = {
    **dict.fromkeys(_VOID.split(), VOID),
    **dict.fromkeys(_RAW.split(), RAW),
    **dict.fromkeys(_SKIPPED.split(), SKIPPED),
    **dict.fromkeys(_INLINE.split(), INLINE),
}
"""What a tag does to the text around it; a tag that is not here begins and ends a block."""

_NAMED = (
    "br hr a p li td th tr h1 h2 h3 h4 h5 h6 blockquote pre dt dd figcaption label button summary caption address article main "
    "section nav aside footer header form ul ol dl table figure details dialog div body center fieldset noscript template "
    "b strong em code span time"
)
NAMED = _NAMED.split()
"""The tags that the passes and the features name, in the order of their codes (from 1 on)."""
CODE = {name: code for code, name in enumerate(NAMED, start=1)}

_TAG_GROUPS = (
    "article main section nav aside footer header form ul ol dl table td figure details dialog blockquote label button li p "
    "noscript template"
)
TAG_GROUPS = _TAG_GROUPS.split()
"""Elements whose nearest occurrence above a block is a feature."""

WORD_GROUPS: dict[str, str] = {
    "comment": "comment comments discussion disqus replies reply respond responses",
    "sidebar": "sidebar side rail aside complementary secondary",
    "footer": "footer foot bottom colophon contentinfo copyright legal",
    "header": "header head masthead top banner",
    "menu": "nav menu navbar navigation topnav megamenu dropdown submenu tabs tab toolbar",
    "share": "share sharing social facebook twitter follow addthis",
    "related": "related recommend recommended recommendations recirc more similar suggested suggestions popular trending latest "
    "recent also upsell",
    "advert": "ad ads advert advertisement sponsor sponsored promo promotion banner cta",
    "content": "content contents entry story richtext rte prose markdown wysiwyg copy main primary",
    "article": "article post blog blogpost articlebody hentry news",
    "body": "body text paragraph description desc articlebody textblock",
    "author": "author byline bio avatar profile",
    "date": "date time timestamp published meta metadata",
    "crumb": "breadcrumb breadcrumbs crumb crumbs breadcrumblist",
    "cookie": "cookie cookies consent gdpr onetrust privacy",
    "overlay": "popup modal overlay dialog drawer lightbox offcanvas flyout tooltip notification alert toast",
    "signup": "newsletter subscribe subscription signup form optin mailchimp login signin account register",
    "product": "product products price sku cart buy shop variant variants add",
    "review": "review reviews rating ratings stars testimonial testimonials",
    "forum": "thread topic message messages forum answer answers question questions signature quote cooked",
    "tag": "tag tags category categories label labels badge pill keywords taxonomy",
    "widget": "widget widgets module block component",
    "caption": "caption credit figcaption image img gallery media slider carousel slide swiper",
    "hidden": "hidden hide invisible collapse collapsed displaynone",
    "reader": "sr screen visually screenreader skip",
    "search": "search filter filters sort facet facets pagination pager paging",
    "list": "list grid card cards item items tile tiles feed results result loop",
    "answer": "accordion faq faqs panel toggle",
    "hero": "hero jumbotron intro lead subtitle headline title heading",
    "toc": "toc outline index onthispage",
    "code": "code highlight codehilite syntax language snippet terminal",
    "table": "table specs spec specification specifications attributes",
}
"""Words in a class, id, role or itemprop, by what they say of an element; several spellings of one thing."""

GROUPS = [*(f"<{name}>" for name in TAG_GROUPS), *WORD_GROUPS]
"""Bit i of an element's bits: it is such an element, or has such a class word."""

CODE_BR, CODE_HR, CODE_A, CODE_TD, CODE_TH, CODE_PRE = CODE["br"], CODE["hr"], CODE["a"], CODE["td"], CODE["th"], CODE["pre"]
CODE_B, CODE_STRONG, CODE_EM, CODE_CODE = CODE["b"], CODE["strong"], CODE["em"], CODE["code"]
B_START, B_STOP, B_ELEMENT, B_KIND, B_LINKS, B_LINK_CHARS, B_BREAKS, B_EMPHASES, B_WORDS, B_SENTENCES = range(10)
B_COMMAS, B_DIGITS, B_CAPITALS, B_LETTERS, B_ENDS, B_CODE_CHARS, B_MONEY, B_HASH = range(10, 18)
NUM_BLOCK_FIELDS = 18
E_PARENT, E_TAG, E_DEPTH, E_FIRST, E_LAST, E_SIGNATURE, E_ATTRIBUTES = range(7)
NUM_ELEMENT_FIELDS = 7
TAG_A, TAG_P, TAG_DIV, TAG_SPAN, TAG_ADDRESS = (
    np.uint64(int.from_bytes(name, "big")) for name in (b"a", b"p", b"div", b"span", b"address")
)
CELL_BREAK = np.array([32, 124, 32], np.uint8)

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


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
def _skip_tag(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    # Where the tag that is open at `at` ends, behind its >.
    quote = 0
    while at < end:
        byte = data[at]
        if quote:
            quote = 0 if byte == quote else quote
        elif byte == 34:
            quote = byte
        elif byte == 62:
            return at + 1
        at += 1
    return end


@compiled
def _matches(data, at, end, word):  # type: ignore[no-untyped-def]  # compiled
    if at + len(word) > end:
        return False
    same = 0
    while same < len(word) and data[at + same] == word[same]:
        same += 1
    return same == len(word)


@compiled
def read_attributes(data, at, end, classes, hidden_word):  # type: ignore[no-untyped-def]  # compiled
    """What the attributes of a tag say: (bits of word groups, sum and least and greatest odds of class words, hash of the
    class, behind the tag).

    classes = (keys, groups, odds): a table of class words, see `look_up`. Values are read of class, id, role, itemprop
    and data-* test names; `hidden`, `aria-hidden="true"` and `display:none` count as the class word `displaynone`.
    """
    keys, groups, odds = classes
    bits, total, least, greatest, signature = np.uint64(0), 0.0, 0.0, 0.0, np.uint64(0)
    while at < end and data[at] != 62:
        if data[at] <= 32:
            at += 1
            continue
        name_at = at
        while at < end and data[at] != 61 and data[at] != 62 and data[at] > 32:
            at += 1
        name_end = at
        value_at = value_end = at
        if at < end - 1 and data[at] == 61 and data[at + 1] == 34:
            value_at = at + 2
            at = value_at
            while at < end and data[at] != 34:
                at += 1
            value_end = at
            at += 1
        elif at < end and data[at] == 61:
            at += 1
        length = name_end - name_at
        first = data[name_at]
        is_class = length == 5 and first == 99 and data[name_at + 1] == 108
        is_read = (
            is_class
            or (length == 2 and first == 105 and data[name_at + 1] == 100)
            or (length == 4 and first == 114 and data[name_at + 1] == 111)
            or (length == 8 and first == 105 and data[name_at + 4] == 112)
            or (length == 11 and first == 100 and data[name_at + 5] == 116)
        )
        is_hidden = (length == 6 and first == 104 and data[name_at + 1] == 105) or (
            length == 11 and first == 97 and value_end - value_at == 4 and data[name_at + 5] == 104
        )
        if length == 5 and first == 115 and data[name_at + 1] == 116:
            i = value_at
            while i < value_end - 11 and not is_hidden:
                is_hidden = (
                    data[i] == 100
                    and _matches(data, i, value_end, b"display")
                    and (_matches(data, i + 7, value_end, b":none") or _matches(data, i + 7, value_end, b": none"))
                )
                i += 1
        value_end = min(value_end, value_at + 400)
        word, i = np.uint64(0), value_at
        if is_read and value_end > value_at:
            word, i = hash_class_word(data, value_at, value_end)
        while word != 0 or is_hidden:
            if is_hidden:
                word, is_hidden = np.uint64(hidden_word), False
            if is_class:
                signature = (signature ^ word) * FNV_PRIME
            place = look_up(keys, word)
            if place >= 0:
                bits |= groups[place]
                total += odds[place]
                least, greatest = min(least, odds[place]), max(greatest, odds[place])
            word, i = hash_class_word(data, i, value_end) if is_read else (np.uint64(0), i)
    return bits, total, least, greatest, signature, min(at + 1, end)


@compiled
def find_blocks(data, tags, classes, words, hidden_word, max_blocks):  # type: ignore[no-untyped-def]  # compiled
    """The blocks of serialised HTML: (text, blocks, block numbers, elements, element numbers, element bits).

    tags = (keys, codes, kinds, group bits), words = (keys, odds): tables, see `look_up`. Columns of `blocks` are
    BLOCK_FIELDS; text[start:stop] is its UTF-8, white space collapsed except inside <pre>. Only
    elements that break lines are in `elements` (ELEMENT_FIELDS): `first` and `last` say which blocks they hold, so what
    an element contains is a difference of prefix sums. `elements[0]` is the root.
    """
    end = len(data)
    num_tags = 1
    for i in range(end):
        num_tags += data[i] == 60
    text = np.empty(end + 16, np.uint8)
    capacity = min(max_blocks, num_tags) + 2
    blocks = np.empty((capacity, NUM_BLOCK_FIELDS), np.int64)  # a page fills few of its rows: they are set as they are begun
    odds = np.empty((capacity, 2), np.float64)
    elements = np.empty((num_tags + 1, NUM_ELEMENT_FIELDS), np.int64)
    bits = np.empty(num_tags + 1, np.uint64)
    element_odds = np.empty((num_tags + 1, 3), np.float64)
    stack = np.empty((num_tags + 1, 3), np.int64)  # packed tag name, element, state before it
    tag_keys, tag_codes, tag_kinds, tag_bits = tags
    word_keys, word_odds = words
    num_blocks, num_elements, top = 0, 1, 0
    filled, start = 0, 0
    element, in_link, in_emphasis, in_pre, in_code, skipped = 0, 0, 0, 0, 0, 0
    b = blocks[0]
    b[:] = 0
    odds[0, :] = 0
    elements[0, :] = 0
    bits[0] = 0
    element_odds[0, :] = 0
    state, inside, previous, last_solid = FNV_OFFSET, False, 32, 0
    letters, digits, link_chars, code_chars, hashed = 0, 0, 0, 0, np.uint64(0)
    at = 0
    while at <= end:
        flush = at == end
        name, stop, closing, kind, code, is_cell, group_bits = np.uint64(0), at, False, INLINE, 0, False, np.uint64(0)
        if not flush and data[at] == 60 and at + 1 < end:
            closing = data[at + 1] == 47
            name, stop = _tag_name(data, at + 1 + closing, end)
            if name == 0:  # a comment, a doctype
                if at + 3 < end and data[at + 1] == 33 and data[at + 2] == 45:
                    at = _after_comment(data, at + 4, end)
                else:
                    at = _skip_tag(data, at, end)
                continue
            kind = BLOCK
            if data[stop] == 62 or data[stop] <= 32:
                place = look_up(tag_keys, name)
                if place >= 0:
                    kind, code, group_bits = tag_kinds[place], tag_codes[place], tag_bits[place]
            else:
                while stop < end and data[stop] != 62 and data[stop] > 32:
                    name = (name ^ np.uint64(data[stop])) * FNV_PRIME
                    stop += 1
            if in_pre and kind == BLOCK and code != CODE_PRE and filled > start and text[filled - 1] != 10:
                text[filled] = 10
                filled += 1
            is_cell = code in (CODE_TD, CODE_TH)
            if (kind == BLOCK or code == CODE_HR) and not (in_pre and code != CODE_PRE) and not skipped:
                flush = code != CODE_A and not (is_cell and filled - start < 200 and in_pre == 0)
        if flush:
            while filled > start and text[filled - 1] <= 32:
                filled -= 1
            if inside:
                place = look_up(word_keys, state)
                if place >= 0:
                    odds[num_blocks, 0] += word_odds[place]
                    odds[num_blocks, 1] = min(odds[num_blocks, 1], word_odds[place])
                inside = False
            if filled > start and letters + digits > 0:
                b[B_LETTERS], b[B_DIGITS], b[B_LINK_CHARS], b[B_CODE_CHARS] = letters, digits, link_chars, code_chars
                b[B_HASH] = np.int64(hashed)
                b[B_START], b[B_STOP], b[B_ELEMENT] = start, filled, element
                b[B_ENDS] = last_solid == 46 or last_solid == 33 or last_solid == 63 or last_solid == 130
                kind_at = element
                while kind_at and b[B_KIND] == 0:
                    b[B_KIND] = elements[kind_at, E_TAG]
                    kind_at = elements[kind_at, E_PARENT]
                num_blocks += 1
                if num_blocks >= capacity - 1:
                    break
            else:
                filled = start
            b = blocks[num_blocks]
            b[:] = 0
            odds[num_blocks, :] = 0
            letters, digits, link_chars, code_chars, hashed = 0, 0, 0, 0, np.uint64(0)
            start, state, previous, last_solid = filled, FNV_OFFSET, 32, 0
            if at == end:
                break
        if name != 0:
            if closing:
                level = top - 1
                while level >= 0 and level > top - 32 and stack[level, 0] != np.int64(name):
                    level -= 1
                if level >= 0 and stack[level, 0] == np.int64(name):
                    while top > level:
                        top -= 1
                        packed = stack[top, 2]
                        if stack[top, 1] != element:
                            elements[element, E_LAST] = num_blocks
                            element = stack[top, 1]
                        in_link, in_pre, in_code = packed & 1, (packed >> 1) & 1, (packed >> 2) & 1
                        in_emphasis, skipped = (packed >> 3) & 1, (packed >> 4) & 1
                at = _skip_tag(data, stop, end)
                continue
            if skipped or kind in (INLINE, RAW, SKIPPED):
                word_bits, total, least, greatest, signature = np.uint64(0), 0.0, 0.0, 0.0, np.uint64(0)
                at = _skip_tag(data, stop, end)
            else:
                word_bits, total, least, greatest, signature, at = read_attributes(data, stop, end, classes, hidden_word)
            if kind == RAW:
                at = _after_raw_text(data, at, end, name)
                at = _skip_tag(data, at, end)
                continue
            if code == CODE_BR and not skipped:
                b[B_BREAKS] += 1
                while filled > start and text[filled - 1] == 32:
                    filled -= 1
                if filled > start:
                    text[filled] = 10
                    filled += 1
                previous = 32
            if kind == VOID:
                continue
            packed = in_link | (in_pre << 1) | (in_code << 2) | (in_emphasis << 3) | (skipped << 4)
            stack[top, 0], stack[top, 1], stack[top, 2] = np.int64(name), element, packed
            top += 1
            if skipped:
                continue
            if kind == SKIPPED:
                skipped = 1
                continue
            if code == CODE_A:
                in_link = 1
                b[B_LINKS] += 1
            elif code == CODE_PRE:
                in_pre = 1
            elif code == CODE_CODE:
                in_code = 1
            elif code in (CODE_B, CODE_STRONG, CODE_EM):
                in_emphasis = 1
                b[B_EMPHASES] += 1
            if is_cell and not flush and filled > start:
                text[filled : filled + 3] = CELL_BREAK
                filled += 3
                previous, inside = 32, False
            if kind == BLOCK and (code != CODE_A):
                e = num_elements
                num_elements += 1
                elements[e, E_PARENT], elements[e, E_TAG] = element, code
                elements[e, E_DEPTH], elements[e, E_FIRST] = elements[element, E_DEPTH] + 1, num_blocks
                elements[e, E_LAST] = 0
                elements[e, E_SIGNATURE] = np.int64((signature ^ np.uint64(code)) * FNV_PRIME)
                elements[e, E_ATTRIBUTES] = stop
                bits[e] = word_bits | group_bits
                element_odds[e, 0], element_odds[e, 1], element_odds[e, 2] = total, least, greatest
                element = e
            continue
        byte = data[at]
        at += 1
        if skipped:
            while at < end and data[at] != 60:
                at += 1
            continue
        if byte == 38:  # &
            if _matches(data, at, end, b"amp;"):
                at += 4
            elif _matches(data, at, end, b"lt;"):
                byte, at = np.uint8(60), at + 3
            elif _matches(data, at, end, b"gt;"):
                byte, at = np.uint8(62), at + 3
            elif _matches(data, at, end, b"nbsp;"):
                byte, at = np.uint8(32), at + 5
            elif _matches(data, at, end, b"quot;"):
                byte, at = np.uint8(34), at + 5
        elif byte == 194 and at < end and data[at] == 160:
            byte, at = np.uint8(32), at + 1
        is_word = 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte >= 128 or (byte == 39 and inside)
        if is_word:
            if not inside:
                inside, state = True, FNV_OFFSET
                b[B_WORDS] += 1
                b[B_CAPITALS] += 65 <= byte <= 90
            state = (state ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * FNV_PRIME
            hashed = (hashed ^ np.uint64(byte)) * FNV_PRIME
            is_digit = 48 <= byte <= 57
            digits += is_digit
            letters += not is_digit
        elif inside:
            inside = False
            place = look_up(word_keys, state)
            if place >= 0:
                odds[num_blocks, 0] += word_odds[place]
                odds[num_blocks, 1] = min(odds[num_blocks, 1], word_odds[place])
        if byte <= 32:
            if in_pre:
                text[filled] = byte
                filled += filled > start or byte != 10
            elif previous > 32 and filled > start and text[filled - 1] > 32:
                text[filled] = 32
                filled += 1
            if previous == 46 or previous == 33 or previous == 63:
                b[B_SENTENCES] += 1
            previous = 32
            continue
        text[filled] = byte
        filled += 1
        link_chars += in_link
        code_chars += in_code | in_pre
        if byte == 44:
            b[B_COMMAS] += 1
        elif byte == 36:
            b[B_MONEY] += 1
        if byte == 130 and previous == 128:  # the ideographic full stop is E3 80 82
            b[B_SENTENCES] += 1
        previous = byte
        if byte != 34 and byte != 41:
            last_solid = byte
    elements[0, E_LAST] = num_blocks
    while top > 0:
        top -= 1
        if stack[top, 1] != element:
            elements[element, E_LAST] = num_blocks
            element = stack[top, 1]
    return text[:filled], blocks[:num_blocks], odds[:num_blocks], elements[:num_elements], element_odds[:num_elements], bits[:num_elements]


@compiled
def find_copies(text, blocks, order, min_words, max_new):  # type: ignore[no-untyped-def]  # compiled
    """Which blocks say what the blocks before them in `order` have said: at least min_words words, and of its word 4-grams
    at most the fraction `max_new` not said before (bool, in the blocks' own order).
    """
    total = 0
    for i in order:
        total += (blocks[i, B_STOP] - blocks[i, B_START]) // 2 + 4  # a word has a letter and a space
    size = 16
    while size < 2 * total:
        size *= 2
    mask = np.uint64(size - 1)
    table = np.zeros(size, np.uint64)
    copies = np.zeros(len(blocks), np.bool_)
    words = np.empty(total + 4, np.uint64)
    for i in order:
        count, inside, state = 0, False, FNV_OFFSET
        for at in range(blocks[i, B_START], blocks[i, B_STOP] + 1):
            byte = text[at] if at < blocks[i, B_STOP] else np.uint8(32)
            if 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte >= 128:
                state = (state ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * FNV_PRIME
                inside = True
            elif inside:
                words[count] = state
                count += 1
                inside, state = False, FNV_OFFSET
        fresh = 0
        for turn in range(2):  # first what was said before, then what this block says, which may repeat itself
            for first in range(count - 3):
                gram = np.uint64(1)
                for k in range(first, first + 4):
                    gram = gram * np.uint64(0x9E3779B97F4A7C15) + words[k]
                gram |= np.uint64(1)
                place = (gram ^ (gram >> np.uint64(31))) & mask
                while table[place] != 0 and table[place] != gram:
                    place = (place + np.uint64(1)) & mask
                if table[place] == 0:
                    if turn == 0:
                        fresh += 1
                    else:
                        table[place] = gram
        copies[i] = count >= min_words and fresh <= max_new * (count - 3)
    return copies


@compiled
def _tag_name(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    # Up to eight letters or digits, lower-cased, packed into one number; and where the name ends.
    name = np.uint64(0)
    while at < end:
        byte = data[at] | 32 if 65 <= data[at] <= 90 else data[at]
        if not (97 <= byte <= 122 or (48 <= byte <= 57 and name)):
            break
        name = (name << np.uint64(8)) | np.uint64(byte)
        at += 1
    return name, at


@compiled
def _find_byte(data, at, end, byte):  # type: ignore[no-untyped-def]  # compiled
    # The first place of a byte in data[at:end], or `end`; sixteen bytes at a time, which compile to vector instructions.
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
def _after_raw_text(data, at, end, name):  # type: ignore[no-untyped-def]  # compiled
    # Where the end tag `name` begins that ends a script or style; `end` if none does, as a browser has it.
    at = _find_byte(data, at, end, 60)
    while at < end - 1:
        if data[at + 1] == 47 and _tag_name(data, at + 2, end)[0] == name:
            return at
        at = _find_byte(data, at + 1, end, 60)
    return end


@compiled
def _after_comment(data, at, end):  # type: ignore[no-untyped-def]  # compiled
    at = _find_byte(data, at, end, 45)
    while at < end - 2:
        if data[at + 1] == 45 and data[at + 2] == 62:  # -->
            return at + 3
        at = _find_byte(data, at + 1, end, 45)
    return end


@compiled
def find_bylines(data):  # type: ignore[no-untyped-def]  # compiled
    """Where the tags a, address, div, p, span begin in whose attributes is the word "author" or "byline", in any case."""
    starts = [0 for _ in range(0)]
    end = len(data)
    at = _find_byte(data, 0, end, 60)
    while at < end:
        start = at
        name, at = _tag_name(data, at + 1, end)
        if name in (TAG_A, TAG_P, TAG_DIV, TAG_SPAN, TAG_ADDRESS):
            while at < end and data[at] != 60 and data[at] != 62:
                first = data[at] | 32
                if (first == 97 and _is_word(data, at, end, b"author")) or (first == 98 and _is_word(data, at, end, b"byline")):
                    starts.append(start)
                    break
                at += 1
        at = _find_byte(data, at, end, 60)
    return starts


@compiled
def _is_word(data, at, end, word):  # type: ignore[no-untyped-def]  # compiled
    if at + len(word) > end:
        return False
    same = 0
    while same < len(word) and data[at + same] | 32 == word[same]:
        same += 1
    return same == len(word)


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
            at = _find_byte(data, at + 1, end, 60)
            continue
        if at + 3 < end and data[at + 1] == 33 and data[at + 2] == 45 and data[at + 3] == 45:  # <!--
            at = _after_comment(data, at + 4, end)
            continue
        closing = data[at + 1] == 47  # /
        name, stop = _tag_name(data, at + 1 + closing, end)
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
                    stop = _after_raw_text(data, stop, end, name)
        at = stop
    return deepest, most, steps


def pack_tags(names: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Tag names as `measure_html` compares them."""
    return np.array([int.from_bytes(name.encode()[-8:], "big") for name in names.split()], np.uint64)
