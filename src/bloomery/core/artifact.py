"""Finished outputs and where they live: a folder with `artifact.json` in it, found by fingerprint, never by date.

    STORE/artifacts/<stage>-<fingerprint16>/   finished; only ever appears whole, by one rename
    STORE/work/<stage>-<fingerprint16>/        being made; survives a kill, so that the next run continues in it
    STORE/work/<stage>-<fingerprint16>.lock    held (flock) by the process that makes it; freed when that process dies
    STORE/logs/<stage>-<fingerprint16>/        metrics.jsonl, progress.json and timing.json: when and how fast, not part of the artifact

Whatever is hidden (starts with a dot) at the top of a work folder is scratch and is dropped at commit.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.core.errors import DataError, StoreError
from bloomery.core.files import read_json, remove_temporary_files, sha256_file, write_json
from bloomery.core.processes import this_process

RECORD = "artifact.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished output. `record` is its artifact.json: stage, version, kind, config, inputs, metrics, files."""

    path: Path
    fingerprint: str
    kind: str
    record: Mapping[str, Any]


def read_artifact(path: Path) -> Artifact:
    """The artifact in folder `path`. Raises DataError if there is none."""
    if not (path / RECORD).is_file():
        raise DataError(f"{path}: not a finished artifact (no {RECORD} in it)")
    record = read_json(path / RECORD)
    return Artifact(path=path, fingerprint=record["fingerprint"], kind=record["kind"], record=record)


@dataclass(frozen=True)
class Store:
    """The artifacts under one folder."""

    root: Path

    def artifact_path(self, stage: str, fingerprint: str) -> Path:
        """Where the artifact with this fingerprint is, or would be."""
        return self.root / "artifacts" / _name(stage, fingerprint)

    def log_path(self, stage: str, fingerprint: str) -> Path:
        """The folder of metrics.jsonl and timing.json for this artifact."""
        return self.root / "logs" / _name(stage, fingerprint)

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The finished artifact, or None."""
        path = self.artifact_path(stage, fingerprint)
        return read_artifact(path) if (path / RECORD).is_file() else None

    def list_artifacts(self, stage: str) -> list[Artifact]:
        """Every finished artifact of a stage, newest first."""
        found = [read_artifact(p.parent) for p in (self.root / "artifacts").glob(f"{stage}-*/{RECORD}")]
        return sorted(found, key=lambda a: (a.path / RECORD).stat().st_mtime_ns, reverse=True)

    @contextlib.contextmanager
    def begin(self, stage: str, fingerprint: str, *, on_wait: Callable[[str], None]) -> Iterator[Path]:
        """The locked work folder for one artifact, with whatever an earlier, killed run left in it.

        If another process holds the lock, calls `on_wait` once with the holder's description and waits for it; it may
        have finished the artifact meanwhile: look with `find` again. Raises StoreError if the store cannot be written.
        """
        work = self.root / "work" / _name(stage, fingerprint)
        with locked_folder(work, on_wait=on_wait):
            yield work

    def commit(self, work: Path, record: Mapping[str, Any]) -> Artifact:
        """Makes a work folder an artifact; see `seal_folder`. The caller holds the lock."""
        with explain_os_errors(self.root):
            return seal_folder(work, self.artifact_path(record["stage"], record["fingerprint"]), record)

    def recover(self, work: Path, stage: str, fingerprint: str) -> Artifact | None:
        """Ends a commit that a kill interrupted after the record was written; None if there is no such record."""
        if not (work / RECORD).is_file() or read_artifact(work).fingerprint != fingerprint:
            return None
        with explain_os_errors(self.root):
            return _publish(work, self.artifact_path(stage, fingerprint))

    def is_being_made(self, stage: str, fingerprint: str) -> bool:
        """Whether a living process holds this artifact's lock."""
        path = self.lock_path(stage, fingerprint)
        if not path.is_file():
            return False
        with path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def lock_path(self, stage: str, fingerprint: str) -> Path:
        """The file whose lock is held by whoever makes this artifact; in it stands who holds it, or held it last."""
        return self.root / "work" / f"{_name(stage, fingerprint)}.lock"

    def discard(self, stage: str, fingerprint: str) -> None:
        """Forgets an artifact, finished or half made, so that the next run makes it again from the start."""
        path = self.artifact_path(stage, fingerprint)
        with explain_os_errors(self.root):
            for half_discarded in path.parent.glob(f".{path.name}.discarded-*"):
                shutil.rmtree(half_discarded)
            if path.exists():
                doomed = path.with_name(f".{path.name}.discarded-{os.getpid()}")
                path.rename(doomed)  # in one step: no reader may see half an artifact
                shutil.rmtree(doomed)
            work = self.root / "work" / path.name
            if work.exists():
                shutil.rmtree(work)


def find_damage(artifact: Artifact) -> str | None:
    """What is missing from a finished artifact, as a clause; None if every recorded file is there in its full size."""
    for name, file in artifact.record["files"].items():
        path = artifact.path / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != file["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, recorded were {file['bytes']}"
    return None


def seal_folder(work: Path, final: Path, record: Mapping[str, Any]) -> Artifact:
    """Makes a work folder an artifact at `final`: hashes every file, writes artifact.json, drops scratch, renames once.

    `record` needs stage, version, fingerprint, kind, config, inputs and metrics.
    """
    files = {}
    for path in sorted(p for p in work.rglob("*") if p.is_file() and p != work / RECORD):
        name = path.relative_to(work)
        if not name.parts[0].startswith("."):
            files[name.as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    # The record comes before scratch goes: killed in between, the next run finds a whole artifact to publish and not
    # finished shards without the counts and checkpoints that belong to them.
    write_json(work / RECORD, {"format": FORMAT, **record, "files": files})
    return _publish(work, final)


@contextlib.contextmanager
def locked_folder(folder: Path, *, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds `FOLDER.lock` while a work folder is written; temporary files of a killed writer are cleared away first."""
    with explain_os_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("a+")
    with lock:
        _acquire(lock, on_wait)
        with explain_os_errors(folder.parent):
            folder.mkdir(exist_ok=True)
            remove_temporary_files(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # not empty, or renamed by commit: both are as they should be
                folder.rmdir()


@contextlib.contextmanager
def explain_os_errors(root: Path) -> Iterator[None]:
    """Turns a full disk, a read-only store or missing rights into a StoreError that says so."""
    try:
        yield
    except OSError as error:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else root
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{root}: the disk is full. Free some space and run the same command again: it continues.") from error
        if error.errno == errno.EFBIG:
            raise StoreError(f"{where}: the file grew beyond this system's limit (ulimit -f). Raise it and run again.") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(f"{where}: no access ({error.strerror}). Mend its rights, or choose another store: --store DIR") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST) and _is_within(where, root):
            raise StoreError(f"{where}: a file stands where a folder is needed. Remove it, or choose another store.") from error
        raise


def _is_within(path: Path, root: Path) -> bool:
    return path == root or root in path.parents or path in root.parents


def _publish(work: Path, final: Path) -> Artifact:
    for entry in work.glob(".*"):
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    _sync_folder(work)
    final.parent.mkdir(parents=True, exist_ok=True)
    work.rename(final)
    _sync_folder(final.parent)
    return read_artifact(final)


def _name(stage: str, fingerprint: str) -> str:
    return f"{stage}-{fingerprint[:16]}"


def _acquire(lock: Any, on_wait: Callable[[str], None]) -> None:  # Any: typing.IO has no common name with open()'s type
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        on_wait(_describe_holder(lock.read()))
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.seek(0)
    lock.truncate()
    holder = {**this_process(), "command": " ".join(sys.argv), "since": time.strftime("%H:%M:%S")}
    lock.write(json.dumps(holder))
    lock.flush()


def _describe_holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']}: {holder['command']})"
    except (ValueError, KeyError):
        return "another process"


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
