"""Token files give back what was written, and say so when they are damaged or another tokenizer's."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bloomery.core.errors import DataError
from bloomery.tokens.shards import open_tokens, token_dtype, write_manifest, write_shard

DOCUMENTS = [[[1, 2, 3], [4], [], [5, 6]], [], [[7, 8, 9, 10]]]
ALL = [document for shard in DOCUMENTS for document in shard]


def write(folder: Path, *, vocab_size: int = 300) -> Path:
    for i, shard in enumerate(DOCUMENTS):
        write_shard(folder / "train" / f"{i:05d}", shard, vocab_size=vocab_size)
    write_manifest(folder, tokenizer_sha256="a" * 64, vocab_size=vocab_size, text_bytes={"train": [10, 0, 4], "validation": []})
    return folder


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, "uint16"), (65_535, "uint16"), (65_536, "uint32")])
def test_documents_come_back_across_shards(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    tokens = open_tokens(write(tmp_path, vocab_size=vocab_size), split="train")
    assert [tokens.document(i).tolist() for i in range(tokens.num_documents)] == ALL
    assert tokens.lengths.tolist() == [len(document) for document in ALL]
    assert tokens.num_tokens == 10
    assert tokens.document(0).dtype == token_dtype(vocab_size) == np.dtype(dtype)


def test_a_split_without_shards_is_empty(tmp_path: Path) -> None:
    tokens = open_tokens(write(tmp_path), split="validation")
    assert (tokens.num_documents, tokens.num_tokens) == (0, 0)


def test_the_manifest_counts_documents_tokens_and_bytes(tmp_path: Path) -> None:
    manifest = write_manifest(write(tmp_path), tokenizer_sha256="a", vocab_size=300, text_bytes={"train": [10, 0, 4], "validation": []})
    train = manifest["splits"]["train"]
    assert (train["documents"], train["tokens"], train["bytes"]) == (5, 10, 14)
    assert [shard["name"] for shard in train["shards"]] == ["00000", "00001", "00002"]


def test_a_document_that_is_not_there_is_an_index_error(tmp_path: Path) -> None:
    tokens = open_tokens(write(tmp_path), split="train")
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"document {index} of 5"):
            tokens.document(index)


def test_the_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    open_tokens(write(tmp_path), split="train", tokenizer_sha256="a" * 64)
    with pytest.raises(DataError, match=r"tokenizer aaaaaaaaaaaaaaaa, but this run uses tokenizer bbbbbbbbbbbbbbbb"):
        open_tokens(tmp_path, split="train", tokenizer_sha256="b" * 64)


def test_a_truncated_shard_is_found_by_its_size(tmp_path: Path) -> None:
    path = write(tmp_path) / "train" / "00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"00000\.bin: 10 bytes long, but manifest\.json says 12"):
        open_tokens(tmp_path, split="train")


def test_a_flipped_bit_is_found_by_its_hash(tmp_path: Path) -> None:
    path = write(tmp_path) / "train" / "00002.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"00002\.bin: its sha256"):
        open_tokens(tmp_path, split="train")


def test_a_file_that_changed_since_it_was_verified_is_hashed_again(tmp_path: Path) -> None:
    stamps = open_tokens(write(tmp_path), split="train").stamps
    path = tmp_path / "train" / "00002.bin"
    before, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    with pytest.raises(DataError, match=r"00002\.bin: its sha256"):
        open_tokens(tmp_path, split="train", verified=stamps)
    os.utime(path, ns=(time, time))  # what a stamp stands for is not read again
    assert open_tokens(tmp_path, split="train", verified=stamps).document(4)[0] == 6


def test_offsets_that_do_not_rise_are_found(tmp_path: Path) -> None:
    path = write(tmp_path) / "train" / "00000.idx"
    np.array([0, 4, 3, 4, 6], dtype="<i8").tofile(path)
    write_manifest(tmp_path, tokenizer_sha256="a", vocab_size=300, text_bytes={"train": [10, 0, 4], "validation": []})
    with pytest.raises(DataError, match=r"00000\.idx: offsets must rise"):
        open_tokens(tmp_path, split="train")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / "train" / "00001.idx").unlink()
    with pytest.raises(DataError, match=r"00001\.idx: missing"):
        open_tokens(tmp_path, split="train")


def drop_a_shard(manifest: dict[str, Any]) -> None:
    manifest["splits"]["train"]["shards"].pop()


def drop_a_hash(manifest: dict[str, Any]) -> None:
    del manifest["splits"]["train"]["shards"][0]["files"]["00000.bin"]


def count_otherwise(manifest: dict[str, Any]) -> None:
    for part in (manifest["splits"]["train"], manifest["splits"]["train"]["shards"][0]):
        part["documents"] += 1


@pytest.mark.parametrize(
    ("alter", "match"),
    [
        (lambda manifest: manifest.update(dtype="float16"), "dtype of train do not agree"),
        (lambda manifest: manifest.update(vocab_size=70_000), "dtype of train do not agree"),
        (lambda manifest: manifest.pop("splits"), "KeyError.'splits'.: this is not what the stage tokenize writes"),
        (drop_a_shard, "documents, tokens of train do not agree"),
        (drop_a_hash, "files of train do not agree"),
        (count_otherwise, "00000: holds 4 documents, but manifest.json says 5"),
    ],
)
def test_an_altered_manifest_is_found(tmp_path: Path, alter: Callable[[dict[str, Any]], object], match: str) -> None:
    path = write(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    alter(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=match):
        open_tokens(tmp_path, split="train")


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 1, "splits": []}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: "):
        open_tokens(tmp_path, split="train")


def test_an_id_too_large_for_its_type_is_never_wrapped(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write_shard(tmp_path / "00000", [[70_000]], vocab_size=300)
    assert not (tmp_path / "00000.bin").exists()
