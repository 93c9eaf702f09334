"""Knowing that a run is done without planning it: a plan needs every stage's module, and these import torch for seconds.

When a run has ended, a key of everything its plan depended on is kept in the run's folder: the recipe's text and
options, bloomery's own source files, the Python environment, and the files that `file:` inputs name (by size and time
of change). While the key is the same and every artifact is whole, planning again could only find that all is done.
"""

import contextlib
import glob
import hashlib
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any  # Any: the values of a TOML document

from bloomery.core.artifact import find_damage, read_artifact
from bloomery.core.errors import BloomeryError
from bloomery.core.files import read_json, write_json
from bloomery.core.fingerprint import canonical_json
from bloomery.pipeline.locate import finished_nodes, read_spec
from bloomery.pipeline.sources import PREFIX

MEMORY = ".done.json"


def recall_key(recipe: Path, *, overrides: Sequence[str], seed: int | None) -> str:
    """sha256 of all that a plan of this recipe depends on. Raises OSError or ValueError if the recipe cannot be read."""
    text = recipe.read_text(encoding="utf-8")
    patterns = sorted({*_find_patterns(tomllib.loads(text)), *_find_patterns([option.partition("=")[2] for option in overrides])})
    known = {
        "recipe": text,
        "overrides": list(overrides),
        "seed": seed,
        "folder": str(Path.cwd()) if patterns else "",
        "files": [[pattern, [_stamp(path) for path in _list_files(pattern)]] for pattern in patterns],
        "source": [_stamp(path) for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py"))],
        "python": sys.version,
        "distributions": sorted(_list_distributions()),
    }
    return hashlib.sha256(canonical_json(known).encode()).hexdigest()


def remember(run: Path, key: str) -> None:
    """Keeps that this run is done under this key."""
    artifacts = {node_id: path.name for node_id, path in finished_nodes(run).items()}
    with contextlib.suppress(OSError):  # without it the next run plans, which is slower and nothing else
        write_json(run / MEMORY, {"key": key, "artifacts": artifacts})


def recall(run: Path, key: str) -> list[str]:
    """The ids of the run's nodes if it is certain that all of them are done; else an empty list."""
    try:
        memory = read_json(run / MEMORY)
        ids = [node["id"] for node in read_spec(run)["nodes"]]
        if memory["key"] != key or read_spec(run)["status"] != "done" or set(memory["artifacts"]) != set(ids):
            return []
        whole = all((run / node_id).readlink().name == memory["artifacts"][node_id] and _is_whole(run / node_id) for node_id in ids)
    except (BloomeryError, OSError, KeyError, TypeError):
        return []
    return ids if whole else []


def _is_whole(path: Path) -> bool:
    return find_damage(read_artifact(path)) is None


def _find_patterns(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        # An override's value may be a list in TOML's spelling, so the mark may stand anywhere in it.
        yield from (part.strip("\"' []") for part in value.split(",") if PREFIX in part)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _find_patterns(item)


def _list_files(pattern: str) -> list[Path]:
    path = Path(pattern.partition(PREFIX)[2]).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return sorted(map(Path, glob.glob(str(path), recursive=True)))


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _list_distributions() -> set[str]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return {path.name for folder in folders for path in Path(folder).glob("*.dist-info")}
