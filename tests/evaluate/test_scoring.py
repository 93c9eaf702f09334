import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.evaluate.scoring import choose_documents, document_bits, split
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import TokenSet, open_tokens, write_manifest, write_shard

VOCAB = 24
BOS, END = 22, 23
TOKEN_BYTES = np.array([1 + i % 3 for i in range(22)] + [0, 0])


def make_tokens(folder: Path, documents: list[list[int]]) -> TokenSet:
    write_shard(folder / "validation" / "00000", documents, vocab_size=VOCAB)
    write_manifest(folder, tokenizer_sha256="0" * 64, vocab_size=VOCAB, text_bytes={"train": [], "validation": [1]})
    return open_tokens(folder, split="validation")


def make_model() -> Transformer:
    shape = {"dim": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 24}
    return Transformer(ModelConfig(vocab_size=VOCAB, max_positions=64, **shape), seed=1)


def documents(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[BOS, *rng.integers(0, 22, n).tolist(), END] for n in lengths]


@torch.no_grad()
def loop_bits(model: Transformer, document: list[int], context_tokens: int) -> tuple[float, int]:
    """Bits and bytes of one document, one token at a time, each from the start of its piece."""
    bits, size = 0.0, 0
    for i in range(1, len(document)):
        start = (i - 1) // context_tokens * context_tokens
        logits = model(torch.tensor([document[start:i]]))[0, -1]
        if TOKEN_BYTES[document[i]] > 0:
            bits -= float(torch.log_softmax(logits.double(), dim=-1)[document[i]]) / math.log(2)
            size += int(TOKEN_BYTES[document[i]])
    return bits, size


@pytest.mark.parametrize("context_tokens", [5, 64])
def test_bits_and_bytes_equal_a_loop_over_single_tokens(tmp_path: Path, context_tokens: int) -> None:
    texts = documents(7, 1, 20, 3)
    model = make_model()
    found = document_bits(model, make_tokens(tmp_path, texts), TOKEN_BYTES, context_tokens=context_tokens, max_tokens=0, device="cpu")
    expected = [loop_bits(model, text, context_tokens) for text in texts]
    assert found.bits == pytest.approx([bits for bits, _ in expected], rel=1e-5)
    assert found.num_bytes == [size for _, size in expected]
    total = sum(bits for bits, _ in expected) / sum(size for _, size in expected)
    assert found.interval(seed=0).value == pytest.approx(total, rel=1e-5)


def test_a_document_costs_the_same_whatever_is_scored_beside_it(tmp_path: Path) -> None:
    texts = documents(12, 30, 2)
    alone = document_bits(make_model(), make_tokens(tmp_path / "a", texts[:1]), TOKEN_BYTES, context_tokens=64, max_tokens=0, device="cpu")
    beside = document_bits(make_model(), make_tokens(tmp_path / "b", texts), TOKEN_BYTES, context_tokens=64, max_tokens=0, device="cpu")
    assert beside.bits[0] == pytest.approx(alone.bits[0], rel=1e-6)


def test_pieces_predict_every_token_but_the_first_exactly_once() -> None:
    for length in range(1, 30):
        pieces = split(0, length, context_tokens=4)
        assert [i for piece in pieces for i in range(piece.start + 1, piece.stop)] == list(range(1, length))
        assert all(piece.stop - piece.start <= 5 for piece in pieces)


def test_chosen_documents_are_spread_evenly_and_fit_the_budget() -> None:
    lengths = np.full(100, 10)
    assert choose_documents(lengths, max_tokens=0) == list(range(100))
    assert choose_documents(lengths, max_tokens=250) == list(range(0, 100, 4))
    assert choose_documents(lengths, max_tokens=1) == [0]
