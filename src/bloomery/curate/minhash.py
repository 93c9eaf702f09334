"""Near duplicates: MinHash signatures (Broder 1997), banded look-up, clusters by union-find.

Two documents with Jaccard similarity s of their word n-grams share at least one of `bands` bands of `rows` hashes with
probability 1 - (1 - s**rows)**bands. Who shares a band is joined; each cluster keeps one document.
"""

from typing import Any, Literal, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt, model_validator

from bloomery.core.config import Config
from bloomery.curate.kernels import band_keys, compiled, sign_documents, text_column

U32 = np.ndarray[Any, np.dtype[np.uint32]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


class DedupConfig(Config):
    """MinHash-LSH near-duplicate removal over all inputs. Half of the pairs at about (1/bands)**(1/rows) Jaccard are found."""

    ngram_words: PositiveInt = 5
    num_hashes: PositiveInt = 112
    bands: PositiveInt = 14
    """14 x 8: threshold about 0.72, FineWeb's setting (arXiv:2406.17557)."""
    min_similarity: float = Field(default=0.0, ge=0, le=1)
    """Two documents that share a band are joined only if their estimated Jaccard similarity is at least this."""
    keep: Literal["longest", "first"] = "longest"
    """Which document of a cluster stays: the one with most bytes (the first of them), or the first in order of inputs."""

    @model_validator(mode="after")
    def _bands_share_out_the_hashes(self) -> "DedupConfig":
        if self.num_hashes % self.bands:
            raise ValueError(f"num_hashes = {self.num_hashes} cannot be shared out over bands = {self.bands}: choose a multiple")
        return self


class Clusters(NamedTuple):
    """For each document the one of its cluster that stays (itself, if it stays), and the estimated similarity to that."""

    keeper: I64
    similarity: np.ndarray[Any, np.dtype[np.float64]]


def sign_texts(texts: pa.ChunkedArray, config: DedupConfig) -> U32:
    """MinHash signatures of texts (uint32, texts x num_hashes)."""
    column = text_column(texts, lowercase=True)
    multipliers, addends = hash_family(config.num_hashes)
    return np.asarray(sign_documents(column.data, column.offsets, config.ngram_words, multipliers, addends))


def hash_family(num_hashes: int) -> tuple[U64, U64]:
    """Multipliers (odd) and addends of the hashes, always the same: signatures of two runs can be compared."""
    numbers = [_split_mix(i) for i in range(2 * num_hashes)]
    return np.array([n | 1 for n in numbers[:num_hashes]], np.uint64), np.array(numbers[num_hashes:], np.uint64)


def estimate_similarity(first: U32, second: U32) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Estimated Jaccard similarity of documents, row by row: the share of equal hashes. Standard error at most 0.047 for 112."""
    return np.asarray((first == second).mean(axis=-1), dtype=np.float64)


def find_clusters(signatures: U32, config: DedupConfig, *, rank: I64) -> Clusters:
    """Clusters of documents that share a band; of each the document of lowest rank stays. Ranks are all different."""
    num_documents = len(signatures)
    parent = np.arange(num_documents, dtype=np.int64)
    keys = np.asarray(band_keys(signatures, config.bands))
    for band in range(config.bands):
        order = np.argsort(keys[:, band], kind="stable")
        join_equal(keys[:, band], order, signatures, config.min_similarity, parent)
    roots = np.asarray(find_roots(parent))
    by_cluster = np.lexsort((rank, roots))
    starts = np.ones(num_documents, dtype=np.bool_)
    starts[1:] = roots[by_cluster][1:] != roots[by_cluster][:-1]
    keeper = np.empty(num_documents, dtype=np.int64)
    keeper[by_cluster] = by_cluster[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if num_documents else by_cluster
    return Clusters(keeper, estimate_similarity(signatures, signatures[keeper]))


@compiled
def join_equal(keys, order, signatures, min_similarity, parent):  # type: ignore[no-untyped-def]  # compiled
    """Joins neighbours of equal key in `order` that are similar enough, in the union-find forest `parent`."""
    num_hashes = signatures.shape[1]
    for k in range(1, len(order)):
        a, b = order[k - 1], order[k]
        if keys[a] != keys[b]:
            continue
        if min_similarity > 0:
            equal = 0
            for p in range(num_hashes):
                equal += signatures[a, p] == signatures[b, p]
            if equal < min_similarity * num_hashes:
                continue
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        # The smaller number is the root: the forest does not depend on the order of joining.
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b


@compiled
def find_roots(parent):  # type: ignore[no-untyped-def]  # compiled
    """The root of every element of a union-find forest."""
    roots = np.empty_like(parent)
    for i in range(len(parent)):
        root = i
        while parent[root] != root:
            root = parent[root]
        roots[i] = root
    return roots


def _split_mix(index: int) -> int:
    # SplitMix64 (Steele et al. 2014): numpy's generators may change their streams between versions.
    value = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)
