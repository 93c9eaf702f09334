"""Token files: documents as ids, flat on disk, read in place.

    manifest.json                       tokenizer, dtype, counts, and size and sha256 of every file; written last
    train/NNNNN.bin, validation/...     ids, little-endian uint16 (uint32 from 65,536 ids on), documents end to end
    train/NNNNN.idx                     int64 offsets: document i is ids offset[i] .. offset[i + 1]

A document is `<|bos|>` + its ids + `<|end|>`, or with the tokenizer of another model what begins (perhaps nothing) and ends
a text there. Files are memory-mapped: any document can be had in no time, and a corpus may be larger than memory.
"""

import array
import contextlib
import functools
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal  # Any: the values of a JSON document

import numpy as np

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file, write_atomically, write_json

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
FORMAT = 1
REMEDY = "Make the tokens again: --rebuild the tokenize stage."


@dataclass(frozen=True, eq=False)
class TokenSet:
    """The documents of one split; make one with `open_tokens`."""

    split: Split
    num_documents: int
    num_tokens: int
    manifest_sha256: str
    """Of the manifest.json, which holds the hashes of all files: it says what the ids are."""
    stamps: dict[str, list[int]]
    """Size and time of change (ns) of each file when it was opened, by its path in the split's folder."""
    _ids_of_shard: list[np.ndarray]
    _offsets_of_shard: list[np.ndarray]
    _first_document: np.ndarray
    _maps: list[mmap.mmap | None]
    """What lies under the ids of each shard; None in memory."""

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 [num_documents]."""
        return np.concatenate([np.diff(offset) for offset in self._offsets_of_shard] or [np.zeros(0, dtype=np.int64)]).astype(np.int64)

    def document(self, index: int) -> np.ndarray:
        """The ids of document `index`, a read-only view of the file. Raises IndexError outside 0..num_documents - 1."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        shard = int(np.searchsorted(self._first_document, index, side="right")) - 1
        offset = self._offsets_of_shard[shard]
        inside = index - int(self._first_document[shard])
        return self._ids_of_shard[shard][offset[inside] : offset[inside + 1]]

    def read(self, document: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens start .. stop of each of these documents, end to end, int64, and how many came of each: a document may end earlier."""
        shards = np.searchsorted(self._first_document, document, side="right") - 1
        parts, spans = [], []
        for shard, inside, first, last in zip(
            shards.tolist(), (document - self._first_document[shards]).tolist(), start.tolist(), stop.tolist(), strict=True
        ):
            offset = self._offsets_of_shard[shard]
            begin = int(offset[inside])
            span = slice(begin + first, min(begin + last, int(offset[inside + 1])))
            spans.append((shard, span))
            parts.append(self._ids_of_shard[shard][span])
        self._ask_for(spans)
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return np.concatenate(parts, dtype=np.int64), np.array([len(part) for part in parts], dtype=np.int64)

    def _ask_for(self, spans: Sequence[tuple[int, slice]]) -> None:
        # The disk is asked for all at once: one page fault after another would wait for each of a thousand places in turn.
        for shard, span in spans:
            mapped = self._maps[shard]
            if mapped is not None and span.stop > span.start:
                width = self._ids_of_shard[shard].itemsize
                first = span.start * width // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, first, span.stop * width - first)


def token_set(documents: Sequence[Sequence[int]]) -> TokenSet:
    """Documents in memory, each the ids of one, as if they had been opened."""
    offset = np.cumsum([0, *(len(ids) for ids in documents)], dtype=np.int64)
    ids = np.array([i for document in documents for i in document], dtype=np.int64)
    return TokenSet("train", len(documents), len(ids), "", {}, [ids], [offset], np.zeros(1, dtype=np.int64), [None])


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The type of an id on disk: little-endian, two bytes while they suffice."""
    return np.dtype("<u2") if vocab_size < 65_536 else np.dtype("<u4")


class ShardWriter:
    """Documents on their way into a shard; see `open_shard`."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any]) -> None:
        self._file, self._dtype = file, dtype
        self.lengths = array.array("q")

    def append(self, documents: Sequence[Sequence[int] | np.ndarray[Any, Any]]) -> None:
        """Adds documents, each the ids of one."""
        self.lengths.extend(len(ids) for ids in documents)
        for ids in documents:
            self._file.write(np.asarray(ids, dtype=self._dtype).tobytes())


@contextlib.contextmanager
def open_shard(stem: Path, *, vocab_size: int) -> Iterator[ShardWriter]:
    """A shard to append documents to. At the end `stem`.idx, then `stem`.bin get their names: where the .bin is, the shard is whole."""
    with write_atomically(stem.with_suffix(".bin")) as temporary:
        with temporary.open("wb") as file:
            writer = ShardWriter(file, token_dtype(vocab_size))
            yield writer
        with write_atomically(stem.with_suffix(".idx")) as index:
            np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), writer.lengths])).astype("<i8").tofile(index)


def write_shard(stem: Path, documents: Sequence[Sequence[int] | np.ndarray[Any, Any]], *, vocab_size: int) -> None:
    """Writes a shard of these documents."""
    with open_shard(stem, vocab_size=vocab_size) as writer:
        writer.append(documents)


def write_manifest(folder: Path, *, tokenizer_sha256: str, vocab_size: int, text_bytes: Mapping[Split, Sequence[int]]) -> dict[str, Any]:
    """Describes every shard in `folder` in its manifest.json and returns that; `text_bytes` are per shard, in their order."""
    splits: dict[str, Any] = {}
    for split in SPLITS:
        shards: list[dict[str, Any]] = []
        for path, num_bytes in zip(sorted((folder / split).glob("*.bin")), text_bytes[split], strict=True):
            index = path.with_suffix(".idx")
            files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in (path, index)}
            num_tokens = path.stat().st_size // token_dtype(vocab_size).itemsize
            counts = {"documents": index.stat().st_size // 8 - 1, "tokens": num_tokens, "bytes": num_bytes}
            shards.append({"name": path.stem, "files": files, **counts})
        totals = {name: sum(shard[name] for shard in shards) for name in ("documents", "tokens", "bytes")}
        splits[split] = {**totals, "shards": shards}
    manifest = {
        "format": FORMAT,
        "dtype": token_dtype(vocab_size).name,
        "tokenizer_sha256": tokenizer_sha256,
        "vocab_size": vocab_size,
        "splits": splits,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def open_tokens(
    folder: Path, *, split: Split, tokenizer_sha256: str | None = None, verified: Mapping[str, Sequence[int]] | None = None
) -> TokenSet:
    """The documents of one split of a tokens artifact; a split may be empty.

    Sizes are always checked; offsets and contents, by sha256 (about a second a gigabyte), of every file whose size and time
    of change are not those in `verified`, the `stamps` of a set that was opened before. Raises DataError naming the file
    for whatever does not agree with the manifest, and if the ids are another tokenizer's.
    """
    manifest = _read_manifest(folder / "manifest.json", split)
    found = manifest["tokenizer_sha256"]
    if tokenizer_sha256 is not None and tokenizer_sha256 != found:
        raise DataError(
            f"{folder}: its ids were made by tokenizer {found[:16]}, but this run uses tokenizer {tokenizer_sha256[:16]}. "
            "Tokenize the documents again with the tokenizer of this run."
        )
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    ids: list[np.ndarray] = []
    maps: list[mmap.mmap | None] = []
    offsets: list[np.ndarray] = []
    stamps: dict[str, list[int]] = {}
    for shard in manifest["splits"][split]["shards"]:
        stem = folder / split / shard["name"]
        known = True
        for name, record in shard["files"].items():
            stamps[name] = _check_size(stem.with_name(name), record)
            if verified is None or stamps[name] != list(verified.get(name, ())):
                known = False
                _check_hash(stem.with_name(name), record)
        found_ids, mapped = _map_at_random(stem.with_suffix(".bin"), dtype)
        ids.append(found_ids)
        maps.append(mapped)
        offsets.append(_map_file(stem.with_suffix(".idx"), np.dtype("<i8")))
        if not known:
            _check_offsets(stem, offsets[-1], len(ids[-1]))
            _check_counts(stem, shard, documents=len(offsets[-1]) - 1, tokens=len(ids[-1]))
    first = np.cumsum([0, *(len(offset) - 1 for offset in offsets)])
    num_tokens = sum(len(part) for part in ids)
    return TokenSet(split, int(first[-1]), num_tokens, sha256_file(folder / "manifest.json"), stamps, ids, offsets, first[:-1], maps)


def _read_manifest(path: Path, split: Split) -> Any:
    manifest = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DataError(f"{path}: format {found!r}; this version reads format {FORMAT}")
    try:
        shards = manifest["splits"][split]["shards"]
        parts = {
            "tokenizer_sha256": bool(manifest["tokenizer_sha256"]),
            "dtype": manifest["dtype"] == token_dtype(manifest["vocab_size"]).name,
            "files": all(set(shard["files"]) == {f"{shard['name']}.bin", f"{shard['name']}.idx"} for shard in shards),
            **{name: manifest["splits"][split][name] == sum(shard[name] for shard in shards) for name in ("documents", "tokens")},
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {error!r}: this is not what the stage tokenize writes. {REMEDY}") from error
    if wrong := [name for name, agrees in parts.items() if not agrees]:
        raise DataError(f"{path}: {', '.join(wrong)} of {split} do not agree with the rest of it; it was altered. {REMEDY}")
    return manifest


def _check_counts(stem: Path, shard: Mapping[str, Any], **found: int) -> None:
    for name, count in found.items():
        if shard[name] != count:
            raise DataError(f"{stem}: holds {count} {name}, but manifest.json says {shard[name]}; it was altered. {REMEDY}")


def _check_size(path: Path, record: Mapping[str, Any]) -> list[int]:
    if not path.is_file():
        raise DataError(f"{path}: missing, though manifest.json names it. {REMEDY}")
    status = path.stat()
    if status.st_size != record["bytes"]:
        raise DataError(f"{path}: {status.st_size} bytes long, but manifest.json says {record['bytes']}: the file is damaged. {REMEDY}")
    return [status.st_size, status.st_mtime_ns]


def _check_hash(path: Path, record: Mapping[str, Any]) -> None:
    if sha256_file(path) != record["sha256"]:
        raise DataError(f"{path}: its sha256 is not the one in manifest.json ({record['sha256'][:16]}...): the file is damaged. {REMEDY}")


def _check_offsets(stem: Path, offset: np.ndarray, num_tokens: int) -> None:
    if len(offset) == 0 or offset[0] != 0 or offset[-1] != num_tokens or np.diff(offset).min(initial=0) < 0:
        raise DataError(f"{stem}.idx: offsets must rise from 0 to the {num_tokens} ids of {stem.name}.bin, but do not")


def _map_at_random(path: Path, dtype: np.dtype[Any]) -> tuple[np.ndarray, mmap.mmap | None]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype), None
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Documents are read in a shuffled order: what the system would read ahead is for nobody.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=dtype), mapped


def _map_file(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    # A plain view: each slice of a memmap makes another memmap, which takes ten times as long.
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
