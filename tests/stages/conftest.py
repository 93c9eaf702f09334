"""A tokenizer, tokens and a model small enough that a training stage takes a second."""

from pathlib import Path

import pytest
import tokenizers
import torch

from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "to", "the", "red", "house", "by", "the", "sea"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe([" ".join(WORDS)] * 3, vocab_size=282, pattern="llama3"), pattern="llama3")
    return folder


@pytest.fixture(scope="session")
def tiny_tokens(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("tokens"), load_tokenizer(tiny_tokenizer)
    texts = [" ".join(WORDS[(i * 5 + k) % len(WORDS)] for k in range(5 + i % 20)) for i in range(60)]
    documents = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id] for text in texts]
    parts = {"train": (documents[:50], texts[:50]), "validation": (documents[50:], texts[50:])}
    for split, (ids, _) in parts.items():
        (folder / split).mkdir()
        write_shard(folder / split / "00000", ids, vocab_size=tokenizer.vocab_size)
    sizes = {split: [sum(len(text.encode()) for text in kept)] for split, (_, kept) in parts.items()}
    write_manifest(folder, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes=sizes)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = ModelConfig(
        vocab_size=load_tokenizer(tiny_tokenizer).vocab_size,
        dim=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=48, max_positions=48,
    )  # fmt: skip
    save_model(Transformer(config, seed=5), folder, tokenizer=tiny_tokenizer)
    return folder


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def foreign_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen3 as transformers saves it, with a template of its own and none of our marks."""
    transformers, folder = pytest.importorskip("transformers"), tmp_path_factory.mktemp("foreign")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    theirs.train_from_iterator(["the house"], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=specials))
    auto = transformers.PreTrainedTokenizerFast(tokenizer_object=theirs, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    auto.chat_template = CHATML
    auto.save_pretrained(folder)
    config = transformers.Qwen3Config(
        vocab_size=len(auto), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=auto.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder
