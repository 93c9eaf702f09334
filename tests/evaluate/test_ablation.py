"""What is said of an experiment: planted differences are found, chance is not, and predictions are judged by the tests."""

import json
import math
import re

import numpy as np
import pytest

from bloomery.core.errors import DataError
from bloomery.evaluate import ablation_words as words
from bloomery.evaluate.ablation import Outcome, analyse, read_outcomes

ARMS = ("raw", "clean", "best")


def outcome(shifts, *, key="bits_per_byte", lower=True, chance=None, seed=0, num_seeds=4, num_rows=80) -> Outcome:
    generator = np.random.default_rng(seed)
    rows = generator.normal(2.0 if lower else 0.5, 0.3, (1, num_rows))
    values = {arm: rows + shifts[arm] + generator.normal(0, 0.02, (num_seeds, num_rows)) for arm in ARMS}
    return Outcome(key, key, "bits per byte" if lower else "share", lower, chance, values, np.ones(num_rows))


def report(*outcomes, predictions=None):
    facts = {arm: {"epochs": 2.0, "unique_tokens": 1e6, "documents": 10, "documents_dropped": 1} for arm in ARMS}
    head = {"arms": list(ARMS), "seeds": [0, 1, 2, 3], "baseline": "raw", "facts": facts, "params": 4e5, "tokens": 1e6}
    return {**head, "tokenizer": "pages", "skipped": {}, **analyse(outcomes, baseline="raw", predictions=predictions or {})}


def test_a_planted_order_is_found_and_said_with_its_size():
    found = report(outcome({"raw": 0.2, "clean": 0.1, "best": 0.0}))
    (record,) = found["outcomes"]
    verdicts = {(one["ours"], one["theirs"]): one["verdict"] for one in record["comparisons"]}
    assert verdicts == {("clean", "raw"): "better", ("best", "raw"): "better", ("best", "clean"): "better"}
    assert record["winner"] == record["ahead"] == "best"
    first, second = words.found_sentences(found)
    assert re.search(r"clean is better than raw, -0\.(09|10)\d\d \[", first)
    assert re.search(r"best is better than raw, -0\.(19|20)\d\d \[", second)


def test_arms_of_one_distribution_cannot_be_told_apart_and_what_would_have_been_missed_is_said():
    found = report(outcome(dict.fromkeys(ARMS, 0.0)), predictions={"bits_per_byte": {"wins": "best", "because": "hope"}})
    (record,) = found["outcomes"]
    assert {one["verdict"] for one in record["comparisons"]} <= {"unknown", "unclear"} and record["winner"] is None
    assert (
        "cannot be told from raw" in words.found_sentences(found)[0]
        and "would probably have been missed" in words.found_sentences(found)[0]
    )
    assert record["prediction"]["result"] == "open"
    assert "Outcome: cannot be told (" in words.prediction_sentences(found)[0]


def test_where_more_is_better_the_larger_arm_wins():
    found = report(outcome({"raw": 0.0, "clean": 0.1, "best": 0.2}, lower=False, key="copa", chance=0.5))
    (record,) = found["outcomes"]
    assert record["winner"] == "best" and not record["at_chance"]
    assert re.search(r"best is better than raw, \+(19|20)\.\d points \[", words.found_sentences(found)[1])


@pytest.mark.parametrize(
    ("wins", "result", "said"),
    [("best", "right", "right: it beats every other arm"), ("clean", "wrong", "wrong: best beats"), ("raw", "wrong", "wrong: best beats")],
)
def test_a_prediction_stands_beside_its_outcome(wins, result, said):
    found = report(
        outcome({"raw": 0.2, "clean": 0.1, "best": 0.0}),
        predictions={"bits_per_byte": {"wins": wins, "because": "it is so."}, "mmlu": {"wins": "raw"}},
    )
    assert found["outcomes"][0]["prediction"]["result"] == result
    first, unmeasured = words.prediction_sentences(found)
    assert f"predicted {wins}, because it is so. Outcome: {said}" in first
    assert unmeasured == "mmlu: predicted raw. Outcome: not measured."


def test_scores_at_chance_and_equal_scores_are_called_so_and_not_tested():
    generator = np.random.default_rng(3)
    guesses = {arm: (generator.random((4, 100)) < 0.25).astype(float) for arm in ARMS}
    at_chance = Outcome("mmlu", "MMLU", "share", False, 0.25, guesses, np.ones(100))
    nothing = Outcome("humaneval", "HumanEval", "share", False, 0.0, {arm: np.zeros((4, 30)) for arm in ARMS}, np.ones(30))
    found = report(at_chance, nothing)
    assert found["outcomes"][0]["at_chance"] and found["num_tests"] == 3
    sentences = words.found_sentences(found)
    assert "(all arms are within chance, 25.0 %): clean cannot be told from raw" in sentences[0]
    assert sentences[2] == "HumanEval: 0.0 % in every arm and seed: nothing to compare."
    assert any("scores at chance: MMLU" in one for one in words.limit_sentences(found))


def test_the_more_comparisons_the_more_it_takes_to_be_believed():
    one = outcome({"raw": 0.018, "clean": 0.0, "best": 0.0}, num_rows=6, seed=11)
    noise = [outcome(dict.fromkeys(ARMS, 0.0), key=f"n{i}", seed=i) for i in range(5)]
    alone, among = analyse([one], baseline="raw", predictions={}), analyse([one, *noise], baseline="raw", predictions={})
    pairs = [record["outcomes"][0]["comparisons"][0] for record in (alone, among)]
    assert pairs[0]["p"] == pairs[1]["p"] and pairs[0]["p_corrected"] < pairs[1]["p_corrected"]
    assert pairs[0]["detectable"] < pairs[1]["detectable"] and among["num_tests"] == 18


def test_one_seed_is_said_to_be_one():
    found = report(outcome({"raw": 0.2, "clean": 0.1, "best": 0.0}, num_seeds=1))
    assert found["outcomes"][0]["comparisons"][0]["seeds"] is None
    found["seeds"] = [0]
    assert any("with one seed there is no test over seeds" in one for one in words.limit_sentences(found))


def samples(model: str, shift: float):
    texts = [
        {
            "file": "a",
            "line": i,
            "group": ("web", "code")[i % 2],
            "values": {"nats": shift * 10 * (i + 1), "num_tokens": 5.0, "num_bytes": 10.0},
        }
        for i in range(4)
    ]
    choices = [
        {"file": "m", "line": i, "group": "", "values": {"accuracy": float(i == 0), "gold_bits_per_byte": shift * i}} for i in range(3)
    ]
    return [
        {**row, "model": model, "task": task, "values": json.dumps(row["values"])}
        for task, some in (("bits_per_byte", texts), ("copa", choices))
        for row in some
    ]


TASKS = {
    "bits_per_byte": {"kind": "corpus", "metric": "bits_per_byte", "title": "bits per byte"},
    "copa": {"kind": "choice", "metric": "accuracy", "title": "COPA", "chance": 0.5},
    "gone": {"skipped": "no file"},
}


def test_outcomes_are_read_row_by_row_with_the_texts_by_name():
    rows = [row for name, shift in (("a 0", 1.0), ("a 1", 2.0), ("b 0", 3.0), ("b 1", 4.0)) for row in samples(name, shift)]
    tasks = dict.fromkeys(("a 0", "a 1", "b 0", "b 1"), TASKS)
    found = {one.key: one for one in read_outcomes(rows, tasks, models={"a": ["a 0", "a 1"], "b": ["b 0", "b 1"]})}
    assert list(found) == ["bits_per_byte", "bits_per_byte/web", "bits_per_byte/code", "copa", "copa/right_answer"]
    web = found["bits_per_byte/web"]
    assert web.values["a"] == pytest.approx(np.array([[10.0, 30.0], [20.0, 60.0]]) / math.log(2)) and web.weight_N.tolist() == [10.0, 10.0]
    assert (web.unit, found["copa"].unit, found["copa"].chance) == ("bits per byte", "share", 0.5)
    assert found["copa/right_answer"].values["b"].tolist() == [[0.0, 3.0, 6.0], [0.0, 4.0, 8.0]]


def test_models_that_were_asked_other_rows_are_refused():
    rows = [*samples("a 0", 1.0), *[{**row, "line": row["line"] + 1} for row in samples("b 0", 1.0)]]
    with pytest.raises(DataError, match="bits_per_byte: the models were not asked the same rows"):
        read_outcomes(rows, {"a 0": TASKS, "b 0": TASKS}, models={"a": ["a 0"], "b": ["b 0"]})
