"""Bytes per token by language and source: what a tokenizer's own report says, or measured on documents of the store."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any  # Any: JSON

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.files import read_json
from bloomery.tokens.usage import REPORT, Sample, count_usage
from bloomery.web.directory import ArtifactEntry, Directory
from bloomery.web.tokenizer.shelf import LoadedTokenizer

SAMPLE_BYTES = 1_000_000
"""Text that is measured: a second or so."""
BATCH_BYTES = 1 << 20
MAX_ROWS = 200
"""Languages or sources that are told, the largest first."""


def text_sources(directory: Directory) -> list[dict[str, Any]]:
    """The documents that tokenizers can be measured on, those with a held-out part first."""
    found = [(entry, (entry.path / "validation").is_dir()) for entry in directory.artifacts("documents")]
    ordered = sorted(found, key=lambda pair: not pair[1])
    return [{"id": entry.id, "name": entry.name, "held_out": is_held_out} for entry, is_held_out in ordered]


def read_report(loaded: LoadedTokenizer) -> dict[str, Any] | None:
    """What its training measured, or None where there is no report beside it."""
    path = loaded.entry.path / REPORT
    if not path.is_file():
        return None
    report: Mapping[str, Any] = read_json(path)
    return _shape({key: report[key] for key in ("documents", "bytes", "tokens", "bytes_per_token", "one_byte_fraction")}, report["by"])


def measure(loaded: LoadedTokenizer, documents: ArtifactEntry) -> dict[str, Any]:
    """The same of the first SAMPLE_BYTES of held-out text (of all text where nothing is held out)."""
    usage = count_usage(loaded.tokenizer, _samples(documents.path))
    by = {group: {name: count.record() for name, count in counts.items()} for group, counts in usage.by.items()}
    return _shape(usage.total.record(), by)


def _samples(folder: Path) -> Iterator[Sample]:
    held_out = folder / "validation"
    left = SAMPLE_BYTES
    files = list_document_files([held_out if held_out.is_dir() else folder])
    for table in itertools.chain.from_iterable(read_document_batches(path, max_bytes=BATCH_BYTES) for path in files):
        columns = (table.column(name).to_pylist() for name in ("text", "source", "language"))
        for text, source, language in zip(*columns, strict=True):
            if text:
                yield Sample(text[:left], source or None, language or None)
                left -= len(text[:left].encode("utf-8", "replace"))
                if left <= 0:
                    return


def _shape(total: Mapping[str, Any], by: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = {
        group: [{"name": name, **row} for name, row in sorted(counts.items(), key=lambda item: (-item[1]["bytes"], item[0]))[:MAX_ROWS]]
        for group, counts in by.items()
    }
    return {"total": dict(total), "by": rows}
