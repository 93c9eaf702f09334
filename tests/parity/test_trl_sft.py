"""Fine-tuning beside TRL 1.16's SFTTrainer: the same loss on the same conversations, packed or not, and the same tokens trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.sft import response_objective
from bloomery.tokens.chat import Rendered, render
from bloomery.tokens.loader import conversation_rows, make_batch
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

trl = pytest.importorskip("trl", reason="needs pip install 'bloomery[parity]'")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
chat_template_utils = pytest.importorskip("trl.chat_template_utils")

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TALKS: list[list[Message]] = [
    [{"role": "user", "content": "where is the cat"}, {"role": "assistant", "content": "on the mat"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}],
    [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "so ", "tool_calls": [CALL]},  # type: ignore[list-item]
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "three"},
    ],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d e f"},
    ],
]
ROW_TOKENS = 96


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    write_tokenizer(path, train_bpe(["the cat sat on the mat"] * 3, vocab_size=280, pattern="llama3"), pattern="llama3")
    config = ModelConfig(
        vocab_size=load_tokenizer(path).vocab_size, dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=48,
        max_positions=ROW_TOKENS, qk_norm=request.param == "Qwen3",
    )  # fmt: skip
    save_model(Transformer(config, seed=3), path, tokenizer=path)
    return path


@pytest.fixture(scope="module")
def rendered(folder: Path) -> list[Rendered]:
    return [render(load_tokenizer(folder), talk) for talk in TALKS]


def make_trainer(folder: Path, out: Path, columns: dict[str, Any], **settings: Any) -> Any:
    arguments = trl.SFTConfig(
        output_dir=str(out), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_length=ROW_TOKENS,
        per_device_train_batch_size=8, shuffle_dataset=False, **settings,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return trl.SFTTrainer(model, args=arguments, train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer)


def their_batch(trainer: Any) -> dict[str, Any]:
    dataset = trainer.train_dataset
    kept = [name for name in dataset.column_names if name not in ("messages", "tools")]
    batch: dict[str, Any] = trainer.data_collator([{name: row[name] for name in kept} for row in dataset])
    return batch


def our_terms(folder: Path, rendered: list[Rendered]) -> tuple[float, float]:
    source = conversation_rows(rendered, row_tokens=ROW_TOKENS)
    with torch.no_grad():
        terms = response_objective(load_model(folder), make_batch(source, range(source.packed.num_rows)))
    return terms.loss_sum.item(), terms.weight.item()


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_on_completions_is_theirs_token_for_token(folder: Path, rendered: list[Rendered], tmp_path: Path, packing: bool) -> None:
    columns = {"input_ids": [r.ids for r in rendered], "completion_mask": [[int(m) for m in r.loss_mask] for r in rendered]}
    trainer = make_trainer(folder, tmp_path, columns, packing=packing, packing_strategy="bfd", completion_only_loss=True)
    loss_sum, weight = our_terms(folder, rendered)
    batch = their_batch(trainer)
    assert int((batch["labels"][:, 1:] != -100).sum()) == weight
    with torch.no_grad():
        mean = trainer.compute_loss(trainer.model, dict(batch)).item()
        of_100 = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=100).item()
    assert mean == pytest.approx(loss_sum / weight, abs=1e-5)
    assert of_100 == pytest.approx(loss_sum / 100, abs=1e-5)  # num_items_in_batch: the weight of the global batch, as in train_step


def test_from_messages_they_train_the_tokens_that_we_train(folder: Path, rendered: list[Rendered], tmp_path: Path) -> None:
    trainer = make_trainer(folder, tmp_path, {"messages": TALKS}, assistant_only_loss=True)
    found = [(list(row["input_ids"]), [label != -100 for label in row["labels"]]) for row in trainer.train_dataset]
    assert found == [(r.ids, r.loss_mask) for r in rendered]
    loss_sum, weight = our_terms(folder, rendered)
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, their_batch(trainer)).item() == pytest.approx(loss_sum / weight, abs=1e-5)


def test_our_template_passes_their_checks(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert chat_template_utils.is_chat_template_prefix_preserving(tokenizer)
    assert chat_template_utils.is_chat_template_stop_token_trained(tokenizer)
    assert chat_template_utils.has_generation_markers(tokenizer.chat_template)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tokenizers

    path = tmp_path_factory.mktemp("qwen")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(["the cat"], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=specials))
    theirs.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=theirs, eos_token="<|im_end|>", pad_token="<|endoftext|>").save_pretrained(path)
    return path


def template_of(name: str) -> str:
    return (Path(chat_template_utils.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["qwen3_training", "qwen2_5_training", "llama3_training"])
@pytest.mark.parametrize("talk", range(len(TALKS)))
def test_with_their_training_templates_the_ids_and_masks_are_those_of_transformers(qwen: Path, name: str, talk: int) -> None:
    (qwen / "chat_template.jinja").write_text(template_of(name), encoding="utf-8")
    auto = transformers.AutoTokenizer.from_pretrained(qwen)
    ours = load_renderer(qwen, load_tokenizer(qwen))(TALKS[talk])
    theirs = auto.apply_chat_template(TALKS[talk], return_dict=True, return_assistant_tokens_mask=True)
    assert ours.ids == theirs["input_ids"]
    assert ours.loss_mask == [bool(m) for m in theirs["assistant_masks"]]


def test_qwen3s_own_template_is_taken_for_one_answer_and_refused_for_two(qwen: Path) -> None:
    (qwen / "chat_template.jinja").write_text(template_of("qwen3"), encoding="utf-8")
    tokenizer = load_tokenizer(qwen)
    render_theirs = load_renderer(qwen, tokenizer)
    ids, mask = render_theirs(TALKS[0])
    trained = tokenizer.decode([i for i, learn in zip(ids, mask, strict=True) if learn], skip_special=False)
    assert trained == "<think>\n\n</think>\n\non the mat<|im_end|>"
    with pytest.raises(DataError, match="renders message 1 in one way as the last one"):
        render_theirs(TALKS[3])
