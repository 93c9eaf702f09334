"""Tokenizing keeps every document, gives the same bytes with any number of workers, and continues where a kill left it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime
from bloomery.stages.tokenize import TokenizeConfig, tokenize
from bloomery.tokens.shards import open_tokens
from bloomery.tokens.tokenizer import load_tokenizer

TEXTS = [f"the cat number {i} sat on the mat 🐈" for i in range(60)]


def write_shard(path: Path, start: int, end: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_documents(path, document_table([{"id": f"{i:032x}", "text": TEXTS[i]} for i in range(start, end)]))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for shard in range(4):
        write_shard(tmp_path / "plain" / f"{shard:05d}.parquet", shard * 15, shard * 15 + 15)
    return tmp_path / "plain"


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    write_shard(tmp_path / "mix" / "train" / "00000.parquet", 0, 20)
    write_shard(tmp_path / "mix" / "train" / "00001.parquet", 20, 50)
    write_shard(tmp_path / "mix" / "validation" / "00000.parquet", 50, 60)
    return tmp_path / "mix"


def run(documents: list[Path], tokenizer: Path, out: Path, *, workers: int = 1, **config: float) -> dict[str, Any]:
    return tokenize(TokenizeConfig(**config), documents=documents, tokenizer=tokenizer, out=out, runtime=Runtime(workers=workers))


def texts_of(out: Path, split: str, tokenizer: Path) -> list[str]:
    tokens, loaded = open_tokens(out, split=split, tokenizer_sha256=load_tokenizer(tokenizer).sha256), load_tokenizer(tokenizer)
    documents = [tokens.document(i).tolist() for i in range(tokens.num_documents)]
    assert all(ids[0] == loaded.bos_id and ids[-1] == loaded.end_id for ids in documents)
    return [loaded.decode(ids) for ids in documents]


def hashes(out: Path) -> dict[str, str]:
    files = [p for p in out.rglob("*") if p.is_file() and ".scratch" not in p.parts]
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_mix_keeps_its_split(mix: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = run([mix], tiny_tokenizer, tmp_path / "out")
    assert texts_of(tmp_path / "out", "train", tiny_tokenizer) == TEXTS[:50]
    assert texts_of(tmp_path / "out", "validation", tiny_tokenizer) == TEXTS[50:]
    assert (metrics["train_documents"], metrics["validation_documents"]) == (50, 10)
    assert metrics["train_bytes"] == sum(len(text.encode()) for text in TEXTS[:50])
    assert metrics["train_bytes_per_token"] == pytest.approx(metrics["train_bytes"] / metrics["train_tokens"], abs=1e-4)


def test_plain_documents_are_split_by_their_id(plain: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    run([plain], tiny_tokenizer, tmp_path / "out", validation_fraction=0.3)
    held_out = texts_of(tmp_path / "out", "validation", tiny_tokenizer)
    assert sorted(texts_of(tmp_path / "out", "train", tiny_tokenizer) + held_out) == sorted(TEXTS)
    assert 8 <= len(held_out) <= 28
    # The same documents in other files: the same are held out.
    write_shard(tmp_path / "again" / "00000.parquet", 0, 60)
    run([tmp_path / "again"], tiny_tokenizer, tmp_path / "out2", validation_fraction=0.3)
    assert texts_of(tmp_path / "out2", "validation", tiny_tokenizer) == held_out


def test_one_worker_and_two_write_the_same_bytes(plain: Path, mix: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    one = run([plain, mix], tiny_tokenizer, tmp_path / "one", workers=1)
    two = run([plain, mix], tiny_tokenizer, tmp_path / "two", workers=2)
    assert one == two
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert sorted(texts_of(tmp_path / "one", "train", tiny_tokenizer) + texts_of(tmp_path / "one", "validation", tiny_tokenizer)) == sorted(
        TEXTS + TEXTS
    )


def test_a_run_that_was_killed_anywhere_ends_with_the_same_bytes_and_metrics(plain: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = run([plain], tiny_tokenizer, tmp_path / "whole", validation_fraction=0.3)
    expected = hashes(tmp_path / "whole")
    # A kill leaves a part of the files, in the order in which they were written.
    written = sorted((p for p in (tmp_path / "whole").rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    for kept in range(0, len(written), 3):
        out = tmp_path / f"killed-{kept}"
        for path in written[:kept]:
            target = out / path.relative_to(tmp_path / "whole")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        assert run([plain], tiny_tokenizer, out, validation_fraction=0.3) == metrics
        assert hashes(out) == expected


def test_finished_shards_are_not_made_again(plain: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    run([plain], tiny_tokenizer, tmp_path / "out")
    path = tmp_path / "out" / "train" / "00002.bin"
    before = path.stat().st_mtime_ns
    (tmp_path / "out" / "manifest.json").unlink()
    run([plain], tiny_tokenizer, tmp_path / "out")
    assert path.stat().st_mtime_ns == before


def test_users_own_text_and_jsonl_files_are_documents_too(tiny_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "another"}) + "\n" + json.dumps({"text": ""}) + "\n")
    run([tmp_path / "*.txt", tmp_path / "b.jsonl"], tiny_tokenizer, tmp_path / "out", validation_fraction=0.0)
    assert texts_of(tmp_path / "out", "train", tiny_tokenizer) == ["one text", "another"]


def test_nothing_to_train_on_is_an_error(tiny_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": ""}) + "\n")
    with pytest.raises(DataError, match=r"no training document in 1 files; none of them holds text"):
        run([tmp_path / "b.jsonl"], tiny_tokenizer, tmp_path / "out")
    (tmp_path / "b.txt").write_text("one text")
    with pytest.raises(DataError, match=r"all 1 are held out: set validation_fraction = 0, or add documents"):
        run([tmp_path / "b.txt"], tiny_tokenizer, tmp_path / "held-out", validation_fraction=0.9999)


def test_a_document_that_spells_special_tokens_gets_no_special_ids_inside(tiny_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x<|end|><|bos|>y")
    run([tmp_path / "a.txt"], tiny_tokenizer, tmp_path / "out", validation_fraction=0.0)
    tokenizer = load_tokenizer(tiny_tokenizer)
    ids = open_tokens(tmp_path / "out", split="train").document(0).tolist()
    assert not set(ids[1:-1]) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(ids) == "x<|end|><|bos|>y"
