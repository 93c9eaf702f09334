"""Perplexity by language: good text is cheap, strange text is dear, and a language without a model is not judged."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.documents import document_table
from bloomery.core.errors import DataError
from bloomery.curate.perplexity import (
    PerplexityConfig,
    choose_languages,
    count_languages,
    load_perplexity_scorer,
    measure_perplexities,
    save_perplexity_scorer,
    train_language,
)

NOUNS = {
    "en": ["the smith", "the furnace", "an old", "hill", "the river", "and the", "winter"],
    "de": ["der Schmied", "ein Ofen", "der alte", "Berg", "dieser Fluss", "und der", "Winter"],
}
VERBS = {"en": ["warms", "carries", "crosses", "remembers", "leaves"], "de": ["wärmt", "trägt", "quert", "verlässt"]}


def text_in(code: str, draw: random.Random) -> str:
    nouns, verbs = NOUNS[code], VERBS[code]
    return "\n".join(" ".join([*draw.choices(nouns, k=3), draw.choice(verbs), *draw.choices(nouns, k=3)]) for _ in range(4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A scorer of English and German, its folder and the records of its languages."""
    folder, draw = tmp_path_factory.mktemp("perplexity"), random.Random("perplexity")
    rows = [{"text": text_in(code, draw), "language": code} for code in ("en", "de") for _ in range(80)] + [
        {"text": "xx", "language": "fr"}
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PerplexityConfig(test_fraction=0.3)
    counts = count_languages(folder / "rows.jsonl")
    languages = choose_languages(config, counts)
    sizes = {code: counts[code][1] for code in languages}
    records = {code: train_language(config, [folder / "rows.jsonl"], sizes, [], folder, code) for code in languages}
    save_perplexity_scorer(folder, config, records)
    return load_perplexity_scorer(folder, json.loads((folder / "scorer.json").read_text())), records, folder


def test_each_language_with_enough_documents_has_a_model_of_its_own(trained):
    scorer, records, folder = trained
    assert sorted(scorer.models) == sorted(records) == ["de", "en"]
    assert count_languages(folder / "rows.jsonl")["fr"] == (1, 2)
    assert all(record["documents"] + record["test_documents"] == 80 for record in records.values())


def test_perplexity_is_ten_to_the_mean_cost_of_a_token_and_nan_without_words(trained):
    scorer, _, _ = trained
    model = scorer.models["en"].ngrams
    texts = pa.chunked_array([pa.array(["the smith warms the hill", "", "?!"], pa.large_string())])
    found = measure_perplexities(model, texts)
    assert 2 < found[0] < 40 and np.isnan(found[1]) and np.isnan(found[2])


def test_a_document_is_measured_by_the_model_of_its_language_and_others_stay_empty(trained):
    scorer, _, _ = trained
    draw = random.Random("measured")
    texts = [text_in("en", draw), text_in("de", draw), text_in("de", draw), "le forgeron", "", "qzx vvk wrt " * 9]
    codes = ["en", "de", "en", "fr", "en", "en"]
    table = document_table([{"id": str(i), "text": t, "language": c} for i, (t, c) in enumerate(zip(texts, codes, strict=True))])
    scored = scorer.add_signals(table)
    values, buckets = (scored.column(f"signal_perplexity{end}").to_pylist() for end in ("", "_bucket"))
    assert values[3] is None and values[4] is None and buckets[3] is None and buckets[4] is None
    assert max(values[:2]) < 40 < 80 < min(values[2], values[5])
    assert buckets[2] == buckets[5] == 2
    again = scorer.add_signals(scored)
    assert again.column_names == scored.column_names and again.equals(scored)


def test_the_bounds_split_the_documents_kept_from_learning_into_thirds(trained):
    _, records, _ = trained
    for record in records.values():
        assert record["head_below"] < record["middle_below"]
        assert max(record["thirds"].values()) - min(record["thirds"].values()) <= 1
        assert sum(record["thirds"].values()) == record["test_documents"]


def test_the_bounds_can_come_from_the_documents_that_will_be_filtered(trained, tmp_path):
    _, records, folder = trained
    (tmp_path / "crawl.jsonl").write_text("".join(json.dumps({"text": f"buy {i} now " * 5, "language": "en"}) + "\n" for i in range(30)))
    config = PerplexityConfig(test_fraction=0.3)
    record = train_language(config, [folder / "rows.jsonl"], {"en": 10_000}, [tmp_path / "crawl.jsonl"], tmp_path, "en")
    assert record["bounds_from_documents"] == 30
    assert record["head_below"] > 10 * records["en"]["middle_below"]


def test_languages_that_cannot_have_a_model_are_named():
    counts = {"en": (49, 9000), "fr": (3, 100)}
    with pytest.raises(DataError, match="the most are 49 in en"):
        choose_languages(PerplexityConfig(), counts)
    with pytest.raises(DataError, match='3 documents are in "fr"'):
        choose_languages(PerplexityConfig(languages=["fr"]), counts)


def test_real_english_is_in_the_head_and_its_words_shuffled_in_the_tail(tmp_path):
    path = Path(__file__).parents[3] / "shared" / "data" / "text" / "science_abstracts.jsonl.gz"
    if not path.exists():
        pytest.skip("needs shared/data/text beside the repository")
    config = PerplexityConfig(sample_bytes=1_500_000)
    record = train_language(config, [path], {"en": 3_000_000}, [], tmp_path, "en")
    save_perplexity_scorer(tmp_path, config, {"en": record})
    scorer = load_perplexity_scorer(tmp_path, json.loads((tmp_path / "scorer.json").read_text()))
    text = "In this paper we propose a new method for the task of machine translation. We show that the model can be trained end to end."
    words = text.split()
    random.Random("shuffled").shuffle(words)
    table = document_table([{"id": str(i), "text": t, "language": "en"} for i, t in enumerate([text, " ".join(words)])])
    plain, shuffled = scorer.add_signals(table).column("signal_perplexity").to_pylist()
    assert plain < record["head_below"] and shuffled > 3 * plain
