"""Arrays that take long to make and are the same each time, kept in the user's cache folder and mapped into memory.

Processes that map the same file share its pages, so that a table is in memory once, however many workers read it.
"""

import contextlib
import hashlib
import inspect
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray[Any, Any]]


def cache_folder() -> Path:
    """Where bloomery keeps what it can make again: `$XDG_CACHE_HOME/bloomery`, or `~/.cache/bloomery`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bloomery"


def cached_arrays(key: str, names: Sequence[str], make: Callable[[], Arrays], *, folder: Path | None = None) -> Arrays:
    """The arrays of these names that `make` gives, read-only from the folder `key` in the cache; made and kept if not there.

    `key` must say all that the arrays depend on. Where nothing can be written they are made for this process alone.
    """
    found = find_arrays(key, names, folder=folder)
    if found is None:
        found = make()
        keep_arrays(key, found, folder=folder)
    return found


def find_arrays(key: str, names: Sequence[str], *, folder: Path | None = None) -> Arrays | None:
    """The arrays of these names from the folder `key` in the cache, mapped read-only; None if they are not there, or not whole."""
    try:
        place = (folder or cache_folder()) / key
        return {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError, EOFError, RuntimeError):  # RuntimeError: no home
        return None


def keep_arrays(key: str, arrays: Arrays, *, folder: Path | None = None) -> None:
    """Puts arrays into the folder `key` in the cache, if it can be written."""
    with contextlib.suppress(RuntimeError):  # no home
        _keep((folder or cache_folder()) / key, arrays)


def cached_table(make: Callable[[], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What `make` gives, a function of its module and of Python's tables of Unicode alone, as `cached_arrays` keeps it."""
    source = hashlib.sha256(Path(inspect.getfile(make)).read_bytes()).hexdigest()[:16]
    key = f"{make.__name__.strip('_')}-{unicodedata.unidata_version}-{source}"
    return cached_arrays(key, ("table",), lambda: {"table": make()})["table"]


def _keep(place: Path, arrays: Arrays) -> None:
    temporary = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)  # fails if another process was first, whose arrays are the same
    except OSError:
        pass  # a cache that cannot be written is none
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
