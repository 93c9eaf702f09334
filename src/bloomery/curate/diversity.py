"""How different from each other the documents of a corpus are, and how much of what was asked for they cover.

Each measure is of a sample of a fixed size, chosen by a hash of the ids, because most of them fall as a corpus grows: only
numbers of equal samples can be compared, as those of the documents and of their seeds are here.
"""

import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any  # Any: JSON, and matrices of scipy

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

SAMPLE_WORDS = 50_000
"""Of distinct-n and the compression ratio."""
SAMPLE_DOCUMENTS = 1_000
"""Of nearest neighbours."""
MAX_SAMPLED = 5_000
"""Documents that are kept to choose both samples from."""
HISTOGRAM_BINS = 20
MIN_TOPIC_WORD_LETTERS = 4


class Sample:
    """The documents of a corpus that come first by a hash of their ids; what is beyond them is only counted."""

    def __init__(self) -> None:
        self.num_documents = 0
        self._kept: list[tuple[bytes, str]] = []

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """More documents."""
        self.num_documents += len(ids)
        self._kept += [(hashlib.blake2b(id_.encode(), digest_size=8).digest(), text) for id_, text in zip(ids, texts, strict=True)]
        if len(self._kept) > 2 * MAX_SAMPLED:
            self._kept = sorted(self._kept)[:MAX_SAMPLED]

    def texts(self, limit: int = SAMPLE_DOCUMENTS) -> list[str]:
        """The first so many, in the order of their hashes."""
        return [text for _, text in sorted(self._kept)[: min(limit, MAX_SAMPLED)]]


def measure_texts(sample: Sample) -> dict[str, Any]:
    """Diversity of documents among themselves.

    distinct: different n-grams of words / all, for n = 1 to 4 (arXiv:1510.03055, sec. 4.1), of the first 50,000 words. compression:
    bytes / bytes after zlib, of the same words (arXiv:2403.00553): high where a corpus repeats itself. nearest: for each of a
    thousand documents the cosine of its TF-IDF words with those of the nearest other one.
    """
    documents: list[list[str]] = []
    size = 0
    for text in sample.texts(MAX_SAMPLED):
        documents.append(_words(text)[: SAMPLE_WORDS - size])
        size += len(documents[-1])
        if size >= SAMPLE_WORDS:
            break
    joined = "\n".join(" ".join(words) for words in documents).encode("utf-8", "replace")
    return {
        "documents": sample.num_documents,
        "words_sampled": size,
        "distinct": {str(n): _distinct(documents, n) for n in (1, 2, 3, 4)},
        "compression": round(len(joined) / max(len(zlib.compress(joined, 6)), 1), 4),
        "nearest": describe(nearest_similarities(sample.texts())),
        "words": _describe_counts([len(_words(text)) for text in sample.texts()]),
    }


def nearest_similarities(texts: Sequence[str], others: Sequence[str] | None = None) -> list[float]:
    """For each text the cosine with the nearest of `others`, or of the other texts; none for fewer than two texts."""
    known = list(texts if others is None else others)
    if not texts or len(known) < (2 if others is None else 1):
        return []
    vectorizer = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True)
    try:
        vectorizer.fit([*texts, *(others or [])])
    except ValueError:  # no words in any of them
        return [0.0] * len(texts)
    similarity: Any = (vectorizer.transform(texts) @ vectorizer.transform(known).T).toarray()
    if others is None:
        np.fill_diagonal(similarity, -1.0)
    return [round(float(value), 6) for value in similarity.max(axis=1)]


class Coverage:
    """How evenly what was kept covers the seeds, styles and audiences that were asked for."""

    def __init__(self) -> None:
        self._asked: dict[str, Counter[str]] = {kind: Counter() for kind in ("seed", "style", "audience")}
        self._kept: dict[str, Counter[str]] = {kind: Counter() for kind in self._asked}

    def add(self, *, seed: str, style: str, audience: str, kept: bool) -> None:
        """One request, and whether its document stayed."""
        for kind, name in (("seed", seed), ("style", style), ("audience", audience)):
            self._asked[kind][name] += 1
            self._kept[kind][name] += kept

    def report(self) -> dict[str, Any]:
        """By kind: names asked for, names with a document, and the entropy of documents over names divided by its maximum (1 is even)."""
        found: dict[str, Any] = {}
        for kind, asked in self._asked.items():
            kept = +self._kept[kind]  # without zeros
            covered = round(len(kept) / max(len(asked), 1), 4)
            found[kind] = {"asked": len(asked), "covered": len(kept), "covered_fraction": covered, "entropy": _even(kept, len(asked))}
            if kind != "seed":
                found[kind]["kept_fractions"] = {name: round(kept[name] / asked[name], 4) for name in sorted(asked)}
        return found


def mentions_subject(text: str, subject: str) -> bool:
    """Whether a text has a word of its subject, of four letters or more (whole words); true for a subject without such words."""
    wanted = {word for word in _words(subject) if len(word) >= MIN_TOPIC_WORD_LETTERS}
    return not wanted or bool(wanted & set(_words(text)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _distinct(documents: Sequence[Sequence[str]], n: int) -> float:
    grams = [tuple(words[i : i + n]) for words in documents for i in range(len(words) - n + 1)]
    return round(len(set(grams)) / len(grams), 4) if grams else 0.0


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Mean, quantiles and a histogram (20 bins from 0 to 1) of similarities."""
    if not values:
        return {"count": 0, "histogram": [0] * HISTOGRAM_BINS}
    array = np.clip(np.array(values), 0.0, 1.0)
    quantiles = {name: round(float(np.quantile(array, q)), 4) for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))}
    histogram = np.histogram(array, bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0].tolist()
    return {"count": len(values), "mean": round(float(array.mean()), 4), **quantiles, "histogram": histogram}


def _describe_counts(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    return {name: round(float(np.quantile(values, q)), 1) for name, q in (("p10", 0.1), ("median", 0.5), ("p90", 0.9))}


def _even(counts: Mapping[str, int], num_names: int) -> float:
    total = sum(counts.values())
    if num_names < 2 or not total:
        return 1.0 if total else 0.0
    return round(-sum(count / total * math.log(count / total) for count in counts.values()) / math.log(num_names), 4)
