"""Adapters are PEFT's: same files, same logits, and nothing else is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.model.config import LoraConfig, ModelConfig
from bloomery.model.heads import replace_head, token_values
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.lora import add_adapters, load_adapter, merge_adapters, merged_weights, trained_parameters
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=97, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48, max_positions=64,
    qk_norm=False, attention_bias="qkv",
)  # fmt: skip
SOME = LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))


def random_tokens() -> Tensor:
    return torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(1))


def adapted_model() -> Transformer:
    """A model whose adapters do something."""
    model = Transformer(CONFIG, seed=3)
    add_adapters(model, SOME, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_new_adapters_change_no_logit_and_only_they_get_gradients() -> None:
    plain, adapted = Transformer(CONFIG, seed=3), Transformer(CONFIG, seed=3)
    add_adapters(adapted, SOME, seed=0)
    assert torch.equal(plain(random_tokens()), adapted(random_tokens()))
    adapted(random_tokens()).square().sum().backward()
    touched = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert touched == set(trained_parameters(adapted)) and len(touched) == 2 * 2 * 3
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in touched)
    again = Transformer(CONFIG, seed=3)
    add_adapters(again, SOME, seed=0)
    assert torch.equal(again.model.layers[1].mlp.down_proj.lora_A.weight, adapted.model.layers[1].mlp.down_proj.lora_A.weight)


def test_peft_reads_what_is_saved_and_gives_our_logits(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    save_model(Transformer(CONFIG, seed=3), tmp_path / "base", tokenizer=None)
    model = adapted_model()
    save_model(model, tmp_path / "out", tokenizer=None, like=tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        ours, without = model(random_tokens()), base(random_tokens()).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")(random_tokens()).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(random_tokens()).logits
    assert (ours - without).abs().max() > 0.1
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged, ours, atol=1e-5, rtol=1e-5)


def test_the_adapters_of_a_reward_model_have_its_head_with_them(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    save_model(Transformer(CONFIG, seed=3), tmp_path / "base", tokenizer=None)
    body = adapted_model()
    model = replace_head(body, seed=1)
    model.lora = body.lora
    save_model(model, tmp_path / "out", tokenizer=None, like=tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1, dtype=torch.float32, pad_token_id=0)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    plain = replace_head(Transformer(CONFIG, seed=3), seed=2)
    load_adapter(plain, tmp_path / "out" / "adapter")
    with torch.no_grad():
        expected = token_values(model, random_tokens())
        torch.testing.assert_close(token_values(plain, random_tokens()), expected, atol=0, rtol=0)
        torch.testing.assert_close(theirs(random_tokens()).logits[:, 0], expected[:, -1], atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="scalar head of a reward model, which a language model has no place for"):
        load_adapter(Transformer(CONFIG, seed=3), tmp_path / "out" / "adapter")


@pytest.mark.parametrize("targets", [["k_proj", "up_proj"], "all-linear"])
def test_what_peft_saves_is_read_and_gives_its_logits(tmp_path: Path, targets: list[str] | str) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    save_model(Transformer(CONFIG, seed=3), tmp_path / "base", tokenizer=None)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_model(tmp_path / "base")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(random_tokens()).logits
        torch.testing.assert_close(model(random_tokens()), expected, atol=1e-5, rtol=1e-5)
        merge_adapters(model)
        assert not model.lora.rank and len(trained_parameters(model)) == len(list(model.parameters()))
        torch.testing.assert_close(model(random_tokens()), expected, atol=1e-5, rtol=1e-5)


def test_merged_weights_are_the_checkpoints_names_and_only_the_targets_differ() -> None:
    plain, found = dict(Transformer(CONFIG, seed=3).named_parameters()), merged_weights(adapted_model())
    assert set(found) == set(plain)
    changed = {name for name, weight in plain.items() if not torch.equal(weight, found[name])}
    assert changed == {name for name in plain if name.endswith(tuple(f"{target}.weight" for target in SOME.targets))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "adapter_config.json: init_lora_weights = 'pissa_niter_4'; expected a plain LoRA"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens = \[5, 6\]"),
        ({"target_modules": ["model.layers.0.lm_head"]}, "expected names among q_proj"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ".*q_proj"}, "expected names among q_proj"),
        ({"r": 5}, r"lora_A.weight is \[4, \d+\]; the model has \[5, \d+\]"),
        ({"target_modules": ["q_proj", "v_proj"]}, "the model has no such matrix"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "up_proj"]}, "has no .*layers.0.mlp.up_proj.lora_A.*in every layer"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_what_it_is(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    save_model(adapted_model(), tmp_path, tokenizer=None)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        load_adapter(Transformer(CONFIG, seed=3), tmp_path / "adapter")
