"""Documents to look at: at random, of one rule, or on both sides of a threshold, those kept beside those dropped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: rows of Parquet

import numpy as np

from bloomery.chat.refusal import Refusal
from bloomery.curate.explore import find_documents, ledger_files, sample_dropped, sample_kept
from bloomery.curate.judged import breaks, in_scope, nearest, thresholds_of
from bloomery.curate.parquet_rows import find_ids, named_first, read_places
from bloomery.pipeline.inspect import find_rule
from bloomery.web.corpus.funnel import Shelf
from bloomery.web.corpus.thresholds import open_filter

MAX_CHARACTERS = 4000
COLUMNS = ("id", "url", "source", "language", "text")

Kind = Literal["random", "near", "rule"]


def draw_samples(shelf: Shelf, artifact_id: str, *, kind: Kind, rule: str | None, seed: int, count: int) -> dict[str, Any]:
    """`count` documents that stayed and `count` that were dropped. Near a threshold they are the nearest to it, nearest first:
    those that its rule was the first to drop, and those that no rule dropped."""
    entry = shelf.artifact(artifact_id)
    if kind != "random" and rule is None:
        raise Refusal(400, f"rule: missing; samples of kind {kind} are of one rule", code="invalid_query")
    if kind == "near" and rule is not None:
        return _near(shelf, artifact_id, rule, count)
    gone = sample_dropped(entry.path, rule=rule if kind == "rule" else None, num_documents=count, seed=seed)
    kept = sample_kept(entry.path, num_documents=count, seed=seed, columns=COLUMNS)
    return {"kept": [show_document(row) for row in kept], "dropped": show_dropped(shelf, entry.path, gone)}


def show_dropped(shelf: Shelf, path: Path, rows: Sequence[Mapping[str, Any]], *, shards: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Ledger rows as documents: with their texts from the stage before if these are still there, else with the ledger's beginnings."""
    texts = find_documents(shelf.inputs(path), [row["id"] for row in rows], columns=COLUMNS, shards=shards) if rows else {}
    return [show_document({**row, **texts.get(row["id"], {})}) for row in rows]


def show_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page is told of a document: of its text the beginning."""
    text = row.get("text") if row.get("text") is not None else row.get("text_sample")
    shown = {
        "id": row["id"],
        **{name: row.get(name) for name in ("url", "source", "language")},
        "text": (text or "")[:MAX_CHARACTERS],
        "characters": len(text or ""),
        "is_whole": row.get("text") is not None and len(row["text"]) <= MAX_CHARACTERS,
    }
    told = ("rule", "value", "threshold", "signal", "kept_id", "detail")
    return shown | {name: row[name] for name in told if row.get(name) is not None}


def _near(shelf: Shelf, artifact_id: str, rule_name: str, count: int) -> dict[str, Any]:
    opened = open_filter(shelf, artifact_id)
    rule = find_rule(opened.config, rule_name)
    judged, limits = opened.judged, opened.config.thresholds_by_language
    values, thresholds = opened.values(rule.signal), thresholds_of(judged, rule, limits)[judged.codes]
    number, first = judged.rules.index(rule.name), opened.first
    # What the rule is not for says nothing of its threshold: those kept must be on the side that it keeps.
    passes = np.isfinite(values) & ~breaks(judged, rule, values, limits) & in_scope(judged, rule)
    sides = {"kept": passes & (first == len(judged.rules)), "dropped": first == number}
    shown = {}
    for side, among in sides.items():
        found = nearest(values, thresholds, among, count)
        places = judged.places(found)
        rows = read_places(places, columns=["id", "url", "language", "rule"])
        told = [{"value": float(values[n]), "threshold": float(thresholds[n]), "signal": rule.signal} for n in found]
        folders = [opened.entry.path] if side == "kept" else shelf.inputs(opened.entry.path)
        shards = [place.path.name for place in places]
        texts = find_documents(folders, [row["id"] for row in rows], columns=COLUMNS, shards=shards)
        if side == "dropped":
            texts |= _beginnings(opened.entry.path, [row["id"] for row in rows if row["id"] not in texts], shards)
        shown[side] = [show_document({**row, **texts.get(row["id"], {}), **more}) for row, more in zip(rows, told, strict=True)]
    return shown


def _beginnings(path: Path, ids: Sequence[str], shards: Sequence[str]) -> dict[str, dict[str, Any]]:
    # What the ledger holds of texts that are nowhere else: of pages that came from a file of the user's.
    places = find_ids(named_first(ledger_files(path), shards), ids)
    return dict(zip(places, read_places(list(places.values()), columns=["id", "url", "text_sample"]), strict=True))
