"""What a store holds, by opaque ids: the only way from a request to a folder.

An id is a hash of a name that the store's own listing gave. What a browser sends is compared with such hashes and is never made part
of a path, so there is no path to climb out of.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import RECORD, Store
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.pipeline.locate import SPEC, read_spec


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run of the store. `spec` is its spec.json as it was when this was read."""

    id: str
    name: str
    folder: Path
    spec: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ArtifactEntry:
    """A finished artifact. `name` is RUN/NODE of the first run that has it, or its folder's name if none does."""

    id: str
    name: str
    stage: str
    kind: str
    fingerprint: str
    path: Path


class Directory:
    """The runs and finished artifacts of a store; records are read once and again only when their file has changed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        # path -> (what the file looked like when it was read, what it said)
        self._read: dict[Path, tuple[tuple[int, int], Any]] = {}

    def runs(self) -> list[RunEntry]:
        """Every run, newest first (by when its spec.json was written last). A damaged one is left out."""
        found = []
        for spec_path in self.store.root.glob(f"*/{SPEC}"):
            try:
                changed = spec_path.stat().st_mtime_ns
                spec = self._cached(spec_path, lambda path: read_spec(path.parent))
            except (OSError, DataError):
                continue
            folder = spec_path.parent
            found.append((changed, RunEntry(id=opaque_id("run", folder.name), name=folder.name, folder=folder, spec=spec)))
        return [entry for _, entry in sorted(found, key=lambda pair: (-pair[0], pair[1].name))]

    def run(self, run_id: str) -> RunEntry:
        """The run with this id. Raises Refusal (404) if there is none."""
        for entry in self.runs():
            if entry.id == run_id:
                return entry
        raise Refusal(404, "there is no such run in this store: it may have been removed or renamed", code="not_found")

    def artifacts(self, kind: str | None = None) -> list[ArtifactEntry]:
        """Every finished artifact, those of runs first, in the order of their plans; only those of one kind if it is given."""
        names: dict[str, str] = {}
        for run in self.runs():
            for node in run.spec["nodes"]:
                names.setdefault(Path(node["artifact"]).name, f"{run.name}/{node['id']}")
        places = {folder: place for place, folder in enumerate(names)}
        folders = sorted((self.store.root / "artifacts").glob(f"*/{RECORD}"), key=lambda path: path.parent.name)
        entries = []
        for path in sorted(folders, key=lambda path: places.get(path.parent.name, len(places))):
            try:
                head = self._cached(path, _read_head)
            except (OSError, DataError, KeyError):
                continue
            if kind is None or head["kind"] == kind:
                folder = path.parent
                name = names.get(folder.name, folder.name)
                entries.append(ArtifactEntry(id=opaque_id("artifact", folder.name), name=name, path=folder, **head))
        return entries

    def artifact(self, artifact_id: str, kind: str | None = None) -> ArtifactEntry:
        """The finished artifact with this id. Raises Refusal (404) if there is none, or none of this kind."""
        for entry in self.artifacts(kind):
            if entry.id == artifact_id:
                return entry
        what = f"artifact of kind {kind}" if kind else "artifact"
        raise Refusal(404, f"there is no such {what} in this store: it may have been removed", code="not_found")

    def _cached(self, path: Path, read: Any) -> Any:  # Any: a function of the path, and what it returns
        stat = path.stat()
        looks = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            known = self._read.get(path)
        if known is None or known[0] != looks:
            known = (looks, read(path))
            with self._lock:
                self._read[path] = known
        return known[1]


def opaque_id(kind: str, name: str) -> str:
    """16 hex digits that stand for a name of the store.

    >>> opaque_id("run", "smoke") == opaque_id("run", "smoke") != opaque_id("artifact", "smoke")
    True
    """
    return hashlib.blake2b(f"{kind}/{name}".encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _read_head(path: Path) -> dict[str, str]:
    # Not the whole record: the list of files of a large artifact would stay in memory.
    record = read_json(path)
    return {key: str(record[key]) for key in ("stage", "kind", "fingerprint")}
