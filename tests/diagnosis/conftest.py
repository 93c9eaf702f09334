"""A small language and its tokenizer."""

from pathlib import Path

import planted_runs
import pytest
import torch

from bloomery.tokens.train import train_bpe, write_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def language(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    write_tokenizer(folder, train_bpe(planted_runs.write_texts(100, seed=5), vocab_size=320, pattern="llama3"), pattern="llama3")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, language) -> Path:
    texts, held_out = planted_runs.write_texts(700, seed=1), planted_runs.write_texts(40, seed=2)
    return planted_runs.write_tokens(tmp_path_factory.mktemp("corpus") / "tokens", language, texts, held_out)
