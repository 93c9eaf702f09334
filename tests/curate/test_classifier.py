"""A classifier learns what its examples have in common, says it in probabilities, and is the same one every time."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from bloomery.core.documents import document_table
from bloomery.core.errors import DataError
from bloomery.curate.classifier import (
    BUCKET_BITS,
    CLIP,
    Classifier,
    ClassifierConfig,
    fit_calibration,
    load_classifier,
    save_classifier,
    score_texts,
    sigmoid,
)
from bloomery.curate.classifier_fit import ngram_matrix
from bloomery.curate.classifier_report import report_page
from bloomery.curate.classifier_training import average_precision, expected_calibration_error, gather_examples, train_classifier
from bloomery.curate.hand_features import measure_hand_features

SHARED = Path(__file__).parents[3] / "shared" / "data"


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentences(draw: random.Random, count: int) -> str:
    nouns, verbs = ["the smith", "an old furnace", "this river", "every hill"], ["warms", "carries", "remembers", "crosses"]
    return " ".join(f"{draw.choice(nouns).capitalize()} {draw.choice(verbs)} {draw.choice(nouns)} in winter." for _ in range(count))


def menu(draw: random.Random, count: int) -> str:
    return "\n".join(draw.choice(["Home", "Log in", "Share this", "12 comments", "Next >", "© 2020", "Cart (0)"]) for _ in range(count))


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("sets"), random.Random("two sets")
    good = write(folder / "good.jsonl", [{"text": sentences(draw, draw.randint(5, 20))} for _ in range(300)])
    bad = write(folder / "bad.jsonl", [{"text": menu(draw, draw.randint(10, 40))} for _ in range(250)])
    return good, bad


def test_ngrams_are_those_of_scikit_learns_vectorizer_weighted_by_the_logarithm_of_their_counts():
    texts = ["the cat and the dog and the cat", "one", "a b a b a b c", "", "Ünïcode wörds, ünïcode WÖRDS!"]
    found = ngram_matrix(column(texts), examined_bytes=4096)
    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit_transform(texts).toarray()
    for row, text_counts in zip(found, counts, strict=True):
        weights = 1 + np.log(text_counts[text_counts > 0])
        expected = weights / np.sqrt((weights**2).sum()) if len(weights) else weights
        assert np.sort(row.data) == pytest.approx(np.sort(expected), rel=1e-5)
    assert found.shape == (5, 1 << BUCKET_BITS)


def test_the_compiled_score_is_the_product_of_the_features_and_the_weights(two_sets):
    trained = train_classifier(gather_examples(ClassifierConfig(), good=[two_sets[0]], bad=[two_sets[1]], labelled=[]), ClassifierConfig())
    weights, texts = trained.classifier.weights, column(["the smith warms the river", "log in\nshare", ""])
    hand = measure_hand_features(texts)
    values = hand.copy()
    values[:, [0, 4]] = np.log1p(values[:, [0, 4]])
    standard = np.clip((values - weights.hand_mean) / weights.hand_deviation, -CLIP, CLIP)
    expected = ngram_matrix(texts, examined_bytes=32_768) @ weights.ngram_weights + standard @ weights.hand_weights + weights.intercept
    assert score_texts(weights, texts, hand, examined_bytes=32_768) == pytest.approx(expected, abs=1e-4)


def test_sentences_are_told_from_menus_and_the_heuristic_is_compared_on_the_same_documents(two_sets):
    config = ClassifierConfig(num_disagreements=3)
    trained = train_classifier(gather_examples(config, good=[two_sets[0]], bad=[two_sets[1]], labelled=[]), config)
    report = trained.report
    assert report["split"] == "held out" and report["features"] == "both"
    assert sum(report["documents"].values()) == report["positive"] + report["negative"] <= 550
    assert report["learned"]["auc"] > 0.999
    assert report["learned"]["average_precision"]["count"] == report["documents"]["test"]
    assert 0.5 < report["heuristic"]["auc"] <= 1
    assert [len(rows) for rows in report["disagreements"].values()] == [3, 3]
    page = report_page(report)
    assert page == report_page(report) and page.count("<svg") == 2 and "<script" not in page


def test_the_same_examples_give_the_same_bytes_and_batches_the_same_scores(two_sets, tmp_path):
    config, draw = ClassifierConfig(), random.Random("others")
    for name in ("one", "two"):
        trained = train_classifier(gather_examples(config, good=[two_sets[0]], bad=[two_sets[1]], labelled=[]), config)
        (tmp_path / name).mkdir()
        save_classifier(tmp_path / name, trained.classifier, settings=config.model_dump(mode="json"))
    for file in ("scorer.json", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    loaded = load_classifier(tmp_path / "one", json.loads((tmp_path / "one" / "scorer.json").read_text()))
    table = document_table([{"id": str(i), "text": sentences(draw, 3) if i % 2 else menu(draw, 5)} for i in range(40)])
    scores = loaded.add_signals(table).column("signal_quality").to_pylist()
    halves = [loaded.add_signals(table.slice(i, 7)).column("signal_quality").to_pylist() for i in range(0, 40, 7)]
    assert scores == [score for half in halves for score in half]
    assert scores == trained.classifier.add_signals(table).column("signal_quality").to_pylist()
    assert min(scores[1::2]) > 0.5 > max(scores[::2])


def test_twenty_labelled_documents_are_enough_for_the_hand_features(tmp_path):
    draw = random.Random("twenty")
    rows = [{"text": sentences(draw, 12) if i % 2 else menu(draw, 60), "label": i % 2} for i in range(20)]
    config = ClassifierConfig()
    trained = train_classifier(gather_examples(config, good=[], bad=[], labelled=[write(tmp_path / "rows.jsonl", rows)]), config)
    assert trained.report["split"] == "5 folds" and trained.report["features"] == "hand"
    assert not trained.classifier.weights.ngram_weights.any()
    assert trained.report["learned"]["auc"] > 0.95
    others = document_table([{"id": "a", "text": sentences(draw, 15)}, {"id": "b", "text": menu(draw, 50)}])
    good, bad = trained.classifier.add_signals(others).column("signal_quality").to_pylist()
    assert good > 0.7 and bad < 0.3


def test_copies_of_a_text_are_one_example(tmp_path):
    draw = random.Random("copies")
    good = write(tmp_path / "good.jsonl", [{"text": sentences(draw, 9)} for _ in range(12)] * 4)
    bad = write(tmp_path / "bad.jsonl", [{"text": menu(draw, 30)} for _ in range(12)])
    assert len(gather_examples(ClassifierConfig(), good=[good], bad=[bad], labelled=[]).labels) == 24


def test_of_too_many_documents_those_with_the_smallest_hashes_are_taken_in_whatever_files_they_lie(two_sets, tmp_path):
    config = ClassifierConfig(max_documents=40)
    whole = gather_examples(config, good=[two_sets[0]], bad=[two_sets[1]], labelled=[])
    rows = [json.loads(line) for line in two_sets[0].read_text().splitlines()]
    parts = [write(tmp_path / f"{i}.jsonl", rows[i::3]) for i in range(3)]
    split = gather_examples(config, good=parts, bad=[two_sets[1]], labelled=[])
    assert len(whole.labels) == 80
    assert whole.texts.to_pylist() == split.texts.to_pylist()


def test_labels_that_are_not_there_are_named(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": f"text {i}", "label": "fine" if i % 2 else "poor"} for i in range(20)])
    with pytest.raises(DataError, match=r'"fine" \(10\), "poor" \(10\); positive_labels = \[\'good\'\]'):
        gather_examples(ClassifierConfig(positive_labels=["good"]), good=[], bad=[], labelled=[rows])
    with pytest.raises(DataError, match='has no "stars"'):
        gather_examples(ClassifierConfig(label_column="stars"), good=[], bad=[], labelled=[rows])


def test_calibration_turns_log_odds_of_the_wrong_scale_into_frequencies():
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 2, 4000)
    labels = rng.random(4000) < sigmoid(truth)
    calibration = fit_calibration(3 * truth + 1, labels)
    assert calibration.slope == pytest.approx(1 / 3, abs=0.03)
    assert calibration.offset == pytest.approx(-1 / 3, abs=0.1)
    before, after = sigmoid(3 * truth + 1), calibration.probabilities(3 * truth + 1)
    assert expected_calibration_error(after, labels) < 0.03 < expected_calibration_error(before, labels)


def test_perfectly_separated_documents_do_not_make_calibration_certain():
    calibration = fit_calibration(np.array([-3.0] * 10 + [3.0] * 10), np.array([False] * 10 + [True] * 10))
    assert calibration.probabilities(np.array([-3.0, 3.0])) == pytest.approx([1 / 12, 11 / 12], abs=1e-6)


def test_average_precision_has_an_interval_that_holds_it():
    labels = np.array([True, False] * 50)
    found = average_precision(np.arange(100.0), labels, seed=0)
    assert found["low"] < found["value"] < found["high"] and found["count"] == 100


def test_insults_are_told_from_other_tweets_and_no_text_of_them_is_in_the_report():
    path = SHARED / "filters" / "toxicity_tweets.jsonl.gz"
    if not path.exists():
        pytest.skip("needs shared/data/filters beside the repository")
    config = ClassifierConfig(
        name="toxicity", positive_labels=["hate_speech", "offensive_language"], max_documents=1500, sample_characters=0
    )
    trained = train_classifier(gather_examples(config, good=[], bad=[], labelled=[path]), config)
    assert isinstance(trained.classifier, Classifier)
    assert trained.report["learned"]["average_precision"]["value"] > 0.95
    assert trained.report["f1_at_half"] > 0.85
    assert trained.report["calibration_error"]["after"] < 0.05
    assert all(row["sample"] == "" for rows in trained.report["disagreements"].values() for row in rows)


def test_stories_and_abstracts_are_told_from_reviews_in_lower_case():
    folder = SHARED / "text"
    if not folder.exists():
        pytest.skip("needs shared/data/text beside the repository")
    config = ClassifierConfig(max_documents=400)
    examples = gather_examples(config, good=[folder / "science_abstracts.jsonl.gz"], bad=[folder / "reviews.jsonl.zst"], labelled=[])
    report = train_classifier(examples, config).report
    assert report["learned"]["auc"] > 0.99
    assert report["learned"]["average_precision"]["value"] > report["heuristic"]["average_precision"]["value"]
