import math
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.evaluate.corpus import choose_texts, measure_corpus, score_corpus
from bloomery.generate.engine import Engine

TEXTS = ["the cat sat on a mat. " * 30, "12 dogs ran to 7 red houses", "Zoë's café by the sea"]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "texts.jsonl", [{"text": text, "source": "long" if i == 0 else "short"} for i, text in enumerate(TEXTS)])
    return tmp_path / "texts.jsonl"


@torch.no_grad()
def loop_bits(engine: Engine, text: str, context: int) -> float:
    """Bits of a text, one token at a time, each from the start of its window."""
    ids, bits = [*engine.tokenizer.begin, *engine.tokenizer.encode(text)], 0.0
    for i in range(1, len(ids)):
        start = (i - 1) // context * context
        bits -= float(engine.model(torch.tensor([ids[start:i]]))[0, -1].double().log_softmax(-1)[ids[i]]) / math.log(2)
    return bits


def test_bits_per_byte_equal_a_loop_over_single_tokens_over_all_and_by_source(engine: Engine, documents: Path) -> None:
    chosen = choose_texts([documents], max_tokens=0)
    done: list[int] = []
    record = score_corpus(engine, engine.tokenizer, chosen, context_tokens=40, advance=done.append)
    scores = measure_corpus(record, seed=0)
    bits, sizes = [loop_bits(engine, text, 40) for text in TEXTS], [len(text.encode()) for text in TEXTS]
    assert scores["metrics"]["bits_per_byte"]["value"] == pytest.approx(sum(bits) / sum(sizes), rel=1e-5)
    assert scores["by_group"]["short"]["value"] == pytest.approx(sum(bits[1:]) / sum(sizes[1:]), rel=1e-5)
    tokens = sum(len(engine.tokenizer.encode(text)) for text in TEXTS)
    assert scores["metrics"]["perplexity"]["value"] == pytest.approx(2 ** (sum(bits) / tokens), rel=1e-4)
    assert sum(done) == 3


def test_named_inputs_get_equal_parts_and_of_a_long_document_only_the_beginning_counts(tmp_path: Path) -> None:
    for name, count in (("many", 400), ("few", 30)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"number {i:04d} is a text", "source": "its own"} for i in range(count)])
    chosen = choose_texts([tmp_path / "many.jsonl", tmp_path / "few.jsonl"], max_tokens=400, names=["a", "b"])
    assert {name: sum(one.source == name for one in chosen) for name in "ab"} == {"a": 37, "b": 30}
    write_jsonl(tmp_path / "long.jsonl", [{"text": "word " * 1000}, {"text": "short"}])
    assert [len(one.text) for one in choose_texts([tmp_path / "long.jsonl"], max_tokens=0, max_document_tokens=10)] == [40, 5]


def test_of_a_mix_the_validation_side_is_scored(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / "mix" / split).mkdir(parents=True)
        write_jsonl(tmp_path / "mix" / split / "00000.jsonl", [{"text": f"of {split}"}])
    assert [one.text for one in choose_texts([tmp_path / "mix"], max_tokens=0)] == ["of validation"]


def test_as_many_documents_as_asked_for_are_spread_over_the_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "many.jsonl", [{"text": f"number {i:04d} is a text"} for i in range(100)])
    chosen = choose_texts([tmp_path / "many.jsonl"], max_tokens=100)
    assert [one.line for one in chosen] == [1, 7, 13, 19, 25, 31, 37, 43, 49, 55, 61, 67, 73, 79, 85, 91, 97]
    write_jsonl(tmp_path / "none.jsonl", [{"text": " "}])
    with pytest.raises(DataError, match=r"none\.jsonl: no document with text"):
        choose_texts([tmp_path / "none.jsonl"], max_tokens=0)
