"""export: a checkpoint as a clean folder for other programs, checked by reading it back, with a model card.

hf      what transformers, vLLM and TRL load: config.json, model.safetensors, generation_config.json, the tokenizer
gguf    one file with all of it, for llama.cpp, Ollama and LM Studio

An imported checkpoint goes out as it came in, byte for byte, where nothing was trained. A LoRA, of PEFT's (`adapter`) or
trained here, is in the weights, or with `lora = "beside"` in adapter/ beside the weights that it was trained on. A reward
model is a sequence classification with one label. README.md says what the model is made of (see model/model_card.py).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal  # Any: metrics are plain JSON values

import torch
from pydantic import field_validator, model_validator

from bloomery.core.artifact import RECORD, read_artifact
from bloomery.core.config import Config, suggest
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_json, write_text
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.model.architectures import read_config
from bloomery.model.config import count_params
from bloomery.model.gguf import FILE_NAMES, GgufType, find_architecture, read_gguf, write_gguf
from bloomery.model.gguf_vocabulary import read_vocabulary
from bloomery.model.huggingface import ADAPTER_FOLDER, copy_licence, licence_files, load_model, save_model, save_model_as
from bloomery.model.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, merge_adapters, merged_weights
from bloomery.model.model_card import CARD, find_lineage, model_card
from bloomery.model.transformer import Transformer
from bloomery.model.weights import stored_dtypes, weight_files
from bloomery.tokens.tokenizer import load_tokenizer

FORMATS = ("hf", "gguf")
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUM_CHECKED_TOKENS = 64


class ExportConfig(Config):
    """What to write."""

    format: str = "hf"
    dtype: Literal["keep", "fp32", "bf16", "fp16", "q8_0"] = "keep"
    """Of the weights on disk. "keep": each in its own, in the files and the order they are in; else all in one file. bf16 is
    half as large as fp32 and rounds to 8 bits of mantissa, fp16 to 11 and overflows at 65,504. q8_0, of gguf alone: 8 bits and
    a scale for each 32 numbers of a matrix."""
    lora: Literal["merged", "beside"] = "merged"
    """"beside": the weights without their adapters, and these in PEFT's format in adapter/."""
    name: str = "bloomery model"
    """What the model card and the GGUF call the model."""
    licence: str = ""
    """Of the weights, as Hugging Face spells it ("apache-2.0"): yours to choose. Empty: that of an imported checkpoint
    which nothing has trained, by its own card; of any other the card says that none was given."""

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        if value not in FORMATS:
            raise ValueError(f'cannot write the format "{value}"; {suggest(value, FORMATS)}')
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "ExportConfig":
        if self.dtype == "q8_0" and self.format != "gguf":
            raise ValueError('dtype = "q8_0" is a format of GGUF\'s: set format = "gguf"')
        if self.lora == "beside" and self.format != "hf":
            raise ValueError('lora = "beside" is a Hugging Face folder: set format = "hf"')
        return self


def export(
    config: ExportConfig, *, model: Path, adapter: Path | None = None, scores: Sequence[Path] = (), out: Path, runtime: Runtime
) -> Mapping[str, Any]:
    """Writes the model in the folder `model` to `out`, the LoRA in the PEFT folder `adapter` added to its weights or beside them.

    `scores` are evaluations to quote in the card. Raises DataError if the model has no tokenizer, or reads back different.
    """
    if not (model / "tokenizer.json").is_file():
        raise DataError(
            f"{model}: has no tokenizer.json, without which other programs cannot use the weights. If it has another kind of tokenizer "
            f"(vocab.json, tokenizer.model), let transformers write one: AutoTokenizer.from_pretrained({str(model)!r}).save_pretrained(...)"
        )
    source = model
    if config.lora == "beside" and read_config(model).head == "scalar":
        raise DataError(
            f"{model}: the weights beneath a reward model's LoRA are a language model's, and its adapter/ has the head: PEFT puts it "
            'on that model, loaded as AutoModelForSequenceClassification. To export the reward model, leave out lora = "beside"'
        )
    if config.lora == "beside":
        source, adapter = _find_parts(model, adapter)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            (out / ADAPTER_FOLDER).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(adapter / name, out / ADAPTER_FOLDER / name)
    head = read_config(source).head
    loaded = load_model(source, head=head)
    if adapter is not None:
        load_adapter(loaded, adapter)  # also of one that goes beside, to see that it fits
        if config.lora == "merged":
            merge_adapters(loaded)
        else:
            loaded = load_model(source, head=head)
    stored = stored_dtypes(source)
    _round(loaded, {name: DTYPES.get(config.dtype) or stored[name] for name, _ in loaded.named_parameters()}, source)
    is_gguf = config.format == "gguf"
    found = _export_gguf(config, loaded, source, stored, out) if is_gguf else _export_folder(config, loaded, source, out)
    facts = {"params": count_params(loaded.config), **found}
    lineage = find_lineage(model)
    if adapter is not None:
        lineage = lineage._replace(is_trained=True)
    files = licence_files(out)
    write_text(out / CARD, model_card(config.model_dump(), loaded.config, lineage, scores=scores, written=found, licence_files=files))
    return facts


def _export_folder(config: ExportConfig, model: Transformer, source: Path, out: Path) -> dict[str, Any]:
    if config.dtype == "keep":
        save_model_as(model, out, like=source)
    else:
        save_model(model, out, tokenizer=source, dtype=DTYPES[config.dtype], like=source)
    raw = read_json(out / "config.json")
    if model.config.head == "scalar" and raw.get("pad_token_id") is None:
        # transformers finds a row's last token, whose number is the score, by the padding after it.
        write_json(out / "config.json", {**raw, "pad_token_id": load_tokenizer(source).pad_id})
    written = load_model(out, head=model.config.head)
    token_BT = torch.arange(NUM_CHECKED_TOKENS)[None] * 7919 % model.config.vocab_size
    token_BT = token_BT[:, : model.config.max_positions]
    with torch.no_grad():
        if not torch.equal(model(token_BT), written(token_BT)):
            raise DataError(f"{out}: the written weights do not give the logits of {source}; is the disk damaged? Export it again.")
    return {"bytes": sum(path.stat().st_size for path in weight_files(out)), "checked_tokens": token_BT.shape[1]}


def _export_gguf(config: ExportConfig, model: Transformer, source: Path, stored: Mapping[str, torch.dtype], out: Path) -> dict[str, Any]:
    architecture = find_architecture(model.config)
    tokenizer = load_tokenizer(source)
    special = {"eos": tokenizer.end_id, "pad": tokenizer.pad_id, "begin": int(tokenizer.bos_id is not None)}
    special |= {"bos": tokenizer.bos_id} if tokenizer.bos_id is not None else {}
    kind = _kept_kind(stored) if config.dtype == "keep" else config.dtype
    path = out / FILE_NAMES[kind]
    vocabulary = read_vocabulary(source, num_rows=model.config.vocab_size)
    out.mkdir(parents=True, exist_ok=True)
    copy_licence(source, out)
    write_gguf(model, path, vocabulary=vocabulary, kind=kind, special=special, name=config.name)
    written = read_gguf(model, path)
    for name, weight in merged_weights(model).items():
        # A number of q8_0 is off by half a step of its block, which has 127 of them, and by the rounding of the step to fp16.
        allowed = weight.abs().max() * (0.5 / 127 + 2**-11) if kind == "q8_0" and weight.dim() > 1 else torch.zeros(())
        rounded = weight if kind == "q8_0" or weight.dim() == 1 else weight.to(DTYPES[kind]).float()
        if name not in written or not bool(((written[name] - rounded).abs() <= allowed).all()):
            raise DataError(f"{path}: {name} does not read back as it was written; is the disk damaged? Export it again.")
    return {"bytes": path.stat().st_size, "file": path.name, "architecture": architecture, "tokenizer": vocabulary.pre, "dtype": kind}


def _kept_kind(stored: Mapping[str, torch.dtype]) -> GgufType:
    kinds: dict[torch.dtype, GgufType] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    found = set(stored.values())
    return kinds.get(found.pop(), "fp32") if len(found) == 1 else "fp32"


def _find_parts(model: Path, adapter: Path | None) -> tuple[Path, Path]:
    """The checkpoint that an adapter was trained on, and the adapter's folder."""
    if adapter is not None:
        return model, adapter
    if not (model / ADAPTER_FOLDER / ADAPTER_CONFIG).is_file():
        raise DataError(f'{model}: has no {ADAPTER_FOLDER}/, so there is no LoRA to write beside it; leave out lora = "beside"')
    inits = read_artifact(model).record["inputs"].get("init", []) if (model / RECORD).is_file() else []
    found = [path.parent for init in inits for path in model.resolve().parent.glob(f"*-{init[:16]}/{RECORD}")]
    if not found:
        raise DataError(
            f"{model}: the checkpoint that its LoRA was trained on is not in the store any more. Name it: "
            f"bloomery stage export --input model=BASE --input adapter={model / ADAPTER_FOLDER} --set lora=beside --out DIR"
        )
    return found[0], model / ADAPTER_FOLDER


@torch.no_grad()
def _round(model: Transformer, dtypes: Mapping[str, torch.dtype], folder: Path) -> None:
    for name, weight in model.named_parameters():
        largest = float(weight.abs().max())
        if not largest <= torch.finfo(dtypes[name]).max:
            kind = str(dtypes[name]).removeprefix("torch.")
            raise DataError(f"{folder}: {name} holds a number of size {largest}, which {kind} has no room for; export it as bf16 or fp32")
        weight.copy_(weight.to(dtypes[name]))


STAGE = Stage(
    name="export",
    config_type=ExportConfig,
    run=export,
    inputs={
        "model": Slot("checkpoint", also=("reward_model",)),
        "adapter": Slot("checkpoint", optional=True),
        "scores": Slot("scores", many=True, optional=True),
    },
    output="checkpoint",
    passes_on="model",
    version=4,
)
