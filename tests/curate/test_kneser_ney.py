"""The n-gram model against a twin in plain dictionaries, written from Chen & Goodman's paper, and against its ARPA file."""

import math
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.errors import DataError
from bloomery.curate.kneser_ney import (
    MARKERS,
    NgramConfig,
    conditional_log10,
    estimate_ngrams,
    export_arpa,
    load_ngrams,
    measure_log_probabilities,
    save_ngrams,
    vocabulary,
)


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def some_texts(seed: str, count: int) -> list[str]:
    """Sentences of a small grammar, some words rare, so that every order has counts of 1 to 4."""
    draw = random.Random(seed)
    words = [f"{a}{b}" for a in ("iron", "ore", "wood", "fire", "hill", "coal") for b in ("", "s", "y", "ish", "er", "ing")]
    weights = [1 / (i + 1) for i in range(len(words))]
    texts = []
    for _ in range(count):
        lines = [" ".join(draw.choices(words, weights, k=draw.randint(1, 9))) for _ in range(draw.randint(1, 4))]
        texts.append("\n".join(lines) + f"\n\nThe {draw.randint(1, 999)} Öfen, {draw.choice(['rare', 'odd'])}{draw.randint(0, 40)}!")
    return texts


def sentences_of(texts: list[str]) -> list[list[str]]:
    lines = [re.findall(r"\w+", re.sub("[1-9]", "0", line.lower())) for text in texts for line in text.split("\n")]
    return [line for line in lines if line]


class Twin:
    """Interpolated modified Kneser-Ney in dictionaries (Chen & Goodman 1999, eq. 24 to 26)."""

    def __init__(self, texts: list[str], *, order: int, min_word_count: int, prune_from: int) -> None:
        sentences = sentences_of(texts)
        counts = Counter(word for sentence in sentences for word in sentence)
        self.order, self.prune_from = order, prune_from
        self.words = {word for word, count in counts.items() if count >= min_word_count}
        self.sentences = [self.wrap(sentence) for sentence in sentences]
        self.raw = {k: Counter(tuple(s[i : i + k]) for s in self.sentences for i in range(len(s) - k + 1)) for k in range(1, order + 1)}
        self.after: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
        self.discounts = {}
        for k in range(1, order + 1):
            adjusted = self._adjusted(k)
            self.discounts[k] = self._discounts(Counter(adjusted.values()))
            for ngram, count in adjusted.items():
                self.after[ngram[:-1]][ngram[-1]] = count

    def wrap(self, sentence: list[str]) -> list[str]:
        return ["<s>", *(word if word in self.words else "<unk>" for word in sentence), "</s>"]

    def _adjusted(self, k: int) -> dict[tuple[str, ...], int]:
        if k == self.order:
            return dict(self.raw[k])
        before = defaultdict(set)
        for ngram in self.raw[k + 1]:
            before[ngram[1:]].add(ngram[0])
        adjusted = {ngram: self.raw[k][ngram] if ngram[0] == "<s>" else len(before[ngram]) for ngram in self.raw[k]}
        adjusted.pop(("<s>",), None)
        return adjusted

    def _discounts(self, counts: Counter) -> tuple[float, float, float]:
        t1, t2, t3, t4 = (counts[i] for i in (1, 2, 3, 4))
        if not (t1 and t2 and t3 and t4):
            return 0.5, 1.0, 1.5
        y = t1 / (t1 + 2 * t2)
        found = (1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3)
        return found if all(0 < value <= i + 1 for i, value in enumerate(found)) else (0.5, 1.0, 1.5)

    def probability(self, word: str, context: tuple[str, ...]) -> float:
        context = context[max(len(context) - self.order + 1, 0) :]
        k = len(context) + 1
        if not context:
            lower = 1 / (len(self.words) + 2)
        else:
            lower = self.probability(word, context[1:])
            pruned = self.prune_from and k - 1 >= self.prune_from and self.raw[k - 1][context] < 2
            if context not in self.after or pruned:
                return lower
        counts = self.after[context]
        total = sum(counts.values())
        kept = {w: c for w, c in counts.items() if not (self.prune_from and k >= self.prune_from and self.raw[k][*context, w] < 2)}
        share = {w: (c - self.discounts[k][min(c, 3) - 1]) / total for w, c in kept.items()}
        return share.get(word, 0.0) + (1 - sum(share.values())) * lower


SETTINGS = [(2, 1, 0), (3, 1, 0), (3, 2, 3), (4, 2, 3), (5, 2, 2)]


@pytest.mark.parametrize(("order", "min_word_count", "prune_from"), SETTINGS)
def test_every_probability_is_that_of_the_twin_and_they_add_up_to_one(order, min_word_count, prune_from):
    texts = some_texts("twin", 120)
    config = NgramConfig(order=order, min_word_count=min_word_count, prune_from=prune_from)
    model = estimate_ngrams(column(texts), config).model
    twin = Twin(texts, order=order, min_word_count=min_word_count, prune_from=prune_from)
    words = vocabulary(model)
    assert set(words) - set(MARKERS) == twin.words
    ids = {word: i for i, word in enumerate(words)}
    unseen = [twin.wrap(sentence) for sentence in sentences_of(some_texts("unseen", 15))]
    for sentence in twin.sentences[:40] + unseen:
        for i in range(1, len(sentence)):
            expected = math.log10(twin.probability(sentence[i], tuple(sentence[:i])))
            assert conditional_log10(model, [ids[w] for w in sentence[:i]], ids[sentence[i]]) == pytest.approx(expected, abs=2e-6)
    contexts = [[], [1], [0], [0, 0], *([ids[w] for w in sentence[: 1 + i % 5]] for i, sentence in enumerate(unseen))]
    for context in contexts:
        total = sum(10 ** conditional_log10(model, context, word) for word in range(len(words)) if word != 1)
        assert total == pytest.approx(1, abs=1e-5)


def test_a_text_costs_the_sum_of_its_lines_and_unknown_words_share_the_probability_of_the_unknown():
    texts = some_texts("twin", 120)
    model = estimate_ngrams(column(texts), NgramConfig(order=3)).model
    twin = Twin(texts, order=3, min_word_count=2, prune_from=3)
    others = [*some_texts("more", 10), "", "...\n!!\n", "zzz"]
    found = measure_log_probabilities(model, column(others))
    for i, text in enumerate(others):
        sentences = [twin.wrap(sentence) for sentence in sentences_of([text])]
        unknown = sum(sentence.count("<unk>") for sentence in sentences)
        total = sum(math.log10(twin.probability(s[k], tuple(s[:k]))) for s in sentences for k in range(1, len(s)))
        assert found.log10[i] == pytest.approx(total - unknown * math.log10(model.unknown_types[0]), abs=1e-4)
        assert found.tokens[i] == sum(len(sentence) - 1 for sentence in sentences)
        assert found.unknown[i] == unknown
    assert found.unknown[-1] == 1


def read_arpa(path: Path) -> tuple[dict[tuple[str, ...], tuple[float, float]], dict[int, int]]:
    """An ARPA file as {n-gram: (log10 p, back-off)}, and the counts in its head."""
    ngrams, counts = {}, {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("ngram "):
            k, count = line.removeprefix("ngram ").split("=")
            counts[int(k)] = int(count)
        elif "\t" in line:
            parts = line.split("\t")
            ngrams[tuple(parts[1].split(" "))] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return ngrams, counts


def test_the_arpa_file_gives_the_same_probabilities_by_back_off(tmp_path):
    model = estimate_ngrams(column(some_texts("arpa", 80)), NgramConfig(order=4)).model
    export_arpa(model, tmp_path / "model.arpa")
    ngrams, counts = read_arpa(tmp_path / "model.arpa")
    assert counts == dict(Counter(len(ngram) for ngram in ngrams)) == {k: int(n) for k, n in enumerate(np.diff(model.levels), start=1)}

    def log10(ngram: tuple[str, ...]) -> float:
        if ngram in ngrams:
            return ngrams[ngram][0]
        return ngrams.get(ngram[:-1], (0.0, 0.0))[1] + log10(ngram[1:])

    words = vocabulary(model)
    ids = {word: i for i, word in enumerate(words)}
    for sentence in sentences_of(some_texts("arpa others", 20)):
        known = ["<s>", *(word if word in ids else "<unk>" for word in sentence), "</s>"]
        for i in range(1, len(known)):
            expected = log10(tuple(known[max(0, i - 3) : i + 1]))
            assert conditional_log10(model, [ids[w] for w in known[:i]], ids[known[i]]) == pytest.approx(expected, abs=1e-5)


def test_kenlm_reads_the_arpa_file_and_scores_sentences_alike(tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm has no wheel; pip builds it where a C++ compiler is")
    model = estimate_ngrams(column(some_texts("arpa", 80)), NgramConfig(order=4)).model
    export_arpa(model, tmp_path / "model.arpa")
    other = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in sentences_of(some_texts("arpa others", 20)):
        found = measure_log_probabilities(model, column([" ".join(sentence)]))
        penalty = found.unknown[0] * math.log10(model.unknown_types[0])
        assert found.log10[0] + penalty == pytest.approx(other.score(" ".join(sentence)), abs=1e-4)


def test_characters_are_words_in_scripts_without_spaces():
    texts = ["私は猫です。\n猫が好き", "ฉันรักแมว", "私は犬です"] * 3
    model = estimate_ngrams(column(texts), NgramConfig(order=2)).model
    assert {"猫", "犬", "ร", "แ"} < set(vocabulary(model))
    assert measure_log_probabilities(model, column(["猫です"])).tokens.tolist() == [4]


def test_a_saved_model_is_the_same_and_the_same_texts_give_the_same_bytes(tmp_path):
    texts = some_texts("saved", 50)
    for name in ("one", "two"):
        save_ngrams(tmp_path / name, estimate_ngrams(column(texts), NgramConfig()).model)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    model = estimate_ngrams(column(texts), NgramConfig()).model
    for name, array in load_ngrams(tmp_path / "one")._asdict().items():
        assert np.array_equal(array, getattr(model, name)), name
    parts = [measure_log_probabilities(model, column([text])).log10[0] for text in texts]
    assert measure_log_probabilities(model, column(texts)).log10.tolist() == parts


def test_texts_without_words_and_files_of_another_kind_are_named(tmp_path):
    with pytest.raises(DataError, match="no words"):
        estimate_ngrams(column(["", "?!"]), NgramConfig())
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_ngrams(tmp_path / "model.safetensors")
