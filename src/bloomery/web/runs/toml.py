"""A table of plain values as TOML, in the little of that language that says it all: quoted keys, one line a value."""

import json
import re
from collections.abc import Mapping
from typing import Any  # Any: plain values

SECTION_DEPTH = 2
"""Tables down to here get headers of their own, those below stand inline: `[stages.base]`, `config = { ... }`."""


def to_toml(table: Mapping[str, Any]) -> str:
    """The document that tomllib reads as `table`. What is None is left out: TOML has no such value.

    >>> print(to_toml({"name": "x", "stages": {"a": {"config": {"limit": None, "names": ["one", 2.5]}}}}), end="")
    name = "x"
    <BLANKLINE>
    [stages.a]
    config = { names = ["one", 2.5] }
    """
    lines: list[str] = []
    _write(table, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    deep = {key: value for key, value in table.items() if isinstance(value, Mapping) and len(path) < SECTION_DEPTH}
    plain = {key: value for key, value in table.items() if key not in deep and value is not None}
    if path and (plain or not deep):
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in deep.items():
        _write(value, (*path, key), lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return f"[{', '.join(_value(item) for item in value)}]"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
