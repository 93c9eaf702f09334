"""Verdicts of a filter kept small: other thresholds give what the rules give on whole tables."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.judged import breaks, count_first, first_broken, judge_again, narrow, nearest, read_judged, read_values
from bloomery.curate.rules import Rule, apply_rules, find_broken

RULES = [
    Rule(name="wrong_language", signal="language_listed", drops="below", threshold=1.0),
    Rule(name="uncertain_language", signal="language_score", drops="below", threshold=0.65),
    Rule(name="short", signal="words", drops="below", threshold=10, scope="spaced"),
    Rule(name="few_characters", signal="characters", drops="below", threshold=20, scope="unspaced"),
    Rule(name="loud", signal="capitals", drops="above", threshold=0.5),
    Rule(name="no_stop_words", signal="stops", drops="below", threshold=2, scope="stop_words"),
    *(Rule(name=f"never_{i}", signal="words", drops="above", threshold=1e9) for i in range(70)),
    Rule(name="late", signal="capitals", drops="below", threshold=0.2),
]
LIMITS = {"de": {"short": 4.0, "loud": 0.7}, "ja": {"few_characters": 5.0}}


def table_of(num_documents: int, *, seed: int = 0) -> pa.Table:
    """Documents with values on, beside and far from the thresholds, some missing."""
    draw = random.Random(seed)
    thirds = [0.1, 0.2, 0.5, 0.5000001, 0.65, 0.7, 1 / 3, None, float("nan")]
    columns = {
        "id": pa.array([f"d{i}" for i in range(num_documents)]),
        "url": pa.array([None] * num_documents, pa.string()),
        "text": pa.array([f"text {i}" for i in range(num_documents)]),
        "language": pa.array([draw.choice(["en", "de", "ja", "xx", None]) for _ in range(num_documents)]),
        "language_score": pa.array([draw.choice([0.2, 0.65, 0.9, None]) for _ in range(num_documents)], pa.float32()),
        "signal_words": pa.array([float(draw.randrange(20)) for _ in range(num_documents)]),
        "signal_characters": pa.array([float(draw.randrange(40)) for _ in range(num_documents)]),
        "signal_capitals": pa.array([draw.choice(thirds) for _ in range(num_documents)], pa.float64()),
        "signal_stops": pa.array([float(draw.randrange(4)) for _ in range(num_documents)]),
        "signal_unspaced_fraction": pa.array([draw.choice([0.0, 0.3, 0.31, 1.0, None]) for _ in range(num_documents)], pa.float64()),
    }
    return pa.table(columns)


def write_verdicts(folder, table, *, languages):
    (folder / "signals").mkdir(parents=True)
    half = len(table) // 2
    for shard, part in enumerate([table.slice(0, half), table.slice(half), table.slice(0, 0)]):
        judged = apply_rules(part, RULES, languages=languages, language_thresholds=LIMITS).judged
        pq.write_table(judged, folder / "signals" / f"{shard:05d}.parquet")
    return folder


@pytest.mark.parametrize("languages", [[], ["en", "ja"]])
def test_every_rule_is_broken_by_the_documents_that_the_filters_own_code_names(tmp_path, languages):
    table = table_of(400)
    judged = read_judged(write_verdicts(tmp_path, table, languages=languages), RULES)
    truth = find_broken(table, RULES, languages=languages, language_thresholds=LIMITS)
    for rule in RULES:
        values = read_values(judged, rule.signal, languages=languages)
        assert breaks(judged, rule, values, LIMITS).tolist() == [rule.name in names for names in truth], rule.name
    first = [names[0] if names else None for names in truth]
    assert [[*judged.rules, None][n] for n in first_broken(judged.broken, len(RULES)).tolist()] == first


@pytest.mark.parametrize("seed", range(4))
def test_other_thresholds_drop_what_the_rules_drop_when_all_is_judged_again(tmp_path, seed):
    table, languages = table_of(300, seed=seed), ["en", "de", "ja"]
    judged = read_judged(write_verdicts(tmp_path, table, languages=languages), RULES)
    draw = random.Random(seed)
    moved = [rule.model_copy(update={"threshold": draw.choice([0.1, 0.5, 0.65, 1 / 3, 2.0, 7.0])}) for rule in draw.sample(RULES, 4)]
    by_name = {rule.name: rule for rule in moved}
    after = judge_again(judged, moved, limits=LIMITS, values_of=lambda signal: read_values(judged, signal, languages=languages))
    chosen = [by_name.get(rule.name, rule) for rule in RULES]
    truth = [names[0] if names else None for names in find_broken(table, chosen, languages=languages, language_thresholds=LIMITS)]
    assert [[*judged.rules, None][n] for n in after.tolist()] == truth
    counted = count_first(judged, after)
    assert counted == {name: truth.count(name) for name in counted} and sum(counted.values()) == len(truth) - truth.count(None)


def test_numbers_are_kept_in_four_bytes_only_if_nothing_is_lost():
    assert narrow(np.array([1.0, 0.5, np.nan])).dtype == np.float32
    assert narrow(np.array([0.1])).dtype == np.float64 and narrow(np.array([0.1]))[0] == 0.1


def test_documents_nearest_to_a_threshold_come_nearest_first():
    values = np.array([5.0, 1.0, 4.0, 4.0, 9.0, np.nan])
    assert nearest(values, 4.5, values < 4.5, 2).tolist() == [2, 3]
    assert nearest(values, np.array([0.0, 1.0, 0.0, 3.0, 0.0, 0.0]), np.isfinite(values), 2).tolist() == [1, 3]
    assert nearest(values, 4.5, values > 99, 2).tolist() == [] and nearest(values, 4.5, values < 4.5, 0).tolist() == []


def test_verdicts_of_other_rules_or_of_none_are_told(tmp_path):
    folder = write_verdicts(tmp_path / "filtered", table_of(40), languages=["en"])
    with pytest.raises(DataError, match=r'names the rule "[a-z_]+", which the artifact.s config does not'):
        read_judged(folder, RULES[2:3])
    judged = read_judged(folder, RULES)
    assert [(place.path.name, place.row) for place in judged.places(np.array([0, 19, 20, 39]))] == [
        ("00000.parquet", 0), ("00000.parquet", 19), ("00001.parquet", 0), ("00001.parquet", 19),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match='no signal is named "wrds"; did you mean "words"'):
        read_values(judged, "wrds", languages=[])
    with pytest.raises(DataError, match="look into the artifact of a filter stage"):
        read_judged(tmp_path, RULES)
