"""Recipes made of others: what a stage needs of a recipe, with new stages on top, written as a file that `bloomery run` takes."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: the values of a TOML document

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError
from bloomery.core.files import write_text
from bloomery.pipeline.recipe import apply_override
from bloomery.pipeline.sources import PREFIX

Table = dict[str, Any]


def read_tables(path: Path, *, overrides: Sequence[str] = ()) -> Table:
    """A recipe as TOML has it, with what `--set` says put into it, unchecked. Raises ConfigError if it cannot be read, or for an option."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {error}") from error
    for option in overrides:
        apply_override(raw, option)
    return raw


def find_one(raw: Mapping[str, Any], stage: str, node_id: str | None) -> str:
    """The id of the entry of this stage: `node_id`, or the only one. Raises ConfigError if it is missing or not clear which."""
    found = [name for name, table in raw.get("stages", {}).items() if isinstance(table, dict) and table.get("stage") == stage]
    if node_id is not None and node_id not in found:
        raise ConfigError(f"--stage {node_id}: the recipe has no `{stage}` of that id; {suggest(node_id, found)}")
    if node_id is None and len(found) != 1:
        raise ConfigError(f"the recipe has {len(found)} stages `{stage}` ({', '.join(found) or 'none'}): say which with --stage")
    return node_id or found[0]


def keep_upstream(raw: Mapping[str, Any], node_id: str) -> dict[str, Table]:
    """The entries that this one is made of, in the recipe's order, without itself."""
    stages: Mapping[str, Table] = raw["stages"]
    needed, waiting = set(), [node_id]
    while waiting:
        for sources in stages[waiting.pop()].get("inputs", {}).values():
            for source in [sources] if isinstance(sources, str) else sources:
                if source in stages and source not in needed:
                    needed.add(source)
                    waiting.append(source)
    return {name: table for name, table in stages.items() if name in needed}


def evaluate_table(models: Sequence[str], *, tasks: Sequence[str], data: Sequence[str], limit: int = 0, num_shots: int = -1) -> Table:
    """The entry of a stage `evaluate` that asks `models`, each called by its id, the benchmarks `tasks`.

    `data` are folders of benchmarks' rows, with `file:` before them or without. What is no benchmark is found when the recipe is read.
    """
    inputs = {"models": list(models), **({"data": [f"{PREFIX}{folder.removeprefix(PREFIX)}" for folder in data]} if data else {})}
    config = {"names": list(models), "baseline": models[0], "tasks": list(tasks), "limit": limit, "num_shots": num_shots}
    return {"stage": "evaluate", "inputs": inputs, "config": config}


def write_recipe(
    path: Path,
    *,
    name: str,
    seed: int,
    comment: str,
    stages: Mapping[str, Table],
    seeds: Sequence[int] = (),
    cluster: object = None,  # unchecked, as `read_tables` gives it: reading the recipe tells of mistakes
) -> Path:
    """Writes a recipe; equal tables give equal bytes. `seeds` are those of entries that are `per_seed`."""
    lines = [*(f"# {line}" for line in comment.splitlines()), f"name = {json.dumps(name)}", f"seed = {seed}"]
    lines += [f"seeds = {list(seeds)}"] if seeds else []
    lines += [f"cluster = {toml_value(cluster)}"] if cluster else []
    for node_id, table in stages.items():
        lines += ["", f"[stages.{node_id}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    write_text(path, "\n".join(lines) + "\n")
    return path


def toml_value(value: object) -> str:
    """A value as TOML, tables inline.

    >>> toml_value({"model": {"depth": 2}, "tokens": 3_000_000, "names": ["a", "b"], "ok": True})
    '{ model = { depth = 2 }, tokens = 3_000_000, names = ["a", "b"], ok = true }'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
