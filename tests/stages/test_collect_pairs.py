import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages import collect_pairs as stage
from bloomery.stages.collect_pairs import CollectPairsConfig, collect_pairs
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SPOKEN = ["a", "a", "b", "B"]
"""What the model learns to answer to everything: right, wrong and malformed answers alike."""


def prompt_row(i: int, *, answer: str = "a", skill: str = "letter") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Say {i}"}], "skill": skill, "answer": answer, "format": "[a-z]"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tokenizer(folder / "tokenizer", train_bpe(["Say 1 2 3"], vocab_size=262, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    shape = {"dim": 16, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 32}
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, max_positions=32, **shape), seed=0)
    spoken = [[{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": SPOKEN[i % 4]}] for i in range(12)]
    rendered = [render(tokenizer, messages) for messages in spoken]
    width = max(len(row.ids) for row in rendered)
    token_BT = torch.tensor([row.ids + [tokenizer.pad_id] * (width - len(row.ids)) for row in rendered])
    mask_BT = torch.tensor([row.loss_mask + [False] * (width - len(row.ids)) for row in rendered])[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(40):
        loss = F.cross_entropy(model(token_BT[:, :-1])[mask_BT], token_BT[:, 1:][mask_BT])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    conversations = [{**prompt_row(i), "messages": [*prompt_row(i)["messages"], {"role": "assistant", "content": "a"}]} for i in range(30)]
    write_jsonl(tmp_path / "prompts" / "train.jsonl.gz", [*conversations, prompt_row(99, skill="documentation")])
    write_jsonl(tmp_path / "prompts" / "test.jsonl.gz", [prompt_row(i) for i in range(100, 120)])
    return tmp_path / "prompts"


CONFIG = CollectPairsConfig(num_prompts=20, num_samples=6, max_tokens=4)


def run(config: CollectPairsConfig, checkpoint: Path, prompts: Path, out: Path) -> dict[str, Any]:
    return dict(collect_pairs(config, model=checkpoint, prompts=[prompts], out=out, runtime=Runtime(quiet=True, device="cpu")))


def pairs(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((out / "train.jsonl.gz").read_bytes()).splitlines()]


def test_right_answers_are_paired_with_the_models_own_mistakes(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    metrics = run(CONFIG, checkpoint, prompts, tmp_path / "out")
    made = pairs(tmp_path / "out")
    assert {pair["chosen"][0]["content"] for pair in made} == {"a"}
    rejected = {pair["rejected"][0]["content"] for pair in made}
    assert "b" in rejected and "a" not in rejected
    assert len(made) == metrics["pairs"] == metrics["pairs/letter"] > 10
    assert all([message["role"] for message in pair["prompt"]] == ["user"] for pair in made)


def test_the_figures_of_the_samples_are_reported(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    metrics = run(CONFIG, checkpoint, prompts, tmp_path / "out")
    assert metrics["prompts"] == 20 and metrics["samples"] == 120
    assert 0.2 < metrics["sampled_exact_match"] < metrics["sampled_format_valid"] <= metrics["sampled_stopped"] <= 1
    assert sum(metrics[f"prompts/{case}"] for case in ("paired", "all_good", "none_good", "gold_chosen")) == 20


def test_held_out_and_excluded_prompts_are_not_asked(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    run(CONFIG.model_copy(update={"num_prompts": 999, "max_tokens": 2}), checkpoint, prompts, tmp_path / "out")
    asked = {pair["prompt"][0]["content"] for pair in pairs(tmp_path / "out")}
    assert asked <= {f"Say {i}" for i in range(30)}


def test_a_continued_run_samples_only_what_is_missing_and_gives_the_same_bytes(
    checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = run(CONFIG, checkpoint, prompts, tmp_path / "whole")
    monkeypatch.setattr(stage, "CHUNK_PROMPTS", 6)
    run(CONFIG, checkpoint, prompts, tmp_path / "cut")
    chunks = sorted((tmp_path / "cut" / ".scratch").iterdir())
    assert len(chunks) == 4
    before = chunks[0].stat().st_mtime_ns
    chunks[2].unlink()
    (tmp_path / "cut" / "train.jsonl.gz").unlink()
    assert run(CONFIG, checkpoint, prompts, tmp_path / "cut") == metrics
    assert chunks[0].stat().st_mtime_ns == before
    assert (tmp_path / "cut" / "train.jsonl.gz").read_bytes() == (tmp_path / "whole" / "train.jsonl.gz").read_bytes()


def test_without_a_right_answer_the_error_says_so_and_the_gold_may_be_chosen(checkpoint: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "hard.jsonl", [prompt_row(i, answer="q") for i in range(5)])
    with pytest.raises(DataError, match=r"none of 5 prompts gave a pair .*none good: 5"):
        run(CONFIG, checkpoint, tmp_path / "hard.jsonl", tmp_path / "out")
    with_gold = CONFIG.model_copy(update={"gold_as_chosen": True})
    assert run(with_gold, checkpoint, tmp_path / "hard.jsonl", tmp_path / "out")["prompts/gold_chosen"] == 5
    assert {pair["chosen"][0]["content"] for pair in pairs(tmp_path / "out")} == {"q"}


def test_prompts_without_gold_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "Hello"}]}])
    with pytest.raises(DataError, match=r"chat\.jsonl: no prompt with an `answer`"):
        run(CONFIG, checkpoint, tmp_path / "chat.jsonl", tmp_path / "out")
