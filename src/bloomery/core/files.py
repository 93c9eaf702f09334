"""Files that are whole or absent, and the hashes that name them.

`write_atomically` is how every file of ours reaches its final name: written beside it, flushed to the disk, renamed.
A reader can therefore never see half a file, whatever was killed when.
"""

import contextlib
import glob
import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any  # Any: the values of a JSON document

import zstandard

from bloomery.core.errors import DataError
from bloomery.core.remote import as_path, list_remote, local_copy, remote_url

SIDE_FOLDERS = ("ledger", "signals", "clusters", "bands", "frequent")
"""What stages leave beside the documents of an artifact, for people and later runs to look into."""


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary name to write to; on success the file there is flushed to disk and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON document atomically, indented and with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in `path`. Raises DataError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable JSON document: {error}") from error


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_temporary_files(folder: Path) -> None:
    """Deletes what a killed writer left beside finished files in `folder` and below."""
    for path in folder.rglob(".*.tmp-*"):
        path.unlink(missing_ok=True)


def expand(paths: Path | Sequence[Path], *, suffixes: Sequence[str]) -> list[Path]:
    """The files that `paths` name, here or elsewhere: files and globs as they are, folders searched for names ending in
    `suffixes`.

    Sorted by path, because directory order differs between file systems and results must not. What a stage
    leaves beside its documents (SIDE_FOLDERS, hidden files) is passed over. Raises DataError when a path names nothing.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        if url := remote_url(path):
            inside = [as_path(file.url) for file in list_remote(url, suffixes=suffixes)]
            matches = [p for p in inside if not any(part in SIDE_FOLDERS for part in p.parts[len(path.parts) : -1])]
        elif path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and p.name.endswith(tuple(suffixes))]
            matches = [p for p in inside if not any(part.startswith(".") or part in SIDE_FOLDERS for part in p.relative_to(path).parts)]
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not matches:
            raise DataError(f"{path}: found no file there; expected names ending in {', '.join(suffixes)}")
        found.extend(matches)
    return sorted(set(found))


def open_text(path: Path) -> IO[str]:
    """A UTF-8 text reader over a plain, .gz or .zst file; undecodable bytes become U+FFFD."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(path.open("rb"), closefd=True)
        return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file (.gz and .zst too), one a line. Raises DataError naming file and line of a bad one."""
    return (row for _, row in read_numbered_jsonl(path))


def read_numbered_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read_jsonl` with the number of each object's line, from 1; blank lines count."""
    try:
        with local_copy(path) as local, open_text(local) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not a JSON object: {error}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                yield number, row
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes one JSON object a line, atomically (.gz if the name says so); returns the number of rows."""
    count = 0
    with write_atomically(path) as temporary, contextlib.ExitStack() as stack:
        raw = stack.enter_context(temporary.open("wb"))
        # mtime=0: a gzip header holds the time of writing, and equal rows must give equal bytes.
        sink = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)) if path.suffix == ".gz" else raw
        for row in rows:
            sink.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace") + b"\n")
            count += 1
    return count
