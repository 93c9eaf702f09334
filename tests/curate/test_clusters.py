"""Clusters in pieces against components of the whole graph, as scipy finds them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bloomery.curate.clusters import choose_kept, flatten, gather_buckets, gather_similar, join, span

NUM_DOCUMENTS = 24
ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, NUM_DOCUMENTS - 1)), max_size=60)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([key for key, _ in rows], np.uint64), np.array([document for _, document in rows], np.int64)


def smallest_of_component(rows: list[tuple[int, int]]) -> list[int]:
    """The smallest document connected to each, over the graph of documents and keys."""
    keys, documents = columns(rows)
    size = NUM_DOCUMENTS + 13
    graph = coo_array((np.ones(len(rows)), (documents, NUM_DOCUMENTS + keys.astype(np.int64))), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][:NUM_DOCUMENTS]
    return [int(np.flatnonzero(labels == label)[0]) for label in labels]


@settings(deadline=None)  # the first example compiles
@given(ROWS, st.integers(1, 5), st.integers(1, 3))
def test_forests_of_pieces_join_to_the_components_of_the_whole(rows, pieces, partitions):
    edges, merged = [], []
    for piece in range(pieces):
        buckets = gather_buckets(*columns(rows[piece::pieces]))
        edges.append(span(buckets.edges))
        merged += zip(buckets.keys.tolist(), buckets.documents.tolist(), buckets.counts.tolist(), strict=True)
    for partition in range(partitions):
        part = [row for row in merged if row[0] % partitions == partition]
        counts = np.array([count for _, _, count in part], np.int64)
        buckets = gather_buckets(*columns([row[:2] for row in part]), counts)
        assert buckets.counts.sum() == sum(row[0] % partitions == partition for row in rows)
        edges.append(span(buckets.edges))
    root = np.arange(NUM_DOCUMENTS)
    for forest in reversed(edges):
        join(root, forest)
    flatten(root)
    assert root.tolist() == smallest_of_component(rows)


@given(ROWS)
def test_a_spanning_forest_has_an_edge_for_each_document_but_the_smallest(rows):
    roots = smallest_of_component(rows)
    forest = span(gather_buckets(*columns(rows)).edges)
    assert [tuple(edge) for edge in forest.tolist()] == [(d, root) for d, root in enumerate(roots) if d != root]


@given(ROWS)
def test_a_bucket_is_a_key_its_smallest_document_and_its_rows(rows):
    buckets = gather_buckets(*columns(rows))
    keys = sorted({key for key, _ in rows})
    assert buckets.keys.tolist() == keys
    assert buckets.documents.tolist() == [min(d for k, d in rows if k == key) for key in keys]
    assert buckets.counts.tolist() == [sum(k == key for k, _ in rows) for key in keys]


@settings(deadline=None)
@given(ROWS, st.lists(st.integers(-3, 3), min_size=NUM_DOCUMENTS, max_size=NUM_DOCUMENTS), st.integers(0, 6))
def test_the_lowest_rank_stays_and_documents_that_were_there_before_stay_first(rows, ranks, num_existing):
    root = np.array(smallest_of_component(rows))
    kept, sizes = np.empty(NUM_DOCUMENTS, np.int64), np.empty(NUM_DOCUMENTS, np.int32)
    choose_kept(root, np.array(ranks), num_existing, kept, sizes)
    for d in range(NUM_DOCUMENTS):
        members = np.flatnonzero(root == root[d]).tolist()
        there = [m for m in members if m < num_existing]
        assert kept[d] == (there[0] if there else min(members, key=lambda m: (ranks[m], m)))
        assert sizes[d] == len(members)


def test_similar_documents_of_a_key_follow_the_first_they_are_like():
    sketches = np.array([[1, 1, 1, 1], [9, 9, 9, 9], [1, 1, 1, 2], [9, 9, 9, 1], [1, 1, 2, 2], [5, 5, 5, 5]], np.uint8)
    keys, documents = np.full(6, 7, np.uint64), np.array([5, 4, 3, 2, 1, 0])
    buckets = gather_similar(keys, documents, sketches_of=lambda wanted: sketches[wanted], min_equal=3)
    # 4 is like 2 but not like 0, and becomes a leader of its own.
    assert sorted(map(tuple, buckets.edges.tolist())) == [(2, 0), (3, 1)]
    assert buckets.counts.tolist() == [6]


def test_similar_documents_are_found_though_only_some_fit_into_memory_at_once(monkeypatch):
    monkeypatch.setattr("bloomery.curate.clusters.ROWS_COMPARED", 5)
    draw = np.random.default_rng(0)
    keys, documents = draw.integers(0, 40, 200).astype(np.uint64), draw.integers(0, 90, 200)
    asked: list[int] = []

    def sketches_of(wanted):
        asked.append(len(wanted))
        return np.zeros((len(wanted), 4), np.uint8)

    found = gather_similar(keys, documents, sketches_of=sketches_of, min_equal=4)
    assert np.array_equal(span(found.edges), span(gather_buckets(keys, documents).edges))
    assert len(asked) > 5
