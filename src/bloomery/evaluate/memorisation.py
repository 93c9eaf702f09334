"""How much of its training text a model knows by heart: the share it completes word for word, beside that of held-out text.

As in Carlini 2022 (arXiv:2202.07646, sec. 3): the beginning of a text is given, the likeliest continuation is taken, and only an
exact one counts. Held-out text says how often that happens to text that nobody has read.
"""

from collections.abc import Sequence

import numpy as np

from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.tokens.shards import TokenSet

PROMPT_TOKENS = 32
COMPLETION_TOKENS = 32
NUM_TEXTS = 48


def measure_memory(engine: Engine, train: TokenSet, held_out: TokenSet, *, context_tokens: int) -> dict[str, float]:
    """The share of texts completed word for word, of training and of held-out ones; without enough long texts of both, nothing."""
    prompt = min(PROMPT_TOKENS, context_tokens // 2)
    completion = min(COMPLETION_TOKENS, context_tokens - prompt)
    found = {name: _long_texts(tokens, prompt + completion) for name, tokens in (("train", train), ("held_out", held_out))}
    if min(len(texts) for texts in found.values()) < NUM_TEXTS // 6:
        return {}
    return {f"memory/{name}": verbatim_rate(engine, texts, prompt_tokens=prompt) for name, texts in found.items()}


def verbatim_rate(engine: Engine, texts: Sequence[Sequence[int]], *, prompt_tokens: int) -> float:
    """The share of texts whose tokens after the first `prompt_tokens` are what the model says there, each the likeliest."""
    rest = [list(text[prompt_tokens:]) for text in texts]
    params = SamplingParams(max_tokens=max(map(len, rest)), temperature=0.0)
    samples = engine.generate([list(text[:prompt_tokens]) for text in texts], params, seeds=range(len(texts)))
    return sum(list(sample.tokens[: len(end)]) == end for sample, end in zip(samples, rest, strict=True)) / len(texts)


def _long_texts(tokens: TokenSet, length: int) -> list[list[int]]:
    """Up to NUM_TEXTS beginnings of so many tokens, from evenly spaced documents that are longer."""
    longer = np.flatnonzero(tokens.lengths > length)
    chosen = longer[np.unique(np.linspace(0, len(longer) - 1, min(NUM_TEXTS, len(longer))).astype(np.int64))] if len(longer) else longer
    return [tokens.document(int(i))[:length].astype(np.int64).tolist() for i in chosen]
