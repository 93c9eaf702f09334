"""Exact duplicates: documents whose normalised texts are equal, found by a 128-bit hash."""

import hashlib
from collections.abc import Iterable
from typing import Any  # Any: numpy's dtype of fixed-width bytes

import numpy as np


def normalise(text: str) -> str:
    """Lower case, every run of white space one space: what two texts must share to be exact duplicates.

    >>> normalise("  One\\n\\nTWO ")
    'one two'
    """
    return " ".join(text.lower().split())


def hash_texts(texts: Iterable[str | None]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """128 bits for each normalised text (uint64, texts x 2). Equal rows are equal texts: 10**12 texts collide with
    probability under 10**-14."""
    digests = b"".join(hashlib.blake2b(normalise(text or "").encode("utf-8", "replace"), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def first_of_equal(
    hashes: np.ndarray[Any, np.dtype[np.uint64]], rank: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each row whether it is the one of lowest rank among the rows equal to it. Ranks are all different."""
    order = np.lexsort((rank, hashes[:, 1], hashes[:, 0]))
    sorted_hashes = hashes[order]
    is_first = np.ones(len(hashes), dtype=np.bool_)
    is_first[1:] = (sorted_hashes[1:] != sorted_hashes[:-1]).any(axis=1)
    result = np.empty(len(hashes), dtype=np.bool_)
    result[order] = is_first
    return result
