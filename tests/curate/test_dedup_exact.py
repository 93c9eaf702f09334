"""Exact duplicates by normalised text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bloomery.curate.dedup_exact import first_of_equal, hash_texts, normalise


@given(st.lists(st.text("aA \n\tb", max_size=4), max_size=12), st.randoms(use_true_random=False))
def test_of_equal_texts_the_one_of_lowest_rank_is_first(texts, draw):
    rank = np.array(draw.sample(range(len(texts)), len(texts)), dtype=np.int64)
    found = first_of_equal(hash_texts(texts), rank)
    for i, text in enumerate(texts):
        group = [j for j, other in enumerate(texts) if normalise(other) == normalise(text)]
        assert found[i] == (min(group, key=lambda j: rank[j]) == i)


def test_a_missing_text_is_an_empty_one():
    assert (hash_texts([None])[0] == hash_texts([""])[0]).all()
