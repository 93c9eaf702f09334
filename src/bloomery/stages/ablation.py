"""Stage ablation: what a comparison of data shows. The end of `bloomery ablate`.

Reads the scores of models that differ only in their data, trained with the same seeds, and writes every difference with
intervals over seeds, over rows and over both, tests that are corrected for their number, what became of the predictions, and
what cannot be concluded: ablation.json, ablation.html, ablation.md and the plots as SVG files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON records

import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, model_validator

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json, write_text
from bloomery.core.pages import write_page
from bloomery.core.plots import draw_differences
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.evaluate import ablation_words as words
from bloomery.evaluate.ablation import analyse, read_outcomes

Record = dict[str, Any]


class AblationConfig(Config):
    """Which models are of which arm, and what was expected of them."""

    question: str = ""
    arms: list[str] = Field(min_length=2)
    """Their names. The models are connected arm by arm, in this order, each arm's in the order of the seeds."""
    seeds: list[NonNegativeInt] = Field(min_length=1)
    baseline: str
    """The arm that all others are compared with first."""
    changes: dict[str, list[str]] = Field(default={})
    """By arm, in which settings it differs from the recipe: for the page."""
    kept_of: dict[str, list[NonNegativeInt]] = Field(default={})
    """By arm, which inputs of `kept` it was trained on (numbers from 0)."""
    tokenizer: str = ""
    """What the tokenizer was trained on, in words."""
    predictions: dict[str, dict[str, str]] = Field(default={})
    """By outcome `wins`, the arm that is expected to win, and `because`."""

    @model_validator(mode="after")
    def _check_names(self) -> "AblationConfig":
        for what, names in (("baseline", [self.baseline]), ("kept_of", self.kept_of), ("changes", self.changes)):
            for name in names:
                if name not in self.arms:
                    raise ValueError(f'{what}: "{name}" is no arm; {suggest(name, self.arms)}')
        for outcome, told in self.predictions.items():
            if told.get("wins") not in self.arms:
                raise ValueError(
                    f'predictions: {outcome}.wins = "{told.get("wins")}" is no arm; {suggest(str(told.get("wins")), self.arms)}'
                )
        return self


def ablation(
    config: AblationConfig, *, scores: Path, models: Sequence[Path], kept: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes the report; returns how many comparisons there are, how many differences hold, and how many predictions were right.

    Raises ConfigError if the models are not as many as arms and seeds, DataError if they differ in more than their data.
    """
    num_seeds = len(config.seeds)
    measured: Record = read_json(scores / "scores.json")
    names = measured["models"]
    if len(models) != len(config.arms) * num_seeds or len(names) != len(models):
        there = f"{len(models)} models are connected and {len(names)} in the scores"
        raise ConfigError(f"ablation: {len(config.arms)} arms of {num_seeds} seeds need {len(config.arms) * num_seeds} models; {there}")
    trained = [_read_training(path) for path in models]
    _check_alike(trained, models)
    by_arm = {arm: range(i * num_seeds, (i + 1) * num_seeds) for i, arm in enumerate(config.arms)}
    rows = pq.read_table(scores / "task_samples.parquet").to_pylist()
    outcomes = read_outcomes(rows, measured["tasks"], models={arm: [names[i] for i in some] for arm, some in by_arm.items()})
    found = analyse(outcomes, baseline=config.baseline, predictions=config.predictions)
    skipped = {name: one["skipped"] for name, one in measured["tasks"][names[0]].items() if "skipped" in one} | measured["skipped"]
    report: Record = {
        "question": config.question,
        "arms": config.arms,
        "seeds": config.seeds,
        "baseline": config.baseline,
        "changes": config.changes,
        "tokenizer": config.tokenizer,
        "params": trained[0]["params"],
        "tokens": trained[0]["tokens"],
        "facts": {arm: _facts(trained[some[0]], [kept[i] for i in config.kept_of.get(arm, [])]) for arm, some in by_arm.items()},
        "skipped": skipped,
        **found,
    }
    for outcome in report["outcomes"]:
        outcome["shown"] = {arm: words.show_value(one["value"], outcome["unit"]) for arm, one in outcome["arms"].items()}
        outcome["verdict"] = words.verdict_of(outcome)
    sections = {"What was found": words.found_sentences(report), "Predictions": words.prediction_sentences(report)}
    sections["What cannot be concluded"] = words.limit_sentences(report)
    report["statement"] = [{"title": title, "sentences": some} for title, some in sections.items() if some]
    write_json(out / "ablation.json", report)
    plots = _plots(report)
    for i, plot in enumerate(plots):
        write_text(out / f"differences_{i + 1}.svg", plot["svg"])
    for name in ("ablation.md", "ablation.html"):
        write_page(out / name, package="bloomery.stages", template=f"{name}.j2", view=_page_view(report, plots))
    results = [outcome["prediction"]["result"] for outcome in report["outcomes"] if outcome["prediction"]]
    verdicts = [one["verdict"] for outcome in report["outcomes"] for one in outcome["comparisons"]]
    return {
        "num_outcomes": len(outcomes),
        "num_tests": report["num_tests"],
        "num_differences": sum(verdict in ("better", "worse") for verdict in verdicts),
        **{f"predictions/{name}": results.count(name) for name in ("right", "wrong", "open")},
    }


def _read_training(path: Path) -> Record:
    if not (path / "training.json").is_file():
        raise DataError(f"{path}: has no training.json; an ablation compares checkpoints of `pretrain`")
    training: Record = read_json(path / "training.json")
    return training


def _check_alike(trained: Sequence[Record], models: Sequence[Path]) -> None:
    for name in ("params", "steps"):
        values = {one[name] for one in trained}
        if len(values) > 1:
            raise DataError(f"the models differ in more than their data: {name} {sorted(values)} ({models[0].name}, ...)")


def _facts(training: Record, kept: Sequence[Path]) -> Record:
    """Of an arm: what it was made of. `epochs` are those of its most read source."""
    sources = training["sources"].values()
    counts = [read_artifact(path).record["metrics"] for path in kept if (path / RECORD).is_file()]
    return {
        "epochs": max(one["epochs"] for one in sources),
        "unique_tokens": sum(min(1.0, one["epochs"]) * one["source_tokens"] for one in sources),
        "sources": {name: {"tokens": one["tokens"], "epochs": one["epochs"]} for name, one in training["sources"].items()},
        "documents": sum(one["documents_in"] for one in counts),
        "documents_dropped": sum(one["documents_in"] - one["documents_out"] for one in counts),
    }


def _plots(report: Record) -> list[Record]:
    """One plot of differences from the baseline a unit: shares and bits per byte have no common axis."""
    plots = []
    others = [arm for arm in report["arms"] if arm != report["baseline"]]
    for unit, scale, label in (("bits per byte", 1.0, "bits per byte"), ("share", 100.0, "points"), ("", 1.0, "")):
        chosen = [outcome for outcome in report["outcomes"] if outcome["unit"] == unit and outcome["ahead"] is not None]
        if not chosen:
            continue
        values = {}
        for arm in others:
            found = [next(one for one in o["comparisons"] if (one["ours"], one["theirs"]) == (arm, report["baseline"])) for o in chosen]
            values[arm] = [
                (tuple(scale * one[key] for key in ("value", "low", "high")), [scale * x for x in one["by_seed"]]) for one in found
            ]
        better = {True: "to the left is better", False: "to the right is better"}
        sides = {outcome["lower_is_better"] for outcome in chosen}
        side = f" ({better[sides.pop()]})" if len(sides) == 1 else ""
        svg = draw_differences([o["name"] for o in chosen], values, x_label=f"{label} more than {report['baseline']}{side}")
        plots.append({"title": f"Differences from {report['baseline']}: {label or 'other figures'}", "svg": svg})
    return plots


def _page_view(report: Record, plots: Sequence[Record]) -> Record:
    return {
        "report": report,
        "plots": plots,
        "excluded": words.excluded_rows(report["facts"], report["arms"]),
        "outcomes": [
            {
                **outcome,
                "cells": [_cell(outcome["arms"][arm], outcome["unit"]) for arm in report["arms"]],
            }
            for outcome in report["outcomes"]
        ],
        "comparisons": [_comparison_row(outcome, one) for outcome in report["outcomes"] for one in outcome["comparisons"]],
    }


def _cell(found: Record, unit: str) -> str:
    low, high = (min(max(found[key], 0.0), 1.0) if unit == "share" else found[key] for key in ("low", "high"))
    return f"{words.show_value(found['value'], unit)} [{words.show_value(low, unit)}, {words.show_value(high, unit)}]".replace(" %,", ",")


def _comparison_row(outcome: Record, one: Record) -> Record:
    unit = outcome["unit"]

    def interval(found: Record | None) -> str:
        return words.show_range(found, unit) if found else "-"

    return {
        "outcome": outcome["name"],
        "pair": f"{one['ours']} - {one['theirs']}",
        "value": words.show_difference(one["value"], unit),
        "both": interval(one),
        "seeds": interval(one["seeds"]),
        "rows": interval(one["rows"]),
        "p_seeds": words.show_p(one["seeds"]["p"]) if one["seeds"] and one["seeds"]["p"] is not None else "-",
        "p": words.show_p(one["p"]) if one["p"] is not None else "-",
        "p_corrected": words.show_p(one["p_corrected"]) if one["p_corrected"] is not None else "-",
        "detectable": words.show_size(one["detectable"], unit) if one["p"] is not None else "-",
        "verdict": {"better": "better", "worse": "worse", "unclear": "unclear", "unknown": "cannot be told", "equal": "equal"}[
            one["verdict"]
        ],
    }


STAGE = Stage(
    name="ablation",
    config_type=AblationConfig,
    run=ablation,
    inputs={
        "scores": Slot("scores"),
        "models": Slot("checkpoint", many=True),
        "kept": Slot("documents", many=True, optional=True),
    },
    output="ablation",
    version=1,
)
