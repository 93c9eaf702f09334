"""A finished run is recalled without planning, and only while nothing that a plan depends on has changed."""

import pytest

from bloomery.pipeline.recall import recall, recall_key, remember
from bloomery.pipeline.run import run_plan


@pytest.fixture
def done(toys, store, tmp_path):
    (tmp_path / "a.txt").write_text("1")
    text = f'name = "toy"\n[stages.small]\nstage = "numbers"\ninputs = {{ files = ["file:{tmp_path}/*.txt"] }}\n'
    run_plan(toys.plan(store, text=text), store)
    path = tmp_path / "toy.toml"
    key = recall_key(path, overrides=[], seed=None)
    remember(store.root / "toy", key)
    return path, store.root / "toy", key


def test_the_same_recipe_is_recalled(done):
    path, run, key = done
    assert recall_key(path, overrides=[], seed=None) == key
    assert recall(run, key) == ["small"]


def test_other_options_another_text_or_changed_input_files_have_another_key(done, tmp_path):
    path, _, key = done
    assert recall_key(path, overrides=["small.count=1"], seed=None) != key
    assert recall_key(path, overrides=[], seed=1) != key
    path.write_text(path.read_text() + "# a comment\n")
    commented = recall_key(path, overrides=[], seed=None)
    assert commented != key
    (tmp_path / "b.txt").write_text("2")
    assert recall_key(path, overrides=[], seed=None) != commented


def test_a_run_without_memory_or_with_a_damaged_artifact_or_link_is_not_recalled(done):
    _, run, key = done
    assert recall(run, "0" * 64) == []
    assert recall(run.parent / "other", key) == []
    (run / "small" / "numbers.json").write_text("x")
    assert recall(run, key) == []


def test_a_run_that_was_changed_since_is_not_recalled(done, toys, store):
    _, run, key = done
    run_plan(toys.plan(store, text='name = "toy"\n[stages.small]\nstage = "numbers"\n'), store)
    assert recall(run, key) == []
    (run / "small").unlink()
    assert recall(run, key) == []
