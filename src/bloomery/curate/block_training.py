"""How a block model is made: pages with their gold text -> words' log-odds and two rounds of boosted trees.

Everything that a round learns from is out of fold by domain: the log-odds that a page's features are made with, and the
first round's scores that the second round sees, come from pages of other sites. So the trees learn how far to trust
them on a site that nobody has seen. A block's weight is about what it can change in its page's F1.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: trees are nested lists of JSON
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from sklearn.ensemble import HistGradientBoostingClassifier

from bloomery.core.config import Config
from bloomery.core.documents import document_id, read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.files import read_jsonl
from bloomery.curate.block_features import FEATURES, SCORE_FEATURES, measure_scores
from bloomery.curate.block_labels import WORD, label_blocks
from bloomery.curate.blocks import FORMAT, NO_WORDS, Floats, Page, Words, cut_page, make_forest, make_words, measure_page, score_rows
from bloomery.curate.extract import encode_bytes
from bloomery.curate.html_kernels import MAX_VALUE, skip_tag
from bloomery.curate.html_tags import B_START, B_STOP, E_ATTRIBUTES, E_FIRST, E_LAST
from bloomery.curate.warc import Capture, read_captures

GOLD_COLUMNS = ("main_content", "articleBody", "text")
LOG = Callable[[str], None]

_ATTRIBUTE = re.compile(rb"""([^\s=>/][^\s=>]{0,40})(?:\s{0,99}=\s{0,99}(?:"([^"]*)|'([^']*)|([^\s>]*)))?""", re.I)
_NAMED = frozenset((b"class", b"id", b"role", b"itemprop", b"data-testid"))
_DISPLAY_NONE = re.compile(rb"display\s*:\s*none", re.I)
_LETTERS = re.compile(rb"[A-Za-z]+")
_TURN = re.compile(rb"(?<=[a-z])(?=[A-Z])")
_TEXT_WORD = re.compile(r"[a-z0-9\u0080-\U0010ffff][a-z0-9'\u0080-\U0010ffff]*")
_ASCII_LOWER = {code: code + 32 for code in range(65, 91)}


class BlockTrainingConfig(Config):
    """How the block model of `extract` is trained. The defaults made the model that is shipped."""

    first_trees: PositiveInt = 50
    second_trees: PositiveInt = 80
    leaves: int = Field(default=31, ge=2, le=64)
    learning_rate: PositiveFloat = 0.12
    min_leaf_blocks: PositiveInt = 40
    folds: int = Field(default=4, ge=2)
    """Parts, by domain, for the log-odds and scores that the trees learn from."""
    min_class_word_domains: PositiveInt = 8
    min_text_word_domains: PositiveInt = 20
    unknown_language_fraction: float = Field(default=0.25, ge=0, le=1)
    """Pages whose text words are hidden from training, as those of an unknown language would be."""
    max_block_rows: PositiveInt = 80_000
    """Blocks that a round of trees is fitted on, drawn by weight."""
    seed: NonNegativeInt = 0
    attribution: str = ""
    """Whose work the pages and their gold texts are; written into the model's file."""


class Example(NamedTuple):
    """A page to learn from: its UTF-8, the share of each block's words in the gold text, words of that text."""

    url: str
    html: bytes
    labels: Floats
    gold_words: int


class WordCounts(NamedTuple):
    """Of each word on a page: (how much of it stands in the content, how much there is)."""

    classes: dict[str, tuple[float, float]]
    text: dict[str, tuple[float, float]]


def read_examples(pages: Sequence[Path], truth: Sequence[Path]) -> Iterator[Example]:
    """The pages that have a gold text (rows with `url` and `main_content`, `articleBody` or `text`)."""
    gold: dict[str, str] = {}
    for path in truth:
        for row in _read_truth(path):
            found = next((row[name] for name in GOLD_COLUMNS if isinstance(row.get(name), str)), None)
            if found is not None and isinstance(row.get("url"), str):
                gold[row["url"]] = found
    if not gold:
        raise DataError(f"{', '.join(map(str, truth)) or 'truth'}: no row with `url` and one of {', '.join(GOLD_COLUMNS)}")
    for path in pages:
        for item in read_captures(path, max_record_bytes=64 << 20):
            if isinstance(item, Capture) and item.url in gold:
                yield make_example(item, gold[item.url])


def _read_truth(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        for table in read_document_batches(path):
            yield from table.select(["url", "text"]).to_pylist()
    else:
        yield from read_jsonl(path)


def make_example(capture: Capture, gold: str) -> Example:
    """One page with its labels."""
    html = encode_bytes(capture.body, charset=capture.charset).utf8
    return Example(capture.url, html, label_blocks(block_texts(cut_page(html, NO_WORDS)), gold), len(WORD.findall(gold)))


def train_blocks(examples: Sequence[Example], config: BlockTrainingConfig, *, about: Mapping[str, Any], log: LOG) -> dict[str, Any]:
    """The model as `dump_model` writes it; `about` says what it was trained on."""
    examples = [example for example in examples if len(example.labels)]
    if len(examples) < config.folds:
        raise DataError(f"train_extractor: {len(examples)} pages with text and a gold text; expected at least {config.folds} (folds)")
    sites = [site_of(example.url) for example in examples]
    folds = assign_folds(sites if len(set(sites)) >= config.folds else [example.url for example in examples], config.folds, config.seed)
    counts = [count_words(example) for example in examples]
    rows: list[np.ndarray[Any, np.dtype[np.float32]]] = [np.zeros((0, 0), np.float32)] * len(examples)
    for fold in range(config.folds):
        others = [i for i in range(len(examples)) if folds[i] != fold]
        class_odds, text_odds = find_odds([counts[i] for i in others], [sites[i] for i in others], config)
        known, unknown = make_words(class_odds, text_odds), make_words(class_odds, {})
        for i in np.flatnonzero(folds == fold).tolist():
            hidden = int(document_id("language", examples[i].url), 16) % 1000 < 1000 * config.unknown_language_fraction
            rows[i] = measure_page(cut_page(examples[i].html, unknown if hidden else known))
            if hidden:
                rows[i][:, FEATURES.index("own/capital_fraction")] = 0
    log("features of the first round")
    labels, weights = [example.labels for example in examples], [block_weights(example, NO_WORDS) for example in examples]
    first = [
        fit_trees(rows, labels, weights, np.flatnonzero(folds != fold), config, trees=config.first_trees) for fold in range(config.folds)
    ]
    log("first round, out of fold")
    for i, example in enumerate(examples):
        page = cut_page(example.html, NO_WORDS)
        scores = score_rows(rows[i], make_forest(first[folds[i]][0], first[folds[i]][1], FEATURES))
        rows[i] = np.hstack((rows[i], measure_scores(page.blocks, page.elements, scores)))
    everything = np.arange(len(examples))
    second = fit_trees(rows, labels, weights, everything, config, trees=config.second_trees)
    log("second round")
    width = len(FEATURES)
    whole = fit_trees([row[:, :width] for row in rows], labels, weights, everything, config, trees=config.first_trees)
    class_odds, text_odds = find_odds(counts, sites, config)
    return {
        "format": FORMAT,
        "attribution": config.attribution,
        **about,
        "config": config.model_dump(mode="json", exclude={"attribution"}),
        "class_words": class_odds,
        "text_words": text_odds,
        "first": {"baseline": whole[0], "trees": whole[1]},
        "second": {"baseline": second[0], "trees": second[1]},
    }


def block_texts(page: Page) -> list[str]:
    """The text of each block."""
    data = page.text.tobytes()
    return [data[start:stop].decode("utf-8", "replace") for start, stop in page.blocks[:, [B_START, B_STOP]].tolist()]


def block_weights(example: Example, words: Words) -> Floats:
    """What each block can change in the F1 of its page, roughly: its words against those of the content."""
    lengths = np.array([max(len(WORD.findall(text)), 1) for text in block_texts(cut_page(example.html, words))], np.float64)
    found = float(lengths @ example.labels)
    weights: Floats = (lengths / (found + 0.5 * example.gold_words + 100)) ** 0.7
    return weights


def site_of(url: str) -> str:
    """The registered domain of a URL, nearly: the last two names of the host, three under co.uk and the like."""
    names = urlsplit(url).netloc.lower().split("@")[-1].split(":")[0].split(".")
    if names[-1:] == ["invalid"]:
        return url
    second = len(names) >= 3 and len(names[-1]) == 2 and names[-2] in ("co", "com", "org", "ac", "gov", "net", "edu")
    return ".".join(names[-3 if second else -2 :])


def assign_folds(names: Sequence[str], folds: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The part that each name falls into: equal names into one, and as many names into each part as can be."""
    order = sorted(set(names), key=lambda name: document_id(f"fold {seed}", name))
    part = {name: place % folds for place, name in enumerate(order)}
    return np.array([part[name] for name in names], np.int64)


def count_words(example: Example) -> WordCounts:
    """How much of each class word (characters inside) and text word (blocks with it) of a page is content."""
    page = cut_page(example.html, NO_WORDS)
    chars = (page.blocks[:, B_STOP] - page.blocks[:, B_START]).astype(np.float64)
    total, inside = np.concatenate(([0.0], np.cumsum(chars))), np.concatenate(([0.0], np.cumsum(chars * example.labels)))
    classes: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for element in page.elements[1:]:
        first, last = element[E_FIRST], element[E_LAST]
        if last > first:
            for word in class_words(example.html, int(element[E_ATTRIBUTES])):
                classes[word][0] += inside[last] - inside[first]
                classes[word][1] += total[last] - total[first]
    text: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for block, label in zip(block_texts(page), example.labels, strict=True):
        for word in set(_TEXT_WORD.findall(block.translate(_ASCII_LOWER))):
            text[word][0] += float(label)
            text[word][1] += 1.0
    return WordCounts({w: (a, b) for w, (a, b) in classes.items()}, {w: (a, b) for w, (a, b) in text.items()})


def class_words(data: bytes, at: int) -> set[str]:
    """The words of the attributes of the tag whose attributes begin at `at`, as `html_kernels.read_attributes` reads them."""
    found: set[str] = set()
    tag = data[at : int(skip_tag(np.frombuffer(data, np.uint8), at, len(data))) - 1]
    for attribute, *values in _ATTRIBUTE.findall(tag):
        name, value = attribute.lower(), b"".join(values)
        if name in _NAMED:
            for run in _LETTERS.findall(value[:MAX_VALUE]):
                found.update(part.lower().decode() for part in _TURN.split(run))
        elif name == b"hidden" or (name == b"aria-hidden" and len(value) == 4) or (name == b"style" and _DISPLAY_NONE.search(value)):
            found.add("displaynone")
    return found


def find_odds(counts: Sequence[WordCounts], sites: Sequence[str], config: BlockTrainingConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Log-odds of class words and of text words; every site has one vote, shared between content and the rest."""
    class_odds = _site_odds((count.classes for count in counts), sites, config.min_class_word_domains, centred=False)
    return class_odds, _site_odds((count.text for count in counts), sites, config.min_text_word_domains, centred=True)


def _site_odds(pages: Iterable[dict[str, tuple[float, float]]], sites: Sequence[str], min_sites: int, *, centred: bool) -> dict[str, float]:
    votes: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for page, site in zip(pages, sites, strict=True):
        for word, (inside, total) in page.items():
            vote = votes[word].setdefault(site, [0.0, 0.0])
            vote[0] += inside
            vote[1] += total
    shares = {word: [a / b for a, b in votes[word].values() if b > 0] for word in sorted(votes) if len(votes[word]) >= min_sites}
    content = {word: (sum(share), len(share) - sum(share)) for word, share in shares.items() if share}
    mean = float(np.mean([a / (a + b) for a, b in content.values()])) if content else 0.5
    base = float(np.log(mean / (1 - mean))) if centred and 0 < mean < 1 else 0.0
    odds = {word: float(np.clip(np.log((a + 1.5) / (b + 1.5)) - base, -4, 4)) for word, (a, b) in content.items()}
    return {word: round(value, 2) for word, value in odds.items() if abs(value) >= 0.25}


def fit_trees(
    rows: Sequence[np.ndarray[Any, np.dtype[np.float32]]],
    labels: Sequence[Floats],
    weights: Sequence[Floats],
    pages: np.ndarray[Any, np.dtype[np.int64]],
    config: BlockTrainingConfig,
    *,
    trees: int,
) -> tuple[float, list[Any]]:
    """(baseline, trees as nested lists) of boosted trees for log-loss, fitted on the blocks of these pages."""
    features = np.concatenate([rows[i] for i in pages])
    target, weight = np.concatenate([labels[i] for i in pages]) >= 0.5, np.concatenate([weights[i] for i in pages])
    chance = np.minimum(1.0, weight * min(config.max_block_rows, len(weight)) / weight.sum())
    generator = np.random.default_rng([config.seed, len(weight)])
    drawn = generator.random(len(weight)) < chance
    weight = (weight / chance)[drawn]
    if len(set(target[drawn].tolist())) < 2:
        return (4.0 if target.any() else -4.0), []
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        max_leaf_nodes=config.leaves,
        learning_rate=config.learning_rate,
        min_samples_leaf=config.min_leaf_blocks,
        l2_regularization=5.0,
        max_bins=127,
        max_features=0.5,
        early_stopping=False,
        random_state=config.seed,
    )
    model.fit(features[drawn], target[drawn], sample_weight=weight / weight.mean())
    names = [*FEATURES, *SCORE_FEATURES]
    # Private names: scikit-learn has no public way to read a forest of this kind.
    return float(model._baseline_prediction.ravel()[0]), [_nested(step[0].nodes, 0, names) for step in model._predictors]


def _nested(nodes: Any, at: int, names: Sequence[str]) -> Any:  # Any: scikit-learn's record array; a tree or a number
    node = nodes[at]
    if node["is_leaf"]:
        return round(float(node["value"]), 5)
    threshold = _float32_at_most(float(node["num_threshold"]))
    return [names[node["feature_idx"]], threshold, _nested(nodes, node["left"], names), _nested(nodes, node["right"], names)]


def _float32_at_most(value: float) -> float:
    # A threshold often is a value of the data itself, so it may not be rounded: x <= value and x <= this agree for every
    # float32 x. Its shortest decimal spelling that reads back as the same float32.
    rounded = np.float32(value)
    if float(rounded) > value:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(str(rounded))
