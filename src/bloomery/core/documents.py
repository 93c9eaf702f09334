"""The document table: one row a document, Arrow in memory, Parquet on disk. Everything in curation maps tables to tables.

Columns: `id` (stable hash of source and offset), `text`, `url`, `source`, `language`, `language_score`, `date`,
`meta` (JSON), and any number of `signal_*` columns (float64). Shards are `NNNNN.parquet` in a folder, ledger beside it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: a row of JSON

import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.errors import DataError
from bloomery.core.files import expand, open_text, read_jsonl, write_atomically
from bloomery.core.remote import local_copy

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float32()),
        ("date", pa.string()),
        ("meta", pa.string()),
    ]
)

DOCUMENT_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt")
"""What is looked for in a folder."""
WHOLE_SUFFIXES = (".txt", ".py")
"""A file of these is one document. Programs are taken where a file or glob names them, not out of a folder, where they may be the
data's own scripts."""

BATCH_BYTES = 32 << 20
"""Text that a data stage holds at once; with what is made of it on the way, a worker stays well under 2 GB."""

MAX_BATCH_ROWS = 16_384

TEXT_COLUMNS = ("text", "content", "raw_content", "document")
"""Where other tools keep a document's text; the first that a foreign file has is read as `text`."""


def document_id(source: str, offset: int | str) -> str:
    """Stable 32-hex-digit id of the document that starts at `offset` of `source` (a file's name, not its folder)."""
    return hashlib.blake2b(f"{source}\x00{offset}".encode("utf-8", "replace"), digest_size=16).hexdigest()


def shard_name(index: int) -> str:
    """Name of output shard `index`; sorts as it counts."""
    return f"{index:05d}.parquet"


def document_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A document table of rows that have at least `id` and `text`; missing columns are empty, extra ones go to `meta`.

    >>> document_table([{"id": "a", "text": "hello", "stars": 3}]).column("meta")[0].as_py()
    '{"stars": 3}'
    """
    plain = [_as_document(row) for row in rows]
    names = list(SCHEMA.names) + sorted({name for row in plain for name in row if name.startswith("signal_")})
    fields = [SCHEMA.field(n) if n in SCHEMA.names else pa.field(n, pa.float64()) for n in names]
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in plain], schema=pa.schema(fields))


def list_document_files(paths: Path | Sequence[Path]) -> list[Path]:
    """Every document file (Parquet, JSONL, text, or a program where it is named itself) that `paths` names, sorted."""
    return expand(paths, suffixes=DOCUMENT_SUFFIXES)


def list_held_out_files(paths: Sequence[Path]) -> list[Path]:
    """The files of documents that nothing is trained on: of a mix its validation side, of anything else every document file."""
    chosen = [path / "validation" if (path / "train").is_dir() and (path / "validation").is_dir() else path for path in paths]
    return list_document_files(chosen)


def read_documents(path: Path) -> pa.Table:
    """One file of documents as a document table. A document that comes with an `id` keeps it.

    Parquet and JSONL need a text column (`text`, `content`, `raw_content` or `document`); a .txt or .py file is one document.
    Raises DataError naming the file, and the line where there is one.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix in WHOLE_SUFFIXES:
        with local_copy(path) as local, open_text(local) as file:
            text = file.read()
        return document_table([{"id": document_id(path.name, 0), "text": text, "source": path.name}])
    return document_table(list(_read_jsonl_documents(path)))


def read_document_batches(path: Path, *, max_bytes: int = BATCH_BYTES) -> Iterator[pa.Table]:
    """The documents of one file in tables of about `max_bytes` of text (or one document): what fits into memory, whatever
    the size of the file. At least one table, which may be empty; where they are cut depends on the file alone.

    Raises DataError as `read_documents` does.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet_batches(path, max_bytes)
    elif path.suffix in WHOLE_SUFFIXES:
        yield read_documents(path)
    else:
        rows: list[dict[str, Any]] = []
        size, found = 0, False
        for row in _read_jsonl_documents(path):
            rows.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, str))
            if size >= max_bytes:
                yield document_table(rows)
                rows, size, found = [], 0, True
        if rows or not found:
            yield document_table(rows)


def write_documents(path: Path, table: pa.Table) -> None:
    """Writes one shard, atomically; equal tables give equal bytes."""
    with write_atomically(path) as temporary:
        pq.write_table(table.combine_chunks(), temporary, compression="zstd", compression_level=3, row_group_size=8192)


def _read_parquet(path: Path) -> pa.Table:
    try:
        with local_copy(path) as local:
            table = pq.read_table(local)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    return _to_documents(table, path, first_row=0)


def _read_parquet_batches(path: Path, max_bytes: int) -> Iterator[pa.Table]:
    try:
        with local_copy(path) as local, pq.ParquetFile(local) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            rows = min(max(1, file.metadata.num_rows * max_bytes // max(size, 1)), MAX_BATCH_ROWS)
            first_row = 0
            for batch in file.iter_batches(batch_size=rows):
                yield _to_documents(pa.Table.from_batches([batch]), path, first_row=first_row)
                first_row += len(batch)
            if first_row == 0:
                yield _to_documents(file.schema_arrow.empty_table(), path, first_row=0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def _to_documents(table: pa.Table, path: Path, *, first_row: int) -> pa.Table:
    if {"id", "text", "meta"} <= set(table.column_names):
        for field in SCHEMA:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        signals = [pa.field(n, pa.float64()) for n in table.column_names if n.startswith("signal_")]
        wanted = pa.schema(list(SCHEMA) + signals)
        return table.select(wanted.names).cast(wanted)
    rows = table.to_pylist()
    if rows and not any(name in rows[0] for name in TEXT_COLUMNS):
        raise DataError(f"{path}: no text column among {', '.join(table.column_names)}; expected one of {', '.join(TEXT_COLUMNS)}")
    return document_table([{"id": document_id(path.name, i), "source": path.name, **row} for i, row in enumerate(rows, start=first_row)])


def _read_jsonl_documents(path: Path) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(read_jsonl(path)):
        if not any(isinstance(row.get(name), str) for name in TEXT_COLUMNS):
            found = ", ".join(row) or "no columns"
            raise DataError(f"{path}:{i + 1}: no text column among {found}; expected one of {', '.join(TEXT_COLUMNS)}")
        yield {"id": document_id(path.name, i), "source": path.name, **row}


def _as_document(row: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {n: row[n] for n in row if n in SCHEMA.names or n.startswith("signal_")}
    if "text" not in document:
        document["text"] = next((row[n] for n in TEXT_COLUMNS if isinstance(row.get(n), str)), "")
    extra = {n: row[n] for n in row if n not in document and n not in TEXT_COLUMNS}
    meta = document.get("meta")
    if isinstance(meta, Mapping):
        document["meta"] = json.dumps({**extra, **meta}, sort_keys=True, ensure_ascii=False, default=str)
    elif not meta:
        document["meta"] = json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str)
    for name in ("id", "url", "source", "language", "date"):
        if document.get(name) is not None:
            document[name] = str(document[name])
    # Lone surrogates come out of JSON escapes; Arrow's UTF-8 has no place for them. Python's replacement when it encodes is "?".
    document["text"] = str(document["text"] or "").encode("utf-8", "replace").decode("utf-8")
    return document
