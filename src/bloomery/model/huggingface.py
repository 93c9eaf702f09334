"""Checkpoints as Hugging Face folders: what `AutoModelForCausalLM`, vLLM and llama.cpp's converter read, and back.

    config.json             Qwen3ForCausalLM, or LlamaForCausalLM for a model without QK-norm
    model.safetensors       weights under Hugging Face's names, which are ours
    generation_config.json  where an answer ends: <|end|>
    tokenizer.json, tokenizer_config.json, chat_template.jinja, special_tokens_map.json   copied beside them

Reading takes any Qwen3 or Llama folder whose parts this transformer has, and refuses the others by name.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: the values of a config.json

import safetensors
import torch
from safetensors.torch import load_file, save_file

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_atomically, write_json
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
ARCHITECTURES = {"Qwen3ForCausalLM": True, "LlamaForCausalLM": False}
"""Whether an architecture normalises queries and keys."""


def save_model(model: Transformer, folder: Path, *, tokenizer: Path | None, dtype: torch.dtype | None = None) -> None:
    """Writes a Hugging Face folder; equal weights give equal bytes. `dtype` None keeps that of the weights.

    The weights are written last: a folder that has them is whole. `tokenizer` is a folder with tokenizer.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    special = read_special_tokens(tokenizer) if tokenizer is not None else {}
    for name in TOKENIZER_FILES:
        if tokenizer is not None and (tokenizer / name).is_file():
            with write_atomically(folder / name) as temporary:
                shutil.copyfile(tokenizer / name, temporary)
    weights = {name: weight.detach().to(dtype or weight.dtype).cpu().contiguous() for name, weight in model.named_parameters()}
    kept = str(model.head_weight().dtype if dtype is None else dtype).removeprefix("torch.")
    write_json(folder / "config.json", {**describe(model.config), **special, "dtype": kept, "torch_dtype": kept})
    write_json(folder / "generation_config.json", {**special, "max_length": model.config.max_positions})
    with write_atomically(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Transformer:
    """The model in a Hugging Face folder, its weights and activations in `dtype`. Raises DataError naming what does not fit."""
    config = read_config(folder)
    model = Transformer(config, seed=None)
    found = _read_weights(folder)
    if config.tied_embeddings:
        found.pop("lm_head.weight", None)  # some writers store the tied matrix twice
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name not in found:
                raise DataError(f"{folder}: the weights have no {name}, which config.json asks for; is the download complete?")
            if found[name].shape != weight.shape:
                raise DataError(f"{folder}: {name} is {list(found[name].shape)}; config.json makes it {list(weight.shape)}")
            weight.copy_(found.pop(name))
    if found:
        raise DataError(f"{folder}: weights that this architecture has no place for: {', '.join(sorted(found)[:5])}")
    model.compute_dtype = dtype
    return model.to(device=device, dtype=dtype)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a Hugging Face folder. Raises DataError for one that this transformer cannot be."""
    path = folder / "config.json"
    raw = read_json(path)
    architecture = (raw.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise DataError(f"{path}: the architecture is {architecture}; expected one of {', '.join(ARCHITECTURES)}")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    unlike = {
        "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        "attention_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(raw.get("use_sliding_window")),
    }
    if any(unlike.values()):
        names = ", ".join(f"{name} = {raw.get(name, rope)!r}" for name, is_unlike in unlike.items() if is_unlike)
        raise DataError(f"{path}: settings this transformer does not have: {names}")
    try:
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            dim=raw["hidden_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            num_kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            mlp_dim=raw["intermediate_size"],
            rope_base=raw.get("rope_theta") or rope.get("rope_theta") or 10000.0,
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            qk_norm=ARCHITECTURES[architecture],
            tied_embeddings=raw.get("tie_word_embeddings", False),
            max_positions=raw["max_position_embeddings"],
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a usable configuration: {error}") from error


def describe(config: ModelConfig) -> dict[str, Any]:
    """A model's shape in the words of Hugging Face's config.json."""
    qwen = {"use_sliding_window": False, "sliding_window": None} if config.qk_norm else {"mlp_bias": False}
    return {
        "architectures": [next(name for name, qk_norm in ARCHITECTURES.items() if qk_norm == config.qk_norm)],
        "model_type": "qwen3" if config.qk_norm else "llama",
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
        # Both spellings: transformers 5 reads rope_parameters; transformers 4, vLLM and llama.cpp read rope_theta.
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        **qwen,
    }


def read_special_tokens(folder: Path) -> dict[str, int]:
    """`bos_token_id`, `eos_token_id` and `pad_token_id` of a tokenizer folder. Raises ConfigError if pad and eos are one.

    One id for both is how models forget to stop: the loss that masks padding then masks the end of every answer.
    """
    names = read_json(folder / "tokenizer_config.json")
    ids = {token["content"]: token["id"] for token in read_json(folder / "tokenizer.json").get("added_tokens", [])}
    found = {}
    for role in ("bos", "eos", "pad"):
        token = names.get(f"{role}_token")
        content = token.get("content") if isinstance(token, Mapping) else token
        if content in ids:
            found[f"{role}_token_id"] = int(ids[content])
    if "pad_token_id" in found and found["pad_token_id"] == found.get("eos_token_id"):
        raise ConfigError(f"{folder}: padding and end of answer are the same token, {names['pad_token']!r}; give padding its own")
    return found


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        try:
            weights.update(load_file(folder / name))
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{folder / name}: not a readable weights file: {error}") from error
    return weights
