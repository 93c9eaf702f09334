"""Finds a classifier's weights with scikit-learn; apart from `classifier.py`, so that workers that only score load none of it."""

from typing import Any  # Any: the shape parameter of numpy arrays; scipy's matrices have no types

import numpy as np
import pyarrow as pa
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

from bloomery.curate.classifier import (
    BUCKET_BITS,
    CLIP,
    HAND_INVERSE_PENALTY,
    ClassifierConfig,
    Features,
    Matrix,
    Weights,
    list_ngram_weights,
    transform_hand_features,
)
from bloomery.curate.hand_features import HAND_FEATURES
from bloomery.curate.kernels import TextColumn, text_column


def fit_weights(
    texts: pa.ChunkedArray, hand: Matrix, labels: np.ndarray[Any, np.dtype[np.bool_]], config: ClassifierConfig, *, features: Features
) -> Weights:
    """The weights of a penalised logistic regression, both classes weighing the same. `hand` are measured hand features."""
    values = transform_hand_features(hand)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    parts, penalty = [], config.inverse_penalty
    if features == "hand":
        penalty = min(penalty, HAND_INVERSE_PENALTY)
    else:
        parts.append(ngram_matrix(texts, examined_bytes=config.examined_bytes))
    if features != "ngrams":
        parts.append(scipy.sparse.csr_matrix(np.clip((values - mean) / deviation, -CLIP, CLIP)))
    model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=300, tol=1e-4)
    with threadpool_limits(1):  # sums over threads would differ in their last bits with the number of threads
        model.fit(scipy.sparse.hstack(parts, format="csr"), labels)
    found = model.coef_[0].astype(np.float64)
    ngram_weights, hand_weights = np.zeros(1 << BUCKET_BITS, np.float32), np.zeros(len(HAND_FEATURES))
    if features != "hand":
        ngram_weights[:] = found[: 1 << BUCKET_BITS]
    if features != "ngrams":
        hand_weights[:] = found[-len(HAND_FEATURES) :]
    return Weights(ngram_weights, hand_weights, mean, deviation, float(model.intercept_[0]))


def ngram_matrix(texts: pa.ChunkedArray, *, examined_bytes: int) -> Any:
    """The hashed n-grams of every text, as a scipy CSR matrix (texts x 2^18, float32)."""
    column: TextColumn = text_column(texts, lowercase=True)
    offsets, buckets, values = list_ngram_weights(*column, examined_bytes, BUCKET_BITS)
    return scipy.sparse.csr_matrix((values, buckets, offsets), shape=(len(offsets) - 1, 1 << BUCKET_BITS))
