"""What the report says, gathered from a run's artifacts and logs into plain values that the page only has to lay out."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the values of JSON records

import pyarrow.parquet as pq

from bloomery.core.artifact import Store, read_artifact
from bloomery.core.files import read_json
from bloomery.core.metrics import read_metrics
from bloomery.curate.explore import sample_kept

METRICS = {
    "exact_match": ("exact match", "share of held-out prompts answered exactly right"),
    "format_valid": ("format valid", "share of answers in the asked format"),
    "stopped": ("stopped by itself", "share of answers that end with the end-of-turn token"),
    "win_rate": ("win rate", "greedy answers against those of {baseline}, by the programmatic gold; ties count half"),
    "sampled_exact_match": ("exact match, sampled", "the same of answers sampled at temperature 1"),
    "sampled_win_rate": ("win rate, sampled", "sampled answers against sampled answers of {baseline}"),
    "bits_per_byte": ("bits per byte", "on held-out documents; lower is better"),
    "entropy_nats": ("entropy", "nats per token of answers sampled at temperature 1"),
    "distinct_2": ("distinct-2", "share of different token pairs among the samples of one prompt"),
    "answer_tokens": ("answer length", "tokens per greedy answer"),
}
SHARES = ("exact_match", "format_valid", "stopped", "win_rate", "sampled_exact_match", "sampled_win_rate")


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """One finished node of a run: its artifact's record and its logs."""

    id: str
    stage: str
    path: Path
    record: Mapping[str, Any]
    timing: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The numbers that the stage returned."""
        metrics: Mapping[str, Any] = self.record["metrics"]
        return metrics

    @property
    def output_bytes(self) -> int:
        """Size of the artifact's files."""
        return sum(file["bytes"] for file in self.record["files"].values())

    def series(self, name: str, *, x: str = "tokens") -> list[tuple[float, float]]:
        """(x, value) of one metric over training; of two rows with one step the later counts."""
        by_step = {row["step"]: (row.get(x, row["step"]), row[name]) for row in self.rows if name in row and "step" in row}
        return [by_step[step] for step in sorted(by_step)]

    def places(self, name: str) -> list[float]:
        """Where on the axis of tokens a metric stands; as `series`, but not only the last of each step."""
        return [row.get("tokens", row["step"]) for row in self.rows if name in row and "step" in row]


def read_nodes(store: Store, run_folder: Path) -> list[NodeView]:
    """The finished nodes of a run, in the order of its plan."""
    nodes = []
    for node in read_json(run_folder / "spec.json")["nodes"]:
        path = store.artifact_path(node["stage"], node["fingerprint"])
        if not (path / "artifact.json").is_file():
            continue
        logs = store.log_path(node["stage"], node["fingerprint"])
        timing = read_json(logs / "timing.json") if (logs / "timing.json").is_file() else {}
        record = read_artifact(path).record
        rows = read_metrics(logs / "metrics.jsonl")
        nodes.append(NodeView(id=node["id"], stage=node["stage"], path=path, record=record, timing=timing, rows=rows))
    return nodes


def funnel_steps(nodes: Sequence[NodeView]) -> list[dict[str, Any]]:
    """One row for each stage that takes documents in and gives documents out: counts, bytes, drops by rule."""
    steps = []
    for node in nodes:
        numbers = node.metrics
        if node.record["kind"] not in ("pages", "documents") or "documents_out" not in numbers:
            continue
        drops = {name.removeprefix("dropped/"): int(count) for name, count in numbers.items() if name.startswith("dropped/") and count}
        steps.append({"id": node.id, "stage": node.stage, "drops": dict(sorted(drops.items(), key=lambda item: -item[1])), **numbers})
    return steps


def dropped_samples(nodes: Sequence[NodeView], *, per_rule: int = 2, characters: int = 280) -> list[dict[str, Any]]:
    """A few dropped documents for each rule, with the value that broke it; the same few every time."""
    samples: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        for path in sorted((node.path / "ledger").glob("*.parquet")):
            for row in pq.read_table(path).to_pylist():
                kept = samples[node.id, row["rule"]]
                if len(kept) < per_rule:
                    text = " ".join((row.get("text_sample") or "").split())
                    kept.append({**row, "node": node.id, "text": text[:characters] + ("…" if len(text) > characters else "")})
    return [row for _, rows in sorted(samples.items()) for row in rows]


def kept_samples(nodes: Sequence[NodeView], *, num_documents: int = 6, characters: int = 600) -> list[dict[str, Any]]:
    """A few documents of those that stayed to the end, drawn at random; the same few every time."""
    last = [node for node in nodes if node.record["kind"] == "documents"][-1:]
    rows = [row for node in last for row in sample_kept(node.path, num_documents=num_documents)]
    for row in rows:
        text = " ".join(row["text"][: 2 * characters].split())
        row["sample"] = text[:characters] + ("…" if len(text) > characters else "")
    return rows


def score_table(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a metric, one cell a model: value and 95 % interval as text, in the order of METRICS."""
    table = []
    for metric, (title, meaning) in METRICS.items():
        cells = [scores["metrics"][model].get(metric) for model in scores["models"]]
        if any(cells):
            text = meaning.format(baseline=scores["baseline"])
            table.append({"title": title, "meaning": text, "cells": [format_interval(metric, cell) for cell in cells]})
    return table


def judge_sentences(nodes: Sequence[NodeView]) -> list[str]:
    """What every judge of this run is worth, one sentence each, from its stage's metrics."""
    told = []
    for node in nodes:
        if "judge_known" not in node.metrics:
            continue
        numbers = node.metrics
        if "judge_agreement" not in numbers:
            told.append(f"{node.id}: how far the judge is right is unknown; no program could tell.")
            continue
        value, low, high = (round(100 * numbers[f"judge_agreement{end}"]) for end in ("", "_low", "_high"))
        coin = " That is near chance: its labels say little or nothing." if numbers["judge_near_chance"] else ""
        told.append(
            f"{node.id}: the judge agrees with the program on {value} % of {numbers['judge_known']:,} comparisons "
            f"(95 % interval {low} to {high}).{coin}"
        )
    return told


def format_interval(metric: str, cell: Mapping[str, float] | None) -> str:
    """`62.3 % [58.4, 66.0]` for shares, `1.432 [1.421, 1.443]` for other numbers, a dash for none."""
    if not cell or cell.get("value") is None:
        return "–"
    value, low, high = cell["value"], cell.get("low"), cell.get("high")
    if metric in SHARES:
        bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{100 * value:.1f} %{bounds}"
    bounds = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{bounds}"


def same_prompt_samples(path: Path, models: Sequence[str], *, per_skill: int = 1) -> list[dict[str, Any]]:
    """The answers of all models to the same prompts, a few prompts of each skill."""
    rows = pq.read_table(path).to_pylist()
    by_prompt: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for row in rows:
        by_prompt[row["skill"], row["prompt"]][row["model"]] = row
    chosen: list[dict[str, Any]] = []
    taken: dict[str, int] = defaultdict(int)
    for (skill, prompt), answers in by_prompt.items():
        if taken[skill] < per_skill and all(model in answers for model in models):
            taken[skill] += 1
            answer = answers[models[0]]["answer"]
            chosen.append({"skill": skill, "prompt": prompt, "answer": answer, "answers": [answers[model] for model in models]})
    return chosen


def last_samples(folder: Path) -> list[dict[str, Any]]:
    """What a model wrote at its last validation, and at its first, of each beginning."""
    path = folder / "training.json"
    samples = read_json(path).get("samples", []) if path.is_file() else []
    by_prompt: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        by_prompt[sample["prompt"]].append(sample)
    return [{"prompt": prompt, "first": found[0], "last": found[-1]} for prompt, found in by_prompt.items()]


def format_bytes(count: float) -> str:
    """`12.3 MB`: powers of 1,000, as disks and networks are sold."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """`3 min 05 s`, or `4.2 s` below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def recipe_json(run_folder: Path) -> str:
    """The resolved recipe as it ran, as indented JSON."""
    spec = read_json(run_folder / "spec.json")
    return json.dumps(spec.get("recipe", spec), indent=2, ensure_ascii=False)
