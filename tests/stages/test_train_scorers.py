"""The stages that train scorers, and the one that scores with a checkpoint."""

import json
import math
import random

import numpy as np
import pytest

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime
from bloomery.curate.classifier import ClassifierConfig
from bloomery.curate.perplexity import PerplexityConfig
from bloomery.curate.relevance import RelevanceConfig
from bloomery.curate.scorers import load_scorers
from bloomery.evaluate.scoring import document_bits
from bloomery.model.huggingface import load_model
from bloomery.stages.filter import FilterConfig, filter
from bloomery.stages.score_documents import ScoreDocumentsConfig, score_documents
from bloomery.stages.train_classifier import train_classifier
from bloomery.stages.train_perplexity import train_perplexity
from bloomery.stages.train_relevance import train_relevance
from bloomery.tokens.shards import open_tokens, write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "to", "the", "red", "house", "by", "the", "sea"]


@pytest.fixture
def sets(tmp_path):
    """Files of good and of bad documents."""
    draw = random.Random("sets")
    good = [{"text": " ".join(draw.choices(WORDS, k=60)) + ".", "language": "en"} for _ in range(130)]
    bad = [{"text": "\n".join(draw.choices(["log in", "menu", "12", "a b"], k=40)), "language": "en"} for _ in range(110)]
    for name, rows in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "good.jsonl", tmp_path / "bad.jsonl"


def test_three_scorers_are_trained_and_measure_documents_together(sets, tmp_path):
    good, bad = sets
    folders = [tmp_path / name for name in ("quality", "perplexity", "relevance")]
    for folder in folders:
        folder.mkdir()
    metrics = [
        train_classifier(ClassifierConfig(), good=[good], bad=[bad], out=folders[0], runtime=Runtime()),
        train_perplexity(PerplexityConfig(test_fraction=0.2), documents=[good], out=folders[1], runtime=Runtime(workers=2)),
        train_relevance(RelevanceConfig(), examples=[good], background=[bad], out=folders[2], runtime=Runtime()),
    ]
    assert metrics[0]["auc"] == metrics[2]["auc"] == 1.0 and 1 < metrics[1]["en/perplexity"] < 20
    assert (folders[0] / "report.html").read_text().startswith("<!doctype html>")
    texts = [" ".join(WORDS * 4), "\n".join(["log in", "a b", "12"] * 13)]
    table = document_table([{"id": text[:3], "text": text, "language": "en"} for text in texts])
    for scorer in load_scorers(folders):
        table = scorer.add_signals(table)
    rows = table.to_pylist()
    assert rows[0]["signal_relevance"] > 0 > rows[1]["signal_relevance"]
    assert rows[0]["signal_perplexity"] < rows[1]["signal_perplexity"]
    assert rows[0]["signal_quality"] > 0.5 > rows[1]["signal_quality"]


def test_a_filter_drops_by_a_scorers_column_and_keeps_what_the_scorer_cannot_judge(sets, tmp_path):
    for name in ("scorer", "out"):
        (tmp_path / name).mkdir()
    train_perplexity(PerplexityConfig(test_fraction=0.2), documents=[sets[0]], out=tmp_path / "scorer", runtime=Runtime())
    texts = {"en": "qzx vvk " * 30, "fr": "qzx vvk " * 31, "de": ""}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t, "language": c}) + "\n" for c, t in texts.items()))
    rule = {"name": "tail", "signal": "perplexity_bucket", "drops": "above", "threshold": 1}
    config = FilterConfig(rules=[], extra_rules=[rule])
    metrics = filter(config, documents=[tmp_path / "rows.jsonl"], scorers=[tmp_path / "scorer"], out=tmp_path / "out", runtime=Runtime())
    assert metrics["dropped/tail"] == 1 and metrics["documents_out"] == 2
    assert read_documents(tmp_path / "out" / "00000.parquet").column("language").to_pylist() == ["fr", "de"]


def test_one_set_without_the_other_is_refused(sets, tmp_path):
    with pytest.raises(ConfigError, match="found good"):
        train_classifier(ClassifierConfig(), good=[sets[0]], out=tmp_path, runtime=Runtime())
    with pytest.raises(ConfigError, match="found none"):
        train_classifier(ClassifierConfig(), out=tmp_path, runtime=Runtime())


def test_a_checkpoints_score_is_its_bits_per_byte_and_every_document_stays(tiny_checkpoint, tmp_path):
    draw = random.Random("scored")
    texts = [" ".join(draw.choices(WORDS, k=3 + i % 40)) for i in range(30)] + ["", "Ünïcode!"]
    (tmp_path / "in").mkdir()
    table = document_table([{"id": str(i), "text": text} for i, text in enumerate(texts)])
    write_documents(tmp_path / "in" / "00000.parquet", table.slice(0, 20))
    write_documents(tmp_path / "in" / "00001.parquet", table.slice(20))
    outputs = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        out.mkdir()
        config = ScoreDocumentsConfig(max_tokens=64, context_tokens=24)
        metrics = score_documents(config, documents=[tmp_path / "in"], model=tiny_checkpoint, out=out, runtime=Runtime(workers=workers))
        assert metrics["documents_in"] == metrics["documents_out"] == len(texts)
        outputs.append([(out / name).read_bytes() for name in ("00000.parquet", "00001.parquet")])
    assert outputs[0] == outputs[1]
    found = [v for name in ("00000", "00001") for v in read_documents(out / f"{name}.parquet").column("signal_bits_per_byte").to_pylist()]
    assert found[30] is None
    tokenizer = load_tokenizer(tiny_checkpoint)
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)][:64] for text in texts]
    (tmp_path / "tokens" / "validation").mkdir(parents=True)
    write_shard(tmp_path / "tokens" / "validation" / "00000", ids, vocab_size=tokenizer.vocab_size)
    sizes = {"train": [], "validation": [sum(map(len, texts))]}
    write_manifest(tmp_path / "tokens", tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes=sizes)
    tokens = open_tokens(tmp_path / "tokens", split="validation")
    model = load_model(tiny_checkpoint).eval()
    expected = document_bits(model, tokens, tokenizer.token_bytes(), context_tokens=24, max_tokens=0, device="cpu")
    for value, bits, size in zip(found, expected.bits, expected.num_bytes, strict=True):
        assert (value is None) == (size == 0)
        assert value is None or math.isclose(value, bits / size, rel_tol=1e-4)
    assert np.nanmean([v for v in found if v is not None]) > 0
