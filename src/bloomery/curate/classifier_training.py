"""From two sets of documents, or labelled ones, to a calibrated classifier and the numbers that say how good it is.

Every choice hangs on a hash of the text, so that copies of a text fall on the same side of the split: weights are
learned on about three fifths, the calibration on a fifth, and everything the report says is measured on the last fifth.
With few documents the log-odds of each come from weights that were learned without it (five folds), and the final
weights from all of them; calibration and report then rest on the same out-of-fold numbers, and say so.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: JSON values, the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.curate.classifier import (
    FEW_DOCUMENTS,
    Calibration,
    Classifier,
    ClassifierConfig,
    Features,
    Matrix,
    Vector,
    Weights,
    choose_features,
    fit_calibration,
    score_texts,
    sigmoid,
)
from bloomery.curate.classifier_fit import fit_weights
from bloomery.curate.hand_features import HAND_FEATURES, measure_hand_features, mission_scores
from bloomery.curate.ledger import sample_text

NUM_FOLDS = 5
NUM_CALIBRATION_BINS = 15
NUM_RESAMPLES = 200
MIN_OF_A_CLASS = 5
MAX_CURVE_POINTS = 200

Labels = np.ndarray[Any, np.dtype[np.bool_]]


class Examples(NamedTuple):
    """Labelled documents: as much of each text as n-grams are read from, and what was measured on the whole."""

    ids: list[str]
    urls: list[str | None]
    texts: pa.ChunkedArray
    hand: Matrix
    labels: Labels
    draws: Vector
    """A number in 0..1 from a hash of the text, which decides on which side of the split it falls."""


class Trained(NamedTuple):
    """A classifier and the record of how it was measured."""

    classifier: Classifier
    report: dict[str, Any]


def gather_examples(
    config: ClassifierConfig, *, good: Sequence[Path], bad: Sequence[Path], labelled: Sequence[Path], limit: int | None = None
) -> Examples:
    """At most `max_documents` of either class, those whose hashes are smallest. Raises DataError where a class is missing."""
    limit = config.max_documents if limit is None else limit
    sources: list[tuple[Path, bool | None]] = []
    for paths, label in ((good, True), (bad, False), (labelled, None)):
        sources += [(path, label) for path in (list_document_files(list(paths)) if paths else [])]
    kept: dict[bool, dict[bytes, dict[str, Any]]] = {True: {}, False: {}}
    found: dict[str, int] = {}
    for path, label in sources:
        for row in _read_rows(path, label, config, found):
            rows = kept[row["label"]]
            rows.setdefault(row["digest"], row)
            if len(rows) > 2 * limit + 1000:
                kept[row["label"]] = _smallest(rows, limit)
    for label, rows in kept.items():
        if len(rows) < MIN_OF_A_CLASS:
            raise DataError(_too_few(label, len(rows), sources, found, config))
    rows_in_order = [row for label in (True, False) for row in _smallest(kept[label], limit).values()]
    return Examples(
        [row["id"] for row in rows_in_order],
        [row["url"] for row in rows_in_order],
        pa.chunked_array([pa.array([row["text"] for row in rows_in_order], pa.large_string())]),
        np.array([row["hand"] for row in rows_in_order]),
        np.array([row["label"] for row in rows_in_order]),
        np.array([int.from_bytes(row["digest"][8:], "little") / 2**64 for row in rows_in_order]),
    )


def train_classifier(examples: Examples, config: ClassifierConfig) -> Trained:
    """Learns, calibrates and measures a classifier; the same examples give the same classifier to the last bit."""
    few, features = len(examples.labels) < FEW_DOCUMENTS, choose_features(config, len(examples.labels))
    if few:
        fits = measured = np.ones(len(examples.labels), bool)
        log_odds, weights = _out_of_fold(examples, config, features), _fit(examples, measured, config, features)
    else:
        measured = examples.draws < config.test_fraction
        fits = ~measured & (examples.draws < config.test_fraction + config.calibration_fraction)
        for part, rows in (("training", ~measured & ~fits), ("calibration", fits), ("test", measured)):
            if len(np.unique(examples.labels[rows])) < 2:
                raise DataError(
                    f"the {part} part of {len(examples.labels)} documents has no document of one of the classes; "
                    f"give more of either ({int(examples.labels.sum())} are positive) or other fractions"
                )
        weights = _fit(examples, ~measured & ~fits, config, features)
        log_odds = score_texts(weights, examples.texts, examples.hand, examined_bytes=config.examined_bytes)
    calibration = fit_calibration(log_odds[fits], examples.labels[fits])
    classifier = Classifier(config.name, weights, calibration, config.examined_bytes)
    numbers = {
        "name": config.name,
        "features": features,
        "split": f"{NUM_FOLDS} folds" if few else "held out",
        "documents": {
            "training": int(len(measured) if few else (~measured & ~fits).sum()),
            "calibration": int(fits.sum()),
            "test": int(measured.sum()),
        },
        "positive": int(examples.labels.sum()),
        "negative": int((~examples.labels).sum()),
    }
    return Trained(classifier, {**numbers, **_measure(examples, measured, log_odds, calibration, weights, config)})


def expected_calibration_error(probabilities: Vector, labels: Labels, *, bins: int = NUM_CALIBRATION_BINS) -> float:
    """Mean distance of probability and frequency over equally wide bins (ECE; Guo et al. 2017, arXiv:1706.04599, eq. 3).

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(places, minlength=bins)
    gap = np.abs(np.bincount(places, weights=probabilities, minlength=bins) - np.bincount(places, weights=labels, minlength=bins))
    return float(round(gap[count > 0].sum() / len(labels), 12))


def average_precision(scores: Vector, labels: Labels, *, seed: int) -> dict[str, float]:
    """Average precision with a 95 % percentile bootstrap interval over documents."""
    rng = np.random.default_rng([seed, len(labels)])
    values = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(0, len(labels), len(labels))
        if 0 < labels[drawn].sum() < len(labels):
            values.append(average_precision_score(labels[drawn], scores[drawn]))
    low, high = np.quantile(values, [0.025, 0.975]) if values else (0.0, 1.0)
    return {"value": _short(average_precision_score(labels, scores)), "low": _short(low), "high": _short(high), "count": len(labels)}


def _read_rows(path: Path, label: bool | None, config: ClassifierConfig, found: dict[str, int]) -> Iterator[dict[str, Any]]:
    for table in read_document_batches(path):
        columns = [table.column(name).to_pylist() for name in ("id", "url", "text", "meta")]
        hand = measure_hand_features(table.column("text"))
        for i, (name, url, text, meta) in enumerate(zip(*columns, strict=True)):
            if not text or not text.strip():
                continue
            positive = label
            if positive is None:
                given = _label(meta, config.label_column)
                if given is None:
                    raise DataError(f'{path}: document {name} has no "{config.label_column}"; every labelled document needs one')
                found[given] = found.get(given, 0) + 1
                positive = given in config.positive_labels
            raw = text.encode("utf-8", "replace")
            digest = hashlib.blake2b(f"classifier\x00{config.seed}\x00".encode() + raw, digest_size=16).digest()
            examined = raw[: config.examined_bytes].decode("utf-8", "ignore")
            yield {"id": name, "url": url, "text": examined, "hand": hand[i], "label": positive, "digest": digest}


def _label(meta: str | None, column: str) -> str | None:
    values = json.loads(meta or "{}")
    value = values.get(column) if isinstance(values, dict) else None
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _smallest(rows: dict[bytes, dict[str, Any]], limit: int) -> dict[bytes, dict[str, Any]]:
    return {digest: rows[digest] for digest in sorted(rows)[:limit]}


def _too_few(label: bool, count: int, sources: Iterable[tuple[Path, bool | None]], found: dict[str, int], config: ClassifierConfig) -> str:
    kind = "positive (good)" if label else "negative (bad)"
    if any(given is None for _, given in sources):
        seen = ", ".join(f'"{name}" ({number})' for name, number in sorted(found.items())) or "none"
        return (
            f"{count} {kind} documents; expected at least {MIN_OF_A_CLASS}. Labels found in `{config.label_column}`: {seen}; "
            f"positive_labels = {config.positive_labels}"
        )
    return f"{count} different {kind} documents with text; expected at least {MIN_OF_A_CLASS}: connect `good` and `bad`, or `labelled`"


def _fit(examples: Examples, rows: Labels, config: ClassifierConfig, features: Features) -> Weights:
    return fit_weights(examples.texts.filter(pa.array(rows)), examples.hand[rows], examples.labels[rows], config, features=features)


def _out_of_fold(examples: Examples, config: ClassifierConfig, features: Features) -> Vector:
    # Folds are dealt in order of the hashes within each class, so that each has both.
    folds, log_odds = np.zeros(len(examples.labels), np.int64), np.zeros(len(examples.labels))
    for label in (True, False):
        rows = np.flatnonzero(examples.labels == label)
        folds[rows[np.argsort(examples.draws[rows], kind="stable")]] = np.arange(len(rows)) % NUM_FOLDS
    for fold in range(NUM_FOLDS):
        inside = folds == fold
        weights = _fit(examples, ~inside, config, features)
        texts = examples.texts.filter(pa.array(inside))
        log_odds[inside] = score_texts(weights, texts, examples.hand[inside], examined_bytes=config.examined_bytes)
    return log_odds


def _measure(
    examples: Examples, rows: Labels, log_odds: Vector, calibration: Calibration, weights: Weights, config: ClassifierConfig
) -> dict[str, Any]:
    labels, probability = examples.labels[rows], calibration.probabilities(log_odds[rows])
    heuristic = mission_scores(examples.hand[rows])
    texts = examples.texts.filter(pa.array(rows)).to_pylist()
    chosen = np.flatnonzero(rows)
    shown = [
        {
            "id": examples.ids[chosen[i]],
            "url": examples.urls[chosen[i]],
            "positive": bool(labels[i]),
            "learned": _short(probability[i]),
            "heuristic": _short(heuristic[i]),
            "sample": (sample_text(texts[i]) or "")[: config.sample_characters],
        }
        for i in range(len(chosen))
    ]
    # Ranks, not values: the two scores have different scales.
    gap = _ranks(probability) - _ranks(heuristic)
    order = np.argsort(gap, kind="stable")
    count = min(config.num_disagreements, len(order) // 2)
    return {
        "base_rate": _short(labels.mean()),
        "learned": _rank_metrics(probability, labels, config.seed),
        "heuristic": _rank_metrics(heuristic, labels, config.seed),
        "f1_at_half": _short(f1_score(labels, probability >= 0.5)),
        "calibration_error": {
            "before": _short(expected_calibration_error(sigmoid(log_odds[rows]), labels)),
            "after": _short(expected_calibration_error(probability, labels)),
        },
        "hand_weights": {name: _short(value) for name, value in zip(HAND_FEATURES, weights.hand_weights, strict=True)},
        "curves": {"learned": _curve(probability, labels), "heuristic": _curve(heuristic, labels)},
        "reliability": _reliability(probability, labels),
        "disagreements": {
            "learned high, heuristic low": [shown[i] for i in order[::-1][:count]],
            "learned low, heuristic high": [shown[i] for i in order[:count]],
        },
    }


def _rank_metrics(scores: Vector, labels: Labels, seed: int) -> dict[str, Any]:
    return {"average_precision": average_precision(scores, labels, seed=seed), "auc": _short(roc_auc_score(labels, scores))}


def _curve(scores: Vector, labels: Labels) -> list[list[float]]:
    # (recall, precision, threshold), thinned; from the highest threshold to the lowest.
    precision, recall, threshold = precision_recall_curve(labels, scores)
    places = np.unique(np.linspace(0, len(threshold) - 1, min(MAX_CURVE_POINTS, len(threshold))).astype(int))[::-1]
    return [[_short(recall[i]), _short(precision[i]), _short(threshold[i])] for i in places]


def _reliability(probability: Vector, labels: Labels) -> list[list[float]]:
    # (mean probability, frequency, documents) of each bin that has any.
    places = np.minimum((probability * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    rows = [(probability[places == b], labels[places == b]) for b in range(NUM_CALIBRATION_BINS)]
    return [[_short(p.mean()), _short(y.mean()), len(y)] for p, y in rows if len(y)]


def _ranks(values: Vector) -> Vector:
    # Mean rank of equal values, in 0..1.
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(values))


def _short(value: Any) -> float:
    return round(float(value), 6)
