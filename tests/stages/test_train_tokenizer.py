"""The tokenizer stage learns from training documents alone, and gives the same bytes each time."""

import json
from pathlib import Path

import pytest
import transformers

from bloomery.core.documents import document_table, write_documents
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime
from bloomery.stages.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from bloomery.tokens.tokenizer import load_tokenizer

TEXTS = [f"The committee number {i} has met in the committee room." for i in range(40)]


def write_shard(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_documents(path, document_table([{"id": f"{path.stem}-{i}", "text": text} for i, text in enumerate(texts)]))


def run(documents: list[Path], out: Path, **config: object) -> dict[str, object]:
    return train_tokenizer(TrainTokenizerConfig(**{"vocab_size": 300, **config}), documents=documents, out=out, runtime=Runtime())


def test_the_output_is_a_tokenizer_that_others_load(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", TEXTS)
    metrics = run([tmp_path / "in"], tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.vocab_size == metrics["vocab_size"] == 300
    assert metrics["documents"] == 40
    assert metrics["bytes"] == sum(map(len, TEXTS))
    assert metrics["bytes_per_token"] == pytest.approx(sum(map(len, TEXTS)) / sum(len(tokenizer.encode(t)) for t in TEXTS), abs=1e-4)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|bos|><|user|>hi<|end|>"


def test_validation_documents_are_not_seen(tmp_path: Path) -> None:
    write_shard(tmp_path / "mix" / "train" / "00000.parquet", TEXTS)
    run([tmp_path / "mix"], tmp_path / "a")
    write_shard(tmp_path / "mix" / "validation" / "00000.parquet", ["zyzzyva " * 200])
    assert run([tmp_path / "mix"], tmp_path / "b")["documents"] == 40
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_how_documents_are_spread_over_files_does_not_matter(tmp_path: Path) -> None:
    write_shard(tmp_path / "one" / "00000.parquet", TEXTS)
    write_shard(tmp_path / "two" / "00000.parquet", TEXTS[:10])
    write_shard(tmp_path / "two" / "00001.parquet", TEXTS[10:])
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    outputs = []
    for name, source in (("a", tmp_path / "one"), ("b", tmp_path / "two"), ("c", tmp_path / "lines.jsonl")):
        run([source], tmp_path / name)
        outputs.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_of_more_text_than_the_sample_some_documents_are_taken(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", TEXTS)
    metrics = run([tmp_path / "in"], tmp_path / "out", sample_bytes=1000)
    assert 5 <= int(str(metrics["documents"])) <= 35


def test_documents_without_text_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.parquet", ["", ""])
    with pytest.raises(DataError, match="hold no text"):
        run([tmp_path / "in"], tmp_path / "out")
