"""config.json of Llama, Qwen2, Qwen3, Mistral and SmolLM3, read into a ModelConfig and written from one.

The five are one transformer with other settings; each has its own names and its own defaults for what a file leaves
out. What this transformer does not have is refused by its name in the file, never passed over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the values of a config.json

from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.model.config import AttentionBias, Head, ModelConfig, RopeScaling

HEADS: dict[str, Head] = {"ForCausalLM": "tokens", "ForSequenceClassification": "scalar"}


class Architecture(NamedTuple):
    """What sets an architecture apart, and what it takes for a setting that its config.json leaves out."""

    model_type: str
    qk_norm: bool = False
    attention_bias: AttentionBias | None = "none"
    """None: what the setting `attention_bias` says, of all four matrices or of none."""
    kv_heads: int = 0
    """0: as many as heads."""
    head_dim: int = 0
    """0: the model's dimensions over its heads."""
    rope_base: float = 10000.0
    tied_embeddings: bool = False


ARCHITECTURES = {
    "Llama": Architecture("llama", attention_bias=None),
    "Qwen2": Architecture("qwen2", attention_bias="qkv", kv_heads=32),
    "Qwen3": Architecture("qwen3", qk_norm=True, attention_bias=None, kv_heads=32, head_dim=128),
    "Mistral": Architecture("mistral", kv_heads=8),
    "SmolLM3": Architecture("smollm3", attention_bias=None, kv_heads=4, rope_base=2000000.0, tied_embeddings=True),
}
"""By the name of the class without its head. The defaults are those of `transformers`."""

REFUSED = {
    "mlp_bias": (None, False),
    "hidden_act": (None, "silu", "swish"),
    "attention_dropout": (None, 0, 0.0),
    "partial_rotary_factor": (None, 1, 1.0),
    "rope_interleaved": (None, False),
    "quantization_config": (None,),
}
"""Settings that change what a model computes, and the values of them that this transformer has."""
ROPE_KINDS = ("default", "linear", "llama3", "yarn")
REFUSED_IN_ROPE = ("mscale", "mscale_all_dim", "short_factor", "long_factor")


def name_architecture(config: ModelConfig) -> str:
    """The architecture that a model is written as: the plainest that has all its parts."""
    if config.qk_norm:
        return "Qwen3"
    if config.attention_bias == "qkv":
        return "Qwen2"
    if config.nope_layers or (config.sliding_window and (config.full_layers or config.attention_bias == "all")):
        return "SmolLM3"
    return "Mistral" if config.sliding_window else "Llama"


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a Hugging Face folder. Raises DataError for one that this transformer cannot be."""
    path = folder / "config.json"
    return parse_config(read_json(path), path)


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """The same from the values of the file; `path` is for messages."""
    name, head = _split_class(raw, path)
    architecture = ARCHITECTURES[name]
    # In transformers' order: rope_scaling goes first, as where a model that has rope_parameters is stretched by hand.
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    _refuse_what_is_not_here(raw, rope, path)
    try:
        num_heads, num_layers = raw["num_attention_heads"], raw["num_hidden_layers"]
        sliding_window, full_layers = _read_window(name, raw, num_layers)
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            dim=raw["hidden_size"],
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=raw.get("num_key_value_heads", architecture.kv_heads) or num_heads,
            head_dim=raw.get("head_dim") or architecture.head_dim or raw["hidden_size"] // num_heads,
            mlp_dim=raw["intermediate_size"],
            rope_base=rope.get("rope_theta") or raw.get("rope_theta") or architecture.rope_base,
            rope_scaling=_read_scaling(raw, rope),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            qk_norm=architecture.qk_norm,
            attention_bias=architecture.attention_bias or ("all" if raw.get("attention_bias") else "none"),
            tied_embeddings=raw.get("tie_word_embeddings", architecture.tied_embeddings),
            sliding_window=sliding_window,
            full_layers=full_layers,
            nope_layers=_read_nope_layers(raw, num_layers) if name == "SmolLM3" else (),
            max_positions=raw["max_position_embeddings"],
            head=head,
        )
    except KeyError as error:
        raise DataError(f"{path}: has no {error}, without which the model's shape is unknown") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a usable configuration: {error}") from error


def describe(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model, without what belongs to its tokenizer and its dtype."""
    name = name_architecture(config)
    suffix = next(suffix for suffix, head in HEADS.items() if head == config.head)
    scalar = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if config.head == "scalar" else {}
    bias = {"attention_bias": config.attention_bias == "all"} if ARCHITECTURES[name].attention_bias is None else {}
    rope = _describe_rope(config)
    scaling = {"rope_scaling": rope} if config.rope_scaling.kind != "none" else {}
    return {
        "architectures": [f"{name}{suffix}"],
        "model_type": ARCHITECTURES[name].model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "initializer_range": 0.02,
        "rms_norm_eps": config.norm_eps,
        # Both spellings: transformers 5 reads rope_parameters; transformers 4, vLLM and llama.cpp read the others.
        "rope_theta": config.rope_base,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        **bias,
        **scaling,
        **scalar,
        **_describe_layers(name, config),
    }


def _split_class(raw: Mapping[str, Any], path: Path) -> tuple[str, Head]:
    found = str((raw.get("architectures") or ["none"])[0])
    for suffix, head in HEADS.items():
        name = found.removesuffix(suffix)
        if name != found and name in ARCHITECTURES:
            model_type = raw.get("model_type") or ARCHITECTURES[name].model_type
            if model_type != ARCHITECTURES[name].model_type:  # transformers goes by it, we by the class
                raise DataError(f"{path}: the architecture is {found}, but model_type is {model_type}; which of them is the model?")
            num_labels = len(raw.get("id2label") or (0, 1))  # two is what transformers takes for a file that says nothing
            if head == "scalar" and num_labels != 1:
                raise DataError(f"{path}: {found} with {num_labels} labels; a scalar head has one")
            return name, head
    known = ", ".join(f"{name}{suffix}" for suffix in HEADS for name in ARCHITECTURES)
    raise DataError(f"{path}: the architecture is {found}; expected one of {known}")


def _refuse_what_is_not_here(raw: Mapping[str, Any], rope: Mapping[str, Any], path: Path) -> None:
    unlike = {key: raw[key] for key, known in REFUSED.items() if raw.get(key) not in known}
    # Nested tables are rotations by the type of the layer, as in Gemma 3.
    kind = "nested" if any(isinstance(value, Mapping) for value in rope.values()) else _rope_kind(rope)
    if kind not in ROPE_KINDS:
        unlike["rope_scaling"] = dict(rope)
    unlike |= {f"rope_scaling.{key}": rope[key] for key in REFUSED_IN_ROPE if rope.get(key)}
    if rope.get("partial_rotary_factor") not in REFUSED["partial_rotary_factor"]:
        unlike["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if unlike:
        names = ", ".join(f"{name} = {value!r}" for name, value in unlike.items())
        raise DataError(f"{path}: settings this transformer does not have: {names}")


def _rope_kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _read_scaling(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling:
    kind = _rope_kind(rope)
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling(kind="linear", factor=rope["factor"])
    original = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        return RopeScaling(
            kind="llama3", factor=rope["factor"], original_positions=original, low_frequency_factor=low, high_frequency_factor=high
        )
    return RopeScaling(
        kind="yarn",
        factor=rope.get("factor") or raw["max_position_embeddings"] / original,
        original_positions=original,
        beta_fast=rope.get("beta_fast") or 32.0,
        beta_slow=rope.get("beta_slow") or 1.0,
        attention_factor=rope.get("attention_factor") or 0.0,
        whole_dimensions=rope.get("truncate", True),
    )


def _describe_rope(config: ModelConfig) -> dict[str, Any]:
    scaling, table = config.rope_scaling, {"rope_type": "default", "rope_theta": config.rope_base}
    if scaling.kind == "none":
        return table
    table |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        table["original_max_position_embeddings"] = scaling.original_positions
    if scaling.kind == "llama3":
        table |= {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
    if scaling.kind == "yarn":
        table |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.whole_dimensions}
        table |= {"attention_factor": scaling.attention_factor} if scaling.attention_factor else {}
    return table


def _read_window(name: str, raw: Mapping[str, Any], num_layers: int) -> tuple[int, tuple[int, ...]]:
    """The sliding window (0: none), and the layers without it."""
    types = raw.get("layer_types")
    if name in ("Llama", "Mistral"):
        window = (raw.get("sliding_window", 4096) or 0) if name == "Mistral" else 0
        if set(types or ()) - {"sliding_attention" if window else "full_attention"}:
            raise ValueError(f"layer_types = {types} in a {name} model, whose layers are all alike; here the window is {window or 'none'}")
        return window, ()
    window = (raw.get("sliding_window", 4096 if name.startswith("Qwen") else None) or 0) if raw.get("use_sliding_window") else 0
    if not window and "sliding_attention" in (types or ()):
        found = {key: raw.get(key) for key in ("use_sliding_window", "sliding_window")}
        raise ValueError(f"layer_types has sliding_attention, but there is no window: {found}")
    if types is None and name == "SmolLM3":
        nope_layers = _read_nope_layers(raw, num_layers)
        types = ["sliding_attention" if i in nope_layers else "full_attention" for i in range(num_layers)]
    elif types is None:
        types = ["sliding_attention" if i >= raw.get("max_window_layers", 28) else "full_attention" for i in range(num_layers)]
    if unknown := sorted(set(types) - {"sliding_attention", "full_attention"}):
        raise ValueError(f"layer_types has {', '.join(unknown)}; expected sliding_attention and full_attention")
    if len(types) < num_layers:
        raise ValueError(f"layer_types names {len(types)} layers of {num_layers}")
    full_layers = tuple(i for i, kind in enumerate(types[:num_layers]) if kind == "full_attention")
    return (window, full_layers) if window and len(full_layers) < num_layers else (0, ())


def _read_nope_layers(raw: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    has_rotation = raw.get("no_rope_layers")  # 1 where a layer is rotated, whatever its name says
    if has_rotation is None:
        interval = raw.get("no_rope_layer_interval", 4)
        return tuple(range(interval - 1, num_layers, interval))
    return tuple(i for i, rotated in enumerate(has_rotation[:num_layers]) if not rotated)


def _describe_layers(name: str, config: ModelConfig) -> dict[str, Any]:
    layers, window = range(config.num_layers), config.sliding_window or None
    if name == "Llama":
        return {}
    if name == "Mistral":
        return {"sliding_window": window}
    types = ["sliding_attention" if config.window_of_layer(i) else "full_attention" for i in layers]
    found = {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}
    if name == "SmolLM3":
        # Without a word of them transformers takes the ids of SmolLM3's own tokenizer, which a smaller vocabulary does not have.
        no_tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        return {**found, **no_tokens, "no_rope_layers": [int(i not in config.nope_layers) for i in layers], "no_rope_layer_interval": 4}
    # Of readers that know no layer_types: exact where the layers with a window come last.
    return {**found, "max_window_layers": len(config.full_layers) if window else config.num_layers}
