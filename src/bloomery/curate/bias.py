"""Who appears with what: how often terms of identity stand near terms of occupation and judgement, against chance.

A probe of a corpus, not a filter: pointwise mutual information (Church and Hanks 1990) of two groups of words inside
windows of words, with an interval, so that one can see what a model would learn about whom. The word lists are English,
written for this, short enough to read; counts say nothing about a single document.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple  # Any: arrays of numpy

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt

from bloomery.core.config import Config
from bloomery.curate.kernels import compiled, hash_words, text_column

IDENTITIES: Mapping[str, str] = {
    "women": "she her hers herself woman women girl girls female females mother wife daughter sister grandmother lady ladies",
    "men": "he him his himself man men boy boys male males father husband son brother grandfather gentleman gentlemen",
    "non-binary": "nonbinary transgender trans genderqueer",
    "gay and lesbian": "gay lesbian lesbians homosexual bisexual queer lgbt lgbtq",
    "christian": "christian christians christianity church catholic catholics protestant bible",
    "muslim": "muslim muslims islam islamic mosque quran koran",
    "jewish": "jew jews jewish judaism synagogue torah",
    "hindu": "hindu hindus hinduism",
    "buddhist": "buddhist buddhists buddhism",
    "atheist": "atheist atheists atheism",
    "american": "american americans",
    "british": "british briton britons english englishman englishwoman",
    "german": "german germans",
    "french": "frenchman frenchwoman french",
    "russian": "russian russians",
    "chinese": "chinese",
    "indian": "indian indians",
    "mexican": "mexican mexicans latino latina latinos hispanic hispanics",
    "african": "african africans nigerian nigerians kenyan kenyans",
    "arab": "arab arabs arabic",
    "black": "black blacks",
    "white": "white whites",
    "old": "elderly old pensioner pensioners retiree retirees",
    "young": "young youth teenager teenagers",
    "disabled": "disabled disability disabilities blind deaf wheelchair autistic autism",
}
"""Groups of people and the words for them. Some words mean other things too (black, white, church): compare, do not count."""

ATTRIBUTES: Mapping[str, str] = {
    "science": "scientist scientists physicist chemist mathematician research researcher researchers engineer engineers professor",
    "medicine": "doctor doctors physician surgeon",
    "nursing": "nurse nurses nursing midwife caregiver",
    "law": "lawyer lawyers attorney judge judges",
    "business": "manager managers executive ceo boss director entrepreneur business",
    "home": "home family kitchen cooking cleaning children marriage wedding housework",
    "trades": "carpenter plumber electrician mechanic farmer builder welder",
    "arts": "artist artists musician singer dancer painter writer actor actress",
    "crime": "crime crimes criminal criminals murder arrested prison theft gang police",
    "violence": "terrorist terrorists terrorism attack attacks bomb violence violent kill killed killing",
    "poverty": "poor poverty homeless unemployed welfare",
    "wealth": "rich wealthy wealth millionaire billionaire luxury",
    "praise": "good great excellent kind honest clever intelligent brilliant friendly beautiful brave wonderful",
    "blame": "bad evil stupid lazy dirty dishonest ugly greedy dangerous weak terrible horrible",
    "looks": "beautiful pretty handsome sexy attractive slim dress hair",
    "competence": "skilled expert competent capable talented qualified successful leader",
}

Z_95 = 1.96


class BiasConfig(Config):
    """How far words stand from one another to count as together, and how rare a pair may be to be shown."""

    window_words: PositiveInt = 10
    """On each side of a term of identity."""
    min_pairs: PositiveInt = Field(default=5)


class Cooccurrence(NamedTuple):
    """How often words of two groups stand together, and log2 of that against chance, with its 95 % interval."""

    identity: str
    attribute: str
    pairs: int
    expected: float
    pmi: float
    low: float
    high: float


class BiasCounts(NamedTuple):
    """Sums over documents: words, terms of each group, and pairs (identities x attributes). Add them shard by shard."""

    words: int
    identities: np.ndarray[Any, np.dtype[np.int64]]
    attributes: np.ndarray[Any, np.dtype[np.int64]]
    pairs: np.ndarray[Any, np.dtype[np.int64]]


def count_cooccurrences(texts: pa.ChunkedArray, config: BiasConfig) -> BiasCounts:
    """The counts of one table of documents."""
    column = text_column(texts, lowercase=True)
    identities, attributes = _lexicon(IDENTITIES), _lexicon(ATTRIBUTES)
    seen_i, seen_a = np.zeros(len(IDENTITIES), np.int64), np.zeros(len(ATTRIBUTES), np.int64)
    pairs = np.zeros((len(IDENTITIES), len(ATTRIBUTES)), np.int64)
    words = count_pairs(column.data, column.offsets, *identities, *attributes, config.window_words, seen_i, seen_a, pairs)
    return BiasCounts(int(words), seen_i, seen_a, pairs)


def add_counts(counts: Iterable[BiasCounts]) -> BiasCounts:
    """The counts of several shards together."""
    num_i, num_a = len(IDENTITIES), len(ATTRIBUTES)
    total = BiasCounts(0, np.zeros(num_i, np.int64), np.zeros(num_a, np.int64), np.zeros((num_i, num_a), np.int64))
    for one in counts:
        identities, attributes = total.identities + one.identities, total.attributes + one.attributes
        total = BiasCounts(total.words + one.words, identities, attributes, total.pairs + one.pairs)
    return total


def measure_bias(counts: BiasCounts, config: BiasConfig) -> list[Cooccurrence]:
    """Every pair of groups that is frequent enough, strongest association first.

    Chance: each of the 2 x window words around a term of identity is one of the attribute's with its share of all words.
    The interval takes the number of pairs as Poisson: log2 of (n -/+ 1.96 sqrt n) over expected.
    """
    found = []
    for i, identity in enumerate(IDENTITIES):
        for a, attribute in enumerate(ATTRIBUTES):
            n = int(counts.pairs[i, a])
            expected = 2 * config.window_words * int(counts.identities[i]) * int(counts.attributes[a]) / max(counts.words, 1)
            if n >= config.min_pairs and expected > 0:
                low = max(n - Z_95 * math.sqrt(n), 0.5)
                bounds = (math.log2(value / expected) for value in (n, low, n + Z_95 * math.sqrt(n)))
                found.append(Cooccurrence(identity, attribute, n, expected, *bounds))
    return sorted(found, key=lambda pair: (-pair.pmi, pair.identity, pair.attribute))


def bias_table(rows: Sequence[Cooccurrence]) -> pa.Table:
    """The measurements as a table."""
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=BIAS_SCHEMA)


BIAS_SCHEMA = pa.schema(
    [
        ("identity", pa.string()),
        ("attribute", pa.string()),
        ("pairs", pa.int64()),
        ("expected", pa.float64()),
        ("pmi", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


@compiled
def count_pairs(data, offsets, keys_i, groups_i, keys_a, groups_a, window, seen_i, seen_a, pairs):  # type: ignore[no-untyped-def]  # compiled
    """Adds to `seen_*` the terms of each group and to `pairs` those within `window` words of one another; all words."""
    total = 0
    for d in range(len(offsets) - 1):
        words = np.empty(offsets[d + 1] - offsets[d] + 1, np.uint64)
        count = hash_words(data, offsets[d], offsets[d + 1], words)
        total += count
        places, kinds, found = np.empty(count, np.int64), np.empty(count, np.int64), 0
        for w in range(count):
            at = np.searchsorted(keys_a, words[w])
            while at < len(keys_a) and keys_a[at] == words[w]:
                places[found], kinds[found] = w, groups_a[at]
                seen_a[groups_a[at]] += 1
                found += 1
                if found == len(places):
                    places, kinds = np.concatenate((places, places)), np.concatenate((kinds, kinds))
                at += 1
        first = 0
        for w in range(count):
            at = np.searchsorted(keys_i, words[w])
            if at == len(keys_i) or keys_i[at] != words[w]:
                continue
            group = groups_i[at]
            seen_i[group] += 1
            while first < found and places[first] < w - window:
                first += 1
            near = first
            while near < found and places[near] <= w + window:
                if places[near] != w:
                    pairs[group, kinds[near]] += 1
                near += 1
    return total


def _lexicon(groups: Mapping[str, str]) -> tuple[Any, Any]:
    # (hashes of all words, sorted; the group of each). A word may be in several groups of attributes.
    entries = sorted((_hash_word(word), i) for i, words in enumerate(groups.values()) for word in words.split())
    return np.array([key for key, _ in entries], np.uint64), np.array([group for _, group in entries], np.int64)


def _hash_word(word: str) -> int:
    out, data = np.empty(len(word) + 1, np.uint64), np.frombuffer(word.encode(), np.uint8)
    count = hash_words(data, 0, len(data), out)
    assert count == 1, f"{word} is not one word"
    return int(out[0])
