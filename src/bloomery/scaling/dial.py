"""The dial: `depth` alone gives the sizes of a model, how long and on what batches to train it, and its rates.

Each rule is one line of `turn_dial` with its source. Rules that were fitted elsewhere hold for AdamW; the Muon of this
project takes AdamW's learning rates, because its updates are scaled to AdamW's size (arXiv:2502.16982, eq. 4). At
0.12, 0.17 and 0.32 M parameters what it says is within 1 % of the best of sweeps (bench/dial.py, docs/budget.md); larger ones are
not swept. `pretrain` does not read the dial: what it says goes into a recipe as text.
"""

import math
from typing import Any, NamedTuple  # Any: settings of a recipe

from bloomery.scaling.shape import SMALL_PARAMS, Shape, count_params, shape_of_width, usual_vocab

TOKENS_PER_PARAM = 20.0
"""Hoffmann et al. (arXiv:2203.15556, table 3); nanochat measured 8 to 10.5 per parameter of matrices and output with Muon."""
MIN_BATCH_TOKENS = 1024
"""Four of the shortest rows. A floor of 4,096 cost runs of about 1 M tokens 1.6 % beside the rule's own 2,048 (bench/dial.py)."""
MAX_SEQUENCE_TOKENS, MIN_SEQUENCE_TOKENS = 4096, 256
MAX_LEARNING_RATE = 0.01
"""The best of a sweep at depth 2 (docs/benchmarks.md, Muon against AdamW): the power law, fitted on 60 M parameters and more, goes on
rising below that."""
EMBEDDING_LEARNING_RATE, EMBEDDING_DIM = 0.01, 256
"""This project's default, and the width of the quickstart that it is for."""
MAX_WEIGHT_DECAY = 0.2


class Dial(NamedTuple):
    """What a depth stands for."""

    depth: int
    shape: Shape
    sequence_tokens: int
    tokens: int
    batch_tokens: int
    learning_rate: float
    embedding_learning_rate: float
    weight_decay: float

    @property
    def params(self) -> int:
        """All of the model's."""
        return count_params(self.shape).total

    @property
    def num_steps(self) -> int:
        """Of the optimizer."""
        return max(1, round(self.tokens / self.batch_tokens))


def turn_dial(
    depth: int,
    *,
    vocab_size: int = 0,
    tokens_per_param: float = TOKENS_PER_PARAM,
    sequence_tokens: int = 0,
    batch_tokens: int = 0,
) -> Dial:
    """Everything that follows from a depth; 0 leaves a size to its rule. Raises ValueError for a depth below 1.

    >>> dial = turn_dial(12)
    >>> dial.shape.dim, dial.shape.num_heads, dial.params, dial.tokens, dial.batch_tokens, dial.sequence_tokens
    (768, 6, 110122752, 2202455040, 131072, 1024)
    >>> dial.learning_rate, dial.embedding_learning_rate, dial.weight_decay
    (0.0029, 0.0058, 0.091)
    """
    if depth < 1:
        raise ValueError(f"depth = {depth}: expected 1 or more")
    shape = _shape_of_depth(depth, vocab_size)
    tokens = round(tokens_per_param * count_params(shape).total)
    return dial_of_shape(shape, depth, tokens=tokens, sequence_tokens=sequence_tokens, batch_tokens=batch_tokens)


def dial_of_shape(shape: Shape, depth: int, *, tokens: int, sequence_tokens: int = 0, batch_tokens: int = 0) -> Dial:
    """What follows for any shape and number of tokens; `depth` is what a recipe calls it by."""
    counts = count_params(shape)
    batch = batch_tokens or usual_batch_tokens(tokens)
    rate = learning_rate(counts.matrices, tokens)
    embedding_rate = EMBEDDING_LEARNING_RATE * (EMBEDDING_DIM / shape.dim) ** 0.5  # nanochat: 1 / sqrt(width) for AdamW's
    decay = weight_decay(counts.total, tokens, batch, rate)
    row = sequence_tokens or usual_sequence_tokens(shape.dim)
    return Dial(depth, shape, row, tokens, batch, *(_two_digits(x) for x in (rate, embedding_rate, decay)))


def learning_rate(matrix_params: float, tokens: float) -> float:
    """1.79 N^-0.713 D^0.307, N without embeddings (Step Law, arXiv:2503.04715, eq. 1), but no more than was measured to be good."""
    return float(min(MAX_LEARNING_RATE, 1.79 * matrix_params**-0.713 * tokens**0.307))


def usual_batch_tokens(tokens: float) -> int:
    """0.58 D^0.571 tokens (Step Law, arXiv:2503.04715, eq. 1), as the nearest power of two."""
    return max(MIN_BATCH_TOKENS, 1 << round(math.log2(0.58 * tokens**0.571)))


def usual_sequence_tokens(dim: int) -> int:
    """A row about as long as the model is wide: attention then takes the same share of the work at every depth, about a sixth (ours)."""
    return min(MAX_SEQUENCE_TOKENS, max(MIN_SEQUENCE_TOKENS, 1 << round(math.log2(dim))))


def weight_decay(params: float, tokens: float, batch_tokens: float, rate: float) -> float:
    """B / (rate * tau * D) with AdamW's memory tau = 1.084 (D / N)^-0.527 of the run (Power Lines, arXiv:2505.13738, sec. 2)."""
    tau = 1.084 * (tokens / params) ** -0.527
    return float(min(MAX_WEIGHT_DECAY, batch_tokens / (rate * tau * tokens)))


def model_settings(dial: Dial) -> dict[str, Any]:
    """The `model` table of a pretraining config: the depth, and what its own rule would not give."""
    shape = dial.shape
    usual_kv = shape.num_heads // 2 if shape.num_heads % 2 == 0 else shape.num_heads
    return {
        "depth": dial.depth,
        **({"dim": shape.dim} if shape.dim != 64 * dial.depth else {}),
        **({"head_dim": shape.head_dim} if shape.head_dim != 64 else {}),
        **({"num_kv_heads": shape.num_kv_heads} if shape.num_kv_heads != usual_kv else {}),
        **({} if shape.tied_embeddings else {"tied_embeddings": False}),
    }


def recipe_config(dial: Dial) -> dict[str, Any]:
    """The `config` of a `pretrain` stage."""
    return {
        "model": model_settings(dial),
        "tokens": dial.tokens,
        "sequence_tokens": dial.sequence_tokens,
        "batch_tokens": dial.batch_tokens,
        "learning_rate": dial.learning_rate,
        "embedding_learning_rate": dial.embedding_learning_rate,
        "weight_decay": dial.weight_decay,
    }


def _shape_of_depth(depth: int, vocab_size: int) -> Shape:
    dim = 64 * depth  # nanochat's aspect ratio
    if dim >= 768:
        dim = -(-dim // 128) * 128
    params = 12 * depth * dim * dim  # without embeddings
    return shape_of_width(dim, depth, vocab_size=vocab_size or usual_vocab(params), tied=params < SMALL_PARAMS)


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
