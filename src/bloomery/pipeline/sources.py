"""Files from outside the store as inputs of a stage: what they are, and the fingerprint of their bytes.

A recipe names them `file:PATH`, relative to the folder the command is run in. A glob stands for the files it matches;
a folder for itself; a folder with an artifact.json for that artifact, under its own fingerprint. Everything else is
identified by the names, sizes and sha256 of its files, so that moving a corpus does not change what is made of it.

Files elsewhere (`file:s3://bucket/crawl/*.warc.gz`, `file:https://host/a.jsonl.gz`) are not read to be identified: names,
sizes, and what their server calls their state (an ETag, a checksum, or the time of the last change) stand for them.
"""

import contextlib
import glob
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a JSON document

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.errors import BloomeryError, ConfigError, DataError
from bloomery.core.files import SIDE_FOLDERS, read_json, sha256_file, write_json
from bloomery.core.fingerprint import canonical_json
from bloomery.core.remote import as_path, list_remote, remote_url
from bloomery.core.stage import Slot, fits

PREFIX = "file:"


class Source(NamedTuple):
    """What one `file:` names: the paths that the stage is given, and the fingerprint of what is in them."""

    paths: tuple[Path, ...]
    fingerprint: str


class FileHashes:
    """sha256 of files, remembered by path, size and time of change, so that a second plan reads no data."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, Any] = {}
        self._changed = False
        if cache.is_file():
            with contextlib.suppress(BloomeryError):  # a damaged cache is no cache
                self._known = read_json(cache)

    def sha256(self, path: Path) -> str:
        """The hash of a file's bytes. Raises OSError if it cannot be read."""
        status = path.stat()
        key, stamp = str(path.absolute()), [status.st_size, status.st_mtime_ns]
        if self._known.get(key, [None])[:-1] != stamp:
            self._known[key] = [*stamp, sha256_file(path)]
            self._changed = True
        return str(self._known[key][-1])

    def save(self) -> None:
        """Keeps the hashes for the next plan; where that cannot be written, the next plan reads the files again."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_json(self._cache, self._known)


def find_source(pattern: str, slot: Slot, hashes: FileHashes) -> Source:
    """The files, folder or artifact that `pattern` (without "file:") names, for a slot of the given kind.

    Raises DataError if nothing is there or it cannot be read, ConfigError if it is an artifact of another kind.
    """
    if url := remote_url(pattern):
        return _find_remote_source(url)
    path = Path(pattern).expanduser()
    if (path / RECORD).is_file():
        artifact = read_artifact(path)
        if not fits(artifact.kind, slot):
            raise ConfigError(f"{path}: holds {artifact.kind}; expected {slot.takes}")
        return Source((path,), artifact.fingerprint)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts))
        paths: tuple[Path, ...] = (path,)
        base = path
    else:
        files = [path] if path.is_file() else sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        paths = tuple(files)
        base = Path(os.path.commonpath([p.parent for p in files])) if files else path
    if not files:
        raise DataError(f"{pattern}: found no file there (looked in {Path.cwd()}); expected {slot.takes}: a file, a folder or a glob")
    try:
        names = [[p.relative_to(base).as_posix(), p.stat().st_size, hashes.sha256(p)] for p in files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return Source(paths, hashlib.sha256(canonical_json(names).encode()).hexdigest())


def _find_remote_source(url: str) -> Source:
    # What a stage leaves beside its documents is passed over in a folder, not where somebody names it.
    folder = f"{url.rstrip('/')}/"
    files = [file for file in list_remote(url) if not (file.url.startswith(folder) and _is_beside(file.url.removeprefix(folder)))]
    folders = [file.url.rpartition("/")[0] for file in files]
    base = os.path.commonpath(folders) if len(files) > 1 else folders[0]
    # commonpath writes s3:/bucket for s3://bucket; names are what follows it.
    names = [[file.url.replace("://", ":/", 1)[len(base.replace("://", ":/", 1)) + 1 :], file.num_bytes, file.token] for file in files]
    paths = tuple(as_path(file.url) for file in files)
    return Source(paths, hashlib.sha256(canonical_json(names).encode()).hexdigest())


def _is_beside(name: str) -> bool:
    return bool(set(name.split("/")[:-1]) & set(SIDE_FOLDERS))
