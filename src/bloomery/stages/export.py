"""export: a checkpoint as a clean folder for other programs, checked by reading it back.

hf    what transformers, vLLM and TRL load: config.json, model.safetensors, generation_config.json, the tokenizer

An imported checkpoint goes out as it came in, byte for byte, where nothing was trained. A LoRA of PEFT's is added to the
weights that it belongs to; one that was trained here already is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal  # Any: metrics are plain JSON values

import torch
from pydantic import field_validator

from bloomery.core.config import Config, suggest
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.model.config import count_params
from bloomery.model.huggingface import TOKENIZER_FILES, load_model, save_model, save_model_as
from bloomery.model.lora import load_adapter, merge_adapters
from bloomery.model.transformer import Transformer
from bloomery.model.weights import stored_dtypes, weight_files

FORMATS = ("hf",)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NUM_CHECKED_TOKENS = 64


class ExportConfig(Config):
    """What to write."""

    format: str = "hf"
    dtype: Literal["keep", "fp32", "bf16", "fp16"] = "keep"
    """Of the weights on disk. "keep": each in its own, in the files and the order they are in; else all in one file. bf16 is
    half as large as fp32 and rounds to 8 bits of mantissa, fp16 to 11 and overflows at 65,504."""

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        if value not in FORMATS:
            raise ValueError(f'cannot write the format "{value}"; {suggest(value, FORMATS)}')
        return value


def export(config: ExportConfig, *, model: Path, adapter: Path | None = None, out: Path, runtime: Runtime) -> Mapping[str, Any]:
    """Writes the model in the folder `model` to `out`, the LoRA in the PEFT folder `adapter` added to its weights.

    Raises DataError if it has no tokenizer, or reads back different.
    """
    if not (model / "tokenizer.json").is_file():
        raise DataError(
            f"{model}: has no tokenizer.json, without which other programs cannot use the weights; expected one of {TOKENIZER_FILES}"
        )
    loaded = load_model(model)
    if adapter is not None:
        load_adapter(loaded, adapter)
        merge_adapters(loaded)
    stored = stored_dtypes(model)
    _round(loaded, {name: DTYPES.get(config.dtype) or stored[name] for name, _ in loaded.named_parameters()}, model)
    if config.dtype == "keep":
        save_model_as(loaded, out, like=model)
    else:
        save_model(loaded, out, tokenizer=model, dtype=DTYPES[config.dtype], like=model)
    written = load_model(out)
    token_BT = torch.arange(NUM_CHECKED_TOKENS)[None] * 7919 % loaded.config.vocab_size
    token_BT = token_BT[:, : loaded.config.max_positions]
    with torch.no_grad():
        if not torch.equal(loaded(token_BT), written(token_BT)):
            raise DataError(f"{out}: the written weights do not give the logits of {model}; is the disk damaged? Export it again.")
    num_bytes = sum(path.stat().st_size for path in weight_files(out))
    return {"params": count_params(loaded.config), "bytes": num_bytes, "checked_tokens": token_BT.shape[1]}


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
    inputs={"model": Slot("checkpoint"), "adapter": Slot("checkpoint", optional=True)},
    output="checkpoint",
    version=2,
)
