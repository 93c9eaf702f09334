"""What `redact` replaced: how often each kind of personal data, and documents with the replacements marked."""

from pathlib import Path
from typing import Any  # Any: JSON, rows of Parquet and the shape parameter of numpy arrays

import numpy as np
import pyarrow.parquet as pq

from bloomery.chat.refusal import Refusal
from bloomery.curate.explore import Array, document_files, draw_rows
from bloomery.curate.parquet_rows import Place, read_column, read_places
from bloomery.curate.redact import find_replacements
from bloomery.web.corpus.funnel import Shelf
from bloomery.web.corpus.samples import MAX_CHARACTERS

PREFIX = "signal_pii_"
LEAD_CHARACTERS = 300
"""What is shown before the first replacement, where that is far from the beginning of a text."""


def show_replacements(shelf: Shelf, artifact_id: str, *, seed: int, count: int) -> dict[str, Any]:
    """Replacements by kind, most first, and `count` documents that have some, drawn at random. With mode = "count" nothing was replaced:
    then it is what was found and is still there."""
    entry = shelf.artifact(artifact_id)
    record = shelf.record(entry.path)
    if record["stage"] != "redact":
        raise Refusal(400, f"{entry.name} was made by the stage {record['stage']}: replacements of personal data are those of redact")
    told = [(name.partition("/"), number) for name, number in record["metrics"].items()]
    counts = {kind: int(number) for (what, _, kind), number in told if what in ("replaced", "found")}
    kinds = [{"kind": kind, "replacements": number} for kind, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    paths = document_files(entry.path)
    numbers = [_count_each(path) for path in paths]
    places = [Place(path, row) for path, found in zip(paths, numbers, strict=True) for row in np.flatnonzero(found).tolist()]
    chosen = [places[i] for i in draw_rows(len(places), count, seed=seed, purpose="redacted")]
    mode = record["config"].get("mode", "placeholder")
    rows = read_places(chosen, columns=["id", "url", "language", "text"])
    return {"mode": mode, "documents": len(places), "kinds": kinds, "samples": [_show(row, mode) for row in rows]}


def _count_each(path: Path) -> Array:
    # How many values were found in each document.
    columns = [name for name in pq.read_schema(path).names if name.startswith(PREFIX)]
    numbers = [np.nan_to_num(read_column(path, name).to_numpy()) for name in columns]
    total: Array = np.sum(numbers, axis=0) if numbers else np.zeros(0)
    return total


def _show(row: dict[str, Any], mode: Any) -> dict[str, Any]:
    text = row["text"] or ""
    spans = find_replacements(text, mode, language=row["language"])
    first = spans[0].start if spans else 0
    start = 0 if first < MAX_CHARACTERS // 2 else first - LEAD_CHARACTERS
    end, at = start + MAX_CHARACTERS, start
    segments: list[dict[str, Any]] = []
    for span in spans:
        if span.start < at or span.end > end:
            continue
        segments += [{"text": text[at : span.start], "kind": None}, {"text": text[span.start : span.end], "kind": span.kind}]
        at = span.end
    segments = [piece for piece in [*segments, {"text": text[at:end], "kind": None}] if piece["text"]]
    return {"id": row["id"], "url": row["url"], "skipped": start, "characters": len(text), "segments": segments}
