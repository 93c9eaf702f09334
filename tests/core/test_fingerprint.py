"""Identity: equal content, equal hash; no fact of execution can enter."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.config import Config
from bloomery.core.fingerprint import canonical_json, fingerprint

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Sizes(Config):
    rows: int = 8
    share: float = 0.5


@given(VALUES)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(table):
    assert canonical_json(table) == canonical_json(dict(reversed(table.items())))


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, b"x", len, {1: 2}, float("nan"), {"a": [float("inf")]}])
def test_what_has_no_stable_text_is_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)


def test_every_part_of_the_identity_changes_the_fingerprint():
    base = {"stage": "a", "version": 1, "config": Sizes(), "inputs": {"documents": ["x", "y"]}}
    prints = [
        fingerprint(**base),
        fingerprint(**{**base, "stage": "b"}),
        fingerprint(**{**base, "version": 2}),
        fingerprint(**{**base, "config": Sizes(rows=9)}),
        fingerprint(**{**base, "inputs": {"documents": ["y", "x"]}}),
        fingerprint(**{**base, "inputs": {"documents": ["x"]}}),
        fingerprint(**base, facts={"python": "3.12"}),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(found) == 64 for found in prints)


def test_no_facts_are_the_same_as_an_empty_table_and_the_hash_is_stable_over_releases():
    base = {"stage": "a", "version": 1, "config": Sizes(), "inputs": {}}
    assert fingerprint(**base) == fingerprint(**base, facts={})
    # Written down: a change here would make every artifact ever made unfindable.
    assert fingerprint(**base) == "ee5fdba2d59a13aaeeae73023cce0b427dfea7ebd8963f7a792d70423df56760"
