"""From the samples of a benchmark to its scores: every figure with its 95 % interval, over all rows, by group, and without
the rows that training documents share.

Shares get Wilson's interval, other means a bootstrap. The perplexity of continuations is that of whole continuations
(lm-eval's for LAMBADA): exp of the mean of minus their log-probability.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any  # Any: JSON records

from bloomery.evaluate.metrics import Interval, bootstrap_mean, bootstrap_ratio, wilson

Record = dict[str, Any]


def summarise(record: Mapping[str, Any], *, seed: int) -> Record:
    """The scores of a benchmark: its record without the samples, with `metrics`, `by_group`, and `clean` where rows were marked."""
    samples = record["samples"]
    out = {key: value for key, value in record.items() if key != "samples"}
    out["metrics"] = measure(samples, seed=seed)
    groups = sorted({sample["group"] for sample in samples if sample["group"]})
    if len(groups) > 1:
        by_group = {name: [sample for sample in samples if sample["group"] == name] for name in groups}
        out["by_group"] = {name: measure(some, seed=seed)[record["metric"]] for name, some in by_group.items()}
    if any("contaminated" in sample for sample in samples):
        clean = [sample for sample in samples if not sample["contaminated"]]
        out["contamination"] = {
            "rows": len(samples) - len(clean),
            "fraction": 1 - len(clean) / len(samples),
            "clean": measure(clean, seed=seed).get(record["metric"]) if clean else None,
        }
    return out


def measure(samples: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Record]:
    """Each value of the samples as a mean with its interval; `perplexity` and `nats_per_token` where log-probabilities are known."""
    found: dict[str, Record] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample["values"]):
        values = [sample["values"][name] for sample in samples if name in sample["values"]]
        if name in ("logp", "num_tokens"):
            continue
        found[name] = _mean(values, seed).record()
    if samples and "logp" in samples[0]["values"]:
        nats = bootstrap_mean([-sample["values"]["logp"] for sample in samples], seed=seed)
        found["perplexity"] = Interval(_exp(nats.value), _exp(nats.low), _exp(nats.high), nats.count).record()
        tokens = [sample["values"]["num_tokens"] for sample in samples]
        found["nats_per_token"] = bootstrap_ratio([-sample["values"]["logp"] for sample in samples], tokens, seed=seed).record()
    if samples and "tokens" in samples[0]:
        found["answer_tokens"] = bootstrap_mean([sample["tokens"] for sample in samples], seed=seed).record()
    return found


def _mean(values: Sequence[float], seed: int) -> Interval:
    if all(value in (0.0, 1.0) for value in values):
        return wilson(int(sum(values)), len(values))
    return bootstrap_mean(values, seed=seed)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
