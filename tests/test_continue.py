"""Continued pretraining as a recipe: a checkpoint that transformers made goes on learning, and transformers reads the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from bloomery.core.artifact import Store
from bloomery.model.huggingface import load_model
from bloomery.pipeline.locate import find_recipe
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan
from bloomery.tokens.train import PATTERNS

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "base.tokens=40k", "base.sequence_tokens=64", "base.batch_tokens=2048", "base.learning_rate=3e-3",
    "base.embedding_learning_rate=3e-3", "base.num_validations=4", "base.validation_tokens=4096", "corpus.validation_fraction=0.1",
]  # fmt: skip


def real_texts() -> list[str]:
    """The paragraphs of this project's own pages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n") if len(part) > 200]


def make_checkpoint(folder: Path, texts: list[str]) -> None:
    """A small Qwen3 in bf16 with a tokenizer in Qwen's way: no bos, NFC, its own pattern, padding is the end."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["qwen2"]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=128, max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=wrapped.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def run_continue(folder: Path, *settings: str) -> dict[str, Path]:
    """The artifacts of the recipe, run on the checkpoint and the texts in `folder`."""
    inputs = [f"start.inputs.model=file:{folder}/checkpoint", f"pages.inputs.pages=file:{folder}/texts.jsonl"]
    recipe, store = load_recipe(find_recipe("continue"), overrides=[*inputs, *SETTINGS, *settings]), Store(folder / "store")
    run_plan(make_plan(recipe, store), store)
    return {step.node.id: store.artifact_path(step.node.stage.name, step.fingerprint) for step in make_plan(recipe, store).steps}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("continue")
    texts = real_texts()
    make_checkpoint(folder / "checkpoint", texts)
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


def validation(made: dict[str, Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((made["base"] / "training.json").read_text())["validation"]
    return rows


def test_a_checkpoint_learns_from_new_documents_and_transformers_reads_the_result(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = run_continue(folder)
    for path in (folder / "checkpoint").iterdir():
        assert (made["start"] / path.name).read_bytes() == path.read_bytes(), path.name
        if path.name.startswith("tokenizer"):
            assert (made["model"] / path.name).read_bytes() == path.read_bytes(), path.name
    bits = [row["bits_per_byte"] for row in validation(made)]
    assert bits == sorted(bits, reverse=True) and bits[-1] < 0.93 * bits[0]
    tokens = AutoTokenizer.from_pretrained(made["model"])("bloomery reads documents and trains a model.", return_tensors="pt")
    models = {name: AutoModelForCausalLM.from_pretrained(made[name]) for name in ("start", "base", "model")}
    assert {type(model).__name__ for model in models.values()} == {"Qwen3ForCausalLM"}
    assert [model.dtype for model in models.values()] == [torch.bfloat16, torch.float32, torch.bfloat16]
    with torch.no_grad():
        loss = {name: model(**tokens, labels=tokens["input_ids"]).loss.item() for name, model in models.items()}
        torch.testing.assert_close(load_model(made["base"])(tokens["input_ids"]), models["base"](**tokens).logits, atol=1e-5, rtol=1e-5)
    assert loss["base"] < 0.93 * loss["start"] and abs(loss["model"] - loss["base"]) < 0.05


def test_with_lora_what_is_no_target_comes_out_with_the_bytes_it_came_in_with(folder: Path) -> None:
    made = run_continue(folder, "base.lora.rank=8", 'base.lora.targets=["q_proj", "down_proj"]', "base.learning_rate=1e-2")
    bits = [row["bits_per_byte"] for row in validation(made)]
    assert bits[-1] < bits[0]
    before, after = load_file(folder / "checkpoint" / "model.safetensors"), load_file(made["model"] / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "down_proj.weight"))}
    assert (made["base"] / "adapter" / "adapter_config.json").is_file()
