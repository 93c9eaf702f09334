"""Clusters of documents out of shared keys, in pieces of bounded memory: stars, forests, one union-find.

Documents are numbers. Whoever shares a key (a band of a signature, an exact hash) belongs together. A piece of the keys
(those of some documents, or of one partition of the hash space) gives star edges, each key's smallest document to all
others; a union-find over the piece alone leaves a spanning forest, at most one edge a document. The forests of all
pieces are then joined in one array of parents, which may be mapped from disk: 8 bytes a document and nothing else.

The smaller number is always the root. So the result depends on which documents share keys and on nothing else: not on
the number of pieces, nor on their order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np

from bloomery.curate.kernels import compiled

U8 = np.ndarray[Any, np.dtype[np.uint8]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]

MAX_LEADERS = 64
"""Documents of one key that a further one is compared with, when similarity is asked for."""

ROWS_COMPARED = 1 << 20
"""Rows whose sketches are in memory at once."""


class Buckets(NamedTuple):
    """The different keys in ascending order, the smallest document that has each, how many rows it has, and star edges."""

    keys: U64
    documents: I64
    counts: I64
    edges: I64
    """num_edges x 2: a document, and the smallest that shares a key with it."""


def gather_buckets(keys: U64, documents: I64, counts: I64 | None = None) -> Buckets:
    """Who shares a key. `counts` are the rows that each row already stands for, one if not given."""
    order = np.argsort(keys)
    weights = np.ones(len(keys), np.int64) if counts is None else counts[order]
    return Buckets(*_merge_buckets(keys[order], documents[order], weights))


def gather_similar(keys: U64, documents: I64, *, sketches_of: Callable[[I64], U8], min_equal: int) -> Buckets:
    """As gather_buckets, joining only documents whose sketches have at least `min_equal` equal bytes.

    In order of documents, one that is like none of the leaders of its key becomes a leader itself (of at most MAX_LEADERS).
    """
    order = np.lexsort((documents, keys))
    sorted_keys, sorted_documents = keys[order], documents[order]
    buckets = Buckets(*_merge_buckets(sorted_keys, sorted_documents, np.ones(len(keys), np.int64)))
    ends = np.cumsum(buckets.counts)
    shared = np.flatnonzero(buckets.counts > 1)
    edges, at, num_rows = [np.zeros((0, 2), np.int64)], 0, np.cumsum(buckets.counts[shared])
    while at < len(shared):
        before = num_rows[at - 1] if at else 0
        stop = max(at + 1, int(np.searchsorted(num_rows, before + ROWS_COMPARED)))
        rows = np.concatenate([np.arange(ends[b] - buckets.counts[b], ends[b]) for b in shared[at:stop]])
        unique, places = np.unique(sorted_documents[rows], return_inverse=True)
        edges.append(np.asarray(_follow_leaders(buckets.counts[shared[at:stop]], unique, places, sketches_of(unique), min_equal)))
        at = stop
    return buckets._replace(edges=np.concatenate(edges))


def span(edges: I64) -> I64:
    """A spanning forest of the graph of `edges`: every document that is not the smallest of its component, and that one."""
    if not len(edges):
        return edges
    nodes = np.unique(edges)
    parent = np.arange(len(nodes))
    join(parent, np.searchsorted(nodes, edges))
    flatten(parent)
    others = np.flatnonzero(parent != np.arange(len(nodes)))
    return np.stack([nodes[others], nodes[parent[others]]], axis=1)


@compiled
def join(parent, edges):  # type: ignore[no-untyped-def]  # compiled
    """Joins both ends of every edge in the union-find forest `parent` (path halving; the smaller root wins)."""
    for k in range(len(edges)):
        a, b = edges[k, 0], edges[k, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b


@compiled
def flatten(parent):  # type: ignore[no-untyped-def]  # compiled
    """Makes every element of a union-find forest point at its root, in one pass: parents are smaller than their children."""
    for i in range(len(parent)):
        parent[i] = parent[parent[i]]


@compiled
def choose_kept(root, rank, num_existing, kept, sizes):  # type: ignore[no-untyped-def]  # compiled
    """Fills `kept` with the document that stays of each document's cluster, `sizes` with how many documents that has.

    Of a cluster the document of lowest rank stays, of equal ones the first; but where it holds one of the first
    `num_existing` documents, the first of these. `root` is flat.
    """
    for d in range(len(root)):
        kept[d], sizes[d] = -1, 0
    for d in range(len(root)):
        r = root[d]
        sizes[r] += 1
        if kept[r] < 0 or (r >= num_existing and rank[d] < rank[kept[r]]):
            kept[r] = d
    # Backwards: a root is smaller than its members, so that it is written over after they have read it.
    for d in range(len(root) - 1, -1, -1):
        kept[d], sizes[d] = kept[root[d]], sizes[root[d]]


@compiled
def _merge_buckets(keys, documents, counts):  # type: ignore[no-untyped-def]  # compiled
    num_rows = len(keys)
    num_buckets = 0
    for i in range(num_rows):
        num_buckets += i == 0 or keys[i] != keys[i - 1]
    out_keys, out_documents = np.empty(num_buckets, np.uint64), np.empty(num_buckets, np.int64)
    out_counts, edges = np.zeros(num_buckets, np.int64), np.empty((num_rows - num_buckets, 2), np.int64)
    bucket, num_edges, start = 0, 0, 0
    while start < num_rows:
        end, smallest = start, documents[start]
        while end < num_rows and keys[end] == keys[start]:
            smallest = min(smallest, documents[end])
            out_counts[bucket] += counts[end]
            end += 1
        out_keys[bucket], out_documents[bucket] = keys[start], smallest
        bucket += 1
        for i in range(start, end):
            if documents[i] != smallest:
                edges[num_edges, 0], edges[num_edges, 1] = documents[i], smallest
                num_edges += 1
        start = end
    return out_keys, out_documents, out_counts, edges[:num_edges]


@compiled
def _follow_leaders(counts, documents, places, sketches, min_equal):  # type: ignore[no-untyped-def]  # compiled
    edges, num_edges, start = np.empty((len(places), 2), np.int64), 0, 0
    leaders = np.empty(MAX_LEADERS, np.int64)
    for bucket in range(len(counts)):
        num_leaders = 0
        for i in range(start, start + counts[bucket]):
            found = False
            for k in range(num_leaders):
                equal = 0
                for p in range(sketches.shape[1]):
                    equal += sketches[places[i], p] == sketches[leaders[k], p]
                if equal >= min_equal:
                    edges[num_edges, 0], edges[num_edges, 1] = documents[places[i]], documents[leaders[k]]
                    num_edges += 1
                    found = True
                    break
            if not found and num_leaders < MAX_LEADERS:
                leaders[num_leaders] = places[i]
                num_leaders += 1
        start += counts[bucket]
    return edges[:num_edges]
