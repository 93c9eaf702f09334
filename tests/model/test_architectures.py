"""Every architecture that transformers makes comes in, gives its logits, and goes out as it came."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.model.architectures import describe, name_architecture, parse_config, read_config
from bloomery.model.config import ModelConfig, RopeScaling, count_params
from bloomery.model.huggingface import load_model, save_model, save_model_as

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7}

MODELS: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "llama": ("Llama", {}, torch.bfloat16),
    "llama 3.1 tied": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}, "tie_word_embeddings": True}, torch.bfloat16),
    "llama linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}, torch.float32),
    "llama with biases": ("Llama", {"attention_bias": True, "num_key_value_heads": 4}, torch.float32),
    "smollm2": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1, "rope_theta": 130000.0}, torch.float16),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, torch.bfloat16),
    "qwen2 yarn": ("Qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e6}}, torch.float32),
    "qwen2 windows": ("Qwen2", {**WINDOWS, "max_window_layers": 2}, torch.float32),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}, torch.bfloat16),
    "qwen3 yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": {**YARN, "beta_fast": 16.0, "rope_theta": 1e6}}, torch.float32),
    "qwen3 windows": ("Qwen3", {"head_dim": 8, **WINDOWS, "layer_types": ["full_attention", "sliding_attention"] * 2}, torch.float32),
    "mistral": ("Mistral", {"sliding_window": 5, "head_dim": 10}, torch.bfloat16),
    "mistral tied linear": (
        "Mistral",
        {"sliding_window": None, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        torch.float32,
    ),
    "smollm3": ("SmolLM3", {}, torch.bfloat16),
    "smollm3 yarn": ("SmolLM3", {"rope_parameters": {**YARN, "rope_theta": 5e6, "truncate": False}}, torch.float32),
    "smollm3 windows": ("SmolLM3", {**WINDOWS, "no_rope_layers": [1, 0, 0, 1], "tie_word_embeddings": False}, torch.float32),
}


def make_theirs(name: str, settings: dict[str, Any], *, dtype: torch.dtype = torch.float32, kind: str = "ForCausalLM") -> Any:
    """A model of transformers with random weights, its biases and norms too."""
    import transformers

    torch.manual_seed(len(name))
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    model = getattr(transformers, f"{name}{kind}")(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.to(dtype).eval()


def random_tokens() -> Tensor:
    return torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(1))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("label", MODELS)
def test_a_checkpoint_comes_in_with_its_logits_and_goes_out_as_it_came(tmp_path: Path, label: str) -> None:
    from transformers import AutoModelForCausalLM

    name, settings, dtype = MODELS[label]
    make_theirs(name, settings, dtype=dtype).save_pretrained(tmp_path / "in", max_shard_size="30KB" if "windows" in label else "1GB")
    assert (tmp_path / "in" / "model.safetensors.index.json").exists() == ("windows" in label)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32, attn_implementation="eager")
    ours = load_model(tmp_path / "in")
    assert count_params(ours.config) == theirs.num_parameters() == sum(p.numel() for p in ours.parameters())
    with torch.no_grad():
        expected = theirs(random_tokens()).logits
        torch.testing.assert_close(ours(random_tokens()), expected, atol=1e-5, rtol=1e-5)
    save_model_as(ours, tmp_path / "out", like=tmp_path / "in")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "in")
    save_model(ours, tmp_path / "own", tokenizer=None)  # described anew, from our config alone
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "own", dtype=torch.float32, attn_implementation="eager")
    assert type(again).__name__ == f"{name_architecture(ours.config)}ForCausalLM"
    with torch.no_grad():
        assert torch.equal(again(random_tokens()).logits, expected)


BY_HAND: dict[str, tuple[str, dict[str, Any]]] = {
    "stretched after the fact": ("Qwen3", {"head_dim": 16, "rope_scaling": {**YARN, "rope_type": "yarn"}}),
    "stretched with a base of its own": ("Llama", {"rope_theta": 1e6, "rope_scaling": {**LLAMA3, "rope_theta": 5e5}}),
    "the old spelling": ("Qwen2", {"rope_theta": 1e6, "rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "as many key-value heads as heads": ("Qwen2", {"num_key_value_heads": None}),
}
"""What people write into a config.json that transformers 5 wrote."""


@pytest.mark.parametrize("label", BY_HAND)
def test_a_config_that_was_changed_by_hand_means_what_it_means_to_transformers(tmp_path: Path, label: str) -> None:
    from transformers import AutoModelForCausalLM

    name, change = BY_HAND[label]
    settings = {key: value for key, value in change.items() if key in ("head_dim", "num_key_value_heads")}
    make_theirs(name, settings).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(random_tokens()), theirs(random_tokens()).logits, atol=1e-5, rtol=1e-5)


def test_of_a_single_file_and_an_index_the_single_file_counts_as_for_transformers(tmp_path: Path) -> None:
    make_theirs("Llama", {}).save_pretrained(tmp_path, max_shard_size="30KB")
    weights = {name: weight * 2 for path in tmp_path.glob("model-*.safetensors") for name, weight in load_file(path).items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load_model(tmp_path)
    assert torch.equal(model.model.norm.weight, weights["model.norm.weight"])
    save_model_as(model, tmp_path / "out", like=tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_head_that_is_tied_and_yet_another_is_refused(tmp_path: Path) -> None:
    theirs = make_theirs("Llama", {"tie_word_embeddings": True})
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"] + 0.1}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"tie_word_embeddings = true, but the weights hold an lm_head\.weight that differs"):
        load_model(tmp_path)


def test_a_window_and_a_stretched_rotation_change_the_logits() -> None:
    # A test of equality would not see both sides leave out the same part.
    from transformers import AutoModelForCausalLM

    for label in ("mistral", "qwen3 windows", "smollm3 windows", "llama 3.1 tied", "llama linear", "qwen2 yarn"):
        name, settings, _ = MODELS[label]
        theirs = make_theirs(name, settings)
        plain = {"sliding_window": None, "rope_parameters": None, "use_sliding_window": False, "layer_types": None}
        other = type(theirs)(type(theirs.config)(**{**SIZES, **settings, **{k: v for k, v in plain.items() if k in settings}})).eval()
        other.load_state_dict(theirs.state_dict())
        assert isinstance(theirs, AutoModelForCausalLM._model_mapping[type(theirs.config)])
        with torch.no_grad():
            difference = (theirs(random_tokens()).logits - other(random_tokens()).logits).abs().amax(-1)
        assert difference[:, -1].min() > 1e-3, label


def test_training_changes_the_weights_it_touches_and_no_others(tmp_path: Path) -> None:
    make_theirs("Qwen2", {}, dtype=torch.bfloat16).save_pretrained(tmp_path / "in", max_shard_size="30KB")
    model = load_model(tmp_path / "in")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    save_model_as(model, tmp_path / "out", like=tmp_path / "in")
    changed = [name for name, content in files_of(tmp_path / "in").items() if files_of(tmp_path / "out")[name] != content]
    assert len(changed) == 1
    before, after = load_file(tmp_path / "in" / changed[0]), load_file(tmp_path / "out" / changed[0])
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(after["model.layers.1.mlp.up_proj.weight"], (before["model.layers.1.mlp.up_proj.weight"] * 1.5))


def test_a_file_written_by_other_hands_keeps_its_order_its_second_head_and_its_buffers(tmp_path: Path) -> None:
    theirs = make_theirs("Llama", {"tie_word_embeddings": True})
    weights = {**theirs.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    weights = {name: weight.clone() for name, weight in reversed(weights.items())}
    theirs.config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "architectures": ["LlamaForCausalLM"], "their_own": "field"}))
    header, offset = {"__metadata__": {"written": "by hand"}}, 0
    for name, weight in weights.items():  # not in the order of the library, and with a gap in no place
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [offset, offset + weight.nbytes]}
        offset += weight.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    body = b"".join(weight.numpy().tobytes() for weight in weights.values())
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + body)
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")
    save_model_as(load_model(tmp_path), tmp_path / "out", like=tmp_path)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in tmp_path.iterdir() if path.is_file()}


def test_a_trained_checkpoint_keeps_the_fields_of_the_one_it_started_from(tmp_path: Path) -> None:
    make_theirs("Mistral", {"sliding_window": None}, dtype=torch.bfloat16).save_pretrained(tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "their_own": [1, 2]}))
    save_model(load_model(tmp_path / "in"), tmp_path / "out", tokenizer=None, like=tmp_path / "in")
    before, after = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("in", "out"))
    assert after == {**before, "dtype": "float32"} and list(after) == list(before)
    assert after["architectures"] == ["MistralForCausalLM"]
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == (tmp_path / "in" / "generation_config.json").read_bytes()


PUBLISHED = {
    "Llama-3.2-1B": (1_235_814_400, {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 128256,
    }),
    "SmolLM2-135M": (134_515_008, {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 576,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
        "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 49152,
    }),
    "Qwen2.5-0.5B": (494_032_768, {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    }),
    "Qwen3-0.6B": (596_049_920, {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    }),
    "Mistral-7B-v0.1": (7_241_732_096, {
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
    }),
    "SmolLM3-3B": (3_075_098_624, {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36, "max_position_embeddings": 65536,
        "max_window_layers": 28, "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9,
        "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 128256,
    }),
}  # fmt: skip
"""The config.json of released checkpoints, what is about shape in them, and their number of parameters."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_checkpoints_config_gives_its_published_size(name: str) -> None:
    size, raw = PUBLISHED[name]
    config = parse_config(raw, Path("config.json"))
    assert count_params(config) == size
    assert config.sliding_window == (4096 if name.startswith("Mistral") else 0)
    assert config.nope_layers == (tuple(range(3, 36, 4)) if name.startswith("SmolLM3") else ())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("Llama", {"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM; expected one of LlamaForCausalLM"),
        ("Llama", {"model_type": "mixtral"}, "LlamaForCausalLM, but model_type is mixtral"),
        ("Llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("Llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ("Llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("Llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ("Llama", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, "rope_scaling.mscale = 1.0"),
        ("Llama", {"rope_parameters": {"rope_type": "linear"}}, "'factor'"),
        ("Llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("Llama", {"rope_interleaved": True}, "rope_interleaved = True"),
        ("Qwen3", {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ("Mistral", {"layer_types": ["full_attention"] * 4}, "layer_types.*all alike; here the window is 4096"),
        ("Llama", {"layer_types": ["sliding_attention"] * 4}, "layer_types.*all alike; here the window is none"),
        ("Qwen3", {"sliding_window": 7, "layer_types": ["sliding_attention"] * 4}, "no window.*'use_sliding_window': None"),
        ("SmolLM3", {**WINDOWS, "layer_types": ["sliding_attention"] * 3}, "names 3 layers of 4"),
        ("Llama", {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "2 labels"),
        ("Llama", {"hidden_size": None}, "hidden_size|not a usable"),
    ],
)
def test_what_this_transformer_does_not_have_is_refused_by_its_name(name: str, change: dict[str, Any], words: str) -> None:
    raw = {**SIZES, "architectures": [f"{name}ForCausalLM"], **change}
    with pytest.raises(DataError, match=words):
        parse_config(raw, Path("config.json"))


def test_a_shape_is_read_back_from_its_own_description() -> None:
    sizes = {"vocab_size": 9, "dim": 8, "num_layers": 4, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_dim": 8}
    llama3 = RopeScaling(kind="llama3", factor=8.0, original_positions=8192)
    yarn = RopeScaling(kind="yarn", factor=2.0, original_positions=99, beta_fast=20.0, whole_dimensions=False, attention_factor=1.5)
    names = []
    for settings in (
        {},
        {"qk_norm": False, "rope_scaling": RopeScaling(kind="linear", factor=3.0)},
        {"qk_norm": False, "attention_bias": "qkv", "rope_scaling": yarn},
        {"qk_norm": False, "attention_bias": "all", "rope_scaling": llama3},
        {"qk_norm": False, "sliding_window": 3},
        {"qk_norm": False, "sliding_window": 3, "full_layers": (1,)},
        {"qk_norm": False, "nope_layers": (0, 3), "tied_embeddings": False},
        {"sliding_window": 3, "full_layers": (0, 1, 3), "attention_bias": "all"},
        {"head": "scalar"},
    ):
        config = ModelConfig(**sizes, **settings)
        names.append(name_architecture(config))
        assert parse_config(describe(config), Path("config.json")) == config
    assert names == ["Qwen3", "Llama", "Qwen2", "Llama", "Mistral", "SmolLM3", "SmolLM3", "Qwen3", "Qwen3"]


def test_a_download_that_is_not_whole_is_named(tmp_path: Path) -> None:
    make_theirs("Llama", {}).save_pretrained(tmp_path, max_shard_size="30KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DataError, match=f"has no {shard.name}"):
        load_model(tmp_path)
    shard.write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"{shard.name}: not a readable weights file"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(DataError, match=r"has no model\.safetensors; its pytorch_model\.bin is a pickle"):
        load_model(tmp_path)


def test_quantised_weights_are_refused_by_their_dtype(tmp_path: Path) -> None:
    theirs = make_theirs("Llama", {})
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.norm\.weight is F8_E4M3; expected F32, BF16, F16"):
        load_model(tmp_path)
    assert read_config(tmp_path).dim == 32
