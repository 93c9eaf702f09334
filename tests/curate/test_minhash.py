"""Signatures and clusters against sets and loops in plain Python."""

import itertools
import math
import random

import numpy as np
import pyarrow as pa
import pytest

from bloomery.core.config import check_config
from bloomery.curate.kernels import band_keys
from bloomery.curate.minhash import DedupConfig, estimate_similarity, find_clusters, sign_texts

CONFIG = DedupConfig()


def sign(texts: list[str], config: DedupConfig = CONFIG) -> np.ndarray:
    return sign_texts(pa.chunked_array([pa.array(texts, pa.large_string())]), config)


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
    keeper = find_clusters(signatures, CONFIG, rank=rank).keeper
    assert len(groups) < len(texts)
    for group in groups:
        assert {int(keeper[i]) for i in group} == {min(group, key=lambda i: rank[i])}


def test_pairs_above_the_threshold_are_found_and_those_far_below_are_not():
    texts = planted_texts(80)
    keeper = find_clusters(sign(texts), CONFIG, rank=np.arange(len(texts))).keeper
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
    keeper = find_clusters(sign(["a b", "a b", "a c", "a b c"]), CONFIG, rank=np.arange(4)).keeper
    assert keeper.tolist() == [0, 0, 2, 3]


def test_no_documents_have_no_clusters():
    assert len(find_clusters(sign([]), CONFIG, rank=np.arange(0)).keeper) == 0


def test_a_similarity_that_is_asked_for_parts_a_chain():
    base = [f"w{i}" for i in range(200)]
    texts = [" ".join(base[start : start + 100]) for start in range(0, 60, 4)]
    ranks = np.arange(len(texts))
    assert len(set(find_clusters(sign(texts), CONFIG, rank=ranks).keeper)) == 1
    strict = DedupConfig(min_similarity=0.98)
    assert len(set(find_clusters(sign(texts), strict, rank=ranks).keeper)) > 5


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
