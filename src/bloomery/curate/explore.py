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
from bloomery.curate import ledger
from bloomery.curate.judged import SIGNALS
from bloomery.curate.parquet_rows import Place, count_rows, find_ids, named_first, read_column, read_places, unreadable
from bloomery.curate.rules import Rule, find_broken

CLUSTERS = "clusters"
MAX_PAIRS = 200_000
"""Pairs of equal words of two texts that a comparison looks at: without a limit, two texts of one word again and again take minutes."""

HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/@]*@)?([^/:?#]+)"

Column = Literal["language", "source", "domain"]

Array = np.ndarray[Any, Any]


class Histogram(NamedTuple):
    """Documents by the value of a signal: bin i counts values from edges[i] up to edges[i + 1] (the last edge included)."""

    signal: str
    edges: list[float]
    kept: list[int]
    dropped: list[int]
    quantiles: dict[str, float]
    is_log: bool = False
    """Whether the edges are a constant factor apart instead of a constant distance."""


class Piece(NamedTuple):
    """A run of words of two texts: in both, only in the first, or only in the second."""

    where: Literal["both", "first", "second"]
    text: str


def read_signals(folder: Path, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The signals of every document that a filter saw, kept and dropped alike, with the rule that dropped it (or null);
    only some `columns` (those that are there) if they are named.

    Raises DataError if the artifact has none: only `filter` writes them.
    """
    paths = sorted((folder / SIGNALS).glob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {SIGNALS}/ there; look into the artifact of a filter stage")
    try:
        frames = []
        for path in paths:
            names = None if columns is None else [name for name in pq.read_schema(path).names if name in columns]
            frames.append(pl.read_parquet(path, columns=names))
        return pl.concat(frames, how="diagonal_relaxed")
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise DataError(f"{folder / SIGNALS}: not readable: {error}") from error


def make_histogram(folder: Path, signal: str, *, num_bins: int = 24) -> Histogram:
    """The distribution of one signal over all documents that a filter saw; see `bin_values`.

    Raises ConfigError for a signal that was not measured, DataError if no filter made the artifact.
    """
    column = f"signal_{signal}"
    frame = read_signals(folder, columns=[column, "rule"])
    if column not in frame.columns:
        known = [name.removeprefix("signal_") for name in read_signals(folder).columns if name.startswith("signal_")]
        raise ConfigError(f'no signal is named "{signal}"; {suggest(signal, known)}')
    return bin_values(signal, frame[column].cast(pl.Float64).to_numpy(), frame["rule"].is_not_null().to_numpy(), num_bins=num_bins)


def bin_values(signal: str, values: Array, dropped: Array, *, num_bins: int, is_log: bool = False) -> Histogram:
    """Documents by value, those dropped apart; long tails (beyond the 99.5th percentile) end up in the last bin, and on a
    logarithmic scale whatever is not above zero in the first. Values that are not numbers are left out."""
    measured = np.isfinite(values)
    values, dropped = values[measured].astype(np.float64), dropped[measured]
    if not len(values):
        return Histogram(signal, [0.0, 1.0], [0], [0], {})
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    is_log = is_log and high > 0
    if is_log:
        low = float(values[values > 0].min())
        edges = np.geomspace(low, high if high > low else low * 2, num_bins + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
    clipped = np.clip(values, edges[0], edges[-1])
    counts = [np.histogram(clipped[mask], edges)[0].tolist() for mask in (~dropped, dropped)]
    quantiles = {f"{q:.0%}": float(np.quantile(values, q)) for q in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)}
    return Histogram(signal, edges.tolist(), counts[0], counts[1], quantiles, is_log)


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


def sample_dropped(folder: Path, *, rule: str | None, num_documents: int, seed: int = 0) -> list[dict[str, Any]]:
    """Ledger rows drawn at random, the same for the same seed: of one rule, or of all. Raises ConfigError for a rule that
    dropped nothing."""
    paths, rows, rules = ledger_files(folder), [], set[str]()
    for path in paths:
        column = read_column(path, "rule")
        rules |= set(pc.unique(column).to_pylist())
        rows.append(np.arange(len(column)) if rule is None else np.flatnonzero(pc.equal(column, rule).to_numpy()))
    if rule is not None and rule not in rules:
        raise ConfigError(f'no document was dropped by "{rule}"; {suggest(rule, rules)}')
    return read_places(_draw_places(paths, rows, num_documents, seed=seed, purpose="dropped"))


def ledger_files(folder: Path) -> list[Path]:
    """The shards of an artifact's ledger; none where the stage dropped nothing."""
    return sorted((folder / ledger.FOLDER).glob("*.parquet"))


def sample_kept(folder: Path, *, num_documents: int, seed: int = 0, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Documents of an artifact drawn at random, the same for the same seed; only some `columns` if they are named."""
    paths = document_files(folder)
    rows = [np.arange(count_rows(path)) for path in paths]
    return read_places(_draw_places(paths, rows, num_documents, seed=seed, purpose="kept"), columns=columns)


def _draw_places(paths: Sequence[Path], rows: Sequence[Array], count: int, *, seed: int, purpose: str) -> list[Place]:
    # Any row of any file is as likely as any other.
    starts = np.cumsum([0, *map(len, rows)])
    drawn = draw_rows(int(starts[-1]), count, seed=seed, purpose=purpose)
    files = (np.searchsorted(starts, drawn, side="right") - 1).tolist()
    return [Place(paths[f], int(rows[f][n - starts[f]])) for f, n in zip(files, drawn, strict=True)]


def draw_rows(num_rows: int, count: int, *, seed: int, purpose: str) -> list[int]:
    """`count` different numbers below `num_rows`, or all of them, in random order; the same for the same seed and purpose."""
    key = hashlib.blake2b(f"{purpose}\x00{seed}".encode("utf-8", "replace"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(key, "big"))
    drawn: list[int] = rng.choice(num_rows, min(count, num_rows), replace=False).tolist() if num_rows else []
    return drawn


def read_texts(folder: Path) -> Iterator[pa.ChunkedArray]:
    """The texts of an artifact's documents, a batch at a time."""
    for path in document_files(folder):
        for table in read_document_batches(path):
            yield table.column("text")


def largest_clusters(folder: Path, *, num_clusters: int) -> list[dict[str, Any]]:
    """The largest groups of duplicates that `dedup` found: {"kept", "size", "members": [{"id", "similarity"}, ...]}.

    Raises DataError if the artifact has none: only `dedup` writes them.
    """
    sizes = cluster_sizes(folder).head(num_clusters)
    members = cluster_members(folder, sizes["cluster"].to_list())
    return [{"kept": kept, "size": size, "members": members[kept]} for kept, size in sizes.iter_rows()]


def cluster_sizes(folder: Path) -> pl.DataFrame:
    """Every group of duplicates by the document that stays (`cluster`) with its `size`, the largest first.

    Raises DataError if the artifact has none: only `dedup` writes them.
    """
    groups = _duplicates(folder).group_by("cluster").agg(size=pl.col("cluster_size").max())
    return _collect(folder, groups.sort(["size", "cluster"], descending=[True, False]))


def cluster_members(folder: Path, clusters: Sequence[str], *, most: int = 1 << 62) -> dict[str, list[dict[str, Any]]]:
    """Of each of these groups the documents that went, {"id", "similarity"}, those most like the one that stays first."""
    wanted = _duplicates(folder).filter(pl.col("cluster").is_in(list(clusters)) & (pl.col("id") != pl.col("cluster")))
    ordered = wanted.select("cluster", "id", "similarity").sort(["similarity", "id"], descending=[True, False])
    rows = _collect(folder, ordered.group_by("cluster", maintain_order=True).head(most))
    found: dict[str, list[dict[str, Any]]] = {cluster: [] for cluster in clusters}
    for cluster, id, similarity in rows.iter_rows():
        found[cluster].append({"id": id, "similarity": similarity})
    return found


def _duplicates(folder: Path) -> pl.LazyFrame:
    paths = sorted((folder / CLUSTERS).glob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {CLUSTERS}/ there; look into the artifact of a dedup stage")
    return pl.scan_parquet(paths).filter(pl.col("cluster_size") > 1)


def _collect(folder: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{folder / CLUSTERS}: not readable: {error}") from error


def find_documents(
    folders: Sequence[Path], ids: Sequence[str], *, columns: Sequence[str] | None = None, shards: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The rows of documents by id, from the first of `folders` (artifacts, or folders of Parquet files) that has each.
    Files with the names `shards` are looked into first."""
    places: dict[str, Place] = {}
    for folder in folders:
        places |= find_ids(named_first(document_files(folder), shards), [id for id in ids if id not in places])
    rows = read_places(list(places.values()), columns=columns)
    return dict(zip(places, rows, strict=True))


def compare_texts(first: str, second: str, *, max_words: int = 4000) -> list[Piece]:
    """How two texts differ, word by word; only their first `max_words` words are compared. Texts of which the same few words
    make up too much to be matched (MAX_PAIRS) differ as a whole between their common beginning and end.

    >>> [tuple(piece) for piece in compare_texts("one two three", "one 2 three")]
    [('both', 'one '), ('first', 'two '), ('second', '2 '), ('both', 'three')]
    """
    a, b = (re.findall(r"\S+\s*", text)[:max_words] for text in (first, second))
    # Compared without white space: a line broken elsewhere is no difference.
    plain_a, plain_b = [word.strip() for word in a], [word.strip() for word in b]
    shortest, start, end = min(len(a), len(b)), 0, 0
    while start < shortest and plain_a[start] == plain_b[start]:
        start += 1
    while end < shortest - start and plain_a[-1 - end] == plain_b[-1 - end]:
        end += 1
    middle_a, middle_b = plain_a[start : len(a) - end], plain_b[start : len(b) - end]
    counts = Counter(middle_b)
    if sum(counts[word] for word in middle_a) <= MAX_PAIRS:
        matcher = difflib.SequenceMatcher(None, middle_a, middle_b, autojunk=False)
        codes = [(i + start, j + start, k + start, m + start, kind == "equal") for kind, i, j, k, m in matcher.get_opcodes()]
    else:
        codes = [(start, len(a) - end, start, len(b) - end, False)]
    pieces: list[Piece] = []
    for i, j, k, m, is_equal in [(0, start, 0, start, True), *codes, (len(a) - end, len(a), len(b) - end, len(b), True)]:
        if is_equal:
            pieces += [Piece("both", "".join(a[i:j]))] if j > i else []
            continue
        pieces += [Piece("first", "".join(a[i:j]))] if j > i else []
        pieces += [Piece("second", "".join(b[k:m]))] if m > k else []
    return pieces


class Breakdown(NamedTuple):
    """Documents by the values of a column: "name", "documents", "bytes", those with most documents first.

    `bytes` are of the texts; where these were not read, estimated from characters that a filter measured (`is_estimated`), or null.
    """

    rows: pl.DataFrame
    is_estimated: bool


def count_by(folder: Path, column: Column, *, max_text_bytes: int | None = None) -> Breakdown:
    """Documents and bytes of text of an artifact by language, source or domain.

    With `max_text_bytes`, texts are read only if there are no more bytes of them than that. Raises DataError for an unreadable file.
    """
    paths = document_files(folder)
    is_exact = max_text_bytes is None or sum(map(_text_size, paths)) <= max_text_bytes
    parts = [part for path in paths for part in _count_file(path, column, is_exact=is_exact)]
    if not parts:
        return Breakdown(pl.DataFrame(schema={"name": pl.String, "documents": pl.Int64, "bytes": pl.Float64}), False)
    rows = pl.concat(parts).group_by("name").agg(pl.col("documents").sum(), _sum_or_null("bytes"))
    return Breakdown(rows.sort(["documents", "name"], descending=[True, False], nulls_last=True), not is_exact)


def _text_size(path: Path) -> int:
    # Of the text column as it is in memory, from the footer.
    metadata = pq.read_metadata(path)
    at = metadata.schema.to_arrow_schema().names.index("text")
    return sum(metadata.row_group(group).column(at).total_uncompressed_size for group in range(metadata.num_row_groups))


def _count_file(path: Path, column: Column, *, is_exact: bool) -> Iterator[pl.DataFrame]:
    name, length = "url" if column == "domain" else column, "text" if is_exact else "signal_length"
    value = pl.col("name").str.extract(HOST).str.to_lowercase() if column == "domain" else pl.col("name")
    try:
        with pq.ParquetFile(path) as file:
            names = [each for each in (name, length) if each in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=16_384, columns=names):
                sizes = batch.column(length) if length in names else pa.nulls(len(batch))
                sizes = pc.fill_null(pc.binary_length(sizes), 0) if is_exact else sizes
                values = batch.column(name).cast(pa.string()) if name in names else pa.nulls(len(batch), pa.string())
                frame = pl.DataFrame({"name": pl.Series(values=values, dtype=pl.String), "bytes": pl.Series(values=sizes).cast(pl.Float64)})
                yield frame.group_by(value.alias("name")).agg(pl.len().cast(pl.Int64).alias("documents"), _sum_or_null("bytes"))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def _sum_or_null(column: str) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(pl.col(column).sum()).alias(column)


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


def document_files(folder: Path) -> list[Path]:
    """The files of documents in an artifact's folder, without what stages leave beside them."""
    inside = [path for path in folder.rglob("*.parquet") if not set(path.relative_to(folder).parts) & set(SIDE_FOLDERS)]
    return sorted(path for path in inside if "text" in pq.read_schema(path).names)
