"""Rows of the formats in which data sets are handed around: JSONL (also .gz, .zst), JSON lists, Parquet, CSV, TSV."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # Any: a row of JSON

import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.errors import DataError
from bloomery.core.files import read_numbered_jsonl
from bloomery.core.remote import local_copy

ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".json", ".csv", ".tsv")


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a file; of Parquet and JSON lists the number of the row, from 1. Raises DataError."""
    name = path.name
    if not name.endswith((".parquet", ".csv", ".tsv", ".json")):
        yield from read_numbered_jsonl(path)
        return
    try:
        with local_copy(path) as local:
            if name.endswith(".parquet"):
                yield from enumerate(_read_parquet(local), start=1)
            elif name.endswith((".csv", ".tsv")):
                yield from _read_delimited(local, "\t" if name.endswith(".tsv") else ",")
            else:
                yield from _read_list(local, path)
    except (OSError, EOFError, ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _read_delimited(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for row in reader:
            yield reader.line_num, dict(row)


def _read_list(local: Path, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = json.loads(local.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of rows, found {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row
