"""A look into what curation did: samples by reason, documents near a threshold, histograms, duplicate clusters, what-if.

Everything is read from what the stages leave beside their documents (`ledger/`, `signals/`, `clusters/`), so that a
question takes seconds and nothing is measured again. The command line prints what these functions return, and the web
pages draw it. All of them work on the folder of one finished artifact.
"""

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: rows of Parquet

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.config import suggest
from bloomery.core.documents import read_document_batches
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import SIDE_FOLDERS
from bloomery.curate.ledger import read_ledger
from bloomery.curate.rules import Rule, find_broken

SIGNALS, CLUSTERS = "signals", "clusters"


class Histogram(NamedTuple):
    """Documents by the value of a signal: bin i counts values from edges[i] up to edges[i + 1] (the last edge included)."""

    signal: str
    edges: list[float]
    kept: list[int]
    dropped: list[int]
    quantiles: dict[str, float]


class WhatIf(NamedTuple):
    """The funnel of a filter as it was and as it would be with other thresholds: drops by the first rule broken."""

    documents: int
    kept_before: int
    kept_after: int
    dropped_before: dict[str, int]
    dropped_after: dict[str, int]
    gained: list[str]
    """Ids of documents that would stay now, the first 1,000."""
    lost: list[str]


class Piece(NamedTuple):
    """A run of words of two texts: in both, only in the first, or only in the second."""

    where: Literal["both", "first", "second"]
    text: str


def read_signals(folder: Path) -> pl.DataFrame:
    """The signals of every document that a filter saw, kept and dropped alike, with the rule that dropped it (or null).

    Raises DataError if the artifact has none: only `filter` writes them.
    """
    paths = sorted((folder / SIGNALS).glob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {SIGNALS}/ there; look into the artifact of a filter stage")
    try:
        return pl.concat([pl.read_parquet(path) for path in paths], how="diagonal_relaxed")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{folder / SIGNALS}: not readable: {error}") from error


def list_signals(frame: pl.DataFrame) -> list[str]:
    """Names of the signals in `read_signals`, without their prefix."""
    return [name.removeprefix("signal_") for name in frame.columns if name.startswith("signal_")]


def make_histogram(frame: pl.DataFrame, signal: str, *, num_bins: int = 24) -> Histogram:
    """The distribution of one signal over all documents of `read_signals`; long tails (beyond the 99.5th percentile) end
    up in the last bin.

    Raises ConfigError for a signal that was not measured.
    """
    column = f"signal_{signal}"
    if column not in frame.columns:
        raise ConfigError(f'no signal is named "{signal}"; {suggest(signal, list_signals(frame))}')
    measured = frame.filter(pl.col(column).is_not_null() & pl.col(column).is_finite())
    values, dropped = measured[column].to_numpy(), measured["rule"].is_not_null().to_numpy()
    if not len(values):
        return Histogram(signal, [0.0, 1.0], [0], [0], {})
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
    clipped = np.clip(values, edges[0], edges[-1])
    counts = [np.histogram(clipped[mask], edges)[0].tolist() for mask in (~dropped, dropped)]
    quantiles = {f"{q:.0%}": float(np.quantile(values, q)) for q in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)}
    return Histogram(signal, edges.tolist(), counts[0], counts[1], quantiles)


def what_if(
    frame: pl.DataFrame,
    rules: Sequence[Rule],
    *,
    languages: Sequence[str],
    language_thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> WhatIf:
    """What `rules` would drop of the documents of `read_signals`, without measuring or reading a text again."""
    verdicts = find_broken(frame.to_arrow(), rules, languages=languages, language_thresholds=language_thresholds)
    after = [names[0] if names else None for names in verdicts]
    before, ids = frame["rule"].to_list(), frame["id"].to_list()
    gained = [id for id, old, new in zip(ids, before, after, strict=True) if old is not None and new is None]
    lost = [id for id, old, new in zip(ids, before, after, strict=True) if old is None and new is not None]
    return WhatIf(
        documents=len(ids),
        kept_before=before.count(None),
        kept_after=after.count(None),
        dropped_before=_count(before),
        dropped_after=_count(after),
        gained=gained[:1000],
        lost=lost[:1000],
    )


def explain_rules(
    row: Mapping[str, Any],
    rules: Sequence[Rule],
    *,
    languages: Sequence[str],
    language_thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Every rule on one row of `read_signals`: {"rule", "value", "drops", "threshold", "broken"}, in the order they are tried."""
    table = pl.DataFrame([dict(row)], infer_schema_length=None).to_arrow()
    broken = set(find_broken(table, rules, languages=languages, language_thresholds=language_thresholds)[0])
    limits = (language_thresholds or {}).get(row.get("language") or "", {})
    special = {"language_listed": float(not languages or row.get("language") in languages), "language_score": row.get("language_score")}
    return [
        {
            "rule": rule.name,
            "value": special.get(rule.signal, row.get(f"signal_{rule.signal}")),
            "drops": rule.drops,
            "threshold": limits.get(rule.name, rule.threshold),
            "broken": rule.name in broken,
        }
        for rule in rules
    ]


def find_near_threshold(frame: pl.DataFrame, signal: str, threshold: float, *, num_documents: int) -> pl.DataFrame:
    """The documents nearest to a threshold, half of them below and half at or above it, in order of their values."""
    column = f"signal_{signal}" if f"signal_{signal}" in frame.columns else signal
    if column not in frame.columns:
        raise ConfigError(f'no signal is named "{signal}"; {suggest(signal, list_signals(frame))}')
    near = frame.filter(pl.col(column).is_not_null()).with_columns(value=pl.col(column).cast(pl.Float64)).sort("value", "id")
    below, above = near.filter(pl.col("value") < threshold), near.filter(pl.col("value") >= threshold)
    half = (num_documents + 1) // 2
    return pl.concat([below.tail(half), above.head(half)]).select("id", "url", "value", "rule")


def sample_dropped(folder: Path, *, rule: str | None, num_documents: int, seed: int = 0) -> list[dict[str, Any]]:
    """Ledger rows drawn at random, the same for the same seed: of one rule, or of all. Raises ConfigError for a rule that
    dropped nothing."""
    table = read_ledger(folder)
    if rule is not None:
        rules = pc.unique(table.column("rule")).to_pylist()
        if rule not in rules:
            raise ConfigError(f'no document was dropped by "{rule}"; {suggest(rule, rules)}')
        table = table.filter(pc.equal(table.column("rule"), rule))
    rows: list[dict[str, Any]] = table.take(_draw(table.column("id").to_pylist(), num_documents, seed)).to_pylist()
    return rows


def sample_kept(folder: Path, *, num_documents: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of an artifact drawn at random, the same for the same seed."""
    ids: list[str] = []
    places: list[tuple[Path, int]] = []
    for path in _document_files(folder):
        found = _read(path, columns=["id"]).column("id").to_pylist()
        ids += found
        places += [(path, row) for row in range(len(found))]
    rows = []
    for at in _draw(ids, num_documents, seed).to_pylist():
        path, row = places[at]
        rows += _read(path).slice(row, 1).to_pylist()
    return rows


def read_texts(folder: Path) -> Iterator[pa.ChunkedArray]:
    """The texts of an artifact's documents, a batch at a time."""
    for path in _document_files(folder):
        for table in read_document_batches(path):
            yield table.column("text")


def largest_clusters(folder: Path, *, num_clusters: int) -> list[dict[str, Any]]:
    """The largest groups of duplicates that `dedup` found: {"kept", "size", "members": [{"id", "similarity"}, ...]}.

    Raises DataError if the artifact has none: only `dedup` writes them.
    """
    paths = sorted((folder / CLUSTERS).glob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {CLUSTERS}/ there; look into the artifact of a dedup stage")
    frame = pl.concat([pl.read_parquet(path) for path in paths]).filter(pl.col("cluster_size") > 1)
    sizes = frame.group_by("cluster").agg(pl.col("cluster_size").max()).sort(["cluster_size", "cluster"], descending=[True, False])
    clusters = []
    for kept, size in sizes.head(num_clusters).iter_rows():
        members = frame.filter((pl.col("cluster") == kept) & (pl.col("id") != kept)).sort(["similarity", "id"], descending=[True, False])
        clusters.append({"kept": kept, "size": size, "members": members.select("id", "similarity").to_dicts()})
    return clusters


def find_documents(folders: Sequence[Path], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of documents by id, from the first of `folders` (artifacts, or folders of Parquet files) that has each."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for path in _document_files(folder):
            wanted = [id for id in ids if id not in found]
            if not wanted:
                return found
            table = pq.read_table(path, filters=[("id", "in", wanted)])
            found |= {row["id"]: row for row in table.to_pylist()}
    return found


def compare_texts(first: str, second: str, *, max_words: int = 4000) -> list[Piece]:
    """How two texts differ, word by word; only their first `max_words` words are compared.

    >>> [tuple(piece) for piece in compare_texts("one two three", "one 2 three")]
    [('both', 'one '), ('first', 'two '), ('second', '2 '), ('both', 'three')]
    """
    a, b = (re.findall(r"\S+\s*", text)[:max_words] for text in (first, second))
    pieces: list[Piece] = []
    # Compared without white space: a line broken elsewhere is no difference.
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(Piece("both", "".join(a[i:j])))
            continue
        if j > i:
            pieces.append(Piece("first", "".join(a[i:j])))
        if m > k:
            pieces.append(Piece("second", "".join(b[k:m])))
    return pieces


def count_by(folder: Path, column: Literal["language", "source", "domain"], *, top: int = 20) -> list[dict[str, Any]]:
    """Documents and bytes of text of an artifact by language, source or domain, the largest first."""
    parts = []
    for path in _document_files(folder):
        table = _read(path, columns=["text", "url", "language", "source"])
        frame = pl.DataFrame({"bytes": pl.Series(values=pc.binary_length(table.column("text"))).cast(pl.Int64)})
        name = "url" if column == "domain" else column
        values = pl.Series(name, values=table.column(name).cast(pa.string()))
        parts.append(frame.with_columns(values.str.extract(r"^[a-z+]+://(?:[^/@]*@)?([^/:?#]+)") if column == "domain" else values))
    if not parts:
        return []
    grouped = pl.concat([part.rename({part.columns[1]: "name"}) for part in parts]).group_by("name")
    counted = grouped.agg(documents=pl.len(), bytes=pl.col("bytes").sum()).sort(
        ["bytes", "name"], descending=[True, False], nulls_last=True
    )
    return counted.head(top).to_dicts()


def histogram_lines(histogram: Histogram, *, width: int = 60, threshold: float | None = None) -> list[str]:
    """The histogram as lines of text: `#` kept, `.` dropped; the bin with the threshold is marked."""
    most = max((k + d for k, d in zip(histogram.kept, histogram.dropped, strict=True)), default=0) or 1
    lines = []
    for i, (kept, dropped) in enumerate(zip(histogram.kept, histogram.dropped, strict=True)):
        low, high = histogram.edges[i], histogram.edges[i + 1]
        solid = round(width * kept / most)
        dots = round(width * (kept + dropped) / most) - solid
        mark = " <- threshold" if threshold is not None and low <= threshold < high else ""
        lines.append(f"{low:>12,.4g} {kept + dropped:>9,} {'#' * solid}{'.' * dots}{mark}")
    return lines


def _count(names: Sequence[str | None]) -> dict[str, int]:
    counts = Counter(name for name in names if name is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _draw(ids: Sequence[str], count: int, seed: int) -> pa.Array:
    keys = [hashlib.blake2b(f"sample\x00{seed}\x00{id}".encode("utf-8", "replace"), digest_size=8).digest() for id in ids]
    return pa.array(sorted(range(len(ids)), key=keys.__getitem__)[:count], pa.int64())


def _document_files(folder: Path) -> list[Path]:
    inside = [path for path in folder.rglob("*.parquet") if not set(path.relative_to(folder).parts) & set(SIDE_FOLDERS)]
    return sorted(path for path in inside if "text" in pq.read_schema(path).names)


def _read(path: Path, *, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
