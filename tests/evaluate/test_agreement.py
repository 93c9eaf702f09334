"""Coefficients of agreement against sklearn and against the published worked examples."""

import random

import pytest
from sklearn.metrics import cohen_kappa_score

from bloomery.evaluate.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, pairwise_kappas

FLEISS_1971 = [
    # psychiatrists who gave each of five diagnoses to ten patients: Fleiss' own table as it is handed around, kappa 0.210
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip

KRIPPENDORFF_2011 = [
    # "Computing Krippendorff's alpha-reliability", sec. C: four observers, twelve units, gaps
    "1.11", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11", "..3.",
]  # fmt: skip


def test_cohens_kappa_is_that_of_sklearn():
    drawn = random.Random(0)
    first = drawn.choices("abt", k=200)
    second = [one if drawn.random() < 0.6 else drawn.choice("abt") for one in first]
    assert cohen_kappa(first, second).value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_fleiss_kappa_of_his_own_example_is_what_he_found():
    items = [[place for place, count in enumerate(row) for _ in range(count)] for row in FLEISS_1971]
    found = fleiss_kappa(items)
    assert found.value == pytest.approx(0.210, abs=5e-4) and found.items == 10


def test_krippendorffs_alpha_of_his_own_example_is_what_he_found():
    found = krippendorff_alpha([row.replace(".", "") for row in KRIPPENDORFF_2011])
    assert found.value == pytest.approx(0.743, abs=5e-4) and found.items == 11


def test_agreement_that_is_not_defined_is_none_and_not_one():
    assert cohen_kappa("aaa", "aaa").value is None and cohen_kappa("", "").value is None
    assert fleiss_kappa(["a", "b"]).value is None
    assert krippendorff_alpha(["aa", "aa"]).value is None and krippendorff_alpha(["a"]).items == 0


def test_only_annotators_who_share_an_item_are_compared():
    said = {"ann": {1: "a", 2: "b"}, "bob": {2: "b", 1: "a"}, "eve": {3: "a"}}
    found = pairwise_kappas(said)
    assert list(found) == [("ann", "bob")] and found["ann", "bob"].value == 1.0
