"""The data card: what a training set is made of, by source, language, domain and licence, for people and for programs.

Counts are made shard by shard and summed, so that the card costs one more look at columns that are in memory anyway.
A document's licence is what its `meta` says under `license` or `licence`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import pyarrow as pa
import pyarrow.compute as pc

from bloomery.core.files import write_json, write_text

GROUPS = ("source", "language", "domain", "licence")
UNKNOWN = "(not said)"
SHOWN = 30
CARD = "data_card.json"

_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/@]*@)?(?P<host>[^/:?#]+)"

Counts = dict[str, Any]
"""{"documents": n, "bytes": n, "tokens": n, "by": {group: {name: [documents, bytes, tokens]}}}"""


def count_documents(table: pa.Table, *, tokens: Sequence[int] | None = None) -> Counts:
    """The counts of one table of documents; `tokens` of each, where a tokenizer has counted them."""
    sizes = pc.fill_null(pc.binary_length(table.column("text")), 0).to_pylist()
    lengths = tokens if tokens is not None else [0] * len(table)
    hosts = pc.struct_field(pc.extract_regex(table.column("url"), _HOST), "host").to_pylist()
    names = {
        "source": table.column("source").to_pylist(),
        "language": table.column("language").to_pylist(),
        "domain": [host and host.lower().removeprefix("www.") for host in hosts],
        "licence": [_licence(meta) for meta in table.column("meta").to_pylist()],
    }
    by: dict[str, dict[str, list[int]]] = {}
    for group in GROUPS:
        counted = by.setdefault(group, {})
        for name, size, length in zip(names[group], sizes, lengths, strict=True):
            row = counted.setdefault(name or UNKNOWN, [0, 0, 0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + size, row[2] + length
    return {"documents": len(table), "bytes": sum(sizes), "tokens": sum(lengths), "by": by}


def sum_counts(parts: Iterable[Mapping[str, Any]]) -> Counts:
    """The counts of all parts together."""
    total: Counter[str] = Counter(documents=0, bytes=0, tokens=0)
    by: dict[str, dict[str, list[int]]] = {group: {} for group in GROUPS}
    for part in parts:
        total.update({name: part[name] for name in ("documents", "bytes", "tokens")})
        for group in GROUPS:
            for name, row in part["by"][group].items():
                old = by[group].get(name, [0, 0, 0])
                by[group][name] = [a + b for a, b in zip(old, row, strict=True)]
    return {**total, "by": {group: dict(sorted(rows.items(), key=lambda item: (-item[1][1], item[0]))) for group, rows in by.items()}}


def write_data_card(folder: Path, counts: Mapping[str, Any], *, title: str) -> None:
    """Writes `data_card.json` (everything) and `data_card.md` (totals, and the largest of each group) into an artifact."""
    write_text(folder / "data_card.md", card_markdown(counts, title=title))
    write_json(folder / CARD, {"title": title, **counts})


def card_markdown(counts: Mapping[str, Any], *, title: str) -> str:
    """The card as Markdown. Tokens stand in it only where they were counted."""
    has_tokens = bool(counts["tokens"])
    whole = f"{counts['documents']:,} documents, {counts['bytes']:,} bytes of text"
    lines = [f"# {title}", "", whole + (f", {counts['tokens']:,} tokens." if has_tokens else ".")]
    for group in GROUPS:
        rows = counts["by"][group]
        lines += ["", f"## By {group}", "", f"| {group} | documents | bytes | share |" + (" tokens |" if has_tokens else "")]
        lines += ["|---|---|---|---|" + ("---|" if has_tokens else "")]
        for name, (documents, size, tokens) in list(rows.items())[:SHOWN]:
            share = 100 * size / max(counts["bytes"], 1)
            row = f"| {_cell(name)} | {documents:,} | {size:,} | {share:.1f} % |"
            lines.append(row + (f" {tokens:,} |" if has_tokens else ""))
        if len(rows) > SHOWN:
            lines.append(f"\nand {len(rows) - SHOWN:,} more in data_card.json.")
    return "\n".join(lines) + "\n"


def _licence(meta: str | None) -> str | None:
    if not meta or '"licen' not in meta:
        return None
    try:
        values = json.loads(meta)
    except (ValueError, RecursionError):  # foreign documents keep what they came with
        return None
    found = values.get("license") or values.get("licence") if isinstance(values, dict) else None
    return str(found) if found else None


def _cell(text: str) -> str:
    # Names come from the crawl: one line, and no column of their own.
    return " ".join(text.replace("|", "\\|").split())[:100]
