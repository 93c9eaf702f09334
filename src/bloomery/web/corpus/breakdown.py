"""Of what an artifact's documents are made: languages, domains, sources."""

import functools
from pathlib import Path
from typing import Any  # Any: JSON

import polars as pl

from bloomery.curate.explore import Column, count_by
from bloomery.web.corpus.funnel import Shelf

MAX_TEXT_BYTES = 64 << 20
"""More text than this is not read to be measured: its bytes are estimated from characters that a filter counted, or not told."""
MAX_VALUES = 1000
"""Values that are told and kept in memory; of the rest only the sums."""


def break_down(shelf: Shelf, artifact_id: str, *, by: Column, limit: int) -> dict[str, Any]:
    """The `limit` values with most documents, and all others together. `share` is of the documents."""
    entry = shelf.artifact(artifact_id)
    make = functools.partial(_count, shelf, entry.path, by)
    rows, is_estimated = shelf.memory.get(shelf.key(entry.path, "breakdown", by), make, lambda kept: int(kept[0].estimated_size()))
    documents = int(rows["documents"].sum())
    head, rest = rows.head(limit), rows.tail(-limit) if limit < len(rows) else rows.clear()
    shown = [
        {"value": row["name"], "documents": row["documents"], "bytes": _whole(row["bytes"]), "share": row["documents"] / documents}
        for row in head.to_dicts()
    ]
    others = {"values": int(rest["values"].sum()), "documents": int(rest["documents"].sum()), "bytes": _sum(rest["bytes"])}
    return {"by": by, "rows": shown, "others": others, "bytes_estimated": is_estimated}


def _count(shelf: Shelf, path: Path, by: Column) -> tuple[pl.DataFrame, bool]:
    counted = count_by(path, by, max_text_bytes=MAX_TEXT_BYTES)
    rows = counted.rows.with_columns(values=pl.lit(1, pl.Int64))
    if counted.is_estimated:
        # Characters were counted: the artifact's bytes are shared out by them.
        characters, size = _sum(rows["bytes"]), shelf.record(path)["metrics"].get("bytes_out")
        rate = size / characters if characters and size is not None else None
        rows = rows.with_columns(bytes=pl.col("bytes") * rate if rate is not None else pl.lit(None, pl.Float64))
    rest = rows.tail(-MAX_VALUES) if len(rows) > MAX_VALUES else rows.clear()
    if len(rest):
        rare = {"name": [None], "documents": [int(rest["documents"].sum())], "bytes": [_sum(rest["bytes"])], "values": [len(rest)]}
        rows = pl.concat([rows.head(MAX_VALUES), pl.DataFrame(rare, schema=rows.schema)])
    return rows, counted.is_estimated


def _sum(column: pl.Series) -> int | None:
    return None if column.null_count() else round(float(column.sum()))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
