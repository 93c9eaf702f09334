"""The shape of a transformer: every size that the weights depend on, and the arithmetic that follows from them.

`ModelConfig` is complete and is what a checkpoint stores. `ModelShape` is what a recipe says: one dial, `depth`, from
which the other sizes follow by the rule written there, or any of them by hand.
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.core.config import Config

AttentionBias = Literal["none", "qkv", "all"]
Head = Literal["tokens", "scalar"]
LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA_TARGETS: tuple[LoraTarget, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class RopeScaling(Config):
    """How the angles of rotary positions are stretched, so that a model reads further than it was pretrained; see model/rope.py."""

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: PositiveFloat = 1.0
    """How many times as far."""
    original_positions: NonNegativeInt = 0
    """Positions of pretraining; "llama3" and "yarn" need it."""
    low_frequency_factor: PositiveFloat = 1.0
    """"llama3": waves longer than original_positions / this are stretched whole."""
    high_frequency_factor: PositiveFloat = 4.0
    """"llama3": waves shorter than original_positions / this are left alone."""
    beta_fast: PositiveFloat = 32.0
    """"yarn": dimensions that turn more often than this over original_positions are left alone."""
    beta_slow: PositiveFloat = 1.0
    """"yarn": dimensions that turn less often than this are stretched whole."""
    attention_factor: NonNegativeFloat = 0.0
    """"yarn": what rotated queries and keys are multiplied by; 0 = 0.1 ln(factor) + 1."""
    whole_dimensions: bool = True
    """"yarn": whether the bounds between the dimensions are rounded outwards."""

    @model_validator(mode="after")
    def _check_positions(self) -> "RopeScaling":
        if self.kind in ("llama3", "yarn") and not self.original_positions:
            raise ValueError(f'rope_scaling of kind "{self.kind}" needs original_positions, how far the model was pretrained')
        if self.kind == "none" and self.factor != 1.0:
            raise ValueError(f'rope_scaling.factor = {self.factor} needs a kind: "linear", "llama3" or "yarn"')
        return self


class ModelConfig(Config):
    """A decoder-only transformer: RMSNorm, RoPE, SwiGLU, grouped queries. Qwen3, Qwen2, Llama, Mistral and SmolLM3 are settings of it."""

    vocab_size: PositiveInt
    dim: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    mlp_dim: PositiveInt
    rope_base: PositiveFloat = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    norm_eps: PositiveFloat = 1e-6
    qk_norm: bool = True
    attention_bias: AttentionBias = "none"
    tied_embeddings: bool = True
    sliding_window: NonNegativeInt = 0
    """Tokens that a token sees, itself counted; 0 = all before it."""
    full_layers: tuple[NonNegativeInt, ...] = ()
    """Layers (from 0) that see everything although there is a window."""
    nope_layers: tuple[NonNegativeInt, ...] = ()
    """Layers (from 0) whose queries and keys are not rotated (NoPE, arXiv:2305.19466)."""
    max_positions: PositiveInt = 2048
    head: Head = "tokens"
    """What the last layer's stream becomes: logits over the vocabulary, or one number a token (see model/heads.py)."""

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} is odd; rotary positions turn pairs of numbers")
        return self

    @model_validator(mode="after")
    def _check_layers(self) -> "ModelConfig":
        for name in ("full_layers", "nope_layers"):
            layers: tuple[int, ...] = getattr(self, name)
            if layers and (list(layers) != sorted(set(layers)) or layers[-1] >= self.num_layers):
                raise ValueError(f"{name} = {list(layers)}: expected rising numbers of layers, from 0 to {self.num_layers - 1}")
        if self.full_layers and not self.sliding_window:
            raise ValueError(f"full_layers = {list(self.full_layers)} are exceptions to a sliding_window, but there is none")
        return self

    @model_validator(mode="after")
    def _check_layout(self) -> "ModelConfig":
        # Each of these stands in one of Hugging Face's architectures, no two of them together in any.
        apart = {"qk_norm": self.qk_norm, 'attention_bias = "qkv"': self.attention_bias == "qkv", "nope_layers": bool(self.nope_layers)}
        found = [name for name, is_set in apart.items() if is_set]
        if len(found) > 1:
            raise ValueError(f"{' and '.join(found)} together: no other program could load such a checkpoint. Choose one of them")
        return self

    def window_of_layer(self, layer: int) -> int:
        """Tokens that a token of this layer sees, itself counted; 0 = all before it."""
        return 0 if layer in self.full_layers else self.sliding_window


class LoraConfig(Config):
    """Adapters to train instead of the weights themselves."""

    rank: NonNegativeInt = 0
    """Width of the adapters; 0 = none: all weights are trained."""
    alpha: PositiveFloat = 32.0
    """Adapters count alpha / rank times."""
    targets: tuple[LoraTarget, ...] = Field(default=LORA_TARGETS, min_length=1)
    """The matrices of each layer that get one."""


NO_LORA = LoraConfig()


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
    rope_scaling: RopeScaling = RopeScaling()
    norm_eps: PositiveFloat = 1e-6
    qk_norm: bool = True
    """Queries and keys of each head are normalised (Qwen3's layout)."""
    attention_bias: AttentionBias = "none"
    """Biases of the attention's matrices: "qkv" as in Qwen2, "all" with the output's."""
    tied_embeddings: bool = True
    sliding_window: NonNegativeInt = 0
    """Tokens that a token sees, itself counted; 0 = all before it."""
    full_layers: tuple[NonNegativeInt, ...] = ()
    """Layers (from 0) that see everything although there is a window."""
    nope_layers: tuple[NonNegativeInt, ...] = ()
    """Layers (from 0) whose queries and keys are not rotated (SmolLM3's layout)."""

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
        rope_scaling=shape.rope_scaling,
        norm_eps=shape.norm_eps,
        qk_norm=shape.qk_norm,
        attention_bias=shape.attention_bias,
        tied_embeddings=shape.tied_embeddings,
        sliding_window=shape.sliding_window,
        full_layers=shape.full_layers,
        nope_layers=shape.nope_layers,
        max_positions=max_positions,
    )


def count_params(config: ModelConfig) -> int:
    """The number of parameters; tied embeddings count once."""
    head = config.dim if config.head == "scalar" else 0 if config.tied_embeddings else config.vocab_size * config.dim
    norms = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    biases = {"none": 0, "qkv": _qkv_dim(config), "all": _qkv_dim(config) + config.dim}[config.attention_bias]
    layer = _layer_matrix_params(config) + norms + biases
    return config.vocab_size * config.dim + config.num_layers * layer + config.dim + head


def flops_per_token(config: ModelConfig, sequence_tokens: int, *, attention: bool = True, lora: LoraConfig = NO_LORA) -> int:
    """Floating-point operations to train on one token, forward and backward (PaLM, arXiv:2204.02311, appendix B).

    6 for each parameter of a matrix product (the output layer is one, the embedding look-up is not), and with
    `attention` 12 * heads * head_dim * min(sequence_tokens, window) for each layer: the causal half is not taken off.
    Where `lora` is trained, the matrices are not: 4 for each of their parameters, and 6 for each of an adapter or scalar head.
    """
    head = config.dim * (config.vocab_size if config.head == "tokens" else 1)
    of_layer, of_adapters = _layer_matrix_params(config), _layer_adapter_params(config, lora)
    matrices = config.num_layers * ((4 if lora.rank else 6) * of_layer + 6 * of_adapters)
    matrices += (4 if lora.rank and config.head == "tokens" else 6) * head
    if not attention:
        return matrices
    seen = sum(min(sequence_tokens, config.window_of_layer(i) or sequence_tokens) for i in range(config.num_layers))
    return matrices + 12 * config.num_heads * config.head_dim * seen


def _qkv_dim(config: ModelConfig) -> int:
    return config.head_dim * (config.num_heads + 2 * config.num_kv_heads)


def _layer_matrix_params(config: ModelConfig) -> int:
    output = config.num_heads * config.head_dim
    return config.dim * (_qkv_dim(config) + output) + 3 * config.dim * config.mlp_dim


def _layer_adapter_params(config: ModelConfig, lora: LoraConfig) -> int:
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    widths = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}  # at the matrix's other end is the stream; else the MLP
    return lora.rank * sum(config.dim + widths.get(target, config.mlp_dim) for target in lora.targets)
