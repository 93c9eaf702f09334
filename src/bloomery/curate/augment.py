"""Augmentation hooks: functions from a document table to another of the same rows, whose texts are changed copies.

A hook is `Callable[[pa.Table, int], pa.Table]`: it is given the documents and a seed, and returns as many rows in the
same order. It must be a function of the two alone. Ready ones are in HOOKS; another one is named "module:function",
imported where it runs; its identity in a recipe is that name and the config's `hook_version`, which whoever changes
the function raises. `add_copies` puts the copies behind their originals and marks them in `meta`.
"""

import hashlib
import importlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError

Hook = Callable[[pa.Table, int], pa.Table]

TYPO_FRACTION = 0.02
"""Share of the letters that `typos` swaps with their right neighbour."""


def lowercase(table: pa.Table, seed: int) -> pa.Table:
    """Everything in lower case, as people write in chats and searches."""
    return _with_texts(table, [text.lower() for text in _texts(table)])


def unwrap_lines(table: pa.Table, seed: int) -> pa.Table:
    """Single line breaks inside a paragraph become spaces: text that was wrapped for a terminal or a printed page."""
    return _with_texts(table, [re.sub(r"(?<=\S)[ \t]*\n[ \t]*(?=\S)", " ", text) for text in _texts(table)])


def typos(table: pa.Table, seed: int) -> pa.Table:
    """One letter in fifty swapped with its neighbour; which ones hangs on the document's id and the seed alone."""
    ids = table.column("id").to_pylist()
    return _with_texts(table, [_swap_letters(text, f"{seed}\x00{name}") for name, text in zip(ids, _texts(table), strict=True)])


HOOKS: Mapping[str, Hook] = MappingProxyType({"lowercase": lowercase, "unwrap_lines": unwrap_lines, "typos": typos})


def find_hook(name: str) -> Hook:
    """The ready hook of this name, or the function that "module:function" names. Raises ConfigError where there is none."""
    if ":" not in name:
        if name not in HOOKS:
            raise ConfigError(f'no augmentation hook is named "{name}"; {suggest(name, HOOKS)}; your own: "module:function"')
        return HOOKS[name]
    module, function = name.split(":", 1)
    try:
        hook: Hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f'augmentation hook "{name}": {error}; expected an importable module and a function in it') from error
    return hook


def add_copies(table: pa.Table, hooks: Sequence[str], *, fraction: float, seed: int) -> pa.Table:
    """The documents, then for each hook the changed copies of a share of them, chosen by a hash of their ids.

    A copy whose text is the original's is left out. Copies have ids of their own and {"augmented": hook, "original": id}
    in `meta`. Raises ConfigError if a hook returns another number of rows.
    """
    parts = [table]
    for name in hooks:
        chosen = [_draw(f"{seed}\x00{name}\x00{row}") < fraction for row in table.column("id").to_pylist()]
        originals = table.filter(pa.array(chosen, pa.bool_()))
        copies = find_hook(name)(originals, seed)
        if len(copies) != len(originals) or copies.schema != originals.schema:
            raise ConfigError(
                f'augmentation hook "{name}" made {len(copies)} rows of {len(originals)}, or other columns; expected the same'
            )
        copies = copies.filter(pa.array([a != b for a, b in zip(_texts(copies), _texts(originals), strict=True)], pa.bool_()))
        parts.append(_mark(copies, name))
    return pa.concat_tables(parts)


def _mark(table: pa.Table, name: str) -> pa.Table:
    ids = table.column("id").to_pylist()
    metas = [json.loads(meta or "{}") for meta in table.column("meta").to_pylist()]
    columns = {
        "id": [hashlib.blake2b(f"{name}\x00{row}".encode("utf-8", "replace"), digest_size=16).hexdigest() for row in ids],
        "meta": [
            json.dumps({**meta, "augmented": name, "original": row}, sort_keys=True, ensure_ascii=False)
            for meta, row in zip(metas, ids, strict=True)
        ],
    }
    for column, values in columns.items():
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(at), pa.array(values, pa.string()))
    return table


def _texts(table: pa.Table) -> list[str]:
    return [text or "" for text in table.column("text").to_pylist()]


def _with_texts(table: pa.Table, texts: list[str]) -> pa.Table:
    at = table.schema.get_field_index("text")
    return table.set_column(at, table.schema.field(at), pa.array(texts, pa.large_string()))


def _swap_letters(text: str, key: str) -> str:
    draw = random.Random(key)  # a generator of its own for each document
    letters, at = list(text), 0
    while at < len(letters) - 1:
        if letters[at].isalpha() and letters[at + 1].isalpha() and draw.random() < TYPO_FRACTION:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
            at += 1
        at += 1
    return "".join(letters)


def _draw(key: str) -> float:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "little") / 2**64
