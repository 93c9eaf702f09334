"""sft: only the assistant's tokens teach, no conversation is lost, and a resumed run ends with the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.huggingface import load_model
from bloomery.objectives.next_token import token_logps
from bloomery.stages.sft import SftConfig, measure, render_all, response_objective, sft
from bloomery.tokens.chat import render
from bloomery.tokens.loader import conversation_rows, make_batch
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train import checkpoint

TINY = SftConfig(
    epochs=10,
    learning_rate=0.02,
    embedding_learning_rate=0.02,
    sequence_tokens=48,
    batch_tokens=192,
    held_out_fraction=0.1,
    num_validations=3,
    seed=2,
)


def talk(i: int, *, answer: str = "the house") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"where {i}"}, {"role": "assistant", "content": answer}], "skill": "place"}


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "talks" / "train.jsonl.gz", [talk(i) for i in range(60)])
    write_jsonl(tmp_path / "talks" / "test.jsonl.gz", [{"messages": talk(99)["messages"][:1], "answer": "secret"}])
    return tmp_path / "talks"


def visible_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_it_learns_to_answer_and_counts_what_it_read(tmp_path: Path, tiny_checkpoint: Path, conversations: Path) -> None:
    metrics = sft(TINY, init=tiny_checkpoint, conversations=[conversations], out=tmp_path / "out", runtime=Runtime(quiet=True))
    losses = [row[2] for row in json.loads((tmp_path / "out" / "training.json").read_text())["curve"]]
    assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]
    assert metrics["conversations"] + metrics["held_out_conversations"] == 60 and metrics["held_out_conversations"] > 0
    assert metrics["unanswered_conversations"] == 0  # test.jsonl.gz was not read
    tokenizer, model = load_tokenizer(tiny_checkpoint), load_model(tmp_path / "out")
    ids = render(tokenizer, talk(3)["messages"][:1], add_generation_prompt=True).ids
    for _ in range(16):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert tokenizer.decode(ids, skip_special=False).split("<|assistant|>")[1].startswith("the house<|end|>")


def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, conversations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    arguments = {"init": tiny_checkpoint, "conversations": [conversations], "runtime": Runtime(quiet=True)}
    expected = sft(TINY, **arguments, out=tmp_path / "whole")
    # What a kill while the last files are written leaves: snapshots, and no result.
    sft(TINY, **arguments, out=tmp_path / "cut")
    (tmp_path / "cut" / "training.json").unlink()
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"half")
    newest = max((tmp_path / "cut" / ".scratch").glob("step-*"))
    (newest / "model.safetensors").write_bytes(b"half")
    assert sft(TINY, **arguments, out=tmp_path / "cut") == expected
    assert visible_files(tmp_path / "cut") == visible_files(tmp_path / "whole")


def test_the_loss_is_the_mean_over_exactly_the_assistants_tokens_one_by_one(tiny_checkpoint: Path) -> None:
    tokenizer, model = load_tokenizer(tiny_checkpoint), load_model(tiny_checkpoint)
    rendered = [render(tokenizer, talk(i, answer=answer)["messages"]) for i, answer in enumerate(["a", "the red house", ""])]
    total, count = 0.0, 0
    for ids, mask in rendered:
        logps = token_logps(model(torch.tensor([ids[:-1]])), torch.tensor([ids[1:]]))[0]
        trained = [t for t in range(len(ids)) if mask[t]]
        assert ids[trained[0] - 1] == tokenizer.special_ids["<|assistant|>"]  # the first trained target follows <|assistant|>
        assert ids[trained[-1]] == tokenizer.end_id  # and the last is the end of the turn
        total, count = total - sum(logps[t - 1].item() for t in trained), count + len(trained)
    found = measure(model, source=conversation_rows(rendered, row_tokens=48))
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)


def test_packed_conversations_teach_what_they_would_alone(tiny_checkpoint: Path) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    rendered = [render(tokenizer, talk(i)["messages"]) for i in range(5)]
    gradients = []
    for row_tokens in (48, max(len(r.ids) for r in rendered)):
        model, source = load_model(tiny_checkpoint), conversation_rows(rendered, row_tokens=row_tokens)
        response_objective(model, make_batch(source, range(source.packed.num_rows))).loss_sum.backward()
        gradients.append([p.grad for p in model.parameters()])
    for packed, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


def test_one_prompt_is_never_both_trained_and_held_out(tiny_checkpoint: Path) -> None:
    tokenizer = load_tokenizer(tiny_checkpoint)
    rows = [talk(i % 20, answer=str(i)) for i in range(200)]
    found = render_all(rows, tokenizer, held_out_fraction=0.3)
    assert len(found.train) + len(found.held_out) == 200 and found.held_out

    def prompts(rendered: list[Any]) -> set[str]:
        return {tokenizer.decode(r.ids, skip_special=False).split("<|assistant|>")[0] for r in rendered}

    assert not prompts(found.train) & prompts(found.held_out)


def test_conversations_without_an_answer_are_counted_and_alone_are_an_error(tmp_path: Path, tiny_checkpoint: Path) -> None:
    question = {"messages": [{"role": "user", "content": "hello"}]}
    silent = {"messages": [*question["messages"], {"role": "assistant", "content": "no", "loss": False}]}
    assert render_all([question, silent, talk(1)], load_tokenizer(tiny_checkpoint), held_out_fraction=0.0).num_unanswered == 2
    write_jsonl(tmp_path / "talks.jsonl", [question, silent])
    with pytest.raises(DataError, match="no conversation with an assistant's turn"):
        sft(TINY, init=tiny_checkpoint, conversations=[tmp_path / "talks.jsonl"], out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_rows_longer_than_the_model_reads_are_a_config_error(tmp_path: Path, tiny_checkpoint: Path, conversations: Path) -> None:
    config = TINY.model_copy(update={"sequence_tokens": 64})
    with pytest.raises(ConfigError, match="sequence_tokens = 64 is more than the 48 positions"):
        sft(config, init=tiny_checkpoint, conversations=[conversations], out=tmp_path / "out", runtime=Runtime(quiet=True))
