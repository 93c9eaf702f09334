"""Models as GGUF, the one file that llama.cpp, Ollama and LM Studio load: weights, shape and tokenizer, read back to check.

Our architectures have names of their own there. Three things differ from a Hugging Face folder: llama.cpp turns neighbouring
numbers of a head where Hugging Face turns the two halves, so for architectures that it took over early the rows of queries
and keys change places; Llama 3's stretched positions become a tensor of factors; and matrices may be in blocks of 32
eight-bit numbers with a scale (q8_0). Vectors stay in float32, as llama.cpp wants them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_atomically
from bloomery.model.architectures import name_architecture
from bloomery.model.config import ModelConfig, RopeScaling
from bloomery.model.gguf_vocabulary import Vocabulary
from bloomery.model.lora import merged_weights
from bloomery.model.rope import rotation
from bloomery.model.transformer import Transformer

try:
    import gguf
except ImportError:  # the extra is not installed
    gguf = None  # type: ignore[assignment]

GgufType = Literal["fp32", "fp16", "bf16", "q8_0"]
FILE_NAMES: dict[GgufType, str] = {"fp32": "model-F32.gguf", "fp16": "model-F16.gguf", "bf16": "model-BF16.gguf", "q8_0": "model-Q8_0.gguf"}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ARCHITECTURES = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "SmolLM3": "smollm3"}
INTERLEAVED = ("llama", "smollm3")
"""Architectures whose rotation llama.cpp does on neighbouring numbers."""
NOPE_INTERVAL = 4
"""llama.cpp's smollm3 leaves out the rotation of every fourth layer; it reads no list."""


def write_gguf(model: Transformer, path: Path, *, vocabulary: Vocabulary, kind: GgufType, special: dict[str, int], name: str) -> None:
    """Writes a model as one GGUF; equal models give equal bytes.

    `special` has bos, eos, pad (any of them missing), and `begin`: 1 if a text begins with bos. Raises DataError for a model
    that llama.cpp has no architecture for, ConfigError if the package gguf is missing.
    """
    architecture = find_architecture(model.config)
    _require_gguf()
    with write_atomically(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        _add_shape(writer, model.config, kind=kind, name=name)
        _add_vocabulary(writer, vocabulary, special)
        for tensor_name, weight in _tensors(model, architecture):
            stored = _stored_type(weight, kind)
            sizes = gguf.quant_shape_to_byte_shape(weight.shape, stored)
            writer.add_tensor_info(tensor_name, sizes, np.dtype(np.uint8), int(np.prod(sizes)), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, weight in _tensors(model, architecture):
            writer.write_tensor_data(_encode(weight, _stored_type(weight, kind)))
        writer.close()


def read_gguf(model: Transformer, path: Path) -> dict[str, Tensor]:
    """The weights in a GGUF that was written from a model of this shape, by their names in it, as float32."""
    _require_gguf()
    architecture = find_architecture(model.config)
    reader = gguf.GGUFReader(path)
    names = {_gguf_name(name): name for name in merged_weights(model)}
    found = {}
    for tensor in reader.tensors:
        if tensor.name in names:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(tensor.shape[::-1])
            name = names[tensor.name]
            found[name] = _permute(torch.from_numpy(values), name, model.config, architecture, back=True)
    return found


def find_architecture(config: ModelConfig) -> str:
    """llama.cpp's name for the architecture of a model. Raises DataError for one that it does not have."""
    name = name_architecture(config)
    missing = []
    if config.head != "tokens":
        missing.append("a scalar head (this is a reward model)")
    if name in ("Qwen3", "SmolLM3") and config.attention_bias != "none":
        missing.append(f"biases in the attention of {name}")
    if name == "SmolLM3" and config.nope_layers != tuple(range(NOPE_INTERVAL - 1, config.num_layers, NOPE_INTERVAL)):
        missing.append(f"layers without rotation other than every fourth, found {list(config.nope_layers)}")
    if config.rope_scaling.kind == "yarn" and (config.rope_scaling.attention_factor or not config.rope_scaling.whole_dimensions):
        missing.append("YaRN with an attention factor of its own, or with bounds that are not rounded")
    if config.rope_scaling.kind == "llama3" and ARCHITECTURES[name] != "llama":
        missing.append(f"Llama 3's stretched positions in {name}")
    if missing:
        raise DataError(f"llama.cpp does not have {'; nor '.join(missing)}. Export the model as hf")
    return ARCHITECTURES[name]


def context_length(config: ModelConfig) -> int:
    """Positions that llama.cpp computes as we do: its architectures have no sliding window, which nothing needs before it is full."""
    return min(config.max_positions, config.sliding_window or config.max_positions)


def _require_gguf() -> None:
    if gguf is None:
        raise ConfigError("writing GGUF needs the package gguf: pip install 'bloomery[gguf]'")


def _add_shape(writer: "gguf.GGUFWriter", config: ModelConfig, *, kind: GgufType, name: str) -> None:
    types = gguf.LlamaFileType
    file_types = {"fp32": types.ALL_F32, "fp16": types.MOSTLY_F16, "bf16": types.MOSTLY_BF16, "q8_0": types.MOSTLY_Q8_0}
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_types[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_positions)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)


def _add_vocabulary(writer: "gguf.GGUFWriter", vocabulary: Vocabulary, special: dict[str, int]) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list([token.encode("utf-8") for token in vocabulary.tokens])
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    adders = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "pad": writer.add_pad_token_id}
    for role, add in adders.items():
        if role in special:
            add(special[role])
    writer.add_add_bos_token(bool(special.get("begin")))
    writer.add_add_eos_token(False)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _tensors(model: Transformer, architecture: str) -> Iterator[tuple[str, Tensor]]:
    config = model.config
    if config.rope_scaling.kind == "llama3":
        plain_P = rotation(config.model_copy(update={"rope_scaling": RopeScaling()})).frequency_P
        yield "rope_freqs.weight", plain_P / rotation(config).frequency_P
    for name, weight in merged_weights(model).items():
        yield _gguf_name(name), _permute(weight.float().cpu(), name, config, architecture)


def _gguf_name(name: str) -> str:
    place, _, kind = name.rpartition(".")
    if not place.startswith("model.layers."):
        return f"{NAMES[place]}.{kind}"
    layer, _, part = place.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def _permute(weight: Tensor, name: str, config: ModelConfig, architecture: str, *, back: bool = False) -> Tensor:
    """Rows of queries and keys from halves (0, 1, ... | K/2, ...) to neighbours (0, K/2, 1, ...), or back."""
    part = name.split(".")[-2]
    if architecture not in INTERLEAVED or part not in ("q_proj", "k_proj"):
        return weight
    heads = config.num_heads if part == "q_proj" else config.num_kv_heads
    halves = (config.head_dim // 2, 2) if back else (2, config.head_dim // 2)
    return weight.reshape(heads, *halves, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _stored_type(weight: Tensor, kind: GgufType) -> "gguf.GGMLQuantizationType":
    types = gguf.GGMLQuantizationType
    if weight.dim() == 1:
        return types.F32
    if kind == "q8_0" and weight.shape[-1] % 32:
        return types.F16  # rows are cut into blocks of 32
    return {"fp32": types.F32, "fp16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[kind]


def _encode(weight: Tensor, stored: "gguf.GGMLQuantizationType") -> npt.NDArray[np.uint8]:
    values = weight.contiguous().numpy()
    return np.ascontiguousarray(gguf.quantize(values, stored)).view(np.uint8)
