"""Exact duplicates: documents whose normalised texts are equal, found by a 128-bit hash."""

import functools
from typing import Any  # Any: numpy's dtype of fixed-width bytes

import numpy as np
import pyarrow as pa

from bloomery.core.cached_arrays import cached_table
from bloomery.curate.kernels import hash_normalised, text_column


def normalise(text: str) -> str:
    """Lower case, every run of white space one space: what two texts must share to be exact duplicates.

    >>> normalise("  One\\n\\nTWO ")
    'one two'
    """
    return " ".join(text.lower().split())


def hash_texts(texts: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """128 bits for each normalised text (uint64, texts x 2). Equal rows are equal texts: 10**12 texts collide with
    probability under 10**-14."""
    return np.asarray(hash_normalised(*text_column(texts, lowercase=False), _lower_characters()))


@functools.cache
def _lower_characters() -> np.ndarray[Any, np.dtype[np.uint16]]:
    return cached_table(_lower_each)


def _lower_each() -> np.ndarray[Any, np.dtype[np.uint16]]:
    # What `normalise` makes of each character of the basic plane; 0 for white space, so that NUL is taken for U+0001.
    lower = [ord(chr(i).lower()) if len(chr(i).lower()) == 1 else i for i in range(1 << 16)]
    return np.array([0 if chr(i).isspace() else max(1, c) for i, c in enumerate(lower)], np.uint16)
