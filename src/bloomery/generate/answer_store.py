"""Finished requests on disk, by what was asked: a run that was killed asks only for what it had not yet got.

A JSONL file that only grows. A row is one write of one line, so a process that is killed leaves whole lines and at most one
torn one at the end, which is cut off when the file is opened again. (A machine that loses power may lose the last seconds.)
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any  # Any: JSON

from bloomery.core.errors import DataError


class AnswerStore:
    """A context manager; threads may share one. In memory are only the keys and where their rows stand."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = self._read_places()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Nothing can be got or put afterwards."""
        os.close(self._file)

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        row: dict[str, Any] = json.loads(os.pread(self._file, place[1], place[0]))["row"]
        return row

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Keeps a row; of two with one key the later is true."""
        line = json.dumps({"key": key, "row": dict(row)}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            written = os.write(self._file, line)
            if written != len(line):
                os.ftruncate(self._file, self._size)
                raise DataError(f"{self.path}: only {written} of {len(line)} bytes could be written: is the disk full?")
            self._places[key] = (self._size, len(line))
            self._size += len(line)

    def _read_places(self) -> int:
        at = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break  # torn by a kill
                try:
                    self._places[json.loads(line)["key"]] = (at, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{self.path}:{number}: not a row of an answer store ({error}). Remove the file to ask again."
                    ) from error
                at += len(line)
        os.ftruncate(self._file, at)
        return at


def request_key(request: Mapping[str, Any]) -> str:
    """What names a request: the sha256 of its canonical JSON."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
