"""Benchmarks' rows from local files in their public formats: JSONL (also .gz, .zst), JSON lists, Parquet, CSV, TSV.

A row that cannot be read as its benchmark's example stops the evaluation with file and line: scoring the rest would give
a figure of other rows than the published ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bloomery.core.errors import DataError
from bloomery.core.files import sha256_file
from bloomery.core.rows import ROW_SUFFIXES, read_table
from bloomery.evaluate.benchmark import Benchmark, Located, RowError, Source


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
            for suffix in ROW_SUFFIXES:
                path = folder / f"{name}{suffix}"
                if path.is_file():
                    return [path]
    return []


def describe_search(source: Source, folders: Sequence[Path]) -> str:
    """What was looked for where, and what can be done."""
    where = ", ".join(map(str, folders)) or "no --data folder was given"
    fetch = f" With --download it is fetched from the hub ({source.hub[0].repo})." if source.hub else ""
    names = " or ".join(source.files[:2])
    return f"Looked for {names} ({', '.join(ROW_SUFFIXES)}) in: {where}.{fetch}"


def _read(benchmark: Benchmark, source: Source, files: Sequence[Path]) -> list[Located]:
    found = []
    for path in files:
        for line, row in read_table(path):
            try:
                if source.keep is None or source.keep(row):
                    found.append(Located(benchmark.parse(row), path.name, line))
            except KeyError as error:
                raise DataError(f"{path}:{line}: {benchmark.name}: no {error} in it; found {', '.join(map(str, row))}") from error
            except (RowError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{path}:{line}: {benchmark.name}: {error}") from error
    return found
