"""What a block classifier learns from: which words of a page's blocks stand in its gold text.

The words of the blocks, in order, are aligned with the words of the gold text: the common subsequence of the highest
score, where a matched word counts 1 and beginning a run of matches costs 0.9, so that stray common words do not count.
Blocks that the gold text has in another place are found by their word 4-grams among the words left over.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bloomery.curate.kernels import compiled

WORD = re.compile(r"\w+")
MAX_CELLS = 120_000_000
"""Larger alignments (a byte a cell) are not made: the 4-grams decide alone."""
RUN_COST = 0.9


def label_blocks(texts: Sequence[str], gold: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """For each block the share of its words that belong to the gold text.

    >>> label_blocks(["Home About", "The bloom is hammered.", "All rights reserved"], "The bloom is hammered.").tolist()
    [0.0, 1.0, 0.0]
    """
    words = [WORD.findall(text.lower()) for text in texts]
    gold_words = WORD.findall(gold.lower())
    numbers: dict[str, int] = {}
    page_ids = np.array([numbers.setdefault(w, len(numbers)) for block in words for w in block], np.int32)
    gold_ids = np.array([numbers.setdefault(w, len(numbers)) for w in gold_words], np.int32)
    if len(page_ids) * len(gold_ids) <= MAX_CELLS:
        matched, taken = _align(page_ids, gold_ids)
    else:
        matched, taken = np.zeros(len(page_ids), np.bool_), np.zeros(len(gold_ids), np.bool_)
    left = Counter(word for word, is_taken in zip(gold_words, taken, strict=True) if not is_taken)
    shingles = {tuple(gold_words[i : i + 4]) for i in range(len(gold_words) - 3)}
    labels, at = np.zeros(len(words)), 0
    for i, block in enumerate(words):
        share = float(matched[at : at + len(block)].mean()) if block else 0.0
        if share < 0.5 and len(block) >= 4:
            grams = [tuple(block[k : k + 4]) for k in range(len(block) - 3)]
            covered = sum(gram in shingles for gram in grams) / len(grams)
            own = Counter(block)
            if covered >= 0.7 and (own & left).total() >= 0.7 * len(block):
                share = covered
                left -= own
        labels[i] = share
        at += len(block)
    return labels


@compiled
def _align(page, gold):  # type: ignore[no-untyped-def]  # compiled
    n, m = len(page), len(gold)
    choice = np.zeros((n + 1, m + 1), np.uint8)
    best, run = np.zeros(m + 1, np.float32), np.full(m + 1, -1e9, np.float32)
    for i in range(1, n + 1):
        diagonal_best, diagonal_run = best[0], run[0]
        for j in range(1, m + 1):
            above_best, above_run = best[j], run[j]
            bits, score = 0, above_best
            if best[j - 1] > score:
                bits, score = 1, best[j - 1]
            if page[i - 1] == gold[j - 1]:
                opened = diagonal_best + np.float32(1 - RUN_COST)
                run[j] = diagonal_run + np.float32(1)
                if run[j] >= opened:
                    bits |= 4
                else:
                    run[j] = opened
                if run[j] >= score:
                    bits, score = (bits & 4) | 2, run[j]
            else:
                run[j] = np.float32(-1e9)
            best[j] = score
            choice[i, j] = bits
            diagonal_best, diagonal_run = above_best, above_run
    matched, taken = np.zeros(n, np.bool_), np.zeros(m, np.bool_)
    i, j, in_run = n, m, False
    while i > 0 and j > 0:
        bits = choice[i, j]
        if in_run or bits & 3 == 2:
            matched[i - 1] = taken[j - 1] = True
            in_run = bits & 4 != 0
            i, j = i - 1, j - 1
        elif bits & 3 == 1:
            j -= 1
        else:
            i -= 1
    return matched, taken
