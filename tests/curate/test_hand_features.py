"""The compiled features give the mission documents' heuristic score to the last bit."""

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from bloomery.curate.hand_features import HAND_FEATURES, measure_hand_features, mission_scores

SHARED = Path(__file__).parents[3] / "shared" / "data"
STRANGE = [
    "",
    "\n\n\n",
    "one",
    "a\u2028b\u0085c\x1cd e\xa0f",
    "これは日本語の文章です。" * 9,
    "Ⅷ ² ½ ª º ǅ ʰ ﷺ 𝒳 🙂 \u0301 ",
    "one two three\n\n\n\nfour\n\n \n\nfive six\n \nseven",
    "the " * 60 + "\n\n" + "word other thing " * 30,
    "12 34 !! ?? " * 40,
    " ".join(f"w{i}" for i in range(49)),
    " ".join(f"w{i}" for i in range(50)),
]


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def mission_score(text: str) -> float:
    """QualityFilter.score of the mission documents, their indentation restored."""
    words = text.split()
    n_words = len(words)
    if n_words < 50 or n_words > 100_000:
        return 0.0
    score = 1.0
    lines = text.split("\n")
    short_lines = sum(1 for line in lines if len(line.split()) < 3)
    if lines:
        score *= max(0.0, 1.0 - short_lines / len(lines))
    word_counts = Counter(words)
    if word_counts:
        most_common_frac = word_counts.most_common(1)[0][1] / n_words
        if most_common_frac > 0.1:
            score *= 0.5
    alpha_chars = sum(c.isalpha() for c in text)
    if len(text) > 0:
        alpha_ratio = alpha_chars / len(text)
        if alpha_ratio < 0.5:
            score *= 0.3
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    if len(paragraphs) > 2:
        score *= 1.1
    return min(1.0, score)


@pytest.mark.parametrize("text", STRANGE)
def test_the_features_are_what_python_counts(text):
    words, lines = text.split(), text.split("\n")
    expected = [
        len(words),
        sum(len(line.split()) < 3 for line in lines) / len(lines),
        Counter(words).most_common(1)[0][1] / len(words) if words else 0.0,
        sum(map(str.isalpha, text)) / len(text) if text else 1.0,
        len([part for part in text.split("\n\n") if part.strip()]),
    ]
    assert measure_hand_features(column([text]))[0].tolist() == expected
    assert len(expected) == len(HAND_FEATURES)


def test_the_heuristic_score_equals_the_mission_documents_function_on_real_texts():
    path = SHARED / "text" / "stories_multilingual.jsonl.gz"
    if not path.exists():
        pytest.skip("needs shared/data/text beside the repository")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = STRANGE + [json.loads(line)["text"] for line in itertools.islice(lines, 600)]
    assert mission_scores(measure_hand_features(column(texts))).tolist() == [mission_score(text) for text in texts]
