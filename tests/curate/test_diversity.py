"""Measures of diversity, on texts whose values can be counted by hand, and beside plain loops."""

import math

import pytest

from bloomery.curate.diversity import Coverage, Sample, describe, measure_texts, mentions_subject, nearest_similarities
from bloomery.curate.synthetic_report import draw_report


def sample_of(texts):
    sample = Sample()
    sample.add([str(i) for i in range(len(texts))], texts)
    return sample


def test_distinct_n_is_different_n_grams_over_all_of_them():
    measured = measure_texts(sample_of(["a b a b", "a b"]))
    assert measured["distinct"] == {"1": 0.3333, "2": 0.5, "3": 1.0, "4": 1.0}
    assert (measured["documents"], measured["words_sampled"]) == (2, 6)


def test_a_corpus_that_repeats_itself_is_compressed_more_and_has_near_neighbours():
    same = measure_texts(sample_of(["the smith heats the iron in the furnace again"] * 30))
    other = measure_texts(sample_of([" ".join(f"{word}{i}" for word in ("iron", "coal", "clay", "snow", "wind")) for i in range(30)]))
    assert same["compression"] > 3 * other["compression"]
    assert same["nearest"]["median"] == 1.0 and other["nearest"]["p99"] == 0.0


def test_the_nearest_neighbour_is_found_as_plain_loops_find_it():
    texts = ["iron is hot", "iron is cold", "the tide comes in", "tide and iron"]

    def vector(text):
        words = text.split()
        df = {word: sum(word in other.split() for other in texts) for word in words}
        weights = {word: math.log((1 + len(texts)) / (1 + df[word])) + 1 for word in words}
        norm = math.sqrt(sum(value * value for value in weights.values()))
        return {word: value / norm for word, value in weights.items()}

    vectors = [vector(text) for text in texts]
    expected = [
        max(sum(value * other.get(word, 0) for word, value in vectors[i].items()) for j, other in enumerate(vectors) if i != j)
        for i in range(len(texts))
    ]
    assert nearest_similarities(texts) == pytest.approx(expected, abs=1e-5)
    assert nearest_similarities(["iron is hot"], texts) == [1.0]
    assert nearest_similarities(["alone"]) == nearest_similarities([], texts) == []
    assert nearest_similarities(["", "?"]) == [0.0, 0.0]


def test_a_sample_depends_on_the_documents_and_not_on_their_order_or_how_they_came():
    texts = [f"text {i}" for i in range(50)]
    whole, parts = sample_of(texts), Sample()
    for i in reversed(range(50)):
        parts.add([str(i)], [texts[i]])
    assert whole.texts(10) == parts.texts(10) and len(whole.texts(10)) == 10
    assert measure_texts(whole) == measure_texts(parts)


def test_coverage_counts_what_was_asked_and_what_stayed():
    coverage = Coverage()
    for seed, style, kept in (("a", "story", True), ("a", "letter", False), ("b", "story", True), ("c", "letter", False)):
        coverage.add(seed=seed, style=style, audience="all", kept=kept)
    report = coverage.report()
    assert report["seed"] == {"asked": 3, "covered": 2, "covered_fraction": 0.6667, "entropy": round(math.log(2) / math.log(3), 4)}
    assert report["style"]["kept_fractions"] == {"letter": 0.0, "story": 1.0}
    assert report["audience"]["entropy"] == 1.0
    assert Coverage().report()["seed"]["entropy"] == 0.0


def test_a_text_mentions_its_subject_by_one_of_its_longer_words():
    assert mentions_subject("The Furnace was hot.", "the clay furnace")
    assert not mentions_subject("The sea was cold.", "the clay furnace")
    assert mentions_subject("anything", "of it")


def test_the_picture_has_the_same_bytes_each_time_and_stands_without_seeds():
    report = {
        "asked": 4, "kept": 2, "dropped": {"refusal": 2}, "seeds": None, "to_seeds": describe([]),
        "documents": measure_texts(sample_of(["iron is hot", "iron is cold"])),
        "coverage": {"style": {"kept_fractions": {"story": 0.5}}, "audience": {"kept_fractions": {"all": 0.5}}},
    }  # fmt: skip
    assert draw_report(report) == draw_report(report)
    assert "refusal" in draw_report(report) and "nearest neighbours" in draw_report(report)
