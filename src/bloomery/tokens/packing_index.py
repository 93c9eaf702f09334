"""Packed rows on disk: made once for a run, then opened in no time, whatever the corpus.

    FOLDER/rows-<key>/             row_offset.npy ... length.npy, memory-mapped
                                   index.json: their sizes and sha256; written last
    FOLDER/verified-<split>-...    size and time of change of the token files that were hashed

The key says what is packed: the manifest of the tokens, the split, the length of a row, how much padding. An index that is damaged, or of
other tokens, is made again. Token files are hashed once a run: afterwards their size and time of change stand for their
bytes, as in git's index, so that ten billion tokens are ready in a second and a changed file is still found.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import numpy as np

from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file, write_atomically, write_json
from bloomery.tokens.packing import PackedRows, pack_best_fit
from bloomery.tokens.shards import Split, TokenSet, open_tokens

log = logging.getLogger(__name__)

FORMAT = 2
ARRAYS = ("row_offset", "document", "start", "length")
RECORD = "index.json"
KEY_CHARACTERS = 24


def open_verified(folder: Path, *, split: Split, tokenizer_sha256: str, index: Path) -> TokenSet:
    """The documents of a split of a tokens artifact. Files that this run has hashed before are not hashed again.

    Raises DataError if the tokens are damaged or another tokenizer's.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise DataError(f"{manifest}: no such file; expected a folder that the stage tokenize made")
    path = index / f"verified-{split}-{sha256_file(manifest)[:KEY_CHARACTERS]}.json"
    stamps = _read_record(path).get("files")
    tokens = open_tokens(folder, split=split, tokenizer_sha256=tokenizer_sha256, verified=stamps)
    if stamps != tokens.stamps:
        write_json(path, {"format": FORMAT, "files": tokens.stamps})
    return tokens


def open_packed(tokens: TokenSet, *, row_tokens: int, max_padding: float, index: Path) -> PackedRows:
    """The rows that hold all of `tokens` (see `pack_best_fit`), from the folder `index` or, the first time, made and kept there."""
    key = hashlib.sha256(f"{FORMAT}\x00{tokens.manifest_sha256}\x00{tokens.split}\x00{row_tokens}\x00{max_padding}".encode()).hexdigest()
    place = index / f"rows-{key[:KEY_CHARACTERS]}"
    packed = _open_rows(place, _read_record(place / RECORD), row_tokens)
    if packed is None:
        made = pack_best_fit(tokens.lengths, row_tokens=row_tokens, max_padding=max_padding)
        counts = {"num_tokens": made.num_tokens, "num_repeated": made.num_repeated}
        record = {"format": FORMAT, **counts, "files": _write_arrays(place, made)}
        write_json(place / RECORD, record)
        packed = _open_rows(place, record, row_tokens) or made
    return packed


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = read_json(path)
    except DataError as error:
        log.warning("%s; it is made again", error)
        return {}
    return record if record.get("format") == FORMAT else {}


def _write_arrays(place: Path, packed: PackedRows) -> dict[str, Any]:
    files = {}
    for name in ARRAYS:
        path = place / f"{name}.npy"
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array(file, getattr(packed, name), allow_pickle=False)
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


def _open_rows(place: Path, record: dict[str, Any], row_tokens: int) -> PackedRows | None:
    arrays = {}
    for name in ARRAYS:
        path, expected = place / f"{name}.npy", record.get("files", {}).get(name)
        if not expected:
            return None
        if not path.is_file() or path.stat().st_size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
            log.warning("%s: missing or damaged; rows are packed again", path)
            return None
        arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return PackedRows(row_tokens, record["num_tokens"], record["num_repeated"], **arrays)
