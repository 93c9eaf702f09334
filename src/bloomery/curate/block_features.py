"""The features by which a block of a page is judged, computed for all of its blocks in one compiled pass.

A feature is a number that means the same on every site: what the block's text is like, which elements and which class
words stand above it and how near, what its containers hold, what stands before and behind it, where in the page it is,
and what the page is like. Nothing here knows a site's name.
"""

from typing import Any

import numpy as np

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
    B_LINK_CHARS,
    B_LINKS,
    B_MONEY,
    B_SENTENCES,
    B_START,
    B_STOP,
    B_WORDS,
    CODE,
    E_DEPTH,
    E_FIRST,
    E_LAST,
    E_PARENT,
    E_SIGNATURE,
    E_TAG,
    GROUPS,
)
from bloomery.curate.kernels import FNV_PRIME, compiled
from bloomery.curate.page_facts import HINTS

OWN = [
    "log_chars",
    "words",
    "link_fraction",
    "sentences",
    "commas",
    "digit_fraction",
    "capital_fraction",
    "ends_sentence",
    "chars_per_word",
    "links",
    "emphases",
    "breaks",
    "word_odds",
    "least_word_odds",
    "kind",
    "code_fraction",
    "money",
    "depth",
]
PATH = ["class_odds", "parent_class_odds", "grandparent_class_odds", "path_odds", "path_least_odds", "path_greatest_odds"]
CONTAINER = [
    "log_chars",
    "link_fraction",
    "log_blocks",
    "chars_per_block",
    "page_fraction",
    "sentence_chars_fraction",
    "class_odds",
    "kind",
]
NUM_CONTAINERS = 4
NEIGHBOUR = ["log_chars", "link_fraction", "kind", "ends_sentence", "same_element"]
NEIGHBOURS = (-3, -2, -1, 1, 2, 3)
WINDOWS = (4, 12)
WINDOW = ["log_chars", "link_fraction", "sentences", "path_odds"]
REPEAT = ["log_count", "log_chars", "link_fraction", "sentence_chars_fraction", "first_place", "last_place"]
PLACE = [
    "block_fraction",
    "char_fraction",
    "blocks_since_heading",
    "heading_level",
    "blocks_since_h1",
    "chars_since_h1",
    "to_long_before",
    "to_long_behind",
    "long_chars_before",
    "long_chars_behind",
    "copies",
    "first_copy",
]
PAGE = [
    "log_chars",
    "log_blocks",
    "link_fraction",
    "long_fraction",
    "article_fraction",
    "main_fraction",
    "num_articles",
    "money_per_block",
    "sentences_per_block",
    "num_h1",
    "item_fraction",
    "table_fraction",
    "code_fraction",
    "num_forms",
]

HEADING = ["steps_to_h1", "h1_container_fraction", "h1_container_blocks"]
FEATURES: list[str] = [
    *(f"own/{name}" for name in OWN),
    *(f"path/{name}" for name in PATH),
    *(f"above/{name}" for name in GROUPS),
    *(f"container{level}/{name}" for level in range(1, NUM_CONTAINERS + 1) for name in CONTAINER),
    *(f"neighbour{offset:+d}/{name}" for offset in NEIGHBOURS for name in NEIGHBOUR),
    *(f"window{width}/{name}" for width in WINDOWS for name in WINDOW),
    *(f"repeat/{name}" for name in REPEAT),
    *(f"shape/{name}" for name in REPEAT),
    *(f"place/{name}" for name in PLACE),
    *(f"page/{name}" for name in PAGE),
    *(f"place/{name}" for name in HEADING),
    *(f"hint/{name}" for name in HINTS),
]
"""The name of every column of `measure_blocks`."""

NUM_FEATURES, NUM_GROUPS, NUM_PAGE, NUM_REPEAT = len(FEATURES), len(GROUPS), len(PAGE), len(REPEAT)
NUM_HINTS = len(HINTS)
FIRST_REPEAT = NUM_FEATURES - NUM_HINTS - len(HEADING) - NUM_PAGE - len(PLACE) - 2 * NUM_REPEAT
FAR = 30.0
"""The distance to an element that is not there."""

SCORE_FEATURES: list[str] = [
    "score/own", "score/-3", "score/-2", "score/-1", "score/+1", "score/+2", "score/+3", "score/window4", "score/window12",
    *(f"score/container{level}" for level in range(1, NUM_CONTAINERS + 1)),
    "score/repeat", "score/shape", "score/page", "score/page_chars", "score/before", "score/behind", "score/section",
    "score/steps_to_best", "score/best_container_fraction", "score/best_container",
]  # fmt: skip
"""The columns of `measure_scores`: what a first round's scores say of a block and of what stands around it."""
NUM_SCORES = len(SCORE_FEATURES)

LONG_CHARS = 120
SENTENCE_CHARS = 40
CODE_H1, CODE_H6, CODE_LI, CODE_ARTICLE, CODE_MAIN = CODE["h1"], CODE["h6"], CODE["li"], CODE["article"], CODE["main"]
CODE_TR, CODE_TABLE, CODE_FORM = CODE["tr"], CODE["table"], CODE["form"]


@compiled
def _prefix(values):  # type: ignore[no-untyped-def]  # compiled
    sums = np.zeros(len(values) + 1, np.float64)
    for i in range(len(values)):
        sums[i + 1] = sums[i] + values[i]
    return sums


@compiled
def group_equal(keys):  # type: ignore[no-untyped-def]  # compiled
    """(number of the group of equal keys that each item is in, number of groups)."""
    order = np.argsort(keys, kind="mergesort")
    group = np.zeros(len(keys), np.int64)
    count = 0
    for k in range(len(keys)):
        if k and keys[order[k]] != keys[order[k - 1]]:
            count += 1
        group[order[k]] = count
    return group, count + 1


@compiled
def find_containers(blocks, elements):  # type: ignore[no-untyped-def]  # compiled
    """For each block the first NUM_CONTAINERS elements above it that each hold more blocks than the one below (int64)."""
    result = np.zeros((len(blocks), NUM_CONTAINERS), np.int64)
    for i in range(len(blocks)):
        element, size, level = blocks[i, B_ELEMENT], 1, 0
        while level < NUM_CONTAINERS:
            while element and elements[element, E_LAST] - elements[element, E_FIRST] <= size:
                element = elements[element, E_PARENT]
            result[i, level] = element
            size = elements[element, E_LAST] - elements[element, E_FIRST]
            level += 1
    return result


@compiled
def group_shapes(blocks, elements):  # type: ignore[no-untyped-def]  # compiled
    """Two groupings of the blocks: by tags and classes of the two elements above, and by the tags and classes of four."""
    near, far = np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)
    for i in range(len(blocks)):
        state, element = np.uint64(1469598103934665603), blocks[i, B_ELEMENT]
        for level in range(4):
            state = (state ^ np.uint64(elements[element, E_SIGNATURE])) * FNV_PRIME
            if level == 1:
                near[i] = state
            element = elements[element, E_PARENT]
        far[i] = state
    return group_equal(near), group_equal(far)


@compiled
def _climb_to(elements, element, block):  # type: ignore[no-untyped-def]  # compiled
    # (steps up from an element to one that also holds `block`, that element)
    steps = 0
    while element and not elements[element, E_FIRST] <= block < elements[element, E_LAST]:
        element = elements[element, E_PARENT]
        steps += 1
    return min(steps, 60), element


@compiled
def measure_blocks(blocks, odds, elements, element_odds, bits, hints):  # type: ignore[no-untyped-def]  # compiled
    """The features of every block of a page, as `cut_blocks` returns them (float32, blocks x FEATURES)."""
    n = len(blocks)
    out = np.zeros((n, NUM_FEATURES), np.float32)
    if n == 0:
        return out
    chars, links, kinds, sentences = np.zeros(n), np.zeros(n), blocks[:, B_KIND], np.zeros(n)
    solid, long = np.zeros(n), np.zeros(n)
    for i in range(n):
        chars[i] = blocks[i, B_STOP] - blocks[i, B_START]
        links[i] = min(blocks[i, B_LINK_CHARS] * 1.15, chars[i])
        sentences[i] = blocks[i, B_SENTENCES] + blocks[i, B_ENDS]
        if sentences[i] and chars[i] >= SENTENCE_CHARS and links[i] < 0.5 * chars[i]:
            solid[i] = chars[i]
        if chars[i] >= LONG_CHARS and links[i] < 0.4 * chars[i]:
            long[i] = chars[i]
    sum_chars, sum_links, sum_sentences, sum_solid, sum_long = (
        _prefix(chars),
        _prefix(links),
        _prefix(sentences),
        _prefix(solid),
        _prefix(long),
    )
    total = sum_chars[n]
    path = np.zeros((len(elements), 3))
    for e in range(1, len(elements)):
        parent = elements[e, E_PARENT]
        path[e, 0] = 0.8 * path[parent, 0] + element_odds[e, 0]
        path[e, 1] = min(path[parent, 1], element_odds[e, 1])
        path[e, 2] = max(path[parent, 2], element_odds[e, 2])
    path_odds = np.zeros(n)
    for i in range(n):
        path_odds[i] = path[blocks[i, B_ELEMENT], 0]
    sum_path = _prefix(path_odds)
    containers = find_containers(blocks, elements)
    (near, num_near), (far, num_far) = group_shapes(blocks, elements)
    page = np.zeros(NUM_PAGE)
    page[0], page[1], page[2], page[3] = np.log1p(total), np.log1p(n), sum_links[n] / total, sum_long[n] / total
    for e in range(len(elements)):
        held = sum_chars[elements[e, E_LAST]] - sum_chars[elements[e, E_FIRST]]
        if elements[e, E_TAG] == CODE_ARTICLE and held:
            page[4] = max(page[4], held / total)
            page[6] += 1
        elif elements[e, E_TAG] == CODE_MAIN:
            page[5] = max(page[5], held / total)
        elif elements[e, E_TAG] == CODE_FORM and held:
            page[13] += 1
    for i in range(n):
        page[7] += blocks[i, B_MONEY] / n
        page[8] += sentences[i] / n
        page[9] += kinds[i] == CODE_H1
        page[10] += (kinds[i] == CODE_LI) / n
        page[11] += (kinds[i] == CODE_TR) / n
        page[12] += min(blocks[i, B_CODE_CHARS], chars[i]) / total
    copies_of, num_texts = group_equal(blocks[:, B_HASH])
    copies, seen = np.zeros(num_texts), np.zeros(num_texts)
    for i in range(n):
        copies[copies_of[i]] += 1
    to_long = np.zeros((n, 2))
    distance = 50.0
    for i in range(n):
        distance = 0.0 if long[i] else min(distance + 1, 50.0)
        to_long[i, 0] = distance
    distance = 50.0
    for i in range(n - 1, -1, -1):
        distance = 0.0 if long[i] else min(distance + 1, 50.0)
        to_long[i, 1] = distance
    first_h1 = -1
    for i in range(n - 1, -1, -1):
        if kinds[i] == CODE_H1:
            first_h1 = i
    heading, heading_level, h1 = -50, 0, -1
    nearest = np.zeros(NUM_GROUPS, np.float32)
    for i in range(n):
        row, block, element = out[i], blocks[i], blocks[i, B_ELEMENT]
        size, words = chars[i], max(block[B_WORDS], 1)
        row[0], row[1], row[2], row[3] = np.log1p(size), min(words, 500), links[i] / size, min(sentences[i], 50)
        row[4], row[5], row[6] = min(block[B_COMMAS], 50), block[B_DIGITS] / size, block[B_CAPITALS] / words
        row[7], row[8], row[9] = block[B_ENDS], size / words, min(block[B_LINKS], 50)
        row[10], row[11] = min(block[B_EMPHASES], 50), min(block[B_BREAKS], 50)
        row[12], row[13], row[14] = odds[i, 0] / words, odds[i, 1], block[B_KIND]
        row[15], row[16], row[17] = min(block[B_CODE_CHARS] / size, 1.0), min(block[B_MONEY], 9), elements[element, E_DEPTH]
        c = 18
        parent = elements[element, E_PARENT]
        row[c], row[c + 1] = element_odds[element, 0], element_odds[parent, 0]
        row[c + 2] = element_odds[elements[parent, E_PARENT], 0]
        row[c + 3], row[c + 4], row[c + 5] = path[element, 0], path[element, 1], path[element, 2]
        c += 6
        nearest[:] = FAR
        climbed, steps = element, 0.0
        while climbed:
            mask = bits[climbed]
            group = 0
            while mask:
                if mask & np.uint64(1) and nearest[group] == FAR:
                    nearest[group] = min(steps, FAR - 1)
                mask >>= np.uint64(1)
                group += 1
            climbed = elements[climbed, E_PARENT]
            steps += 1
        row[c : c + NUM_GROUPS] = nearest
        c += NUM_GROUPS
        for level in range(NUM_CONTAINERS):
            container = containers[i, level]
            first, last = elements[container, E_FIRST], elements[container, E_LAST]
            held = sum_chars[last] - sum_chars[first]
            row[c], row[c + 1] = np.log1p(held), (sum_links[last] - sum_links[first]) / held
            row[c + 2], row[c + 3] = np.log1p(last - first), held / (last - first)
            row[c + 4], row[c + 5] = held / total, (sum_solid[last] - sum_solid[first]) / held
            row[c + 6], row[c + 7] = element_odds[container, 0], elements[container, E_TAG]
            c += 8
        for offset in NEIGHBOURS:
            j = i + offset
            if 0 <= j < n:
                row[c], row[c + 1], row[c + 2], row[c + 3] = np.log1p(chars[j]), links[j] / chars[j], kinds[j], blocks[j, B_ENDS]
                row[c + 4] = elements[blocks[j, B_ELEMENT], E_PARENT] == parent
            else:
                row[c + 1], row[c + 2] = -1, -1
            c += 5
        for width in WINDOWS:
            first, last = max(i - width, 0), min(i + width + 1, n)
            held = sum_chars[last] - sum_chars[first]
            row[c], row[c + 1] = np.log1p(held / (last - first)), (sum_links[last] - sum_links[first]) / held
            row[c + 2], row[c + 3] = (
                (sum_sentences[last] - sum_sentences[first]) / (last - first),
                (sum_path[last] - sum_path[first]) / (last - first),
            )
            c += 4
        c += 2 * NUM_REPEAT
        if CODE_H1 <= kinds[i] <= CODE_H6:
            heading, heading_level = i, kinds[i] - CODE_H1 + 1
            if kinds[i] == CODE_H1:
                h1 = i
        row[c], row[c + 1] = i / n, sum_chars[i] / total
        row[c + 2], row[c + 3] = min(i - heading, 50), heading_level
        row[c + 4] = min(i - h1, 200) if h1 >= 0 else -1
        row[c + 5] = np.log1p(sum_chars[i] - sum_chars[h1]) if h1 >= 0 else -1
        row[c + 6], row[c + 7] = to_long[i, 0], to_long[i, 1]
        row[c + 8], row[c + 9] = sum_long[i] / (sum_long[n] + 1), (sum_long[n] - sum_long[i + 1]) / (sum_long[n] + 1)
        row[c + 10], row[c + 11] = copies[copies_of[i]], seen[copies_of[i]]
        seen[copies_of[i]] += 1
        c += 12
        row[c : c + NUM_PAGE] = page
        c += NUM_PAGE
        if first_h1 >= 0:
            row[c], shared = _climb_to(elements, element, first_h1)
            first, last = elements[shared, E_FIRST], elements[shared, E_LAST]
            row[c + 1], row[c + 2] = (sum_chars[last] - sum_chars[first]) / total, np.log1p(last - first)
        else:
            row[c], row[c + 1], row[c + 2] = -1, -1, -1
        c += 3
        row[c : c + NUM_HINTS] = hints
    _measure_repeats(out, FIRST_REPEAT, near, num_near, chars, links, solid)
    _measure_repeats(out, FIRST_REPEAT + NUM_REPEAT, far, num_far, chars, links, solid)
    return out


@compiled
def _measure_repeats(out, column, group, num_groups, chars, links, solid):  # type: ignore[no-untyped-def]  # compiled
    n = len(chars)
    sums = np.zeros((num_groups, 6))
    sums[:, 4] = n
    for i in range(n):
        row = sums[group[i]]
        row[0] += 1
        row[1] += chars[i]
        row[2] += links[i]
        row[3] += solid[i]
        row[4] = min(row[4], i)
        row[5] = max(row[5], i)
    for i in range(n):
        row = sums[group[i]]
        out[i, column], out[i, column + 1] = np.log1p(row[0]), np.log1p(row[1] / row[0])
        out[i, column + 2], out[i, column + 3] = row[2] / row[1], row[3] / row[1]
        out[i, column + 4], out[i, column + 5] = row[4] / n, row[5] / n


@compiled
def measure_scores(blocks, elements, scores):  # type: ignore[no-untyped-def]  # compiled
    """SCORE_FEATURES of every block of a page, from the scores of a first round (float32)."""
    n = len(blocks)
    out = np.zeros((n, NUM_SCORES), np.float32)
    if n == 0:
        return out
    chars = (blocks[:, B_STOP] - blocks[:, B_START]).astype(np.float64)
    weighted, sum_chars = _prefix(scores * chars), _prefix(chars)
    containers = find_containers(blocks, elements)
    (near, num_near), (far, num_far) = group_shapes(blocks, elements)
    groups = np.zeros((max(num_near, num_far), 4))
    section = np.zeros(n, np.int64)
    number = 0
    for i in range(n):
        groups[near[i], 0] += scores[i] * chars[i]
        groups[near[i], 1] += chars[i]
        groups[far[i], 2] += scores[i] * chars[i]
        groups[far[i], 3] += chars[i]
        number += CODE_H1 <= blocks[i, B_KIND] <= CODE_H6
        section[i] = number
    sections = np.zeros((number + 1, 2))
    for i in range(n):
        sections[section[i], 0] += scores[i] * chars[i]
        sections[section[i], 1] += chars[i]
    best = 0
    for i in range(n):
        if scores[i] * chars[i] > scores[best] * chars[best]:
            best = i
    for i in range(n):
        row = out[i]
        row[0] = scores[i]
        c = 1
        for offset in (-3, -2, -1, 1, 2, 3):
            row[c] = scores[i + offset] if 0 <= i + offset < n else -0.1
            c += 1
        for width in WINDOWS:
            first, last = max(i - width, 0), min(i + width + 1, n)
            row[c] = (weighted[last] - weighted[first]) / (sum_chars[last] - sum_chars[first])
            c += 1
        for level in range(NUM_CONTAINERS):
            first, last = elements[containers[i, level], E_FIRST], elements[containers[i, level], E_LAST]
            row[c] = (weighted[last] - weighted[first]) / (sum_chars[last] - sum_chars[first])
            c += 1
        row[c], row[c + 1] = groups[near[i], 0] / groups[near[i], 1], groups[far[i], 2] / groups[far[i], 3]
        row[c + 2], row[c + 3] = weighted[n] / sum_chars[n], np.log1p(weighted[n])
        row[c + 4], row[c + 5] = weighted[i] / (weighted[n] + 1e-9), (weighted[n] - weighted[i + 1]) / (weighted[n] + 1e-9)
        row[c + 6] = sections[section[i], 0] / sections[section[i], 1]
        row[c + 7], shared = _climb_to(elements, blocks[i, B_ELEMENT], best)
        first, last = elements[shared, E_FIRST], elements[shared, E_LAST]
        row[c + 8] = (sum_chars[last] - sum_chars[first]) / sum_chars[n]
        row[c + 9] = (weighted[last] - weighted[first]) / (sum_chars[last] - sum_chars[first])
    return out


def float_matrix(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An empty matrix, for a page without blocks."""
    return np.zeros((rows, columns), np.float32)
