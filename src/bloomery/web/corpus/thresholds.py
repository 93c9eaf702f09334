"""The rules of a filter: how many each drops, how their signals are distributed, and the funnel with other thresholds."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any  # Any: JSON, and the shape parameter of numpy arrays

import numpy as np

from bloomery.chat.refusal import Refusal
from bloomery.curate.explore import bin_values
from bloomery.curate.filter_config import FilterConfig
from bloomery.curate.judged import (
    Array,
    Judged,
    count_first,
    first_broken,
    in_scope,
    judge_again,
    read_judged,
    read_values,
)
from bloomery.curate.rules import Rule
from bloomery.pipeline.derive import toml_value
from bloomery.pipeline.inspect import filter_config, find_rule
from bloomery.web.corpus.funnel import Shelf, rate_of_artifact, sorted_drops
from bloomery.web.directory import ArtifactEntry

NUM_BINS = 60
LOG_SPREAD = 20.0
"""The scale of a count is logarithmic where the 99.5th percentile is so many times the 5th."""
MAX_LANGUAGES = 200


@dataclass(frozen=True)
class OpenFilter:
    """A filter's artifact with the settings it was made with and what it judged its documents on."""

    shelf: Shelf
    entry: ArtifactEntry
    record: Mapping[str, Any]
    config: FilterConfig
    judged: Judged

    def values(self, signal: str) -> Array:
        """The values of a signal, kept while they are asked for."""
        make = functools.partial(read_values, self.judged, signal, languages=self.config.languages)
        return self.shelf.memory.get(self.shelf.key(self.entry.path, "values", signal), make, lambda values: int(values.nbytes))

    @property
    def first(self) -> Array:
        """The number of the rule that dropped each document, or that of rules."""
        make = functools.partial(first_broken, self.judged.broken, len(self.judged.rules))
        return self.shelf.memory.get(self.shelf.key(self.entry.path, "first"), make, lambda first: int(first.nbytes))


def open_filter(shelf: Shelf, artifact_id: str) -> OpenFilter:
    """The filter's artifact with this id. Raises Refusal: 404 if there is none, 400 if another stage made it."""
    entry = shelf.artifact(artifact_id)
    record = shelf.record(entry.path)
    config = filter_config(record)
    if config is None:
        raise Refusal(400, f"{entry.name} was made by the stage {record['stage']}: thresholds and signals are those of a filter")
    make = functools.partial(read_judged, entry.path, config.chosen_rules)
    judged = shelf.memory.get(shelf.key(entry.path, "judged"), make, lambda judged: judged.num_bytes)
    return OpenFilter(shelf, entry, record, config, judged)


def list_rules(shelf: Shelf, artifact_id: str) -> dict[str, Any]:
    """The rules in the order in which they are tried. `dropped` by it as the first, `broken` in all; `documents` it is for."""
    opened = open_filter(shelf, artifact_id)
    judged, limits = opened.judged, opened.config.thresholds_by_language
    dropped = count_first(judged, opened.first)
    rules = [
        {
            **_describe(rule),
            "threshold_by_language": {language: own[rule.name] for language, own in limits.items() if rule.name in own},
            "dropped": dropped.get(rule.name, 0),
            "broken": judged.count_broken(rule.name),
            "documents": int(in_scope(judged, rule).sum()),
        }
        for rule in opened.config.chosen_rules
    ]
    found = np.bincount(judged.codes[judged.codes >= 0], minlength=len(judged.languages))
    languages = [judged.languages[i] for i in np.argsort(-found, kind="stable").tolist()]
    return {"languages": languages[:MAX_LANGUAGES], "rules": rules}


def make_histogram(shelf: Shelf, artifact_id: str, rule_name: str) -> dict[str, Any]:
    """How the signal of a rule is distributed over the documents that the rule is for; `low` and `high` hold all thresholds."""
    opened = open_filter(shelf, artifact_id)
    rule = find_rule(opened.config, rule_name)
    shown = shelf.memory.get(shelf.key(opened.entry.path, "histogram", rule_name), lambda: _bin(opened, rule), lambda _: 4096)
    return dict(shown)


def try_thresholds(shelf: Shelf, artifact_id: str, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Both funnels, and the settings that give the second one. Documents are counted; bytes and tokens of the second funnel are
    estimated from the characters of the documents that change sides."""
    opened = open_filter(shelf, artifact_id)
    config = filter_config(opened.record, thresholds=thresholds)
    assert config is not None  # it is a filter's
    judged = opened.judged
    moved = [rule for rule in config.chosen_rules if rule.name in thresholds]
    before = opened.first
    after = judge_again(judged, moved, limits=config.thresholds_by_language, values_of=opened.values)
    kept = len(judged.rules)
    gained, lost = (before != kept) & (after == kept), (before == kept) & (after != kept)
    metrics, rate = opened.record["metrics"], rate_of_artifact(shelf, opened.entry.path)
    change = _change_of_bytes(judged, before, gained, lost, metrics)

    def funnel(first: Array, bytes_out: int | None) -> dict[str, Any]:
        return {
            "documents_in": judged.num_documents,
            "documents_out": int((first == kept).sum()),
            "bytes_in": metrics.get("bytes_in"),
            "bytes_out": bytes_out,
            "tokens_out": None if rate is None or bytes_out is None else round(bytes_out * rate),
            "dropped": sorted_drops(count_first(judged, first)),
        }

    had = metrics.get("bytes_out")
    return {
        "before": funnel(before, had),
        "after": funnel(after, None if had is None or change is None else had + change),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "toml": write_config(opened.config, thresholds),
    }


def write_config(config: FilterConfig, thresholds: Mapping[str, float]) -> str:
    """The line `config = { ... }` of a recipe's filter with these thresholds: what differs from the defaults."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values["thresholds"] = {**config.thresholds, **thresholds}
    return f"config = {toml_value({name: value for name, value in values.items() if value != {}})}"


def _describe(rule: Rule) -> dict[str, Any]:
    keeps = "at least" if rule.drops == "below" else "at most"
    return {
        "name": rule.name,
        "signal": rule.signal,
        "keeps": keeps,
        "threshold": rule.threshold,
        "scope": rule.scope,
        "origin": rule.origin,
    }


def _bin(opened: OpenFilter, rule: Rule) -> dict[str, Any]:
    among = in_scope(opened.judged, rule)
    values = opened.values(rule.signal)[among].astype(np.float64)
    dropped = (opened.first != len(opened.judged.rules))[among]
    finite = values[np.isfinite(values)]
    least, low, high = (float(value) for value in np.quantile(finite, [0, 0.05, 0.995])) if len(finite) else (0.0, 0.0, 0.0)
    is_log = least >= 0 and high > LOG_SPREAD * max(low, 1.0)
    bins = bin_values(rule.signal, values, dropped, num_bins=NUM_BINS, is_log=is_log)
    thresholds = [rule.threshold, *(own[rule.name] for own in opened.config.thresholds_by_language.values() if rule.name in own)]
    return {
        "rule": rule.name,
        **{name: value for name, value in _describe(rule).items() if name != "name"},
        "edges": bins.edges,
        "counts": [kept + gone for kept, gone in zip(bins.kept, bins.dropped, strict=True)],
        "kept": bins.kept,
        "dropped": bins.dropped,
        "is_log": bins.is_log,
        "low": min([bins.edges[0], *thresholds]),
        "high": max([bins.edges[-1], *thresholds]),
        "documents": len(finite),
    }


def _change_of_bytes(judged: Judged, before: Array, gained: Array, lost: Array, metrics: Mapping[str, Any]) -> int | None:
    # Kept and dropped documents have different scripts, so each side has its own bytes for a character.
    if "bytes_out" not in metrics or "bytes_in" not in metrics or np.isnan(judged.characters).any():
        return None
    stays = before == len(judged.rules)
    lengths = judged.characters
    kept, gone = float(lengths[stays].sum(dtype=np.float64)), float(lengths[~stays].sum(dtype=np.float64))
    for_kept = metrics["bytes_out"] / kept if kept else 1.0
    for_gone = (metrics["bytes_in"] - metrics["bytes_out"]) / gone if gone else 1.0
    return round(float(lengths[gained].sum(dtype=np.float64)) * for_gone - float(lengths[lost].sum(dtype=np.float64)) * for_kept)
