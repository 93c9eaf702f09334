"""Rewards for how long an answer is, how often it says the same, and whether it ends: what else drifts while one thing is rewarded."""

from collections.abc import Sequence
from typing import Literal

from bloomery.align.reward_source import Answer
from bloomery.core.errors import DataError

LengthUnit = Literal["tokens", "words", "characters"]


def overlong_penalty(length: int, *, max_length: int, buffer_length: int) -> float:
    """0 for an answer that ends before the buffer, falling to -1 at `max_length` and beyond (DAPO, arXiv:2503.14476, eq. 13).

    >>> [overlong_penalty(n, max_length=100, buffer_length=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    over = length - (max_length - buffer_length)
    return 0.0 if over <= 0 else -min(1.0, over / buffer_length) if buffer_length else -1.0


def repetition_penalty(text: str, *, ngram_words: int) -> float:
    """Minus the share of a text's n-grams of words that stood in it before; 0 for a text with none to repeat.

    >>> repetition_penalty("a b a b a b", ngram_words=2), repetition_penalty("a b c", ngram_words=2)
    (-0.6, 0.0)
    """
    words = text.split()
    ngrams = [tuple(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1)]
    return (len(set(ngrams)) - len(ngrams)) / len(ngrams) if ngrams else 0.0


def measure_lengths(answers: Sequence[Answer], unit: LengthUnit) -> list[int]:
    """The length of each answer. Raises DataError for tokens where nobody counted them."""
    if unit == "words":
        return [len(answer.text.split()) for answer in answers]
    if unit == "characters":
        return [len(answer.text) for answer in answers]
    uncounted = next((answer for answer in answers if answer.text and not answer.num_tokens), None)
    if uncounted is not None:
        raise DataError(
            f'rewards: the answer {uncounted.text!r:.60} came without its number of tokens; use unit = "words" for a length here'
        )
    return [answer.num_tokens for answer in answers]
