"""One stream of events for whatever the page of runs shows: states that changed, points that came.

Every second the store is looked at again; files are only stat'ed where nothing changed. The id of an event holds how far each curve was
read, so that a browser that lost the connection goes on where it was (Last-Event-ID).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # Any: JSON

from bloomery.chat.refusal import Refusal
from bloomery.web.context import WebContext
from bloomery.web.http import in_thread
from bloomery.web.runs.columns import MetricsReader
from bloomery.web.runs.curves import Axis
from bloomery.web.runs.view import Summaries, cursor_of, detail, find_sources, new_points, read_columns

LOOK_SECONDS = 1.0
VOLATILE = ("seconds_left", "left_is_complete")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page shows: all runs as a list, one run with its stages, curves of metrics over an axis."""

    is_list: bool = False
    run_id: str = ""
    sources: Sequence[str] = ()
    metrics: Sequence[str] = ()
    axis: Axis = "step"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where it is looked up."""

    context: WebContext
    reader: MetricsReader
    summaries: Summaries


async def watch(shown: Shown, sources: Sources, cursors: dict[str, str]) -> AsyncIterator[Mapping[str, Any]]:
    """Events `runs` (those that changed), `gone`, `run` and `points`, for ever."""
    known: dict[str, Any] = {}
    is_first = True
    while True:
        if not is_first:
            await asyncio.sleep(LOOK_SECONDS)
        for event in await in_thread(_look, shown, sources, known, cursors):
            yield {**event, "id": encode_cursors(cursors)}
        if is_first:
            yield {"event": "ready", "data": {}, "id": encode_cursors(cursors)}
        is_first = False


def _look(shown: Shown, sources: Sources, known: dict[str, Any], cursors: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    store = sources.context.store
    entries = {entry.id: entry for entry in sources.context.directory.runs()}
    if shown.is_list:
        rows = {row["id"]: row for row in sources.summaries.rows(entries.values())}
        changed = [row for run_id, row in rows.items() if _differs(known.get(run_id), row)]
        gone = [run_id for run_id in known if run_id not in rows]
        known.clear()
        known.update(rows)
        found += [{"event": "runs", "data": changed}] if changed else []
        found += [{"event": "gone", "data": gone}] if gone else []
    if shown.run_id:
        if shown.run_id not in entries:
            raise Refusal(404, "the run has been removed", code="not_found")
        row = detail(entries[shown.run_id], store)
        if known.get("run") != row:
            known["run"] = row
            found.append({"event": "run", "data": row})
    points = {}
    for key, (_, node) in find_sources([key for key in shown.sources if key.partition(".")[0] in entries], entries).items():
        columns = read_columns(node, store, sources.reader, shown.metrics)
        news = new_points(columns, shown.metrics, shown.axis, cursors.get(key) or cursor_of(columns))
        cursors[key] = cursor_of(columns)
        if news is not None:
            points[key] = news
    return [*found, *([{"event": "points", "data": points}] if points else [])]


def _differs(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    return before is None or any(before[key] != now[key] for key in now if key not in VOLATILE)


def encode_cursors(cursors: Mapping[str, str]) -> str:
    """As one line for the id of an event.

    >>> decode_cursors(encode_cursors({"ab.base": "0.12"}))
    {'ab.base': '0.12'}
    """
    return json.dumps(cursors, separators=(",", ":"))


def decode_cursors(text: str) -> dict[str, str]:
    """What `encode_cursors` wrote; whatever else it may be is as good as nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_plain = isinstance(found, dict) and all(isinstance(value, str) and len(value) < 40 for value in found.values())
    return dict(found) if is_plain else {}
