"""What happened to one document: stage by stage, by its id or its URL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: JSON and rows of Parquet

from bloomery.curate.rules import Rule
from bloomery.pipeline.inspect import filter_config, find_alike, find_named, follow_documents
from bloomery.pipeline.locate import finished_nodes
from bloomery.web.corpus.funnel import KINDS, Shelf
from bloomery.web.corpus.samples import MAX_CHARACTERS

MAX_NEAR = 8
WHATS = {
    "kept": "kept",
    "dropped": "dropped",
    "judged": "judged",
    "in a cluster of duplicates": "cluster",
    "shares a passage with an evaluation set": "passage",
}
TOLD = ("rule", "value", "threshold", "kept_id", "cluster", "cluster_size", "similarity", "detail", "task", "part", "match", "action")


def show_story(shelf: Shelf, run_id: str, text: str) -> dict[str, Any]:
    """The story of the first document with this URL, this id, or an id that begins so. `near` are others of the same, or if there is
    none, a few whose URLs begin alike."""
    run = shelf.directory.run(run_id)
    found = find_named(run.folder, text, most=MAX_NEAR + 1)
    if not found:
        return {"document": None, "events": [], "near": find_alike(run.folder, text, most=MAX_NEAR)}
    events = follow_documents(run.folder, [found[0]["id"]])
    return {"document": found[0], "events": _with_absences(shelf, run.folder, events), "near": found[1:]}


def _with_absences(shelf: Shelf, run: Path, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Where a document went into a stage that says nothing of it: a mixture that took only a part, for example.
    shown: list[dict[str, Any]] = []
    kept_in: set[str] = set()
    for node_id, path in finished_nodes(run).items():
        record = shelf.record(path)
        mine = [event for event in events if event["node"] == node_id]
        came_in = kept_in & {name for names in record["inputs"].values() for name in names}
        if any(event["what"] == "kept" for event in mine):
            kept_in.add(record["fingerprint"])
        if not mine and came_in and record["kind"] in KINDS:
            shown.append({"node": node_id, "stage": record["stage"], "what": "absent"})
        shown += [_show(event, record) for event in mine]
    return shown


def _show(event: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"node": event["node"], "stage": record["stage"], "what": WHATS[event["what"]]}
    text = event.get("text", event.get("text_sample"))
    if text is not None:
        shown |= {"text": text[:MAX_CHARACTERS], "characters": len(text)}
    shown |= {name: event[name] for name in TOLD if event.get(name) is not None}
    config = filter_config(record) if "rules" in event else None
    if config is not None:
        rules = {rule.name: rule for rule in config.chosen_rules}
        shown["rules"] = [_judge(rules[told["rule"]], told) for told in event["rules"]]
    return shown


def _judge(rule: Rule, told: Mapping[str, Any]) -> dict[str, Any]:
    keeps = "at least" if rule.drops == "below" else "at most"
    return {
        "name": rule.name,
        "signal": rule.signal,
        "value": told["value"],
        "threshold": told["threshold"],
        "keeps": keeps,
        "passed": not told["broken"],
    }
