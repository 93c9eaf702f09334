"""Benchmarks' rows from local files in their public formats: JSONL (also .gz, .zst), JSON lists, Parquet, CSV, TSV.

A row that cannot be read as its benchmark's example stops the evaluation with file and line: scoring the rest would give
a figure of other rows than the published ones.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.errors import DataError
from bloomery.core.files import open_text, sha256_file
from bloomery.evaluate.benchmark import Benchmark, Located, RowError, Source

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".json", ".csv", ".tsv")


class MissingRows(DataError):
    """No file of a benchmark was found: when many are asked for, this one is left out and named."""


BUILT_IN = "built in"
"""In the place of a file's name for rows that come with bloomery."""


class Rows(NamedTuple):
    """The examples of a benchmark, those to show, and the files they come from with their sha256."""

    examples: list[Located]
    shots: list[Located]
    """Equal to `examples` where these are shown themselves."""
    files: dict[str, str]


def read_rows(benchmark: Benchmark, folders: Sequence[Path]) -> Rows:
    """Every example of a benchmark. Raises DataError naming the row that is none, or what was looked for and not found."""
    files = find_files(benchmark.source, folders)
    if not files and benchmark.source.built_in is not None:
        built_in = [Located(benchmark.parse(row), BUILT_IN, i) for i, row in enumerate(benchmark.source.built_in(), start=1)]
        return Rows(built_in, built_in, {})
    if not files:
        raise MissingRows(f"{benchmark.name}: no file for it. {describe_search(benchmark.source, folders)}")
    examples = _read(benchmark, benchmark.source, files)
    if not examples:
        raise DataError(f"{benchmark.name}: {', '.join(map(str, files))} has no row of it")
    shots = examples
    if benchmark.shots is not None:
        shot_files = find_files(benchmark.shots, folders)
        if not shot_files:
            raise MissingRows(f"{benchmark.name}: no file of examples to show. {describe_search(benchmark.shots, folders)}")
        shots = _read(benchmark, benchmark.shots, shot_files)
        files = [*files, *shot_files]
    return Rows(examples, shots, {path.name: sha256_file(path) for path in dict.fromkeys(files)})


def find_files(source: Source, folders: Sequence[Path]) -> list[Path]:
    """The files of a source: the first of its names that is found, in the first folder that has one."""
    for folder in folders:
        for name in source.files:
            for suffix in SUFFIXES:
                path = folder / f"{name}{suffix}"
                if path.is_file():
                    return [path]
    return []


def describe_search(source: Source, folders: Sequence[Path]) -> str:
    """What was looked for where, and what can be done."""
    where = ", ".join(map(str, folders)) or "no --data folder was given"
    fetch = f" With --download it is fetched from the hub ({source.hub[0].repo})." if source.hub else ""
    names = " or ".join(source.files[:2])
    return f"Looked for {names} ({', '.join(SUFFIXES)}) in: {where}.{fetch}"


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a file; of Parquet and JSON lists the number of the row from 1. Raises DataError."""
    name = path.name
    try:
        if name.endswith(".parquet"):
            yield from enumerate(pq.read_table(path).to_pylist(), start=1)
        elif name.endswith((".csv", ".tsv")):
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ",")
                for row in reader:
                    yield reader.line_num, dict(row)
        elif name.endswith(".json"):
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list):
                raise DataError(f"{path}: expected a JSON list of rows, found {type(rows).__name__}")
            yield from enumerate(rows, start=1)
        else:
            yield from _read_lines(path)
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not a JSON object: {error}") from error


def _read(benchmark: Benchmark, source: Source, files: Sequence[Path]) -> list[Located]:
    found = []
    for path in files:
        for line, row in read_table(path):
            try:
                if not isinstance(row, dict):
                    raise RowError(f"expected a JSON object, found {type(row).__name__}")
                if source.keep is None or source.keep(row):
                    found.append(Located(benchmark.parse(row), path.name, line))
            except KeyError as error:
                raise DataError(f"{path}:{line}: {benchmark.name}: no {error} in it; found {', '.join(map(str, row))}") from error
            except (RowError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{path}:{line}: {benchmark.name}: {error}") from error
    return found
