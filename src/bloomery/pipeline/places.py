"""Where a setting of a recipe stands: the file's line, or the `--set` that overrode it. Only messages depend on it.

tomllib gives values without positions, so the lines of table headers and keys are found by a scan that knows just
enough TOML for that; where it cannot tell (a key inside an inline table that spans lines), the nearest enclosing
line is named.
"""

import re
from collections.abc import Sequence
from pathlib import Path

HEADER = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


class Places:
    """Line numbers of dotted paths in one TOML text."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        self._known: dict[tuple[str, ...], int] = {}
        self._overrides: dict[tuple[str, ...], str] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(self._lines, start=1):
            if header := HEADER.match(line):
                table = _split(header[1])
                self._known.setdefault(table, number)
            elif key := KEY.match(line):
                keys = _split(key[1])
                for depth in range(1, len(keys) + 1):
                    self._known.setdefault((*table, *keys[:depth]), number)

    def note_override(self, path: Sequence[str], option: str) -> None:
        """Remembers that `path` was set on the command line, by `option`."""
        self._overrides[tuple(path)] = option

    def describe(self, path: Sequence[str]) -> tuple[int, str]:
        """A number to sort by, and "recipe.toml:12" or "--set x.y=z", for a dotted path or its nearest known parent."""
        for depth in range(len(path), 0, -1):
            if (option := self._overrides.get(tuple(path[:depth]))) is not None:
                return 0, option
        for depth in range(len(path), 0, -1):
            if (line := self._known.get(tuple(path[:depth]))) is not None:
                line = self._line_of_inner_key(line, path[depth:])
                return line, f"{self._path}:{line}"
        return 1, f"{self._path}:1"

    def _line_of_inner_key(self, line: int, keys: Sequence[str]) -> int:
        for key in keys:
            for number in range(line, len(self._lines) + 1):
                text = self._lines[number - 1]
                if number > line and HEADER.match(text):
                    break
                if re.search(rf"""(?<![\w-])["']?{re.escape(key)}["']?\s*=""", text):
                    line = number
                    break
        return line


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", dotted))
