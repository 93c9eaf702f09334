"""A look into artifacts: what they are, their first rows, what was dropped and why; and the story of one document."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any  # Any: rows of Parquet and JSON

import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.artifact import read_artifact
from bloomery.core.errors import DataError
from bloomery.core.files import open_text, read_json, read_jsonl
from bloomery.pipeline.locate import finished_nodes

JSON_FILES = ("scores.json", "manifest.json", "training.json", "config.json")


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

    `document_id` may be the beginning of an id, or a URL as the document has it. Raises DataError if no stage knows it.
    """
    story = []
    for node_id, path in finished_nodes(run).items():
        files = read_artifact(path).record["files"]
        for name in sorted(name for name in files if name.endswith(".parquet") and name != "samples.parquet"):
            is_ledger = "ledger" in Path(name).parts
            for row in _rows_with_id(path / name, document_id):
                if is_ledger:
                    story.append({"node": node_id, "what": "dropped", **{key: value for key, value in row.items() if value is not None}})
                else:
                    signals = {key: value for key, value in row.items() if key.startswith("signal_") and value is not None}
                    known = {key: row.get(key) for key in ("id", "url", "language")}
                    story.append({"node": node_id, "what": "kept", "file": name, **known, "text": (row.get("text") or "")[:200], **signals})
    if not story:
        raise DataError(f"{document_id}: no finished stage of {run} knows a document of this id or URL")
    return story


def _rows_with_id(path: Path, document_id: str) -> list[dict[str, Any]]:
    schema = pq.read_schema(path)
    if not {"id", "url"} <= set(schema.names):
        return []
    names = _read(path, columns=["id", "url"]).to_pylist()
    wanted = [i for i, found in enumerate(names) if (found["id"] or "").startswith(document_id) or found["url"] == document_id]
    rows: list[dict[str, Any]] = _read(path).take(wanted).to_pylist() if wanted else []
    return rows


def _first_rows(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        if name in JSON_FILES and "/" not in name:
            yield {"file": name, **read_json(path / name)}
    for name in names:
        if "ledger" in Path(name).parts:
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
