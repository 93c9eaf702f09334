"""The block classifier: which blocks of a page are its content, and their text.

A page's blocks (`block_kernels`) are measured (`block_features`), scored by two rounds of boosted trees (the second also
sees the first one's scores of what stands around a block), and the set of blocks is kept that has the highest expected
word F1. All of it are compiled passes over the bytes.

The shipped model is `extraction_model.json`: class words and text words with their log-odds, and trees as nested lists
`[feature, threshold, if at most, if more]`, so that one can read what it does. `train_extractor` makes another.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: trees are nested lists of JSON

import numpy as np

from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.curate.block_features import FEATURES, SCORE_FEATURES, measure_blocks, measure_scores
from bloomery.curate.block_kernels import cut_blocks, find_copies
from bloomery.curate.html_tags import (
    B_ELEMENT,
    B_KIND,
    B_START,
    B_STOP,
    B_WORDS,
    CODE,
    E_DEPTH,
    E_FIRST,
    E_LAST,
    E_QUOTED,
    GROUPS,
    NAMED,
    WORD_GROUPS,
    entity_table,
    hash_word,
    open_table,
    tag_table,
)
from bloomery.curate.kernels import compiled
from bloomery.curate.page_facts import HINTS, PageFacts, read_facts, read_hints

FORMAT = "bloomery blocks 1"
SHIPPED_MODEL = Path(__file__).parent / "extraction_model.json"
MAX_NESTING = 1000
MAX_BLOCKS = 40_000
"""Blocks of a page that are judged; a page has 250 on average. What stands behind them is left out."""
LISTED = ("li", "tr", "dt", "dd")
CODES_LISTED = frozenset(CODE[name] for name in LISTED)

MIN_COPY_WORDS, MAX_COPY_NEW = 60, 0.15
SURE, ARTICLE_SURE_FRACTION, CONTAINER_FRACTION, OUTSIDE_PENALTY = 0.8, 0.7, 0.85, 2.0
"""A block is sure from the first on; a page whose content is so sure, or that says so, is an article; where this much of
the sure content stands in one element, blocks outside lose this much of their log-odds. Over the plain second round it costs
about .005 of F1 on WCXB's fold 0 (.862 to .857) and .003 on fold 1 (.861 to .858); it gained .04 on scrapinghub, which was
looked at when it was chosen."""

MAX_LEAVES = 64
ROWS_AT_ONCE = 1024
"""Rows whose columns stay in the processor's cache while all trees look at them."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Page(NamedTuple):
    """A page cut into blocks: the arrays that `cut_blocks` returns, and what the page says of itself."""

    text: np.ndarray[Any, np.dtype[np.uint8]]
    blocks: np.ndarray[Any, np.dtype[np.int64]]
    odds: Floats
    elements: np.ndarray[Any, np.dtype[np.int64]]
    element_odds: Floats
    bits: np.ndarray[Any, np.dtype[np.uint64]]
    hints: np.ndarray[Any, np.dtype[np.float32]]
    """What the page says of its own kind, see `page_facts.read_hints`."""
    facts: PageFacts
    nesting: int
    """The most elements that were open inside one another; of more than `max_nesting` nothing is in the arrays."""


class Forest(NamedTuple):
    """Boosted trees as QuickScorer has them: no walk, but all inner nodes of a tree one after another, for many rows at once.

    The leaves of a tree are numbered from left to right. Where a row's value is greater than a node's, the leaves at its
    left are out, which `stay` says by its bits; the row's leaf is the lowest one left when all nodes are through.
    """

    baseline: float
    first_node: np.ndarray[Any, np.dtype[np.int64]]
    """The nodes of tree t are first_node[t] to first_node[t + 1]; its leaves likewise."""
    first_leaf: np.ndarray[Any, np.dtype[np.int64]]
    feature: np.ndarray[Any, np.dtype[np.int64]]
    value: np.ndarray[Any, np.dtype[np.float32]]
    stay: np.ndarray[Any, Any]
    """uint32, or uint64 if a tree has more than 32 leaves."""
    leaves: np.ndarray[Any, np.dtype[np.float32]]


class Words(NamedTuple):
    """Tables of the kernels (see `html_kernels.look_up`): what is known of class words, and of words of the text."""

    classes: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]
    text: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class BlockModel(NamedTuple):
    """What `extraction_model.json` holds, ready for the kernels."""

    words: Words
    first: Forest
    second: Forest


def load_block_model(path: Path) -> BlockModel:
    """The model in a file, or in a folder that `train_extractor` made. Raises DataError if it is none."""
    file = path / SHIPPED_MODEL.name if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected a block model made by: bloomery stage train_extractor")
    raw = read_json(file)
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise DataError(f'{file}: not a block model of the format "{FORMAT}"; make one with: bloomery stage train_extractor')
    first = make_forest(raw["first"]["baseline"], raw["first"]["trees"], FEATURES)
    second = make_forest(raw["second"]["baseline"], raw["second"]["trees"], [*FEATURES, *SCORE_FEATURES])
    return BlockModel(make_words(raw["class_words"], raw["text_words"]), first, second)


@functools.lru_cache(maxsize=2)
def block_model(path: Path) -> BlockModel:
    """`load_block_model`, once in a process."""
    return load_block_model(path)


def cut_page(encoded: bytes, words: Words, *, max_nesting: int = MAX_NESTING) -> Page:
    """The blocks of a page in UTF-8, and what it says of itself."""
    data = np.frombuffer(encoded, np.uint8)
    hidden = np.uint64(hash_word("displaynone"))
    cut = cut_blocks(data, tag_table(), words.classes, words.text, entity_table(), hidden, MAX_BLOCKS, max_nesting)
    text, blocks, odds, elements, element_odds, bits, marks, nesting = cut
    facts = read_facts(encoded, marks)
    return Page(text, blocks, odds, elements, element_odds, bits, read_hints(facts), facts, nesting)


def measure_page(page: Page) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The first round's features of a page's blocks."""
    features: np.ndarray[Any, np.dtype[np.float32]] = measure_blocks(
        page.blocks, page.odds, page.elements, page.element_odds, page.bits, page.hints
    )
    return features


def score_blocks(page: Page, model: BlockModel) -> Floats:
    """For each block the log-odds that its words belong to the page's content: the mean of both rounds."""
    columns = np.empty((len(FEATURES) + len(SCORE_FEATURES), len(page.blocks)), np.float32)
    columns[: len(FEATURES)] = measure_page(page).T
    first = _score_columns(columns[: len(FEATURES)], model.first)
    columns[len(FEATURES) :] = measure_scores(page.blocks, page.elements, first).T
    second = _score_columns(columns, model.second)
    log_odds: Floats = (_log_odds(first) + _log_odds(second)) / 2
    return log_odds


def choose_blocks(scores: Floats, words: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The set of blocks of the highest expected word F1: 2 * expected words right / (words kept + expected words of content).

    >>> choose_blocks(np.array([0.9, 0.1, 0.6]), np.array([100, 50, 80])).tolist()
    [True, False, True]
    """
    order = np.argsort(-scores, kind="stable")
    expected = (scores * words)[order]
    f1 = 2 * np.cumsum(expected) / (np.cumsum(words[order]) + expected.sum() + 1e-9)
    keep = np.zeros(len(scores), np.bool_)
    if len(scores):
        keep[order[: int(np.argmax(f1)) + 1]] = True
    return keep


def find_content(page: Page, model: BlockModel) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which blocks of a page are its content; at least one, if there is one.

    What a page says twice (for another screen, for readers without scripts) is kept once, where it scores best.
    """
    words = page.blocks[:, B_WORDS]
    log_odds = score_blocks(page, model)
    scores = _probability(log_odds)
    sure = words * scores * (scores > SURE)
    if says_article(page) or sure.sum() > ARTICLE_SURE_FRACTION * (words * scores).sum():
        scores = _probability(log_odds - OUTSIDE_PENALTY * is_outside(page, sure))
    keep = choose_blocks(scores, words)
    kept = np.flatnonzero(keep)
    order = kept[np.argsort(-scores[kept], kind="stable")]
    keep &= ~find_copies(page.text, page.blocks, order, MIN_COPY_WORDS, MAX_COPY_NEW)
    return keep


def says_article(page: Page) -> bool:
    """Whether the page says of itself that it is one article."""
    return bool(page.hints[HINTS.index("og_article")] or page.hints[HINTS.index("published")] or page.hints[HINTS.index("article")])


def is_outside(page: Page, weights: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which blocks are outside the smallest element that holds most of these weights: on an article's page, other articles."""
    sums = np.concatenate(([0.0], np.cumsum(weights)))
    first, last = page.elements[:, E_FIRST], page.elements[:, E_LAST]
    outside = np.ones(len(weights), np.bool_)
    holders = np.flatnonzero(sums[last] - sums[first] >= CONTAINER_FRACTION * sums[-1])
    best = holders[np.lexsort((-page.elements[holders, E_DEPTH], (last - first)[holders]))[0]]
    outside[first[best] : last[best]] = False
    return outside


def render_blocks(page: Page, keep: np.ndarray[Any, np.dtype[np.bool_]], *, format: Literal["text", "markdown"]) -> str:
    """The text of the kept blocks: paragraphs with an empty line between, items of a list and rows of a table without one.

    In Markdown headings and quotations have their marks and code blocks their fences; links and emphasis are dropped.
    """
    data = page.text.tobytes()
    parts: list[str] = []
    previous = 0
    for block in page.blocks[keep][:, [B_START, B_STOP, B_KIND, B_ELEMENT]].tolist():
        text = data[block[0] : block[1]].decode("utf-8", "replace")
        kind = block[2]
        parts.append("\n" if previous in CODES_LISTED and kind in CODES_LISTED else "\n\n")
        parts.append(_mark(text, NAMED[kind - 1] if kind else "", page, block[3], format))
        previous = kind
    return "".join(parts[1:])


def score_rows(rows: np.ndarray[Any, np.dtype[np.float32]], forest: Forest) -> Floats:
    """The probability that the trees give each row."""
    return _score_columns(np.ascontiguousarray(rows.T), forest)


def make_forest(baseline: float, trees: Sequence[Any], names: Sequence[str]) -> Forest:
    """Flat arrays of trees that are nested lists [feature name, threshold, if at most, if more] or numbers.

    Raises DataError if a tree has more than 64 leaves.
    """
    place = {name: column for column, name in enumerate(names)}
    nodes: list[tuple[int, float, int]] = []
    leaves: list[float] = []
    first_node, first_leaf = [0], [0]

    def add(tree: Any) -> None:
        if not isinstance(tree, list):
            leaves.append(float(tree))
            return
        at, first = len(nodes), len(leaves) - first_leaf[-1]
        nodes.append((0, 0.0, 0))
        add(tree[2])
        out = (1 << (len(leaves) - first_leaf[-1])) - (1 << first)
        nodes[at] = (place[tree[0]], float(tree[1]), out)
        add(tree[3])

    most = 0
    for tree in trees:
        add(tree)
        most = max(most, len(leaves) - first_leaf[-1])
        first_node.append(len(nodes))
        first_leaf.append(len(leaves))
    if most > MAX_LEAVES:
        raise DataError(f"a tree of the block model has {most} leaves; at most {MAX_LEAVES} are expected")
    width: type[np.unsignedinteger[Any]] = np.uint32 if most <= 32 else np.uint64
    feature, value = np.array([node[0] for node in nodes], np.int64), np.array([node[1] for node in nodes], np.float32)
    stay = ~np.array([node[2] for node in nodes], width)
    return Forest(float(baseline), np.array(first_node), np.array(first_leaf), feature, value, stay, np.array(leaves, np.float32))


def make_words(class_odds: Mapping[str, float], text_odds: Mapping[str, float]) -> Words:
    """The tables of the kernels, of log-odds of class words and of words of the text."""
    group_of: dict[str, int] = {}
    for group, spelled in WORD_GROUPS.items():
        for word in spelled.split():
            group_of[word] = group_of.get(word, 0) | 1 << GROUPS.index(group)
    words = sorted({*group_of, *class_odds})
    keys, order = open_table([hash_word(word) for word in words])
    groups, odds = np.zeros(len(keys), np.uint64), np.zeros(len(keys), np.float64)
    for place, number in order:
        groups[place], odds[place] = group_of.get(words[number], 0), class_odds.get(words[number], 0.0)
    text_words = sorted(text_odds)
    text_keys, text_order = open_table([hash_word(word) for word in text_words])
    values = np.zeros(len(text_keys), np.float64)
    for place, number in text_order:
        values[place] = text_odds[text_words[number]]
    return Words((keys, groups, odds), (text_keys, values))


NO_WORDS = make_words({}, {})
"""Of no word anything is known but its group."""


def dump_model(model: Mapping[str, Any]) -> str:
    """The JSON of a model, a tree or a hundred words a line: equal models, equal bytes."""
    lines = ["{"]
    for key, value in model.items():
        if key in ("class_words", "text_words"):
            items = [f"{json.dumps(word, ensure_ascii=False)}: {value[word]:g}" for word in sorted(value)]
            rows = ",\n  ".join(", ".join(items[i : i + 20]) for i in range(0, len(items), 20))
            lines.append(f'"{key}": {{\n  {rows}\n}},')
        elif key in ("first", "second"):
            trees = ",\n  ".join(json.dumps(tree, separators=(",", ":")) for tree in value["trees"])
            lines.append(f'"{key}": {{"baseline": {value["baseline"]!r}, "trees": [\n  {trees}\n]}},')
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},")
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([*lines, "}"]) + "\n"


def _probability(log_odds: Floats) -> Floats:
    probability: Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return probability


def _log_odds(probability: Floats) -> Floats:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    log_odds: Floats = np.log(clipped / (1 - clipped))
    return log_odds


def _score_columns(columns: np.ndarray[Any, np.dtype[np.float32]], forest: Forest) -> Floats:
    return _probability(_sum_trees(columns, *forest[1:]) + forest.baseline)


@compiled
def _sum_trees(columns, first_node, first_leaf, feature, value, stay, leaves):  # type: ignore[no-untyped-def]  # compiled
    n = columns.shape[1]
    out = np.zeros(n, np.float64)
    buffer = np.empty(min(n, ROWS_AT_ONCE), stay.dtype)
    place = np.zeros(32, np.int64)
    for k in range(32):
        place[_lowest_bit_key(np.uint32(1) << np.uint32(k))] = k
    for first in range(0, n, ROWS_AT_ONCE):
        left = buffer[: min(n - first, ROWS_AT_ONCE)]
        for tree in range(len(first_node) - 1):
            left[:] = ~stay.dtype.type(0)
            for node in range(first_node[tree], first_node[tree + 1]):
                _strike_leaves(left, columns[feature[node], first : first + len(left)], value[node], stay[node])
            own = leaves[first_leaf[tree] : first_leaf[tree + 1]]
            for i in range(len(left)):
                bits, leaf = np.uint32(left[i] & 0xFFFFFFFF), 0
                if bits == 0:
                    bits, leaf = np.uint32(np.uint64(left[i]) >> np.uint64(32)), 32
                out[first + i] += own[leaf + place[_lowest_bit_key(bits)]]
    return out


@compiled
def _strike_leaves(left, column, threshold, stay):  # type: ignore[no-untyped-def]  # compiled
    # On its own so that it compiles to vector instructions.
    every = left.dtype.type(0xFFFFFFFFFFFFFFFF)
    for i in range(len(left)):
        left[i] = left[i] & (every if column[i] <= threshold else stay)


@compiled
def _lowest_bit_key(bits):  # type: ignore[no-untyped-def]  # compiled
    # A number below 32 for the lowest bit that is set, by a de Bruijn sequence: another for each place.
    lowest = np.uint32(bits & (~bits + np.uint32(1)))
    return (np.uint32(0x077CB531) * lowest & np.uint32(0xFFFFFFFF)) >> np.uint32(27)


def _mark(text: str, kind: str, page: Page, element: int, format: Literal["text", "markdown"]) -> str:
    if kind == "pre":
        return f"```\n{text}\n```" if format == "markdown" else text
    if kind == "li":
        return f"- {text}"
    if format == "text":
        return text
    if kind in ("h1", "h2", "h3", "h4", "h5", "h6"):
        return f"{'#' * int(kind[1])} {' '.join(text.split())}"
    return "> " + text.replace("\n", "\n> ") if page.elements[element, E_QUOTED] else text
