"""Signatures and clusters against sets and loops in plain Python."""

import itertools
import math
import random

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.config import check_config
from bloomery.core.documents import document_table
from bloomery.core.errors import DataError
from bloomery.curate.clusters import choose_kept, flatten, gather_buckets, gather_similar, join, span
from bloomery.curate.dedup_exact import hash_texts
from bloomery.curate.kernels import band_keys, hash_words, text_column
from bloomery.curate.minhash import (
    DedupConfig,
    document_keys,
    estimate_from_sketches,
    estimate_similarity,
    least_equal,
    rank_documents,
    sign_texts,
    sketch,
)

CONFIG = DedupConfig()


def sign(texts: list[str], config: DedupConfig = CONFIG) -> np.ndarray:
    return sign_texts(column(texts), config)


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def find_kept(texts: list[str], config: DedupConfig = CONFIG, rank: np.ndarray | None = None) -> np.ndarray:
    """For each text the one of its cluster that stays, as the stage finds it, in one piece."""
    signatures = sign(texts, config)
    keys = document_keys(signatures, hash_texts(column(texts)), config)
    flat, documents = keys.reshape(-1), np.repeat(np.arange(len(texts)), keys.shape[1])
    if config.min_similarity > 0:
        sketches, min_equal = sketch(signatures), least_equal(config.min_similarity, config.num_hashes)
        buckets = gather_similar(flat, documents, sketches_of=lambda wanted: sketches[wanted], min_equal=min_equal)
    else:
        buckets = gather_buckets(flat, documents)
    root, kept, sizes = np.arange(len(texts)), np.empty(len(texts), np.int64), np.empty(len(texts), np.int32)
    join(root, span(buckets.edges))
    flatten(root)
    choose_kept(root, np.arange(len(texts)) if rank is None else rank, 0, kept, sizes)
    return kept


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def planted_texts(num_texts: int) -> list[str]:
    """Texts of random words, half of them edited copies of an earlier one."""
    draw = random.Random(1)
    texts: list[str] = []
    for _ in range(num_texts):
        words = [f"w{draw.randrange(3000)}" for _ in range(150)]
        if texts and draw.random() < 0.5:
            words = draw.choice(texts).split()
            for _ in range(draw.choice([0, 1, 3, 8, 20])):
                words[draw.randrange(len(words))] = f"w{draw.randrange(3000)}"
        texts.append(" ".join(words))
    return texts


def test_the_estimate_is_as_good_as_theory_says():
    texts = planted_texts(60)
    signatures = sign(texts)
    errors, variances = [], []
    for a, b in itertools.combinations(range(len(texts)), 2):
        true = jaccard(texts[a], texts[b])
        if true > 0:
            errors.append(float(estimate_similarity(signatures[a], signatures[b])) - true)
            variances.append(true * (1 - true) / CONFIG.num_hashes)
    assert len(errors) > 100
    # Pairs share documents, so the errors are not independent; 1.5 standard errors leave room for that.
    assert np.sqrt(np.mean(np.square(errors))) < 1.5 * math.sqrt(np.mean(variances))
    assert abs(np.mean(errors)) < 0.02


def test_clusters_are_those_of_a_brute_force_search_over_all_pairs():
    texts = planted_texts(80)
    signatures = sign(texts)
    keys = band_keys(signatures, CONFIG.bands)
    groups = [{i} for i in range(len(texts))]
    for a, b in itertools.combinations(range(len(texts)), 2):
        rows = CONFIG.num_hashes // CONFIG.bands
        shares = any((signatures[a, i : i + rows] == signatures[b, i : i + rows]).all() for i in range(0, CONFIG.num_hashes, rows))
        assert shares == bool((keys[a] == keys[b]).any())
        if shares:
            merged = next(g for g in groups if a in g) | next(g for g in groups if b in g)
            groups = [g for g in groups if not g & merged] + [merged]
    rank = np.array([(i * 37) % len(texts) for i in range(len(texts))])
    keeper = find_kept(texts, rank=rank)
    assert len(groups) < len(texts)
    for group in groups:
        assert {int(keeper[i]) for i in group} == {min(group, key=lambda i: rank[i])}


def test_pairs_above_the_threshold_are_found_and_those_far_below_are_not():
    texts = planted_texts(80)
    keeper = find_kept(texts)
    for a, b in itertools.combinations(range(len(texts)), 2):
        if jaccard(texts[a], texts[b]) > 0.9:
            assert keeper[a] == keeper[b]
    loners = [i for i in range(len(texts)) if all(jaccard(texts[i], texts[j]) < 0.05 for j in range(len(texts)) if j != i)]
    assert loners and all(keeper[i] == i for i in loners)


def test_case_spacing_and_punctuation_do_not_matter_and_one_more_word_does():
    signatures = sign(["One two, three FOUR five six", "one  two\nthree four five – six!", "one two three four five six seven"])
    assert (signatures[0] == signatures[1]).all()
    assert 0 < (signatures[0] == signatures[2]).mean() < 1


def test_chinese_is_compared_by_runs_of_characters():
    text = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望明月低头思故乡"
    signatures = sign([text, text[:30] + "白" + text[31:], text[::-1]])
    assert estimate_similarity(signatures[0], signatures[1]) > 0.5
    assert estimate_similarity(signatures[0], signatures[2]) < 0.1


def test_a_text_shorter_than_an_ngram_equals_only_itself():
    keeper = find_kept(["a b", "a b", "a c", "a b c"])
    assert keeper.tolist() == [0, 0, 2, 3]


def test_no_documents_have_no_clusters():
    assert len(find_kept([])) == 0


def test_a_similarity_that_is_asked_for_parts_a_chain():
    base = [f"w{i}" for i in range(200)]
    texts = [" ".join(base[start : start + 100]) for start in range(0, 60, 4)]
    assert len(set(find_kept(texts))) == 1
    assert len(set(find_kept(texts, DedupConfig(min_similarity=0.98)))) > 5


def test_bands_that_do_not_share_out_the_hashes_are_refused():
    config, mistakes = check_config(DedupConfig, {"num_hashes": 100, "bands": 14})
    assert config is None and "100" in mistakes[0] and "14" in mistakes[0]


@pytest.mark.parametrize("ngram_words", [1, 3])
def test_other_ngram_sizes_estimate_their_own_similarity(ngram_words):
    texts = ["a b c d e f g h i j", "a b c d e f g h x y"]
    config = DedupConfig(ngram_words=ngram_words, num_hashes=1400)
    words = [shingles(text, ngram_words) for text in texts]
    signatures = sign(texts, config)
    assert estimate_similarity(signatures[0], signatures[1]) == pytest.approx(len(words[0] & words[1]) / len(words[0] | words[1]), abs=0.05)


def test_texts_without_words_are_the_same_only_if_they_are_equal():
    assert find_kept(["!!!", "???", "!!!", "", " ", "\u2026"]).tolist() == [0, 1, 0, 3, 3, 5]


def test_words_are_those_of_the_lower_cased_text_whatever_the_alphabet():
    texts = ["Straße ÀÉÎ Ñandú", "ПРИВЕТ, Мир!", "ΟΔΥΣΣΕΥΣ Ὅμηρος", "日本語 ABC カナ", "x\U0001f600Y", "a_b 3.5", "ไทย TEXT"]
    upper, lower = sign(texts), sign([text.lower() for text in texts])
    assert (upper == lower).all()
    assert len({tuple(row) for row in upper.tolist()}) == len(texts)


def test_the_words_that_are_signed_are_those_that_other_kernels_count():
    config = DedupConfig(ngram_words=1, num_hashes=1120)
    texts = ["the cat sat on the mat", "日本 語 ok, çé-ü", "a\u3000b\u00a0c.d"]
    data, offsets = text_column(column(texts), lowercase=True)
    for i, text in enumerate(texts):
        out = np.empty(len(data) + 1, np.uint64)
        words = set(out[: hash_words(data, offsets[i], offsets[i + 1], out)].tolist())
        half = sign([text, text + " " + " ".join(f"zq{k}" for k in range(len(words)))], config)
        assert estimate_similarity(half[0], half[1]) == pytest.approx(0.5, abs=0.08)


def planted_pairs(num_pairs: int, *, seed: int) -> tuple[list[str], list[str], list[float]]:
    """Pairs of texts, and the similarity of their sets of word 5-grams, counted."""
    draw = random.Random(seed)
    first, second = [], []
    for _ in range(num_pairs):
        words = [f"w{draw.randrange(10**6)}" for _ in range(draw.randrange(60, 300))]
        other = list(words)
        for _ in range(draw.randrange(14)):
            other[draw.randrange(len(other))] = f"w{draw.randrange(10**6)}"
        first.append(" ".join(words))
        second.append(" ".join(other))
    return first, second, [jaccard(a, b) for a, b in zip(first, second, strict=True)]


def test_error_and_hits_of_planted_pairs_are_those_of_the_theory():
    first, second, similarity = planted_pairs(1500, seed=3)
    s = np.array(similarity)
    a, b = sign(first), sign(second)
    theory = math.sqrt(np.mean(s * (1 - s)) / CONFIG.num_hashes)
    for estimate in (estimate_similarity(a, b), estimate_from_sketches(sketch(a), sketch(b))):
        # 1500 independent squares: their mean is within 4 of its standard errors of 1 / sqrt(2 * 1500).
        assert np.sqrt(np.mean((estimate - s) ** 2)) == pytest.approx(theory, rel=0.09)
        assert abs(np.mean(estimate - s)) < 4 * theory / math.sqrt(len(s))
    hit = (band_keys(a, CONFIG.bands) == band_keys(b, CONFIG.bands)).any(axis=1)
    expected = 1 - (1 - s**8) ** 14
    for low in np.arange(0.3, 1.0, 0.1):
        there = (s >= low) & (s < low + 0.1)
        spread = math.sqrt((expected[there] * (1 - expected[there])).sum()) + 1
        assert abs(hit[there].sum() - expected[there].sum()) < 4 * spread


def test_unrelated_texts_share_no_band():
    draw = random.Random(4)
    texts = [" ".join(f"w{draw.randrange(3000)}" for _ in range(120)) for _ in range(600)]
    keys = band_keys(sign(texts), CONFIG.bands)
    assert all(len(np.unique(keys[:, band])) == len(texts) for band in range(CONFIG.bands))


def test_the_newest_the_best_or_the_first_stays():
    rows = [{"id": str(i), "text": "x" * (i + 1), "date": date, "signal_words": signal} for i, (date, signal) in enumerate(DATED)]
    table = document_table(rows)
    order = {
        keep: np.argsort(rank_documents(table, config, "a.parquet"), kind="stable").tolist()
        for keep, config in {
            "newest": DedupConfig(keep="newest"),
            "quality": DedupConfig(keep="quality", keep_signal="words"),
            "first": DedupConfig(keep="first"),
            "longest": DedupConfig(),
        }.items()
    }
    assert order["newest"] == [3, 1, 2, 0, 4, 5]
    assert order["quality"] == [2, 1, 5, 0, 3, 4]
    assert order["first"] == [0, 1, 2, 3, 4, 5] and order["longest"] == [5, 4, 3, 2, 1, 0]


DATED = [
    ("2023", -1.5),
    ("2024-05-01T10:00:00Z", 0.5),
    ("2024-05-01T09:59:59.5Z", 1e300),
    ("2024-06", -2.0),
    ("Wed, 21 Oct 2025", None),
    (None, -0.0),
]


def test_a_signal_that_is_not_there_is_answered_with_the_nearest():
    table = document_table([{"id": "a", "text": "b", "signal_quality_score": 1.0}])
    with pytest.raises(DataError, match=r'a\.parquet: no column signal_quality_scor .* did you mean "quality_score"'):
        rank_documents(table, DedupConfig(keep="quality", keep_signal="quality_scor"), "a.parquet")
    config, mistakes = check_config(DedupConfig, {"keep": "quality"})
    assert config is None and "keep_signal" in mistakes[0]
