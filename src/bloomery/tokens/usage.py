"""How a tokenizer fits its texts: bytes per token by source and language, and how its vocabulary is used.

One pass counts; a report in JSON and Markdown says it. A language whose tokens are nearly all single bytes was starved
when the tokenizer was trained: give it weight, or more text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a JSON document

import numpy as np

from bloomery.core.files import write_json, write_text
from bloomery.tokens.tokenizer import Tokenizer

UNKNOWN = "(not said)"
SHOWN = 30
REPORT = "tokenizer_report.json"


class Sample(NamedTuple):
    """A text, and the groups that it is counted in. `weight`: how many such texts it stands for; `fraction`: the part of a document."""

    text: str
    source: str | None
    language: str | None
    weight: float = 1.0
    fraction: float = 1.0


@dataclass
class Count:
    """Sums over some texts."""

    documents: float = 0.0
    bytes: float = 0.0
    tokens: float = 0.0
    one_byte_tokens: float = 0.0

    def record(self) -> dict[str, float]:
        """Rounded, with the two numbers that matter."""
        return {
            "documents": round(self.documents),
            "bytes": round(self.bytes),
            "tokens": round(self.tokens),
            "bytes_per_token": round(self.bytes / max(self.tokens, 1), 4),
            "one_byte_fraction": round(self.one_byte_tokens / max(self.tokens, 1), 4),
        }


@dataclass
class Usage:
    """What `count_usage` found; `times` float64 [vocab_size] is how often each id came."""

    times: np.ndarray
    total: Count = field(default_factory=Count)
    by: dict[str, dict[str, Count]] = field(default_factory=lambda: {"source": {}, "language": {}})


def count_usage(tokenizer: Tokenizer, samples: Iterable[Sample]) -> Usage:
    """Encodes every text once."""
    usage = Usage(np.zeros(tokenizer.vocab_size))
    sizes = tokenizer.token_bytes()
    for sample in samples:
        times = np.bincount(tokenizer.encode(sample.text), minlength=tokenizer.vocab_size)
        usage.times += times * sample.weight
        num_bytes, num_tokens, num_single = int((times * sizes).sum()), int(times.sum()), int(times[sizes == 1].sum())
        groups = ((usage.by["source"], sample.source), (usage.by["language"], sample.language))
        for count in (usage.total, *(group.setdefault(name or UNKNOWN, Count()) for group, name in groups)):
            count.documents += sample.weight * sample.fraction
            count.bytes += sample.weight * num_bytes
            count.tokens += sample.weight * num_tokens
            count.one_byte_tokens += sample.weight * num_single
    return usage


def usage_report(tokenizer: Tokenizer, usage: Usage, *, num_listed: int = 50) -> dict[str, Any]:
    """Everything as JSON values. Specials stand in no text, so the share of the vocabulary used leaves them out."""
    special = np.zeros(tokenizer.vocab_size, dtype=bool)
    special[list(tokenizer.special_ids.values())] = True
    sizes = tokenizer.token_bytes()
    longest = sorted(np.flatnonzero(~special).tolist(), key=lambda i: (-int(sizes[i]), i))[:num_listed]
    frequent = sorted(np.flatnonzero(usage.times).tolist(), key=lambda i: (-float(usage.times[i]), i))[:num_listed]
    by = {
        group: {name: count.record() for name, count in sorted(counts.items(), key=lambda item: (-item[1].bytes, item[0]))}
        for group, counts in usage.by.items()
    }
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": int(special.sum()),
        "vocabulary_used_fraction": round(float((usage.times[~special] > 0).mean()), 4),
        **usage.total.record(),
        "by": by,
        "longest_tokens": [_describe(tokenizer, i, usage) for i in longest],
        "most_frequent_tokens": [_describe(tokenizer, i, usage) for i in frequent],
    }


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes tokenizer_report.md, then tokenizer_report.json."""
    write_text(folder / "tokenizer_report.md", report_markdown(report))
    write_json(folder / REPORT, report)


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report for people: what matters, and the largest groups."""
    lines = [
        "# Tokenizer",
        "",
        f"{report['vocab_size']:,} entries, {report['special_tokens']} of them special. Measured on {report['documents']:,} documents:",
        f"{report['bytes_per_token']:.2f} bytes a token; {100 * report['one_byte_fraction']:.1f} % of the tokens are single bytes; "
        f"{100 * report['vocabulary_used_fraction']:.1f} % of the vocabulary is used.",
    ]
    for group, rows in report["by"].items():
        lines += ["", f"## By {group}", "", f"| {group} | documents | bytes | bytes per token | single bytes |", "|---|---|---|---|---|"]
        for name, row in list(rows.items())[:SHOWN]:
            share = 100 * row["one_byte_fraction"]
            lines.append(f"| {_cell(name)} | {row['documents']:,} | {row['bytes']:,} | {row['bytes_per_token']:.2f} | {share:.1f} % |")
        if len(rows) > SHOWN:
            lines.append(f"\nand {len(rows) - SHOWN:,} more in {REPORT}.")
    for title, key in (("Longest tokens", "longest_tokens"), ("Most frequent tokens", "most_frequent_tokens")):
        rows = report[key][:SHOWN]
        lines += ["", f"## {title}", "", "| id | token | bytes | times |", "|---|---|---|---|"]
        lines += [f"| {row['id']} | `{_cell(row['text'])}` | {row['bytes']} | {row['times']:,} |" for row in rows]
    return "\n".join(lines) + "\n"


def _describe(tokenizer: Tokenizer, i: int, usage: Usage) -> dict[str, Any]:
    content = tokenizer.decode_bytes([i])
    return {"id": i, "text": content.decode("utf-8", "backslashreplace"), "bytes": len(content), "times": round(float(usage.times[i]))}


def _cell(text: str) -> str:
    # Names and tokens come from the crawl: visible, in one line, and no column of their own.
    visible = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return visible[:60].replace("|", "\\|").replace("`", "'")
