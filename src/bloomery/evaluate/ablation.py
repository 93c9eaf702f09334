"""What an experiment on data shows: every outcome of every arm, all pairs of arms compared, and what may be said of them.

An outcome is a figure that all trained models have on the same rows: bits per byte of held-out texts (all, and by name), a
benchmark's own figure, and bits per byte of its right answers, which move long before an accuracy does (arXiv:2412.04403,
arXiv:2504.11393). All pairs of arms on all outcomes are one family of tests, corrected by Holm's method (paired.py).
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: JSON records

import numpy as np

from bloomery.core.errors import DataError
from bloomery.evaluate.corpus import NAME as BITS_PER_BYTE
from bloomery.evaluate.paired import LEVEL, Difference, Floats, compare, detectable, holm

Record = dict[str, Any]
Verdict = Literal["better", "worse", "unclear", "unknown", "equal"]
"""Of one arm beside another: a difference that holds after correction; `unclear`: one whose own interval alone leaves out zero;
`unknown`: none that can be told; `equal`: every model has the same figure."""

RIGHT_ANSWER = "gold_bits_per_byte"


class Outcome(NamedTuple):
    """A figure of all models on the same rows: `values[arm]` [S, N], one line a seed; the figure is sum values / sum weights."""

    key: str
    name: str
    unit: Literal["share", "bits per byte", ""]
    lower_is_better: bool
    chance: float | None
    values: Mapping[str, Floats]
    weight_N: Floats


def read_outcomes(
    rows: Sequence[Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]], *, models: Mapping[str, Sequence[str]]
) -> list[Outcome]:
    """The outcomes of an evaluation.

    `rows` are those of task_samples.parquet, `tasks` scores.json's by model, `models` the models' names by arm, in the order
    of the seeds. A benchmark that was left out for any model is left out. Raises DataError if models were asked other rows.
    """
    names = [name for some in models.values() for name in some]
    by_model: dict[str, dict[str, list[Mapping[str, Any]]]] = {name: {} for name in names}
    for row in rows:
        if row["model"] in by_model:
            by_model[row["model"]].setdefault(row["task"], []).append({**row, "values": json.loads(row["values"])})
    found: list[Outcome] = []
    for task, record in tasks[names[0]].items():
        if any("skipped" in tasks[name][task] for name in names):
            continue
        samples = {name: by_model[name][task] for name in names}
        asked = {tuple((row["file"], row["line"], row["group"]) for row in some) for some in samples.values()}
        if len(asked) > 1:
            raise DataError(f"{task}: the models were not asked the same rows; evaluate all of them in one stage")
        arms = {arm: [samples[name] for name in some] for arm, some in models.items()}
        found += _of_texts(arms) if record["kind"] == "corpus" else _of_benchmark(task, record, arms)
    return found


def analyse(outcomes: Sequence[Outcome], *, baseline: str, predictions: Mapping[str, Mapping[str, str]]) -> Record:
    """Everything that can be computed of outcomes, as JSON has it: a record for each outcome, and how many tests were made."""
    pairs = [list(itertools.combinations(_baseline_first(outcome.values, baseline), 2)) for outcome in outcomes]
    compared = [
        [(ours, theirs, compare(outcome.values[ours], outcome.values[theirs], outcome.weight_N)) for theirs, ours in some]
        for outcome, some in zip(outcomes, pairs, strict=True)
    ]
    tested = [found.p for some in compared for _, _, found in some if found.p is not None]
    corrected = iter(holm(tested))
    records = []
    for outcome, some in zip(outcomes, compared, strict=True):
        comparisons = [_comparison(outcome, pair, corrected, num_tests=len(tested)) for pair in some]
        records.append(_record(outcome, comparisons, predictions.get(outcome.key)))
    unmeasured = {key: dict(told) for key, told in predictions.items() if key not in {outcome.key for outcome in outcomes}}
    return {"outcomes": records, "num_tests": len(tested), "unmeasured": unmeasured}


def find_winner(record: Mapping[str, Any]) -> str | None:
    """The arm that is better than every other one on an outcome, after correction; None if there is none."""
    for arm in record["arms"]:
        others = [one for one in record["comparisons"] if arm in (one["ours"], one["theirs"])]
        if others and all(one["verdict"] == ("better" if one["ours"] == arm else "worse") for one in others):
            return str(arm)
    return None


def judge_prediction(record: Mapping[str, Any], wins: str) -> Literal["right", "wrong", "open"]:
    """`right` if the predicted arm beats all others, `wrong` if any other beats it, else it cannot be told."""
    if find_winner(record) == wins:
        return "right"
    beaten = any(
        one["verdict"] == ("worse" if one["ours"] == wins else "better")
        for one in record["comparisons"]
        if wins in (one["ours"], one["theirs"])
    )
    return "wrong" if beaten else "open"


def _of_texts(arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Iterator[Outcome]:
    first = next(iter(arms.values()))[0]
    groups = [row["group"] for row in first]
    names = list(dict.fromkeys(groups))
    size_N = np.array([row["values"]["num_bytes"] for row in first])
    bits = {arm: np.array([[row["values"]["nats"] / math.log(2) for row in some] for some in of_arm]) for arm, of_arm in arms.items()}
    for name in [None, *names] if len(names) > 1 else [None]:
        mine_N = np.array([name in (None, group) for group in groups])
        yield Outcome(
            key=BITS_PER_BYTE if name is None else f"{BITS_PER_BYTE}/{name}",
            name=f"held-out {name or 'texts'}, bits per byte",
            unit="bits per byte",
            lower_is_better=True,
            chance=None,
            values={arm: bits_SN[:, mine_N] for arm, bits_SN in bits.items()},
            weight_N=size_N[mine_N],
        )


def _of_benchmark(task: str, record: Mapping[str, Any], arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Iterator[Outcome]:
    known = [name for name in dict.fromkeys((record["metric"], RIGHT_ANSWER)) if _have(name, arms)]
    for name in known:
        is_answer = name == RIGHT_ANSWER
        values = {arm: np.array([[float(row["values"][name]) for row in some] for some in of_arm]) for arm, of_arm in arms.items()}
        yield Outcome(
            key=f"{task}/right_answer" if is_answer and name != record["metric"] else task,
            name=f"{record['title']}: " + ("right answers, bits per byte" if is_answer else name.replace("_", " ")),
            unit="bits per byte" if is_answer else "share" if all(((x >= 0) & (x <= 1)).all() for x in values.values()) else "",
            lower_is_better=is_answer,
            chance=None if is_answer else record["chance"],
            values=values,
            weight_N=np.ones(len(next(iter(arms.values()))[0])),
        )


def _have(name: str, arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> bool:
    return all(name in row["values"] for of_arm in arms.values() for some in of_arm for row in some)


def _baseline_first(arms: Mapping[str, Any], baseline: str) -> list[str]:
    return [baseline, *(arm for arm in arms if arm != baseline)]


def _comparison(outcome: Outcome, pair: tuple[str, str, Difference], corrected: Iterator[float], *, num_tests: int) -> Record:
    ours, theirs, found = pair
    p = next(corrected) if found.p is not None else None
    verdict: Verdict
    if found.p is None:
        verdict = "equal" if found.value == 0 else "unknown"
    elif p is not None and p < LEVEL:
        verdict = "better" if (found.value < 0) == outcome.lower_is_better else "worse"
    else:
        verdict = "unclear" if found.p < LEVEL else "unknown"
    least = detectable(found.errors, num_tests=num_tests)
    plain = {**found._asdict(), "seeds": _plain(found.seeds), "rows": _plain(found.rows), "by_seed": list(found.by_seed)}
    plain["errors"] = [list(error) for error in found.errors]
    return {"ours": ours, "theirs": theirs, **plain, "p_corrected": p, "detectable": least, "verdict": verdict}


def _plain(found: Any) -> Record | None:
    return None if found is None else dict(found._asdict())


def _record(outcome: Outcome, comparisons: Sequence[Record], prediction: Mapping[str, str] | None) -> Record:
    chance = outcome.chance
    at_chance = chance is not None
    of_arms: dict[str, Record] = {}
    for arm, value_SN in outcome.values.items():
        found = compare(value_SN, np.zeros_like(value_SN), outcome.weight_N)
        of_arms[arm] = {"value": found.value, "low": found.low, "high": found.high, "by_seed": list(found.by_seed)}
        at_chance = at_chance and chance is not None and found.low <= chance <= found.high
    means = {arm: float(one["value"]) for arm, one in of_arms.items()}
    record: Record = {
        "key": outcome.key,
        "name": outcome.name,
        "unit": outcome.unit,
        "lower_is_better": outcome.lower_is_better,
        "chance": chance,
        "at_chance": at_chance,
        "num_rows": len(outcome.weight_N),
        "arms": of_arms,
        "comparisons": list(comparisons),
    }
    record["winner"] = find_winner(record)
    best = min(means, key=means.__getitem__) if outcome.lower_is_better else max(means, key=means.__getitem__)
    record["ahead"] = best if len(set(means.values())) > 1 else None
    record["prediction"] = {**prediction, "result": judge_prediction(record, prediction["wins"])} if prediction else None
    return record
