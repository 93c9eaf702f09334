"""One function loads every kind of scorer, and says what is wrong with a folder that is none."""

import json
from pathlib import Path

import numpy as np
import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.classifier import BUCKET_BITS, Calibration, Classifier, Weights, save_classifier
from bloomery.curate.relevance import RelevanceScorer, save_relevance
from bloomery.curate.scorers import load_scorer, load_scorers, scorer_signals


def classifier(name: str) -> Classifier:
    weights = Weights(np.zeros(1 << BUCKET_BITS, np.float32), np.zeros(5), np.zeros(5), np.ones(5), 0.5)
    return Classifier(name, weights, Calibration(1.0, 0.0), 100)


def save(folder: Path, name: str) -> Path:
    folder.mkdir()
    save_classifier(folder, classifier(name), settings={})
    return folder


def test_a_scorer_is_loaded_once_and_again_when_it_was_trained_again(tmp_path):
    folder = save(tmp_path / "quality", "quality")
    first = load_scorer(folder)
    assert first.name == "quality" and load_scorer(folder) is first
    save_classifier(folder, classifier("other"), settings={})
    assert load_scorer(folder).name == "other"


def test_scorers_say_their_columns_before_anything_is_run(tmp_path):
    save(tmp_path / "quality", "quality")
    (tmp_path / "near").mkdir()
    save_relevance(tmp_path / "near", RelevanceScorer("physics", np.zeros(7, np.float32)), settings={})
    assert scorer_signals(tmp_path / "quality") == ["signal_quality"]
    assert scorer_signals(tmp_path / "near") == ["signal_physics", "signal_physics_log_weight"]
    assert [scorer.name for scorer in load_scorers([tmp_path / "quality", tmp_path / "near"])] == ["quality", "physics"]


def test_scorers_that_would_overwrite_a_column_are_refused(tmp_path):
    folders = [save(tmp_path / "one", "quality"), save(tmp_path / "two", "quality")]
    with pytest.raises(ConfigError, match="signal_quality"):
        load_scorers(folders)
    with pytest.raises(ConfigError, match="signal_words is one that every document has"):
        load_scorers([save(tmp_path / "three", "words")])


def test_folders_that_are_no_scorers_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no scorer\.json"):
        load_scorer(tmp_path)
    folder = save(tmp_path / "quality", "quality")
    record = json.loads((folder / "scorer.json").read_text())
    for key, value, message in (
        ("kind", "klassifier", 'did you mean "classifier"'),
        ("format", 9, "format 9"),
        ("calibration", {}, "damaged"),
    ):
        (folder / "scorer.json").write_text(json.dumps({**record, key: value}))
        with pytest.raises(DataError, match=message):
            load_scorer(folder)
    (folder / "scorer.json").write_text(json.dumps(record))
    (folder / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="damaged scorer"):
        load_scorer(folder)
