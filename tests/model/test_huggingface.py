"""Our checkpoints are Hugging Face's: same logits, same text, same bytes each time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bloomery.core.errors import ConfigError, DataError
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, read_config, read_special_tokens, save_model
from bloomery.model.transformer import Transformer


def tiny_config(*, qk_norm: bool = True, tied: bool = True, num_kv_heads: int = 2) -> ModelConfig:
    return ModelConfig(
        vocab_size=97, dim=32, num_layers=3, num_heads=4, num_kv_heads=num_kv_heads, head_dim=10, mlp_dim=48,
        qk_norm=qk_norm, tied_embeddings=tied, max_positions=64,
    )  # fmt: skip


def shaken_model(config: ModelConfig) -> Transformer:
    """Norms too have random weights: a test in which they are all 1 would not see them misplaced."""
    model = Transformer(config, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.2 if weight.ndim == 1 else 0.02))
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_transformers_computes_the_same_logits(tmp_path: Path, qk_norm: bool, tied: bool, num_kv_heads: int) -> None:
    from transformers import AutoModelForCausalLM

    model = shaken_model(tiny_config(qk_norm=qk_norm, tied=tied, num_kv_heads=num_kv_heads))
    save_model(model, tmp_path, tokenizer=None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    token_BT = torch.randint(0, 97, (2, 33), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(token_BT), theirs(token_BT).logits, atol=1e-5, rtol=1e-5)


def test_a_saved_model_loads_with_the_same_weights_and_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    model = shaken_model(tiny_config(tied=False))
    save_model(model, tmp_path / "a", tokenizer=None)
    again = load_model(tmp_path / "a")
    assert again.config == model.config
    for (name, ours), (other, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(ours, theirs)
    save_model(again, tmp_path / "b", tokenizer=None)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_can_be_written_and_read_in_bfloat16(tmp_path: Path) -> None:
    model = shaken_model(tiny_config())
    save_model(model, tmp_path, tokenizer=None, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    half = load_model(tmp_path, dtype=torch.bfloat16)
    assert half.compute_dtype == torch.bfloat16 == next(half.parameters()).dtype
    assert torch.equal(half.model.norm.weight, model.model.norm.weight.bfloat16())


def test_a_checkpoint_in_several_files_is_read_through_its_index(tmp_path: Path) -> None:
    model = shaken_model(tiny_config())
    save_model(model, tmp_path, tokenizer=None)
    weights = load_file(tmp_path / "model.safetensors")
    names = sorted(weights)
    save_file({n: weights[n] for n in names[:5]}, tmp_path / "one.safetensors")
    save_file({n: weights[n] for n in names[5:]}, tmp_path / "two.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {n: "one.safetensors" if i < 5 else "two.safetensors" for i, n in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load_model(tmp_path).head_weight(), model.head_weight())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"attention_bias": True}, "have no model.layers.0.self_attn.q_proj.bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": 40}, r"embed_tokens.weight is \[97, 32\]; config.json makes it \[97, 40\]"),
        ({"num_hidden_layers": 4}, "layer_types names 3 layers of 4"),
        ({"num_hidden_layers": 4, "layer_types": None}, "have no model.layers.3"),
        ({"num_hidden_layers": 2}, "no place for: model.layers.2"),
        ({"num_key_value_heads": 3}, "num_kv_heads = 3"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    save_model(shaken_model(tiny_config()), tmp_path, tokenizer=None)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        load_model(tmp_path)


def test_damaged_weights_are_a_data_error(tmp_path: Path) -> None:
    save_model(shaken_model(tiny_config()), tmp_path, tokenizer=None)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors: not a readable weights file"):
        load_model(tmp_path)


def test_an_old_llama_config_is_understood(tmp_path: Path) -> None:
    old = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 8, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = read_config(tmp_path)
    assert (config.rope_base, config.num_kv_heads, config.head_dim, config.tied_embeddings) == (500000.0, 4, 4, False)


def write_tokenizer(folder: Path, *, pad: str) -> None:
    added = [{"id": i, "content": c} for i, c in enumerate(("<|bos|>", "<|end|>", "<|pad|>"))]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    names = {"bos_token": "<|bos|>", "eos_token": {"content": "<|end|>"}, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def test_the_end_of_an_answer_is_written_where_other_tools_look_for_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, pad="<|pad|>")
    save_model(shaken_model(tiny_config()), tmp_path / "out", tokenizer=tmp_path)
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "out" / name).read_text())
        assert (written["bos_token_id"], written["eos_token_id"], written["pad_token_id"]) == (0, 1, 2)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_padding_with_the_end_token_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, pad="<|end|>")
    with pytest.raises(ConfigError, match=r"<\|end\|>"):
        read_special_tokens(tmp_path)
