"""A tokenizer trained on two paragraphs."""

from pathlib import Path

import pytest

from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog, who is lazy, doesn't jump over the fox. It's 12 o'clock!\n\n",
    "def encode(text: str) -> list[int]:\n    return [token for token in text if token]  # 1234 tokens\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 敏捷的棕色狐狸跳过懒狗。\n",
    "Съешь ещё этих мягких французских булок 🦊🦊\n",
]


@pytest.fixture(scope="session", params=["llama3", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"tokenizer-{request.param}")
    write_tokenizer(path, train_bpe(TEXTS * 3, vocab_size=400, pattern=request.param), pattern=request.param)
    return path


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)
