"""How many parameters and FLOP a transformer of given sizes has: the published ones exactly, and one for any size.

`model/config.py` counts for the models that can be trained here. This room stands below it and also counts what is only
compared with: GPT-2's layer norms, biases and learned positions.
"""

import math
from typing import NamedTuple


class Shape(NamedTuple):
    """The sizes of a decoder-only transformer. What is not said is as in Llama: RMSNorm, SwiGLU, no biases, rotary positions."""

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    tied_embeddings: bool = False
    qk_norm: bool = False
    is_gated: bool = True
    """An MLP of three matrices (SwiGLU), not of two."""
    has_biases: bool = False
    """On every matrix and norm (LayerNorm), as in GPT-2."""
    learned_positions: int = 0

    @property
    def query_dim(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together; values have the same."""
        return self.num_kv_heads * self.head_dim


class Counts(NamedTuple):
    """Parameters by role: matrices inside the layers, embeddings (output matrix and positions included), norms and biases."""

    matrices: int
    embeddings: int
    vectors: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.embeddings + self.vectors


PUBLISHED = {
    "gpt2": Shape(50257, 768, 12, 12, 12, 64, 3072, True, False, False, True, 1024),
    "gpt2-xl": Shape(50257, 1600, 48, 25, 25, 64, 6400, True, False, False, True, 1024),
    "llama-2-7b": Shape(32000, 4096, 32, 32, 32, 128, 11008),
    "llama-3.1-8b": Shape(128256, 4096, 32, 32, 8, 128, 14336),
    "llama-3.1-70b": Shape(128256, 8192, 80, 64, 8, 128, 28672),
    "llama-3.1-405b": Shape(128256, 16384, 126, 128, 8, 128, 53248),
    "qwen3-0.6b": Shape(151936, 1024, 28, 16, 8, 128, 3072, True, True),
    "qwen3-8b": Shape(151936, 4096, 36, 32, 8, 128, 12288, False, True),
}
"""As their config.json say."""

SMALL_PARAMS = 1.5e9
"""Up to here width is 64 times depth (nanochat's aspect ratio), above it 128 times (Llama 7B's; 65B and more go on from 102)."""


def count_params(shape: Shape) -> Counts:
    """Exactly as many as the checkpoint has.

    >>> count_params(PUBLISHED["gpt2"]).total, count_params(PUBLISHED["llama-3.1-8b"]).total
    (124439808, 8030261248)
    """
    layer = _layer_matrices(shape)
    vectors = 2 * shape.dim + (2 * shape.head_dim if shape.qk_norm else 0)
    if shape.has_biases:
        outputs = shape.query_dim + 2 * shape.kv_dim + shape.dim + (2 if shape.is_gated else 1) * shape.mlp_dim + shape.dim
        vectors += outputs + 2 * shape.dim
    tables = shape.vocab_size * (1 if shape.tied_embeddings else 2) + shape.learned_positions
    last_norm = shape.dim * (2 if shape.has_biases else 1)
    return Counts(shape.num_layers * layer, tables * shape.dim, shape.num_layers * vectors + last_norm)


def flops_per_token(shape: Shape, sequence_tokens: int) -> int:
    """To train on one token (PaLM, arXiv:2204.02311, appendix B): 6 a parameter of a matrix product, and attention in full.

    The output matrix is a product, the embedding look-up is not; the causal half of attention is not taken off.
    """
    head = shape.vocab_size * shape.dim
    attention = 12 * shape.num_layers * shape.query_dim * sequence_tokens
    return 6 * (shape.num_layers * _layer_matrices(shape) + head) + attention


def usual_vocab(params: float) -> int:
    """The quickstart's vocabulary below 20 M parameters, that of `recipes/speedrun.toml` up to 3 B, above it twice that."""
    return 4096 if params < 2e7 else 32_768 if params < 3e9 else 65_536


def shape_of_size(params: float, *, vocab_size: int = 0) -> Shape:
    """A shape of about so many parameters, as this project's models have them (model/config.py: ModelShape); vocab_size 0 = the usual.

    Within half a layer's parameters. Widths are multiples of 64, of 128 from 768 on, and of 1,024 from 4,096 on, so that eight
    devices can share the heads. MLPs are three times as wide as the model; embeddings are tied below 1.5 B parameters.
    """
    vocab_size = vocab_size or usual_vocab(params)
    tied = params < SMALL_PARAMS
    aspect = 64 if tied else 128
    dim = _round_width((params * aspect / 12) ** (1 / 3))
    while dim > 64 and vocab_size * dim * (1 if tied else 2) > 0.8 * params:  # a small model is mostly its table
        dim = _round_width(dim - (64 if dim <= 768 else 128))
    one = shape_of_width(dim, 1, vocab_size=vocab_size, tied=tied)
    rest, layer = count_params(one).embeddings, count_params(one).matrices
    return one._replace(num_layers=max(1, round((params - rest) / layer)))


def shape_of_width(dim: int, num_layers: int, *, vocab_size: int, tied: bool) -> Shape:
    """Heads of 64 below a width of 768 and of 128 from there on; a key-value head for two query heads, eight from 4,096 on."""
    head_dim = 64 if dim < 768 else 128
    num_heads = max(1, dim // head_dim)
    kv = 8 if dim >= 4096 and num_heads % 8 == 0 else num_heads // 2 if num_heads % 2 == 0 else num_heads
    return Shape(vocab_size, dim, num_layers, num_heads, kv, head_dim, 3 * dim, tied, True)


def _layer_matrices(shape: Shape) -> int:
    attention = shape.dim * (2 * shape.query_dim + 2 * shape.kv_dim)
    return attention + (3 if shape.is_gated else 2) * shape.dim * shape.mlp_dim


def _round_width(dim: float) -> int:
    step = 64 if dim < 768 else 128 if dim < 4096 else 1024
    return max(64, math.floor(dim / step + 0.5) * step)
