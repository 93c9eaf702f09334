"""A dragged threshold: the new funnel is the one that the filter itself would give; histograms and rules say what it did."""

import pytest
from corpus_store import make_store, node_path

from bloomery.chat.refusal import Refusal
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime
from bloomery.curate.ledger import count_rules, read_ledger
from bloomery.pipeline.inspect import filter_config
from bloomery.stages import filter as filter_stage
from bloomery.web.context import make_context
from bloomery.web.corpus.funnel import Shelf, list_runs, make_funnel
from bloomery.web.corpus.memory import Memory
from bloomery.web.corpus.samples import draw_samples
from bloomery.web.corpus.thresholds import list_rules, make_histogram, try_thresholds
from bloomery.web.directory import opaque_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def shelf(store):
    return Shelf(make_context(store).directory, Memory())


@pytest.fixture
def filtered(store):
    return opaque_id("artifact", node_path(store, "filtered").name)


def run_filter(shelf, store, out, thresholds):
    """The real stage with other thresholds: its metrics, and drops by rule of its ledger."""
    config = filter_config(shelf.record(node_path(store, "filtered")), thresholds=thresholds)
    out.mkdir()
    runtime = Runtime.local(out, workers=1)
    metrics = filter_stage.filter(config, documents=[node_path(store, "extracted")], out=out, runtime=runtime)
    runtime.close()
    return metrics, count_rules(read_ledger(out))


@pytest.mark.parametrize(
    "thresholds",
    [{}, {"too_few_words": 100.0}, {"too_few_words": 20.0, "long_words": 4.5}, {"too_few_stop_words": 5.0, "uncertain_language": 0.95}],
)
def test_the_funnel_of_a_dragged_threshold_is_what_the_stage_gives_when_it_runs_again(shelf, store, filtered, tmp_path, thresholds):
    answer = try_thresholds(shelf, filtered, thresholds)
    metrics, drops = run_filter(shelf, store, tmp_path / "again", thresholds)
    after = answer["after"]
    assert (after["documents_in"], after["documents_out"]) == (metrics["documents_in"], metrics["documents_out"])
    assert {f"dropped/{row['rule']}": row["documents"] for row in after["dropped"]} == drops
    assert after["bytes_out"] == pytest.approx(metrics["bytes_out"], rel=0.02)
    assert answer["before"]["documents_out"] + answer["gained"] - answer["lost"] == after["documents_out"]


def test_the_threshold_of_one_language_stays_when_that_of_the_rest_is_dragged(shelf, filtered):
    rules = {rule["name"]: rule for rule in list_rules(shelf, filtered)["rules"]}
    assert rules["too_few_words"]["threshold_by_language"] == {"de": 20.0}
    everything = try_thresholds(shelf, filtered, {"too_few_words": 1e6})["after"]["documents_out"]
    assert 0 < everything < 20  # the German ones


def test_the_toml_that_is_copied_gives_the_filter_that_was_tried(shelf, store, filtered):
    import tomllib

    toml = try_thresholds(shelf, filtered, {"too_few_words": 30.0})["toml"]
    again = filter_stage.FilterConfig(**tomllib.loads(toml)["config"])
    assert again == filter_config(shelf.record(node_path(store, "filtered")), thresholds={"too_few_words": 30.0})


def test_a_histogram_holds_every_document_that_the_rule_is_for_and_its_threshold(shelf, filtered):
    shown = make_histogram(shelf, filtered, "too_few_words")
    assert sum(shown["counts"]) == shown["documents"] == 44 and len(shown["edges"]) == len(shown["counts"]) + 1
    assert sum(shown["dropped"]) == 44 - try_thresholds(shelf, filtered, {})["before"]["documents_out"]
    assert shown["low"] <= 20 and shown["keeps"] == "at least" and shown["threshold"] == 50
    assert make_histogram(shelf, filtered, "too_many_words")["high"] == 100_000
    assert make_histogram(shelf, filtered, "wrong_language")["counts"][0] == 1  # the French one
    with pytest.raises(ConfigError, match='no rule of this filter is named "too_few"'):
        make_histogram(shelf, filtered, "too_few")


def test_samples_near_a_threshold_come_from_both_sides_with_their_texts_nearest_first(shelf, filtered):
    near = draw_samples(shelf, filtered, kind="near", rule="too_few_words", seed=0, count=4)
    assert [len(near[side]) for side in ("kept", "dropped")] == [4, 4]
    for side, is_right in (("kept", float.__ge__), ("dropped", float.__lt__)):
        distances = [abs(row["value"] - row["threshold"]) for row in near[side]]
        assert distances == sorted(distances) and all(is_right(row["value"], row["threshold"]) for row in near[side])
        assert all(row["text"] and row["is_whole"] and row["signal"] == "words" for row in near[side])
    assert {row["rule"] for row in near["dropped"]} == {"too_few_words"} and all("rule" not in row for row in near["kept"])
    assert {row["threshold"] for side in near.values() for row in side} == {20.0, 50.0}


def test_samples_of_a_rule_are_its_own_and_those_of_a_duplicate_name_the_twin_that_stayed(shelf, store, filtered):
    drawn = draw_samples(shelf, filtered, kind="rule", rule="wrong_language", seed=1, count=5)
    assert [(row["id"], row["language"], row["rule"]) for row in drawn["dropped"]] == [("t39", "fr", "wrong_language")]
    assert len(drawn["kept"]) == 5 and drawn == draw_samples(shelf, filtered, kind="rule", rule="wrong_language", seed=1, count=5)
    unique = opaque_id("artifact", node_path(store, "unique").name)
    twins = draw_samples(shelf, unique, kind="random", rule=None, seed=0, count=50)["dropped"]
    assert {row["kept_id"] for row in twins} >= {"t08"} and all(row["is_whole"] for row in twins)
    with pytest.raises(Refusal, match="thresholds and signals are those of a filter"):
        draw_samples(shelf, unique, kind="near", rule="too_few_words", seed=0, count=5)


def test_the_funnel_of_a_run_has_every_stage_of_documents_and_what_can_be_looked_into(shelf):
    (run,) = list_runs(shelf)
    assert run["name"] == "look" and run["stages"] == ["extract", "filter", "dedup", "redact"]
    steps = make_funnel(shelf, shelf.directory.run(run["id"]))["steps"]
    assert [step["node"] for step in steps] == ["extracted", "filtered", "unique", "private"]
    assert [step["can"] for step in steps] == [
        {"signals": False, "clusters": False, "pii": False},
        {"signals": True, "clusters": False, "pii": False},
        {"signals": False, "clusters": True, "pii": False},
        {"signals": False, "clusters": False, "pii": True},
    ]
    for step in steps:
        assert step["documents_in"] - sum(drop["documents"] for drop in step["drops"]) == step["documents_out"]
        assert step["tokens_out"] is None  # nothing was tokenized


def test_what_is_not_asked_for_any_more_leaves_the_memory():
    memory = Memory(max_bytes=100)
    assert [memory.get(key, lambda key=key: key * 2, lambda _: 40) for key in ("a", "b", "a", "c")] == ["aa", "bb", "aa", "cc"]
    assert memory.num_bytes == 80
    assert (
        memory.get("a", lambda: "made again", lambda _: 40) == "aa" and memory.get("b", lambda: "made again", lambda _: 40) == "made again"
    )
