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
from bloomery.stages.sft import SftConfig, measure, response_objective, sft
from bloomery.tokens.chat import render
from bloomery.tokens.conversation_set import render_set
from bloomery.tokens.loader import conversation_rows, make_batch
from bloomery.tokens.renderer import load_renderer
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
    found = render_set(rows, load_renderer(tiny_checkpoint, tokenizer), row_tokens=48, held_out_fraction=0.3)
    assert len(found.train) + len(found.held_out) == 200 and found.held_out

    def prompts(rendered: list[Any]) -> set[str]:
        return {tokenizer.decode(r.ids, skip_special=False).split("<|assistant|>")[0] for r in rendered}

    assert not prompts(found.train) & prompts(found.held_out)


def test_conversations_without_an_answer_are_counted_and_alone_are_an_error(tmp_path: Path, tiny_checkpoint: Path) -> None:
    question = {"messages": [{"role": "user", "content": "hello"}]}
    silent = {"messages": [*question["messages"], {"role": "assistant", "content": "no", "loss": False}]}
    render = load_renderer(tiny_checkpoint, load_tokenizer(tiny_checkpoint))
    assert render_set([question, silent, talk(1)], render, row_tokens=48).counts["unanswered"] == 2
    write_jsonl(tmp_path / "talks.jsonl", [question, silent])
    with pytest.raises(DataError, match="no conversation with an assistant's turn"):
        sft(TINY, init=tiny_checkpoint, conversations=[tmp_path / "talks.jsonl"], out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_rows_longer_than_the_model_reads_are_a_config_error(tmp_path: Path, tiny_checkpoint: Path, conversations: Path) -> None:
    config = TINY.model_copy(update={"sequence_tokens": 64})
    with pytest.raises(ConfigError, match="sequence_tokens = 64 is more than the 48 positions"):
        sft(config, init=tiny_checkpoint, conversations=[conversations], out=tmp_path / "out", runtime=Runtime(quiet=True))


def run_sets(tmp_path: Path, checkpoint: Path, tokens: list[Path], **changes: Any) -> dict[str, Any]:
    write_jsonl(tmp_path / "a.jsonl", [talk(i) for i in range(40)])
    write_jsonl(tmp_path / "b.jsonl", [{"instruction": f"say {i}", "output": "the cat sat"} for i in range(20)])
    config = SftConfig(**{**TINY.model_dump(), "num_validations": 1, "num_samples": 0, **changes})
    sets = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    sft(config, init=checkpoint, conversations=sets, tokens=tokens, out=tmp_path / "out", runtime=Runtime(quiet=True))
    training: dict[str, Any] = json.loads((tmp_path / "out" / "training.json").read_text())
    return training


def test_sets_are_read_as_often_as_is_said_of_each(tmp_path: Path, tiny_checkpoint: Path) -> None:
    training = run_sets(tmp_path, tiny_checkpoint, [], names=["a", "b"], epochs=1, epochs_of={"b": 3}, batch_tokens=48)
    sets = training["sets"]
    assert sets["a"]["epochs"] == pytest.approx(1, abs=0.1) and sets["b"]["epochs"] == pytest.approx(3, abs=0.1)
    assert sets["a"]["conversations"] + sets["a"]["held_out_conversations"] == 40
    assert training["steps"] == sets["a"]["rows"] + 3 * sets["b"]["rows"]
    assert {"loss", "loss/a", "loss/b"} <= training["validation"][-1].keys()


def test_the_files_that_a_glob_names_are_one_set(tmp_path: Path, tiny_checkpoint: Path, conversations: Path) -> None:
    for i in range(3):
        write_jsonl(tmp_path / "many" / f"{i}.jsonl", [talk(10 * i + k) for k in range(8)])
    config = TINY.model_copy(update={"names": ["many", "talks"], "steps": 1})
    inputs = [*sorted((tmp_path / "many").glob("*.jsonl")), conversations]
    sft(config, init=tiny_checkpoint, conversations=inputs, out=tmp_path / "out", runtime=Runtime(quiet=True))
    sets = json.loads((tmp_path / "out" / "training.json").read_text())["sets"]
    assert {name: found["conversations"] + found["held_out_conversations"] for name, found in sets.items()} == {"many": 24, "talks": 60}


def test_texts_are_mixed_in_by_weight_and_all_of_their_tokens_are_trained(tmp_path: Path, tiny_checkpoint: Path, tiny_tokens: Path) -> None:
    mixture = {"a": 1, "b": 1, "text": 2}
    training = run_sets(tmp_path, tiny_checkpoint, [tiny_tokens], names=["a", "b", "text"], mixture=mixture, steps=10)
    read = {name: found["tokens"] for name, found in training["sets"].items()}
    assert read == {"a": 480, "b": 480, "text": 960}
    assert "loss/text" in training["validation"][-1]


def test_a_mixture_run_twice_gives_the_same_bytes(tmp_path: Path, tiny_checkpoint: Path, tiny_tokens: Path) -> None:
    (tmp_path / "again").mkdir()
    changes = {"names": ["a", "b", "text"], "epochs": 1, "batch_tokens": 96}
    first = run_sets(tmp_path, tiny_checkpoint, [tiny_tokens], **changes)
    assert run_sets(tmp_path / "again", tiny_checkpoint, [tiny_tokens], **changes) == first
    assert visible_files(tmp_path / "out") == visible_files(tmp_path / "again" / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b", "c"]}, r"names = \['a', 'b', 'c'\] names 3 sets, but 2 inputs `conversations` and 0 `tokens`"),
        ({"mixture": {"tokens": 1}}, '"tokens" is not among the sets'),
        ({"names": ["a", "b"], "too_long": "drop", "sequence_tokens": 8}, "are too long for 8 tokens"),
    ],
)
def test_sets_that_do_not_fit_their_names_or_rows_are_refused(tmp_path: Path, tiny_checkpoint: Path, changes: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run_sets(tmp_path, tiny_checkpoint, [], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "a"]}, "has a name twice"),
        ({"names": ["a", "b"], "mixture": {"c": 1}}, 'mixture: "c" is not among the names'),
        ({"names": ["a"], "mixture": {"a": 0}}, "all weights are zero"),
        ({"mixture": {"a": 1}, "epochs_of": {"a": 1}}, "give one of them"),
    ],
)
def test_a_mixture_that_says_nothing_or_too_much_is_a_config_error(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SftConfig(**changes)


def test_with_loss_on_all_the_prompts_are_learnt_as_well(tmp_path: Path, tiny_checkpoint: Path, conversations: Path) -> None:
    arguments = {"init": tiny_checkpoint, "conversations": [conversations], "runtime": Runtime(quiet=True)}
    weights = {}
    for loss_on in ("assistant", "all"):
        sft(TINY.model_copy(update={"loss_on": loss_on, "steps": 1}), **arguments, out=tmp_path / loss_on)
        weights[loss_on] = (tmp_path / loss_on / "model.safetensors").read_bytes()
    assert weights["assistant"] != weights["all"]


def test_what_is_too_long_is_counted_in_the_report(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [talk(i) for i in range(8)] + [talk(9, answer="the house by the sea and a mat " * 4)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    arguments = {"init": tiny_checkpoint, "conversations": [tmp_path / "a.jsonl"], "runtime": Runtime(quiet=True)}
    for too_long, counts in {"cut_end": (1, 0), "drop": (0, 1)}.items():
        config = TINY.model_copy(update={"too_long": too_long, "steps": 1, "held_out_fraction": 0.0})
        metrics = sft(config, **arguments, out=tmp_path / too_long)
        assert (metrics["cut_conversations"], metrics["dropped_conversations"]) == counts


def test_a_checkpoint_of_others_learns_in_the_form_of_its_own_template(
    tmp_path: Path, foreign_checkpoint: Path, conversations: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    auto = transformers.AutoTokenizer.from_pretrained(foreign_checkpoint)
    changed = TINY.model_copy(update={"sequence_tokens": 64, "batch_tokens": 256, "epochs": 12})
    sft(changed, init=foreign_checkpoint, conversations=[conversations], out=tmp_path / "out", runtime=Runtime(quiet=True))
    trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = auto.apply_chat_template(talk(3)["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = trained.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert auto.decode(said) == "the house<|im_end|>"
