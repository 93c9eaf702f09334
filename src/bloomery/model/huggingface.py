"""Checkpoints as Hugging Face folders: what `AutoModelForCausalLM`, vLLM and llama.cpp's converter read, and back.

    config.json             the architecture and its sizes; see architectures.py
    model.safetensors       weights under Hugging Face's names, which are ours; see weights.py for several files
    generation_config.json  where an answer ends
    tokenizer.json, tokenizer_config.json, ...   TOKENIZER_FILES, copied as they are
    LICENSE, NOTICE, ...    of the checkpoint that a model was made of, copied as they are; see `licence_files`
    adapter/                of a model that was trained by LoRA, its adapters in PEFT's format; the weights have them in them

`save_model` writes a model as one file in one dtype. `save_model_as` writes it as the folder that it was read from is
written, so that what was not trained comes out byte for byte.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # Any: the values of a config.json

import torch

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_atomically, write_json, write_text
from bloomery.model.architectures import HEADS, describe, parse_config, read_config
from bloomery.model.config import Head, ModelConfig
from bloomery.model.lora import merged_weights, save_adapter
from bloomery.model.transformer import Transformer
from bloomery.model.weights import read_weights, write_weights, write_weights_as

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
LICENCE_STEMS = ("license", "licence", "notice", "copying", "use_policy")
"""What the files are called that a licence asks to go with every copy (Apache 2.0, 4(a) and (d); Llama's, 1.b), before the suffix."""
ADAPTER_FOLDER = "adapter"
FROZEN_BUFFERS = ".rotary_emb.inv_freq"
"""The end of names that old Llama checkpoints store though they follow from config.json."""


def save_model(
    model: Transformer, folder: Path, *, tokenizer: Path | None, dtype: torch.dtype | None = None, like: Path | None = None
) -> None:
    """Writes a Hugging Face folder; equal weights give equal bytes. `dtype` None keeps that of the weights.

    The weights are written last: a folder that has them is whole. `tokenizer` is a folder with tokenizer.json. `like` is
    the checkpoint that the training started from: its config.json keeps its own fields, and its generation_config.json
    and the files of its licence go along.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = str(model.head_weight().dtype if dtype is None else dtype).removeprefix("torch.")
    if tokenizer is not None:
        _copy(tokenizer, folder, TOKENIZER_FILES)
    if like is not None:
        special = read_special_tokens(tokenizer) if tokenizer is not None and model.config.head == "scalar" else {}
        _write_config_like(model.config, folder, like=like, dtype=kept, special=special)
        _copy(like, folder, ("generation_config.json", *licence_files(like)))
    else:
        special = read_special_tokens(tokenizer) if tokenizer is not None else {}
        write_json(folder / "config.json", {**describe(model.config), **special, "dtype": kept, "torch_dtype": kept})
        write_json(folder / "generation_config.json", {**special, "max_length": model.config.max_positions})
    if model.lora.rank:
        base = read_json(like / "config.json").get("_name_or_path") if like is not None else None
        save_adapter(model, folder / ADAPTER_FOLDER, base=base or None)
    write_weights(folder, {name: weight.to(dtype or weight.dtype).cpu() for name, weight in merged_weights(model).items()})


def save_model_as(model: Transformer, folder: Path, *, like: Path) -> None:
    """Writes a model as the folder `like`, which it was read from, is written: its files, order, dtypes, config, tokenizer.

    A weight that has not changed since has the same bytes; a folder none of whose weights have is the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    assert read_config(like) == model.config
    _copy(like, folder, ("config.json", "generation_config.json", *TOKENIZER_FILES, *licence_files(like)))
    weights = merged_weights(model)
    if model.config.tied_embeddings:
        weights["lm_head.weight"] = model.head_weight().detach()  # some writers store the tied matrix twice
    write_weights_as(like, folder, weights)


def load_model(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", head: Head = "tokens"
) -> Transformer:
    """The model in a Hugging Face folder, its weights and activations in `dtype`. Raises DataError naming what does not fit."""
    config = read_config(folder)
    if config.head != head:
        names = {"tokens": "a language model", "scalar": "a model with a scalar head (reward or value)"}
        raise DataError(f"{folder}: holds {names[config.head]}; expected {names[head]}")
    model = Transformer(config, seed=None)
    missing, unknown = dict(model.named_parameters()), []
    second_head = None  # of a tied model: some writers store its one matrix under both names
    for name, found in read_weights(folder):
        if name in missing:
            weight = missing.pop(name)
            if found.shape != weight.shape:
                raise DataError(f"{folder}: {name} is {list(found.shape)}; config.json makes it {list(weight.shape)}")
            weight.data.copy_(found)
        elif name == "lm_head.weight" and config.tied_embeddings:
            second_head = found
        elif not name.endswith(FROZEN_BUFFERS):
            unknown.append(name)
    if missing:
        raise DataError(f"{folder}: the weights have no {next(iter(missing))}, which config.json asks for; is the download complete?")
    if unknown:
        raise DataError(f"{folder}: weights that this architecture has no place for: {', '.join(sorted(unknown)[:5])}")
    if second_head is not None and not torch.equal(second_head.to(torch.float32), model.head_weight()):
        raise DataError(
            f"{folder}: config.json says tie_word_embeddings = true, but the weights hold an lm_head.weight that differs from "
            "model.embed_tokens.weight. Set it to false to keep both, or take lm_head.weight out of the weights"
        )
    model.compute_dtype = dtype
    return model.to(device=device, dtype=dtype)


def licence_files(folder: Path) -> tuple[str, ...]:
    """The names of the files of a folder that hold its licence, in order."""
    found = (path.name for path in folder.iterdir() if path.is_file())
    return tuple(sorted(name for name in found if name.lower().partition(".")[0] in LICENCE_STEMS))


def copy_licence(source: Path, folder: Path) -> None:
    """Copies the files that hold a checkpoint's licence."""
    _copy(source, folder, licence_files(source))


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


def _write_config_like(config: ModelConfig, folder: Path, *, like: Path, dtype: str, special: Mapping[str, int]) -> None:
    raw: dict[str, Any] = read_json(like / "config.json")
    found = parse_config(raw, like / "config.json")
    changed = {**raw, **{key: dtype for key in ("dtype", "torch_dtype") if key in raw or not raw.keys() & {"dtype", "torch_dtype"}}}
    if found.head != config.head:
        suffix = {head: suffix for suffix, head in HEADS.items()}
        name = raw["architectures"][0].removesuffix(suffix[found.head])
        changed["architectures"] = [f"{name}{suffix[config.head]}"]
        changed |= {key: value for key, value in describe(config).items() if key in ("id2label", "label2id")}
    if config.head == "scalar":
        # Where the score is read follows from it: transformers takes the last token that is not padding.
        changed |= {key: value for key, value in special.items() if key == "pad_token_id"}
    if changed == raw:
        _copy(like, folder, ("config.json",))
    else:
        write_text(folder / "config.json", json.dumps(changed, indent=2, ensure_ascii=False) + "\n")


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            with write_atomically(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
