"""A linear classifier of documents: hashed word n-grams and the mission's hand features, logistic regression, calibrated.

What fastText does for DCLM (arXiv:2406.11794, sec. 4.4), as a convex problem with one answer: word uni- and bigrams
hashed into 2^18 buckets, weighted 1 + log(count), of length 1 for each document; the hand features standardised beside
them. scikit-learn finds the weights, a compiled loop applies them, Platt's sigmoid (Platt 1999) on documents that the
weights have not seen makes the score a probability. From a few labelled rows only the hand features are learned.

    scorer.json           kind, name, settings, calibration
    weights.safetensors   ngram_weights [2^18], hand_weights, hand_mean, hand_deviation [5], intercept [1]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: the shape parameter of numpy arrays; JSON values

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors.numpy import load_file, save_file

from bloomery.core.config import Config
from bloomery.core.files import write_atomically, write_json
from bloomery.curate.hand_features import HAND_FEATURES, measure_hand_features
from bloomery.curate.kernels import POLYNOMIAL, compiled, hash_words, text_column

KIND = "classifier"
FORMAT = 1
BUCKET_BITS = 18
FEW_DOCUMENTS = 200
"""Below so many, 262,144 n-gram weights could only be learned by heart: the hand features alone are used."""
HAND_INVERSE_PENALTY = 0.3
CLIP = 3.0
"""Hand features further than so many standard deviations from the mean count as if they were so far."""
LOG_FEATURES = ("words", "paragraphs")
"""Counts, which are read as log(1 + count)."""

Features = Literal["both", "ngrams", "hand"]
Vector = np.ndarray[Any, np.dtype[np.float64]]
Matrix = np.ndarray[Any, np.dtype[np.float64]]


class ClassifierConfig(Config):
    """A linear classifier from two sets of documents, or from labelled ones."""

    name: str = Field(default="quality", pattern=r"^[a-z][a-z0-9_]*$")
    """The score is `signal_<name>`: the probability of being like the good, or positively labelled, documents."""
    features: Literal["auto", "both", "ngrams", "hand"] = "auto"
    """What is learned from: n-grams and hand features; auto: the hand features alone below 200 documents."""
    label_column: str = "label"
    """Where labelled documents have their label."""
    positive_labels: list[str] = Field(default=["1", "true", "good"], min_length=1)
    """The labels that count as positive; every other one is negative."""
    max_documents: PositiveInt = 20_000
    """At most so many of either class, chosen by a hash of their text."""
    examined_bytes: PositiveInt = 32_768
    """As much of a text's beginning as n-grams are read from; hand features are those of the whole text."""
    inverse_penalty: PositiveFloat = 10.0
    """scikit-learn's C: smaller means weights nearer to 0. With the hand features alone it is at most 0.3."""
    calibration_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.2, gt=0, lt=0.5)
    """Shares of the documents, by a hash of their text, that set the calibration, and that the report is made from."""
    num_disagreements: NonNegativeInt = 20
    """How many documents the report shows on which the learned score and the heuristic one disagree most, each way."""
    sample_characters: NonNegativeInt = 200
    """As much of those as is shown; 0 = none, for texts that nobody should have to see."""
    seed: NonNegativeInt = 0


class Weights(NamedTuple):
    """The linear function: its value is the log-odds, before calibration, that a document is positive."""

    ngram_weights: np.ndarray[Any, np.dtype[np.float32]]
    hand_weights: Vector
    hand_mean: Vector
    hand_deviation: Vector
    intercept: float


class Calibration(NamedTuple):
    """Platt's sigmoid: probability = 1 / (1 + exp(-(slope * log-odds + offset)))."""

    slope: float
    offset: float

    def probabilities(self, log_odds: Vector) -> Vector:
        """The probabilities for log-odds."""
        return sigmoid(self.slope * log_odds + self.offset)


class Classifier(NamedTuple):
    """A trained classifier; see Scorer in curate/scorers.py."""

    name: str
    weights: Weights
    calibration: Calibration
    examined_bytes: int

    def add_signals(self, table: pa.Table) -> pa.Table:
        """The table with `signal_<name>`; a document without text has the score of an empty one."""
        texts = table.column("text")
        log_odds = score_texts(self.weights, texts, measure_hand_features(texts), examined_bytes=self.examined_bytes)
        return set_signal(table, self.name, self.calibration.probabilities(log_odds))


def sigmoid(values: Vector) -> Vector:
    """1 / (1 + exp(-values)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, np.float64)))


def set_signal(table: pa.Table, name: str, values: Vector, *, known: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> pa.Table:
    """The table with the float64 column `signal_<name>`, in place of an older one; null where not `known`."""
    column = pa.array(values, pa.float64(), mask=None if known is None else ~known)
    field = pa.field(f"signal_{name}", pa.float64())
    if field.name in table.column_names:
        return table.set_column(table.column_names.index(field.name), field, column)
    return table.append_column(field, column)


def choose_features(config: ClassifierConfig, num_documents: int) -> Features:
    """What is learned from, where the config leaves it open."""
    if config.features != "auto":
        return config.features
    return "hand" if num_documents < FEW_DOCUMENTS else "both"


def fit_calibration(log_odds: Vector, labels: np.ndarray[Any, np.dtype[np.bool_]]) -> Calibration:
    """Platt's sigmoid, with his smoothed targets, so that a few well separated documents do not claim certainty.

    Newton's method on two parameters (Lin, Lin, Weng 2007), started at the class prior. A slope below 0 is not allowed.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([log_odds, np.ones_like(log_odds)], axis=1)
    parameters = np.array([0.0, np.log((positives + 1) / (negatives + 1))])

    def loss(candidate: Vector) -> float:
        values = design @ candidate
        return float(np.sum(np.logaddexp(0, values) - target * values))

    best = loss(parameters)
    for _ in range(100):
        probability = sigmoid(design @ parameters)
        gradient = design.T @ (probability - target)
        if np.abs(gradient).max() < 1e-9 * len(labels):
            break
        hessian = design.T @ (design * (probability * (1 - probability))[:, None]) + 1e-10 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-10 and loss(parameters - size * step) > best - 1e-4 * size * float(gradient @ step):
            size /= 2
        if size <= 1e-10:
            break
        parameters = parameters - size * step
        best = loss(parameters)
    return Calibration(max(float(parameters[0]), 0.0), float(parameters[1]))


def transform_hand_features(hand: Matrix) -> Matrix:
    """Hand features as the classifier reads them: counts by their logarithms."""
    is_log = np.array([name in LOG_FEATURES for name in HAND_FEATURES])
    return np.where(is_log, np.log1p(hand), hand)


def score_texts(weights: Weights, texts: pa.ChunkedArray, hand: Matrix, *, examined_bytes: int) -> Vector:
    """The log-odds, before calibration, of every text, whose measured hand features are `hand`."""
    standard = np.clip((transform_hand_features(hand) - weights.hand_mean) / weights.hand_deviation, -CLIP, CLIP)
    # A sum by columns, not a product of matrices: BLAS may add in another order for another number of rows.
    log_odds = weights.intercept + (standard * weights.hand_weights).sum(axis=1)
    if not weights.ngram_weights.any():
        return np.asarray(log_odds)
    column = text_column(texts, lowercase=True)
    return np.asarray(log_odds + _dot_ngrams(*column, examined_bytes, BUCKET_BITS, weights.ngram_weights))


def save_classifier(folder: Path, classifier: Classifier, *, settings: Mapping[str, Any]) -> None:
    """Writes the classifier; scorer.json comes last, and says that the folder is whole."""
    weights = classifier.weights
    arrays = {**weights._asdict(), "intercept": np.array([weights.intercept])}
    with write_atomically(folder / "weights.safetensors") as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    record = {
        "kind": KIND,
        "format": FORMAT,
        "name": classifier.name,
        "signals": [f"signal_{classifier.name}"],
        "hand_features": list(HAND_FEATURES),
        "examined_bytes": classifier.examined_bytes,
        "calibration": classifier.calibration._asdict(),
        "settings": dict(settings),
    }
    write_json(folder / "scorer.json", record)


def load_classifier(folder: Path, record: Mapping[str, Any]) -> Classifier:
    """The classifier in a folder whose scorer.json is `record`."""
    arrays = load_file(folder / "weights.safetensors")
    hand = (arrays["hand_weights"], arrays["hand_mean"], arrays["hand_deviation"])
    weights = Weights(arrays["ngram_weights"], *hand, float(arrays["intercept"][0]))
    return Classifier(record["name"], weights, Calibration(**record["calibration"]), int(record["examined_bytes"]))


@compiled
def _count_ngrams(data, start, end, shift, words, counts, touched):  # type: ignore[no-untyped-def]  # compiled
    # Counts the hashed uni- and bigrams of a text; `touched` lists the buckets that are not 0 any more.
    num_words, num_touched = hash_words(data, start, end, words), 0
    for i in range(num_words):
        bucket = words[i] >> shift
        num_touched = _count(counts, touched, num_touched, bucket)
        if i:
            bucket = ((words[i - 1] * POLYNOMIAL + words[i]) * POLYNOMIAL) >> shift
            num_touched = _count(counts, touched, num_touched, bucket)
    return num_touched


@compiled
def _count(counts, touched, num_touched, bucket):  # type: ignore[no-untyped-def]  # compiled
    if counts[bucket] == 0:
        touched[num_touched] = bucket
        num_touched += 1
    counts[bucket] += 1
    return num_touched


@compiled
def _dot_ngrams(data, offsets, examined_bytes, bits, weights):  # type: ignore[no-untyped-def]  # compiled
    num_documents, shift = len(offsets) - 1, np.uint64(64 - bits)
    counts, touched = np.zeros(1 << bits, np.uint32), np.empty(2 * examined_bytes + 2, np.int64)
    words, result = np.empty(examined_bytes + 1, np.uint64), np.zeros(num_documents, np.float64)
    for d in range(num_documents):
        end = min(offsets[d + 1], offsets[d] + examined_bytes)
        num_touched = _count_ngrams(data, offsets[d], end, shift, words, counts, touched)
        total, squares = 0.0, 0.0
        for k in range(num_touched):
            value = np.float64(np.float32(1.0 + np.log(counts[touched[k]])))
            total += value * weights[touched[k]]
            squares += value * value
            counts[touched[k]] = 0
        result[d] = total / np.sqrt(squares) if squares > 0 else 0.0
    return result


@compiled
def list_ngram_weights(data, offsets, examined_bytes, bits):  # type: ignore[no-untyped-def]  # compiled
    """(where each text's n-grams begin, their buckets, their weights), as a sparse matrix has them."""
    num_documents, shift = len(offsets) - 1, np.uint64(64 - bits)
    counts, touched = np.zeros(1 << bits, np.uint32), np.empty(2 * examined_bytes + 2, np.int64)
    words, bounds = np.empty(examined_bytes + 1, np.uint64), np.zeros(num_documents + 1, np.int64)
    room = 1024
    buckets, values = np.empty(room, np.int32), np.empty(room, np.float32)
    for d in range(num_documents):
        end = min(offsets[d + 1], offsets[d] + examined_bytes)
        num_touched = _count_ngrams(data, offsets[d], end, shift, words, counts, touched)
        first = bounds[d]
        if first + num_touched > room:
            room = 2 * (first + num_touched)
            more_buckets, more_values = np.empty(room, np.int32), np.empty(room, np.float32)
            more_buckets[:first], more_values[:first] = buckets[:first], values[:first]
            buckets, values = more_buckets, more_values
        squares = 0.0
        for k in range(num_touched):
            value = np.float32(1.0 + np.log(counts[touched[k]]))
            buckets[first + k], values[first + k] = touched[k], value
            squares += np.float64(value) * np.float64(value)
            counts[touched[k]] = 0
        for k in range(num_touched):
            values[first + k] = np.float32(values[first + k] / np.sqrt(squares))
        bounds[d + 1] = first + num_touched
    return bounds, buckets[: bounds[num_documents]].copy(), values[: bounds[num_documents]].copy()
