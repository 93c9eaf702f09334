"""Counts the n-grams of a domain's examples and of a background, and measures the scorer on documents kept from counting."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays; JSON values

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.curate.kernels import text_column
from bloomery.curate.relevance import KIND, MAX_TEST_DOCUMENTS, RelevanceConfig, RelevanceScorer, Vector, count_buckets, measure_relevance


class TrainedRelevance(NamedTuple):
    """A scorer and the record of how it was measured."""

    scorer: RelevanceScorer
    report: dict[str, Any]


def train_relevance(config: RelevanceConfig, *, examples: Sequence[Path], background: Sequence[Path]) -> TrainedRelevance:
    """Counts both sides, and measures on documents kept from counting. Raises DataError where one side has no n-grams."""
    counts, held_out, documents = [], [], {}
    for name, paths in (("examples", examples), ("background", background)):
        total, test, number = _count_side(config, list_document_files(list(paths)))
        if not total.sum():
            raise DataError(f"{name}: {number} documents with not one word to count; expected documents of the domain, and others")
        counts.append(total)
        held_out.append(test)
        documents[name] = number
    scorer = RelevanceScorer(config.name, _log_ratio(counts[0], counts[1], config.smoothing))
    means = [_means(scorer, pa.chunked_array([pa.array(texts, pa.large_string())])) for texts in held_out]
    report: dict[str, Any] = {"documents": documents, "test_documents": [len(values) for values in means]}
    if all(len(values) for values in means):
        labels = np.concatenate([np.ones(len(means[0])), np.zeros(len(means[1]))])
        report["auc"] = round(float(roc_auc_score(labels, np.concatenate(means))), 6)
        report["quantiles"] = {
            name: [round(float(value), 6) for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]
            for name, values in zip(("examples", "background"), means, strict=True)
        }
    return TrainedRelevance(scorer, report)


def _count_side(config: RelevanceConfig, files: Sequence[Path]) -> tuple[Vector, list[str], int]:
    total, number = np.zeros(config.num_buckets), 0
    test: list[tuple[float, str]] = []
    for path in files:
        for table in read_document_batches(path):
            drawn = [(_draw(text), text) for text in table.column("text").to_pylist() if text]
            training = [text for draw, text in drawn if draw >= config.test_fraction]
            test = sorted([*test, *((draw, text) for draw, text in drawn if draw < config.test_fraction)])[:MAX_TEST_DOCUMENTS]
            number += len(drawn)
            column = text_column(pa.chunked_array([pa.array(training, pa.large_string())]), lowercase=True)
            total += count_buckets(*column, config.num_buckets)
    return total, [text for _, text in test], number


def _draw(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(f"{KIND}\x00{text}".encode("utf-8", "replace"), digest_size=8).digest(), "little") / 2**64


def _log_ratio(examples: Vector, background: Vector, smoothing: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    # The background's counts shrink to the examples' size, so that an n-gram that neither has says nothing.
    background = background * (examples.sum() / background.sum())
    return (np.log(examples + smoothing) - np.log(background + smoothing)).astype(np.float32)


def _means(scorer: RelevanceScorer, texts: pa.ChunkedArray) -> Vector:
    sums, counts = measure_relevance(scorer.log_ratio, texts)
    return np.asarray(sums[counts > 0] / counts[counts > 0])
