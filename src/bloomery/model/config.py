"""The shape of a transformer: every size that the weights depend on, and the arithmetic that follows from them.

`ModelConfig` is complete and is what a checkpoint stores. `ModelShape` is what a recipe says: one dial, `depth`, from
which the other sizes follow by the rule written there, or any of them by hand.
"""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.core.config import Config


class ModelConfig(Config):
    """A decoder-only transformer in Qwen3's layout (RMSNorm, RoPE, SwiGLU, grouped queries, QK-norm); without QK-norm, in Llama's."""

    vocab_size: PositiveInt
    dim: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    mlp_dim: PositiveInt
    rope_base: PositiveFloat = 10000.0
    norm_eps: PositiveFloat = 1e-6
    qk_norm: bool = True
    tied_embeddings: bool = True
    max_positions: PositiveInt = 2048

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary positions turn pairs of numbers")
        return self


class ModelShape(Config):
    """A model as a recipe says it. A size of 0 follows from `depth`.

    The rule: one layer for each step of depth, 64 dimensions for each layer (nanochat's aspect ratio), heads of 64, two
    query heads to a key-value head where the number of heads is even, an MLP three times as wide as the model
    (Qwen3-0.6B's ratio), embeddings tied to the output. With 4,096 tokens of vocabulary depth 4 has 4.2 M parameters.
    """

    depth: PositiveInt = 4
    dim: NonNegativeInt = 0
    num_layers: NonNegativeInt = 0
    head_dim: PositiveInt = 64
    num_heads: NonNegativeInt = 0
    num_kv_heads: NonNegativeInt = 0
    mlp_dim: NonNegativeInt = 0
    rope_base: PositiveFloat = 10000.0
    norm_eps: PositiveFloat = 1e-6
    qk_norm: bool = True
    tied_embeddings: bool = True

    @model_validator(mode="after")
    def _check_sizes(self) -> "ModelShape":
        make_model_config(self, vocab_size=1, max_positions=1)
        return self


def make_model_config(shape: ModelShape, *, vocab_size: int, max_positions: int) -> ModelConfig:
    """The complete config of a shape, by the rule in ModelShape.

    >>> config = make_model_config(ModelShape(depth=4), vocab_size=4096, max_positions=256)
    >>> config.dim, config.num_layers, config.num_heads, config.num_kv_heads, config.mlp_dim, count_params(config)
    (256, 4, 4, 2, 768, 4197120)
    """
    dim = shape.dim or 64 * shape.depth
    num_heads = shape.num_heads or max(1, dim // shape.head_dim)
    return ModelConfig(
        vocab_size=vocab_size,
        dim=dim,
        num_layers=shape.num_layers or shape.depth,
        num_heads=num_heads,
        num_kv_heads=shape.num_kv_heads or (num_heads // 2 if num_heads % 2 == 0 else num_heads),
        head_dim=shape.head_dim,
        mlp_dim=shape.mlp_dim or 3 * dim,
        rope_base=shape.rope_base,
        norm_eps=shape.norm_eps,
        qk_norm=shape.qk_norm,
        tied_embeddings=shape.tied_embeddings,
        max_positions=max_positions,
    )


def count_params(config: ModelConfig) -> int:
    """The number of parameters; tied embeddings count once."""
    embeddings = config.vocab_size * config.dim * (1 if config.tied_embeddings else 2)
    norms = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    return embeddings + config.num_layers * (_layer_matrix_params(config) + norms) + config.dim


def flops_per_token(config: ModelConfig, sequence_tokens: int) -> int:
    """Floating-point operations to train on one token, forward and backward (PaLM, arXiv:2204.02311, appendix B).

    6 for each parameter of a matrix product (the output layer is one, the embedding look-up is not), and
    12 * layers * heads * head_dim * sequence_tokens for attention: the causal half is not taken off.
    """
    matrices = config.num_layers * _layer_matrix_params(config) + config.vocab_size * config.dim
    return 6 * matrices + 12 * config.num_layers * config.num_heads * config.head_dim * sequence_tokens


def _layer_matrix_params(config: ModelConfig) -> int:
    attention = 2 * config.dim * config.head_dim * (config.num_heads + config.num_kv_heads)
    return attention + 3 * config.dim * config.mlp_dim
