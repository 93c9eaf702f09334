"""An index on disk is the packing, is made once, and neither it nor the token files can change unseen."""

import os
from pathlib import Path

import numpy as np
import pytest

from bloomery.core.errors import DataError
from bloomery.tokens.loader import make_batch, open_rows
from bloomery.tokens.packing import MAX_PADDING, PackedRows, pack_best_fit
from bloomery.tokens.packing_index import open_packed, open_verified
from bloomery.tokens.shards import TokenSet, write_manifest, write_shard

LENGTHS = [3, 9, 4, 4, 1, 7]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = [list(range(1, n + 1)) for n in LENGTHS]
    write_shard(tmp_path / "tokens" / "train" / "00000", documents[:4], vocab_size=300)
    write_shard(tmp_path / "tokens" / "train" / "00001", documents[4:], vocab_size=300)
    write_manifest(tmp_path / "tokens", tokenizer_sha256="a", vocab_size=300, text_bytes={"train": [0, 0], "validation": []})
    return tmp_path / "tokens"


def verified(folder: Path) -> TokenSet:
    return open_verified(folder, split="train", tokenizer_sha256="a", index=folder.parent / "index")


def rows_of(packed: PackedRows) -> list[list[tuple[int, int, int]]]:
    return [packed.segments(row) for row in range(packed.num_rows)]


def arrays(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder.parent / "index").rglob("*.npy")}


def test_what_is_opened_is_what_was_packed_and_is_packed_once(folder: Path) -> None:
    expected = pack_best_fit(LENGTHS, row_tokens=8, max_padding=MAX_PADDING)
    made = open_packed(verified(folder), row_tokens=8, max_padding=MAX_PADDING, index=folder.parent / "index")
    before = arrays(folder)
    opened = open_packed(verified(folder), row_tokens=8, max_padding=MAX_PADDING, index=folder.parent / "index")
    assert rows_of(made) == rows_of(opened) == rows_of(expected)
    assert opened.num_tokens == sum(LENGTHS)
    assert arrays(folder) == before and len(before) == 4
    batch = make_batch(open_rows(verified(folder), row_tokens=8, index=folder.parent / "index"), range(opened.num_rows))
    assert int((batch.document_BT > 0).sum()) == sum(LENGTHS)


def test_rows_of_another_length_have_an_index_of_their_own(folder: Path) -> None:
    for row_tokens in (8, 5, 8):
        packed = open_packed(verified(folder), row_tokens=row_tokens, max_padding=MAX_PADDING, index=folder.parent / "index")
        assert rows_of(packed) == rows_of(pack_best_fit(LENGTHS, row_tokens=row_tokens, max_padding=MAX_PADDING))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "record"])
def test_a_damaged_index_is_made_again(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    open_packed(verified(folder), row_tokens=8, max_padding=MAX_PADDING, index=folder.parent / "index")
    path = next((folder.parent / "index").rglob("index.json" if damage == "record" else "document.npy"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "flip" else content[: len(content) // 2])
    packed = open_packed(verified(folder), row_tokens=8, max_padding=MAX_PADDING, index=folder.parent / "index")
    assert rows_of(packed) == rows_of(pack_best_fit(LENGTHS, row_tokens=8, max_padding=MAX_PADDING))
    assert "made again" in caplog.text or "packed again" in caplog.text


def test_a_shard_that_is_altered_after_it_was_verified_is_found_before_the_next_start(folder: Path) -> None:
    verified(folder)
    path = folder / "train" / "00001.bin"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"00001\.bin: its sha256"):
        verified(folder)


def test_files_that_did_not_change_are_not_read_again(folder: Path) -> None:
    verified(folder)
    path = folder / "train" / "00001.bin"
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(time, time))
    assert verified(folder).document(4)[0] == content[0] ^ 1  # so nothing but size and time was looked at


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: no such file; expected a folder that the stage tokenize made"):
        open_verified(tmp_path, split="train", tokenizer_sha256="a", index=tmp_path)


def test_many_rows_are_found_at_once_as_one_by_one() -> None:
    packed = pack_best_fit(np.random.default_rng(0).integers(0, 50, 300), row_tokens=32)
    rows = [5, 0, 5, packed.num_rows - 1]
    found = packed.find(rows)
    expected = [(place, *segment) for place, row in enumerate(rows) for segment in packed.segments(row)]
    assert list(zip(*(a.tolist() for a in (found.row, found.document, found.start, found.length)), strict=True)) == expected
    for place in range(len(rows)):
        mine = found.row == place
        assert found.number[mine].tolist() == list(range(1, int(mine.sum()) + 1))
        assert found.at[mine].tolist() == (np.cumsum(found.length[mine]) - found.length[mine]).tolist()
