"""GGUF files hold the model, as the gguf library reads them; what llama.cpp could not load is refused by its name."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from bloomery.core.errors import ConfigError, DataError
from bloomery.model.config import ModelConfig, RopeScaling
from bloomery.model.gguf import context_length, find_architecture, read_gguf, write_gguf
from bloomery.model.gguf_vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, read_vocabulary
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import CHAT_TEMPLATE
from bloomery.tokens.train import train_bpe, write_tokenizer

SIZES = {"vocab_size": 280, "dim": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_dim": 96}
LLAMA = ModelConfig(**SIZES, qk_norm=False)
SPECIAL = {"bos": 274, "eos": 275, "pad": 276, "begin": 1}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer", train_bpe(["the cat sat on the mat"] * 3, vocab_size=272, pattern="llama3"), pattern="llama3")
    return tmp_path / "tokenizer"


def write(model: Transformer, path: Path, tokenizer: Path, kind: str) -> gguf.GGUFReader:
    vocabulary = read_vocabulary(tokenizer, num_rows=model.config.vocab_size)
    write_gguf(model, path, vocabulary=vocabulary, kind=kind, special=SPECIAL, name="a name")
    return gguf.GGUFReader(path)


def test_the_keys_say_what_the_config_says_and_the_same_model_gives_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    model = Transformer(LLAMA.model_copy(update={"sliding_window": 128}), seed=1)
    reader = write(model, tmp_path / "a.gguf", tokenizer, "fp16")
    found = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama", "general.name": "a name", "general.file_type": 1, "llama.context_length": 128,
        "llama.embedding_length": 64, "llama.block_count": 4, "llama.feed_forward_length": 96, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.attention.key_length": 16, "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": 274, "tokenizer.ggml.eos_token_id": 275, "tokenizer.ggml.padding_token_id": 276,
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": False,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    write(model, tmp_path / "b.gguf", tokenizer, "fp16")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "q8_0"])
def test_weights_come_back_rounded_as_the_format_rounds(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    model = Transformer(LLAMA.model_copy(update={"attention_bias": "all", "tied_embeddings": False}), seed=1)
    reader = write(model, tmp_path / "a.gguf", tokenizer, kind)
    found = read_gguf(model, tmp_path / "a.gguf")
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        if kind == "q8_0" and weight.dim() == 2:
            step_BN = weight.detach().reshape(-1, 32).abs().amax(1, keepdim=True) / 127
            assert ((found[name].reshape(-1, 32) - weight.reshape(-1, 32)).abs() <= 0.51 * step_BN + 2**-11 * 127 * step_BN).all(), name
        else:
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind, torch.float32) if weight.dim() == 2 else torch.float32
            assert torch.equal(found[name], weight.to(dtype).float()), name
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_norm.weight"] == types["blk.3.attn_q.bias"] == "F32"
    assert types["blk.0.attn_q.weight"] == {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[kind]


def test_rows_of_queries_are_interleaved_for_llama_and_left_for_qwen(tmp_path: Path, tokenizer: Path) -> None:
    for config, expected in ((LLAMA, [0, 8, 1, 9, 2, 10]), (ModelConfig(**SIZES), [0, 1, 2, 3, 4, 5])):
        model = Transformer(config, seed=1)
        with torch.no_grad():
            model.get_parameter("model.layers.0.self_attn.q_proj.weight").copy_(torch.arange(64.0)[:, None].expand(64, 64))
        reader = write(model, tmp_path / f"{config.qk_norm}.gguf", tokenizer, "fp32")
        (tensor,) = (tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight")
        assert np.asarray(tensor.data)[:6, 0].tolist() == expected


def test_what_llama_cpp_has_no_architecture_for_is_refused_by_name() -> None:
    nope = LLAMA.model_copy(update={"nope_layers": (3,)})
    names = {LLAMA: "llama", ModelConfig(**SIZES): "qwen3", LLAMA.model_copy(update={"attention_bias": "qkv"}): "qwen2", nope: "smollm3"}
    assert {config: find_architecture(config) for config in names} == names
    llama3 = RopeScaling(kind="llama3", factor=8.0, original_positions=64)
    yarn = RopeScaling(kind="yarn", factor=8.0, original_positions=64, attention_factor=1.5)
    refused = {
        r"a scalar head \(this is a reward model\)": LLAMA.model_copy(update={"head": "scalar"}),
        "biases in the attention of Qwen3": ModelConfig(**SIZES, attention_bias="all"),
        r"every fourth, found \[1\]": LLAMA.model_copy(update={"nope_layers": (1,)}),
        "Llama 3's stretched positions in Qwen3": ModelConfig(**SIZES, rope_scaling=llama3),
        "YaRN with an attention factor": LLAMA.model_copy(update={"rope_scaling": yarn}),
    }
    for message, config in refused.items():
        with pytest.raises(DataError, match=message):
            find_architecture(config)
    assert context_length(LLAMA) == 2048 and context_length(LLAMA.model_copy(update={"sliding_window": 100})) == 100


def test_tokens_have_their_types_and_the_template_no_tag_that_only_transformers_knows(tokenizer: Path) -> None:
    data = json.loads((tokenizer / "tokenizer.json").read_text())
    data["added_tokens"].append({"id": 272, "content": "plain", "special": False})
    (tokenizer / "tokenizer.json").write_text(json.dumps(data))
    found = read_vocabulary(tokenizer, num_rows=275)
    assert [found.types[i] for i in (0, 263, 264, 271, 272, 273)] == [NORMAL, NORMAL, CONTROL, CONTROL, USER_DEFINED, UNUSED]
    assert found.tokens[264:275] == [
        "<|bos|>",
        "<|end|>",
        "<|pad|>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|tool_call|>",
        "<|tool_result|>",
        "plain",
        "[PAD273]",
        "[PAD274]",
    ]
    assert "generation -%}" in CHAT_TEMPLATE and " generation" not in found.chat_template and "{%- if true -%}" in found.chat_template
    with pytest.raises(DataError, match="has the id 272, but the model's embeddings have 272 rows"):
        read_vocabulary(tokenizer, num_rows=272)


def test_a_way_to_cut_text_that_llama_cpp_has_no_name_for_is_refused(tokenizer: Path) -> None:
    data = json.loads((tokenizer / "tokenizer.json").read_text())
    for change, message in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer is Lowercase"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\p{N}{1,2}"}, "behavior": "Isolated"}}, r"\\p\{N\}\{1,2\}"),
    ):
        (tokenizer / "tokenizer.json").write_text(json.dumps({**data, **change}))
        with pytest.raises(DataError, match=message):
            read_vocabulary(tokenizer, num_rows=300)
    data["model"]["ignore_merges"] = False
    (tokenizer / "tokenizer.json").write_text(json.dumps(data))
    assert read_vocabulary(tokenizer, num_rows=300).pre == "smaug-bpe"


def test_without_the_gguf_package_the_extra_is_named(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloomery.model.gguf.gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'bloomery\[gguf\]'"):
        write(Transformer(LLAMA, seed=1), tmp_path / "a.gguf", tokenizer, "fp16")
