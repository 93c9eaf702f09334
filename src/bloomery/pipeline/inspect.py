"""A look into artifacts: what they are, their first rows, what was dropped and why; and the story of one document."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple  # Any: rows of Parquet and JSON

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.artifact import read_artifact
from bloomery.core.config import check_config, suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import SIDE_FOLDERS, open_text, read_json, read_jsonl
from bloomery.curate.explore import explain_rules
from bloomery.curate.filter_config import FilterConfig
from bloomery.curate.judged import count_first, first_broken, judge_again, nearest, read_judged, read_values, thresholds_of
from bloomery.curate.parquet_rows import named_first, read_column, read_places, read_rows
from bloomery.curate.rules import Rule
from bloomery.pipeline.locate import finished_nodes

MAX_IDS = 1000
MAX_STORIES = 20
"""Documents of one beginning of an id, or one URL, whose stories are told."""
JSON_FILES = ("scores.json", "manifest.json", "training.json", "config.json", "scorer.json", "report.json")


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


def describe_artifact(path: Path, *, num_rows: int = 3) -> dict[str, Any]:
    """What stands in an artifact's folder: its record without the list of files, their number and size, rows, drops by rule."""
    record = read_artifact(path).record
    files: Mapping[str, Any] = record["files"]
    return {
        "path": str(path),
        **{key: record[key] for key in ("stage", "kind", "version", "fingerprint", "config", "inputs", "metrics")},
        "num_files": len(files),
        "bytes": sum(file["bytes"] for file in files.values()),
        "rows": list(islice(_first_rows(path, sorted(files)), num_rows)),
        "dropped": count_drops(path),
    }


def count_drops(path: Path) -> dict[str, int]:
    """How many ledger rows each rule has, the most frequent first; empty without a ledger."""
    counts: Counter[str] = Counter()
    for file in sorted(path.glob("ledger/*.parquet")):
        counts.update(_read(file, columns=["rule"]).column("rule").to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def tell_story(run: Path, document_id: str) -> list[dict[str, Any]]:
    """What became of one document in each finished stage of a run: kept, or dropped by which rule at which value.

    A filter's event lists every rule with the document's value and the threshold (`rules`); a dedup's names the cluster
    that the document belongs to. `document_id` may be the beginning of an id, or a URL as the document has it. Raises
    DataError if no stage knows it.
    """
    ids = [row["id"] for row in find_named(run, document_id)]
    story = follow_documents(run, ids) if ids else []
    if not story:
        raise DataError(f"{document_id}: no finished stage of {run} knows a document of this id or URL")
    return story


def find_named(run: Path, text: str, *, most: int = MAX_STORIES) -> list[dict[str, Any]]:
    """The {"id", "url"} of documents with this URL, or whose id begins so, where they first appear in a run; at most `most`.

    Only columns of ids and URLs are read: of stages that begin from files, and of later ones as long as nothing was found.
    """
    return _search(run, lambda ids, urls: pc.or_kleene(pc.starts_with(ids, text), pc.equal(urls, text)), most)


def find_alike(run: Path, text: str, *, most: int) -> list[dict[str, Any]]:
    """The {"id", "url"} of a few documents whose URLs begin as `text` does: as far as its last slash, else its host alone."""
    head, slash, _ = text.rstrip("/").rpartition("/")
    parts = text.split("/", 3)
    beginnings = [text.rstrip("/"), head + slash if head.count("/") > 2 else "", "/".join(parts[:3]) + "/" if "://" in text else ""]
    for beginning in dict.fromkeys(filter(None, beginnings)):
        found = _search(run, functools.partial(_begins_with, beginning), most)
        if found:
            return found
    return []


def follow_documents(run: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The story of the documents with these ids, as `tell_story` has it.

    Most stages make one shard of each: the shard in which a document was last is looked into first, and others only if it is not there.
    """
    story: list[dict[str, Any]] = []
    shards: set[str] = set()
    for node_id, path in finished_nodes(run).items():
        tables = _tables(path)
        kept = _find_rows(named_first(tables["documents"], shards), ids)
        missing = [id for id in ids if id not in {row["id"] for _, row in kept}]
        ledger = named_first(tables["ledger"], shards)
        dropped = _find_rows(ledger, missing) if missing else []
        dropped += _find_rows([file for file in ledger if file.name in shards], [id for id in ids if id not in missing])
        if not kept and not dropped:
            continue
        shards = {file.name for file, _ in [*kept, *dropped]}
        for file, row in kept:
            name = file.relative_to(path).as_posix()
            story.append({"node": node_id, "what": "kept", "id": row["id"], "url": row.get("url"), "file": name, "text": row["text"]})
        for _, row in _find_rows(named_first(tables["clusters"], shards), ids):
            if row["cluster_size"] > 1:
                story.append({"node": node_id, "what": "in a cluster of duplicates", **_present(row)})
        story += [{"node": node_id, "what": "dropped", **_present(row)} for _, row in dropped]
        hits = _find_rows(named_first(tables["hits"], shards), ids)
        story += [{"node": node_id, "what": "shares a passage with an evaluation set", **_present(row)} for _, row in hits]
        config = filter_config(read_artifact(path).record)
        if config is not None:
            story += [_judged(node_id, row, config) for _, row in _find_rows(named_first(tables["signals"], shards), ids)]
    return story


def filter_config(record: Mapping[str, Any], *, thresholds: Mapping[str, float] | None = None) -> FilterConfig | None:
    """The settings that a filter's artifact was made with, some thresholds replaced; None for one of another stage.

    Raises ConfigError for a threshold whose rule was not in use.
    """
    if record["stage"] != "filter":
        return None
    values = dict(record["config"])
    values["thresholds"] = {**values.get("thresholds", {}), **(thresholds or {})}
    config, mistakes = check_config(FilterConfig, values)
    if config is None:
        raise ConfigError("; ".join(mistakes))
    return config


def try_thresholds(path: Path, thresholds: Mapping[str, float]) -> WhatIf:
    """The funnel of a filter's artifact with other thresholds, from its stored signals.

    Raises ConfigError if it is not a filter's, or a threshold has no rule.
    """
    record = read_artifact(path).record
    config = filter_config(record, thresholds=thresholds)
    if config is None:
        raise ConfigError(f"{path}: what-if needs the artifact of a filter stage")
    judged = read_judged(path, config.chosen_rules)
    moved = [rule for rule in config.chosen_rules if rule.name in thresholds]
    values_of = functools.partial(read_values, judged, languages=config.languages)
    before = first_broken(judged.broken, len(judged.rules))
    after = judge_again(judged, moved, limits=config.thresholds_by_language, values_of=values_of)
    kept = len(judged.rules)
    changed = [np.flatnonzero(mask)[:MAX_IDS] for mask in ((before != kept) & (after == kept), (before == kept) & (after != kept))]
    gained, lost = ([row["id"] for row in read_places(judged.places(found), columns=["id"])] for found in changed)
    kept_before, kept_after = (int((first == kept).sum()) for first in (before, after))
    return WhatIf(judged.num_documents, kept_before, kept_after, count_first(judged, before), count_first(judged, after), gained, lost)


def list_near(path: Path, rule_name: str, *, num_documents: int) -> list[dict[str, Any]]:
    """Documents nearest to the threshold of one rule of a filter's artifact, from both sides of it, in order of their values.

    Raises ConfigError if it is not a filter's, or has no such rule.
    """
    config = filter_config(read_artifact(path).record)
    if config is None:
        raise ConfigError(f"{path}: thresholds are those of a filter stage")
    rule = find_rule(config, rule_name)
    judged = read_judged(path, config.chosen_rules)
    values = read_values(judged, rule.signal, languages=config.languages)
    thresholds = thresholds_of(judged, rule, config.thresholds_by_language)[judged.codes]
    half = (num_documents + 1) // 2
    found = np.concatenate([nearest(values, thresholds, side, half) for side in (values < thresholds, values >= thresholds)])
    found = found[np.lexsort((found, values[found]))]
    rows = read_places(judged.places(found), columns=["id", "url", "rule"])
    return [
        {
            "id": row["id"],
            "url": row["url"],
            "value": float(values[n]),
            "rule": row["rule"],
            "signal": rule.signal,
            "threshold": float(thresholds[n]),
        }
        for n, row in zip(found.tolist(), rows, strict=True)
    ]


def find_rule(config: FilterConfig, name: str) -> Rule:
    """The rule of a filter with this name. Raises ConfigError if it has none."""
    by_name = {rule.name: rule for rule in config.chosen_rules}
    if name not in by_name:
        raise ConfigError(f'no rule of this filter is named "{name}"; {suggest(name, by_name)}')
    return by_name[name]


def input_folders(path: Path, run: Path | None) -> list[Path]:
    """The artifacts that an artifact of a run was made from, where they still are: its dropped documents are in these."""
    if run is None:
        return []
    wanted = {print_ for prints in read_artifact(path).record["inputs"].values() for print_ in prints}
    return [folder for folder in finished_nodes(run).values() if read_artifact(folder).fingerprint in wanted]


def _tables(path: Path) -> dict[str, list[Path]]:
    # The files of an artifact that have a column `id`, by what they are.
    found: dict[str, list[Path]] = {name: [] for name in ("documents", "ledger", "hits", "clusters", "signals")}
    for file in sorted(path.rglob("*.parquet")):
        parts = file.relative_to(path).parts
        side = next((part for part in parts[:-1] if part in SIDE_FOLDERS), "documents")
        kind = "hits" if side == "ledger" and len(parts) > 2 else side
        names = set(pq.read_schema(file).names)
        if kind in found and "id" in names and (kind != "documents" or "text" in names):
            found[kind].append(file)
    return found


def _find_rows(paths: Sequence[Path], ids: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    # All rows with these ids of the first files that have them: a document may share several passages.
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        wanted = [id for id in ids if id not in {row["id"] for _, row in found}]
        if not wanted:
            break
        column = read_column(path, "id")
        rows = np.flatnonzero(pc.is_in(column, pa.array(wanted, column.type)).to_numpy()).tolist()
        found += [(path, row) for row in (read_rows(path, rows) if rows else [])]
    return found


def _search(run: Path, is_wanted: Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.ChunkedArray], most: int) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with_documents: set[str] = set()
    for path in finished_nodes(run).values():
        tables, artifact = _tables(path), read_artifact(path)
        is_first = not with_documents & {name for names in artifact.record["inputs"].values() for name in names}
        if tables["documents"]:
            with_documents.add(artifact.fingerprint)
        for file in [*tables["documents"], *tables["ledger"]] if is_first or not found else []:
            ids, urls = read_column(file, "id"), read_column(file, "url").cast(pa.string())
            rows = np.flatnonzero(pc.fill_null(is_wanted(ids, urls), False).to_numpy())[:most]
            found |= {(id := ids[row].as_py()): {"id": id, "url": urls[row].as_py()} for row in rows.tolist()}
        if len(found) >= most:
            break
    return list(found.values())[:most]


def _begins_with(text: str, ids: pa.ChunkedArray, urls: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.starts_with(urls, text)


def _judged(node_id: str, row: Mapping[str, Any], config: FilterConfig) -> dict[str, Any]:
    limits = config.thresholds_by_language
    rules = explain_rules(row, config.chosen_rules, languages=config.languages, language_thresholds=limits)
    return {"node": node_id, "what": "judged", "id": row["id"], "url": row["url"], "rules": rules}


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _first_rows(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        if name in JSON_FILES and "/" not in name:
            yield {"file": name, **read_json(path / name)}
    for name in names:
        if set(SIDE_FOLDERS) & set(Path(name).parts):
            continue
        if name.endswith(".parquet"):
            for row in _read(path / name).slice(0, 20).to_pylist():
                yield {"file": name, **row}
        elif ".jsonl" in name:
            for row in read_jsonl(path / name):
                yield {"file": name, **row}
        elif name.endswith(".txt"):
            with open_text(path / name) as file:
                yield {"file": name, "text": file.read(2000)}


def _read(path: Path, *, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
