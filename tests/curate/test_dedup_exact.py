"""Exact duplicates by normalised text."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.dedup_exact import hash_texts, normalise


def hashes(texts: list[str | None]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in hash_texts(pa.chunked_array([pa.array(texts, pa.large_string())])).tolist()]


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.text("aA \n\tb\u00c9\u00e9\u023a\u2c65\u3000\u4e2d\u0416\U0001f600\x85", max_size=9), max_size=12))
def test_texts_have_the_same_hash_if_and_only_if_they_are_the_same_in_lower_case_and_single_spaces(texts):
    found = hashes(texts)
    for i, text in enumerate(texts):
        for j in range(i):
            assert (found[i] == found[j]) == (normalise(text) == normalise(texts[j]))


@settings(deadline=None)  # the first example compiles
@given(st.text(max_size=40))
def test_a_text_and_its_normalised_form_are_exact_duplicates(text):
    # One character for one: what lower-cases to two (the Turkish \u0130) or by its place (a final sigma) is left out.
    text = text.replace("\u0130", "").replace("\u03a3", "")
    basic = "".join(c for c in text if ord(c) < 0x10000)
    a, b = hashes([basic, normalise(basic)])
    assert a == b


def test_a_missing_text_is_an_empty_one():
    assert len(set(hashes([None, "", " \n"]))) == 1


def test_one_changed_character_anywhere_changes_the_hash():
    text = "The furnace was blown for half a day, and then the bloom came out of it."
    changed = [text[:i] + "#" + text[i + 1 :] for i in range(len(text))] + [text + "#", text[:-1], text.replace(",", "")]
    assert len(set(hashes([text, *changed]))) == len(changed) + 1
