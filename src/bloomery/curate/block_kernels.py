"""The compiled pass that cuts a page's bytes into BLOCKS, runs of text between tags that break a line, without a parser.

`cut_blocks` keeps a stack of the elements that are open and closes them as the HTML standard's tree builder does in all
that matters for text: end tags that are left out (`html_tags` says which element ends which), in the wrong place, or too
many. Each block remembers its chain of elements, from which `block_features` makes what the classifier judges it by. What
metadata is read from is noted on the way. The time is linear in the bytes: what is scanned twice is bounded (MAX_LOOK_UP).
"""

import numpy as np

from bloomery.curate.html_kernels import (
    after_declaration,
    after_raw_text,
    begins_markup,
    find_byte,
    full_name,
    look_up,
    matches,
    read_attributes,
    read_entity,
    skip_tag,
)
from bloomery.curate.html_tags import (
    B_BREAKS,
    B_CAPITALS,
    B_CODE_CHARS,
    B_COMMAS,
    B_DIGITS,
    B_ELEMENT,
    B_EMPHASES,
    B_ENDS,
    B_HASH,
    B_KIND,
    B_LETTERS,
    B_LINK_CHARS,
    B_LINKS,
    B_MONEY,
    B_SENTENCES,
    B_START,
    B_STOP,
    B_WORDS,
    BLOCK,
    BOUNDARY,
    BREAKS,
    CELL,
    CLOSES_P,
    CODE,
    CODE_A,
    CODE_B,
    CODE_BR,
    CODE_CODE,
    CODE_EM,
    CODE_H1,
    CODE_HR,
    CODE_P,
    CODE_PRE,
    CODE_STRONG,
    CODE_TIME,
    E_ATTRIBUTES,
    E_DEPTH,
    E_FIRST,
    E_LAST,
    E_PARENT,
    E_QUOTED,
    E_SIGNATURE,
    E_TAG,
    FOREIGN,
    FORM,
    FORMATTING,
    HEAD,
    HEADING,
    ITEM,
    LIST,
    M_KIND,
    M_START,
    M_STOP,
    MARK_HEAD_END,
    MARK_HEADING,
    MARK_JSON,
    MARK_META,
    MARK_TIME,
    MARK_TITLE,
    MOST_MARKS,
    NUM_BLOCK_FIELDS,
    NUM_ELEMENT_FIELDS,
    RAW,
    RESETS_P,
    ROOT,
    ROW,
    ROW_GROUP,
    SKIPPED,
    SPECIAL,
    TABLE,
    TERM,
    TRANSPARENT,
    VOID,
)
from bloomery.curate.kernels import FNV_OFFSET, FNV_PRIME, compiled

K_NAME, K_ELEMENT, K_FLAGS, K_ROLE = range(4)
"""The stack: an element's name, the element that breaks lines around it, the flags before it, its role."""
F_LINK, F_PRE, F_CODE, F_SKIPPED, F_SVG, F_P, F_ITEM, F_TERM, F_TABLE = (1 << bit for bit in range(9))
"""What is open at a place."""
S_FILLED, S_START, S_ELEMENT, S_BLOCKS, S_ELEMENTS, S_TOP, S_FLAGS, S_PREVIOUS, S_INSIDE, S_SOLID, S_WORD = range(11)
S_OVERFLOW, S_DEEPEST, S_ROOTS, S_MARKS, S_COUNTS = 11, 12, 13, 14, 15
"""Where the pass stands. From S_COUNTS on: how many marks of each kind there are."""
NUM_STATE = S_COUNTS + 6

MAX_LOOK_UP = 64
"""Open elements among which an end tag looks for its own."""
JOINED_CELL = 200
"""Bytes up to which the cells of a row are one block."""
CELL_BREAK = np.array([32, 124, 32], np.uint8)
TAG_A, TAG_P, TAG_CODE, TAG_META, TAG_SCRIPT, TAG_TITLE, TAG_SVG, TAG_TABLE, TAG_HEAD, TAG_BODY, TAG_TEMPLATE = (
    np.uint64(int.from_bytes(name, "big"))
    for name in (b"a", b"p", b"code", b"meta", b"script", b"title", b"svg", b"table", b"head", b"body", b"template")
)
CODE_BLOCKQUOTE = CODE["blockquote"]


@compiled
def cut_blocks(data, tags, classes, words, entities, hidden_word, max_blocks, max_nesting):  # type: ignore[no-untyped-def]  # compiled
    """The blocks of a page in UTF-8: (text, blocks, block numbers, elements, element numbers, element bits, marks, deepest nesting).

    tags, entities: see `html_tags`; classes, words = (keys, odds): tables, see `look_up`. Columns of `blocks` are the B_ numbers;
    text[start:stop] is its UTF-8, white space collapsed except inside <pre>. Only elements that break lines are in `elements` (columns
    E_): `first` and `last` say which blocks they hold, so what an element contains is a difference of prefix sums; elements[0] is
    the root. Rows of `marks` are the M_ numbers. Elements open inside more than max_nesting others are counted, but not entered.
    """
    end = len(data)
    num_tags = 1
    for i in range(end):
        num_tags += data[i] == 60
    text = np.empty(end + end // 4 + 16, np.uint8)
    capacity = min(max_blocks, num_tags) + 2
    blocks = np.empty((capacity, NUM_BLOCK_FIELDS), np.int64)  # a page fills few of its rows: they are set as they are begun
    odds = np.empty((capacity, 2), np.float64)
    elements = np.empty((num_tags + 1, NUM_ELEMENT_FIELDS), np.int64)
    bits = np.empty(num_tags + 1, np.uint64)
    element_odds = np.empty((num_tags + 1, 3), np.float64)
    stack = np.empty((min(max_nesting, num_tags) + 1, 4), np.int64)
    marks = np.empty((MOST_MARKS.sum(), 3), np.int64)
    s = np.zeros(NUM_STATE, np.int64)
    elements[0, :], bits[0], element_odds[0, :] = 0, 0, 0
    s[S_ELEMENTS] = 1
    _begin_block(blocks, odds, s)
    at = 0
    while at < end and s[S_BLOCKS] < capacity - 1:
        if data[at] != 60 or not begins_markup(data, at, end):
            if s[S_FLAGS] & F_SKIPPED:
                at = find_byte(data, at + 1, end, 60)
            else:
                at = _read_text(data, at, end, text, blocks, odds, s, words, entities)
            continue
        closing = data[at + 1] == 47
        name, stop = full_name(data, at + 1 + closing, end)
        if name == 0:
            at = after_declaration(data, at, end)
            continue
        place = look_up(tags[0], name)
        kind, code, role = (tags[2][place], tags[1][place], tags[3][place]) if place >= 0 else (BLOCK, 0, 0)
        level = _closing_level(stack, s, name, role) if closing else _implied_level(stack, s, code, role)
        flushed = _breaks_line(stack, s, level, closing, kind, code, role, text)
        if flushed:
            _end_block(text, blocks, odds, elements, s, words)
        _close_to(stack, elements, s, level)
        if closing:
            if s[S_OVERFLOW] and kind != VOID and kind != RAW:
                s[S_OVERFLOW] -= 1
            if name == TAG_HEAD:
                _mark(marks, s, MARK_HEAD_END, at, at)
            elif code == CODE_BR and not s[S_FLAGS] & F_SKIPPED:  # </br> is a <br>
                _break_line(text, blocks, s)
            at = skip_tag(data, stop, end)
            continue
        word_bits, total, least, greatest, signature = np.uint64(0), 0.0, 0.0, 0.0, np.uint64(0)
        if kind == BLOCK and not s[S_FLAGS] & F_SKIPPED:
            word_bits, total, least, greatest, signature, behind = read_attributes(data, stop, end, classes, hidden_word)
        else:
            behind = skip_tag(data, stop, end)
        _note_tag(data, at, stop, behind, marks, s, name, code)
        at = behind
        is_empty = data[behind - 2] == 47 and (s[S_FLAGS] & F_SVG or name == TAG_SVG)  # <path/>
        if kind == RAW and not is_empty:
            at = after_raw_text(data, behind, end, name)
            _note_raw_text(data, stop, behind, at, marks, s, name)
            at = skip_tag(data, at, end)
            continue
        if kind == VOID or is_empty or not _is_opened(s, name, role):
            if code == CODE_BR and not s[S_FLAGS] & F_SKIPPED:
                _break_line(text, blocks, s)
            continue
        element = _open(stack, blocks, s, name, kind, code, role, max_nesting)
        if role & CELL and not flushed:
            _join_cell(text, s)
        if element:
            parent = stack[s[S_TOP] - 1, K_ELEMENT]
            e = element
            elements[e, E_PARENT], elements[e, E_TAG], elements[e, E_DEPTH] = parent, code, elements[parent, E_DEPTH] + 1
            elements[e, E_FIRST], elements[e, E_LAST], elements[e, E_ATTRIBUTES] = s[S_BLOCKS], 0, stop
            elements[e, E_SIGNATURE] = np.int64((signature ^ np.uint64(code)) * FNV_PRIME)
            elements[e, E_QUOTED] = elements[parent, E_QUOTED] or code == CODE_BLOCKQUOTE
            bits[element] = word_bits | (tags[4][place] if place >= 0 else np.uint64(0))
            element_odds[element, 0], element_odds[element, 1], element_odds[element, 2] = total, least, greatest
    _end_block(text, blocks, odds, elements, s, words)
    _close_to(stack, elements, s, 0)
    elements[0, E_LAST] = s[S_BLOCKS]
    n, m = s[S_BLOCKS], s[S_ELEMENTS]
    return text[: s[S_FILLED]], blocks[:n], odds[:n], elements[:m], element_odds[:m], bits[:m], marks[: s[S_MARKS]], s[S_DEEPEST]


@compiled
def _begin_block(blocks, odds, s):  # type: ignore[no-untyped-def]  # compiled
    n = s[S_BLOCKS]
    for k in range(NUM_BLOCK_FIELDS):
        blocks[n, k] = 0
    odds[n, 0] = odds[n, 1] = 0
    s[S_START], s[S_PREVIOUS], s[S_SOLID], s[S_INSIDE] = s[S_FILLED], 32, 0, 0


@compiled
def _end_block(text, blocks, odds, elements, s, words):  # type: ignore[no-untyped-def]  # compiled
    # The text since the last break is a block, if it has a letter or digit; else it is dropped.
    filled, start, n = s[S_FILLED], s[S_START], s[S_BLOCKS]
    while filled > start and text[filled - 1] <= 32:
        filled -= 1
    if s[S_INSIDE]:
        _end_word(odds, s[S_BLOCKS], words, np.uint64(s[S_WORD]))
    if filled > start and blocks[n, B_LETTERS] + blocks[n, B_DIGITS] > 0:
        blocks[n, B_START], blocks[n, B_STOP], blocks[n, B_ELEMENT] = start, filled, s[S_ELEMENT]
        solid = s[S_SOLID]
        blocks[n, B_ENDS] = solid == 46 or solid == 33 or solid == 63 or solid == 130
        element = s[S_ELEMENT]
        while element and blocks[n, B_KIND] == 0:
            blocks[n, B_KIND] = elements[element, E_TAG]
            element = elements[element, E_PARENT]
        s[S_FILLED] = filled
        s[S_BLOCKS] += 1
    else:
        s[S_FILLED] = start
    _begin_block(blocks, odds, s)


@compiled
def _end_word(odds, n, words, state):  # type: ignore[no-untyped-def]  # compiled
    place = look_up(words[0], state)
    if place >= 0:
        odds[n, 0] += words[1][place]
        odds[n, 1] = min(odds[n, 1], words[1][place])


@compiled
def _read_text(data, at, end, text, blocks, odds, s, words, entities):  # type: ignore[no-untyped-def]  # compiled
    # Text up to the next tag: into `text`, its characters and words counted in the block's row.
    filled, start, previous, inside, solid = s[S_FILLED], s[S_START], s[S_PREVIOUS], s[S_INSIDE], s[S_SOLID]
    state, hashed, in_pre = np.uint64(s[S_WORD]), np.uint64(blocks[s[S_BLOCKS], B_HASH]), s[S_FLAGS] & F_PRE
    letters, digits, chars, num_words, capitals, sentences, commas, money = 0, 0, 0, 0, 0, 0, 0, 0
    n, pending, first = s[S_BLOCKS], np.uint64(0), at
    while at < end or pending:
        if pending:
            byte, pending = np.uint8(pending & np.uint64(255)), pending >> np.uint64(8)
        else:
            byte = data[at]
            if byte == 60 and at > first and begins_markup(data, at, end):
                break
            at += 1
            if byte == 38:
                pending, at = read_entity(data, at, end, entities)
                if pending:
                    continue
            elif byte == 194 and at < end and data[at] == 160:
                byte, at = np.uint8(32), at + 1
        if 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte >= 128 or (byte == 39 and inside):
            if not inside:
                inside, state = 1, FNV_OFFSET
                num_words += 1
                capitals += 1 if 65 <= byte <= 90 else 0
            state = (state ^ np.uint64(byte | 32 if 65 <= byte <= 90 else byte)) * FNV_PRIME
            hashed = (hashed ^ np.uint64(byte)) * FNV_PRIME
            if 48 <= byte <= 57:
                digits += 1
            else:
                letters += 1
        elif inside:
            inside = 0
            _end_word(odds, n, words, state)
        if byte <= 32:
            if in_pre:
                text[filled] = byte
                filled += filled > start or byte != 10
            elif previous > 32 and filled > start and text[filled - 1] > 32:
                text[filled] = 32
                filled += 1
            sentences += previous == 46 or previous == 33 or previous == 63
            previous = 32
            continue
        text[filled] = byte
        filled += 1
        chars += 1
        if byte == 44:
            commas += 1
        elif byte == 36:
            money += 1
        elif byte == 130 and previous == 128:  # the ideographic full stop is E3 80 82
            sentences += 1
        previous = int(byte)
        if byte != 34 and byte != 41:
            solid = int(byte)
    s[S_FILLED], s[S_PREVIOUS], s[S_INSIDE], s[S_SOLID], s[S_WORD] = filled, previous, inside, solid, np.int64(state)
    blocks[n, B_HASH] = np.int64(hashed)
    blocks[n, B_WORDS] += num_words
    blocks[n, B_CAPITALS] += capitals
    blocks[n, B_SENTENCES] += sentences
    blocks[n, B_COMMAS] += commas
    blocks[n, B_MONEY] += money
    blocks[n, B_LETTERS] += letters
    blocks[n, B_DIGITS] += digits
    blocks[n, B_LINK_CHARS] += chars if s[S_FLAGS] & F_LINK else 0
    blocks[n, B_CODE_CHARS] += chars if s[S_FLAGS] & (F_CODE | F_PRE) else 0
    return at


@compiled
def _break_line(text, blocks, s):  # type: ignore[no-untyped-def]  # compiled
    # What <br> does inside a block.
    blocks[s[S_BLOCKS], B_BREAKS] += 1
    filled = s[S_FILLED]
    while filled > s[S_START] and text[filled - 1] == 32:
        filled -= 1
    if filled > s[S_START]:
        text[filled] = 10
        filled += 1
    s[S_FILLED], s[S_PREVIOUS] = filled, 32


@compiled
def _join_cell(text, s):  # type: ignore[no-untyped-def]  # compiled
    filled = s[S_FILLED]
    if filled > s[S_START]:
        text[filled : filled + 3] = CELL_BREAK
        s[S_FILLED], s[S_PREVIOUS], s[S_INSIDE] = filled + 3, 32, 0


@compiled
def _breaks_line(stack, s, level, closing, kind, code, role, text):  # type: ignore[no-untyped-def]  # compiled
    # Whether a tag ends the block before it: by what it closes, or by itself. Inside <pre> that is a new line.
    flags, breaks_pre = s[S_FLAGS], False
    for i in range(level, s[S_TOP]):
        if stack[i, K_ROLE] & BREAKS:
            if not stack[i, K_FLAGS] & F_PRE:
                return True
            breaks_pre = True
    breaks = not flags & F_SKIPPED and (code == CODE_P if closing else (kind == BLOCK and code != CODE_A) or code == CODE_HR)
    if not flags & F_PRE or code == CODE_PRE:
        return breaks and not (role & CELL and s[S_FILLED] - s[S_START] < JOINED_CELL)
    if (breaks or breaks_pre) and s[S_FILLED] > s[S_START] and text[s[S_FILLED] - 1] != 10:
        text[s[S_FILLED]] = 10
        s[S_FILLED] += 1
    return False


@compiled
def _implied_level(stack, s, code, role):  # type: ignore[no-untyped-def]  # compiled
    # The height of the stack to which a start tag closes it: an <li> ends the one before, a block an open <p>, and so on.
    top, flags = s[S_TOP], s[S_FLAGS]
    level = top
    if flags & F_SVG:
        if role & CLOSES_P:  # HTML inside <svg>: the <svg> was not closed
            level = _find_name(stack, top, TAG_SVG)
    elif role & (ROW_GROUP | ROW | CELL):
        stops = TABLE if role & ROW_GROUP else TABLE | ROW_GROUP if role & ROW else TABLE | ROW_GROUP | ROW
        while flags & F_TABLE and level > 0 and not stack[level - 1, K_ROLE] & stops:
            level -= 1
    elif code == CODE_A:
        for i in range(top - 1, max(top - MAX_LOOK_UP, 0) - 1, -1):
            if not flags & F_LINK or stack[i, K_ROLE] & SPECIAL:
                break
            if np.uint64(stack[i, K_NAME]) == TAG_A:
                level = i
                break
    elif role & HEADING:
        level -= level > 0 and stack[level - 1, K_ROLE] & HEADING != 0
    elif role & (ITEM | TERM) and flags & (F_ITEM if role & ITEM else F_TERM):
        level -= 1
        while level > 0 and not stack[level, K_ROLE] & role & (ITEM | TERM):
            level -= 1
    if role & CLOSES_P and (flags if level == top else stack[level, K_FLAGS]) & F_P:
        level = _find_name(stack, level, TAG_P)
    return level


@compiled
def _find_name(stack, level, name):  # type: ignore[no-untyped-def]  # compiled
    # The place of the nearest element of this name below `level`, which is there.
    level -= 1
    while level > 0 and np.uint64(stack[level, K_NAME]) != name:
        level -= 1
    return level


@compiled
def _closing_level(stack, s, name, role):  # type: ignore[no-untyped-def]  # compiled
    # The height of the stack to which an end tag closes it; its top if it closes nothing.
    top = s[S_TOP]
    if role & (ROOT | HEAD) or s[S_OVERFLOW]:
        return top
    if s[S_FLAGS] & F_SVG and name == TAG_P:
        return _find_name(stack, top, TAG_SVG)
    crossed = False
    for level in range(top - 1, max(top - MAX_LOOK_UP, 0) - 1, -1):
        other = stack[level, K_ROLE]
        if np.uint64(stack[level, K_NAME]) == name or role & other & HEADING:
            if crossed and role & (FORMATTING | FORM):
                _forget(stack, s, level)
                return top
            return level
        if role & (TABLE | ROW_GROUP | ROW | CELL):
            if other & TABLE:
                return top
        elif other & BOUNDARY or (role & ITEM and other & LIST):
            return top
        elif other & SPECIAL:
            if not role & (SPECIAL | FORMATTING):
                return top
            crossed = True
    return top


@compiled
def _forget(stack, s, level):  # type: ignore[no-untyped-def]  # compiled
    # Ends a formatting element or form whose end tag stands inside a block that it holds; the block stays open.
    name = np.uint64(stack[level, K_NAME])
    gone = (F_LINK if name == TAG_A else F_CODE if name == TAG_CODE else 0) & ~stack[level, K_FLAGS]
    stack[level, K_NAME], stack[level, K_ROLE] = 0, 0
    for i in range(level + 1, s[S_TOP]):
        stack[i, K_FLAGS] &= ~gone
    s[S_FLAGS] &= ~gone


@compiled
def _close_to(stack, elements, s, level):  # type: ignore[no-untyped-def]  # compiled
    top = s[S_TOP]
    if level >= top:
        return
    while top > level:
        top -= 1
        if stack[top, K_ELEMENT] != s[S_ELEMENT]:
            elements[s[S_ELEMENT], E_LAST] = s[S_BLOCKS]
            s[S_ELEMENT] = stack[top, K_ELEMENT]
    s[S_TOP], s[S_FLAGS] = level, stack[level, K_FLAGS]


@compiled
def _is_opened(s, name, role):  # type: ignore[no-untyped-def]  # compiled
    # Whether a start tag gives an element: not the head, no second html or body, no parts of a table outside of one.
    if role & HEAD:
        return False
    if role & ROOT:
        bit = 2 if name == TAG_BODY else 1
        is_first = not s[S_ROOTS] & bit and s[S_TOP] <= bit - 1
        s[S_ROOTS] |= bit
        return is_first
    return not role & (ROW_GROUP | ROW | CELL) or s[S_FLAGS] & F_TABLE != 0


@compiled
def _open(stack, blocks, s, name, kind, code, role, max_nesting):  # type: ignore[no-untyped-def]  # compiled
    # Enters an element; its number in `elements`, 0 if it is not one that breaks lines.
    s[S_DEEPEST] = max(s[S_DEEPEST], s[S_TOP] + s[S_OVERFLOW] + 1)
    if s[S_OVERFLOW] or s[S_TOP] >= max_nesting:
        s[S_OVERFLOW] += 1
        return 0
    flags, top, n = s[S_FLAGS], s[S_TOP], s[S_BLOCKS]
    is_seen = not flags & F_SKIPPED and kind != SKIPPED
    is_element = is_seen and kind == BLOCK and code != CODE_A
    stack[top, K_NAME], stack[top, K_ELEMENT], stack[top, K_FLAGS] = np.int64(name), s[S_ELEMENT], flags
    stack[top, K_ROLE] = role | (BREAKS if is_element and not role & CELL else 0)
    s[S_TOP] += 1
    if role & RESETS_P:
        flags &= ~F_P
    if role & SPECIAL and not role & TRANSPARENT:
        flags &= ~(F_ITEM | F_TERM)
    flags |= (F_ITEM if role & ITEM else 0) | (F_TERM if role & TERM else 0) | (F_P if name == TAG_P else 0)
    if name == TAG_TEMPLATE:
        flags &= ~F_TABLE
    elif name == TAG_TABLE:
        flags |= F_TABLE
    if role & FOREIGN:
        flags &= ~F_SVG
    if kind == SKIPPED:
        flags |= F_SKIPPED | (F_SVG if name == TAG_SVG else 0)
    if is_seen:
        if code == CODE_A:
            flags |= F_LINK
            blocks[n, B_LINKS] += 1
        elif code == CODE_PRE:
            flags |= F_PRE
        elif code == CODE_CODE:
            flags |= F_CODE
        blocks[n, B_EMPHASES] += code in (CODE_B, CODE_STRONG, CODE_EM)
    s[S_FLAGS] = flags
    if not is_element:
        return 0
    s[S_ELEMENT] = s[S_ELEMENTS]
    s[S_ELEMENTS] += 1
    return s[S_ELEMENT]


@compiled
def _mark(marks, s, kind, start, stop):  # type: ignore[no-untyped-def]  # compiled
    if s[S_COUNTS + kind] < MOST_MARKS[kind]:
        s[S_COUNTS + kind] += 1
        n = s[S_MARKS]
        marks[n, M_KIND], marks[n, M_START], marks[n, M_STOP] = kind, start, stop
        s[S_MARKS] += 1


@compiled
def _note_tag(data, at, stop, behind, marks, s, name, code):  # type: ignore[no-untyped-def]  # compiled
    if name == TAG_META:
        _mark(marks, s, MARK_META, stop, behind)
    elif code == CODE_H1:
        _mark(marks, s, MARK_HEADING, at, behind)
    elif code == CODE_TIME:
        _mark(marks, s, MARK_TIME, stop, behind)


@compiled
def _note_raw_text(data, stop, behind, until, marks, s, name):  # type: ignore[no-untyped-def]  # compiled
    # A title, or a script of JSON-LD (its tag is data[stop:behind]).
    if name == TAG_TITLE and not s[S_FLAGS] & F_SKIPPED:
        _mark(marks, s, MARK_TITLE, behind, until)
    elif name == TAG_SCRIPT:
        at = find_byte(data, stop, behind, 43)
        if at < behind and matches(data, at - 2, behind, b"ld+json"):
            _mark(marks, s, MARK_JSON, behind, until)


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
