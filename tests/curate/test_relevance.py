"""Relevance: documents like the examples score above those of the background, as two bags of n-grams say."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from bloomery.core.documents import document_table
from bloomery.core.errors import DataError
from bloomery.curate.relevance import RelevanceConfig, measure_relevance
from bloomery.curate.relevance_training import train_relevance

DOMAIN = ["the furnace melts iron ore", "charcoal and bellows heat the bloom", "the smith hammers the iron"]
OTHERS = ["the river runs to the sea", "she reads a book at home", "we bought apples and bread"]


def write(path: Path, lines: list[str], count: int) -> Path:
    draw = random.Random(path.name)
    rows = [{"text": ". ".join(draw.choices(lines, k=4)) + f" {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def test_documents_of_the_domain_score_above_the_others(tmp_path):
    examples, background = write(tmp_path / "a.jsonl", DOMAIN, 60), write(tmp_path / "b.jsonl", OTHERS, 90)
    trained = train_relevance(RelevanceConfig(), examples=[examples], background=[background])
    assert trained.report["auc"] == 1.0 and trained.report["documents"] == {"examples": 60, "background": 90}
    table = document_table([{"id": str(i), "text": text} for i, text in enumerate(["iron and charcoal", "apples at home", "?!"])])
    scored = trained.scorer.add_signals(table)
    near, far, empty = scored.column("signal_relevance").to_pylist()
    assert near > 0.5 and far < -0.5 and empty is None
    assert scored.column("signal_relevance_log_weight").to_pylist()[0] == pytest.approx(5 * near)  # 3 words and 2 pairs


def test_the_log_ratio_is_that_of_two_smoothed_bags(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "iron iron ore"}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "iron sea sea sea"}) + "\n")
    config = RelevanceConfig(num_buckets=1_000_003, test_fraction=1e-9)
    trained = train_relevance(config, examples=[tmp_path / "a.jsonl"], background=[tmp_path / "b.jsonl"])
    assert "auc" not in trained.report
    examples, background = Counter(["iron", "iron", "ore", "iron iron", "iron ore"]), Counter(["iron", "sea", "iron sea"])
    background.update(["sea", "sea", "sea sea", "sea sea"])
    scale = examples.total() / background.total()
    for text, ngrams in [("iron", ["iron"]), ("sea sea", ["sea", "sea", "sea sea"]), ("ore other", ["ore", "other", "ore other"])]:
        expected = sum(math.log((examples[ngram] + 1) / (background[ngram] * scale + 1)) for ngram in ngrams)
        sums, counts = measure_relevance(trained.scorer.log_ratio, column([text]))
        assert sums[0] == pytest.approx(expected, abs=1e-5) and counts[0] == len(ngrams)


def test_a_side_without_words_is_named(tmp_path):
    examples = write(tmp_path / "a.jsonl", DOMAIN, 10)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "?!"}) + "\n")
    with pytest.raises(DataError, match="background: 1 documents"):
        train_relevance(RelevanceConfig(), examples=[examples], background=[tmp_path / "b.jsonl"])
