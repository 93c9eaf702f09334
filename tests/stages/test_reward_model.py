"""reward_model: it learns what was preferred, transformers reads its folder and says the same, and it resumes to the same bytes."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bloomery.align.reward_model import reward_model_source, score_rows
from bloomery.align.reward_source import Answer
from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json, write_json, write_jsonl
from bloomery.core.stage import Launch, Runtime
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model, save_model
from bloomery.stages.reward_model import RewardModelConfig, check_launch, read_comparisons, reward_model
from bloomery.tokens.chat import render
from bloomery.tokens.renderer import load_whole_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train import checkpoint

TINY = RewardModelConfig(epochs=4, batch_prompts=16, learning_rate=0.003, embedding_learning_rate=0.003, held_out_fraction=0.2, seed=3)
GOODNESS = ["the sea", "the red house", "a mat", "dog dog"]
"""Answers, the best one first, whatever is asked."""


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(i: int) -> dict[str, Any]:
    better = i % 3
    worse = better + 1 + i // 3 % (3 - better)
    prompt = [{"role": "user", "content": f"where {i}"}]
    return {"prompt": prompt, "chosen": said(GOODNESS[better]), "rejected": said(GOODNESS[worse]), "margin": float(worse - better)}


def ranking(i: int) -> dict[str, Any]:
    order = [(i + k * (1 + 2 * (i % 2))) % 4 for k in range(4)]
    ranks = [max(1, which) if i % 5 == 0 else which + 1 for which in order]  # every fifth has a tie of the first two
    prompt = [{"role": "user", "content": f"where {i}"}]
    return {"prompt": prompt, "completions": [said(GOODNESS[which]) for which in order], "ranks": ranks}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "train.jsonl.gz", [pair(i) for i in range(120)])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pairs: Path) -> Path:
    out = tmp_path_factory.mktemp("trained")
    reward_model(TINY, init=tiny_checkpoint, pairs=[pairs], out=out, runtime=Runtime(quiet=True))
    return out


def test_it_starts_near_ln_2_and_learns_to_prefer_the_better_answers(trained: Path) -> None:
    training = read_json(trained / "training.json")
    first, last = training["validation"][0], training["validation"][-1]
    assert first["loss"] < 1.5 and last["loss"] < min(first["loss"], math.log(2)) and last["accuracy"] > 0.9
    assert training["comparisons"] + training["held_out_comparisons"] == 120
    held_out = training["held_out"]
    assert held_out["pairs"] == training["held_out_comparisons"] and held_out["accuracy"] == pytest.approx(last["accuracy"], abs=0.1)
    assert held_out["accuracy_low"] <= held_out["accuracy"] <= held_out["accuracy_high"]
    assert sum(row["pairs"] for row in held_out["reliability"]) == held_out["pairs"] == sum(row["pairs"] for row in held_out["by_margin"])
    assert len(held_out["by_labelled_margin"]) > 1
    assert (trained / "reliability.svg").read_text().startswith("<svg")


def test_transformers_gives_the_same_scores_to_batches_of_any_padding_at_the_end_of_the_answer(trained: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    theirs = AutoModelForSequenceClassification.from_pretrained(trained, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    ours = load_tokenizer(trained)
    # With one id for both the score would be that of the token before the end (transformers #35352).
    assert theirs.config.pad_token_id == ours.pad_id == tokenizer.pad_token_id != ours.end_id == tokenizer.eos_token_id
    assert theirs.config.num_labels == 1 and type(theirs).__name__ == "Qwen3ForSequenceClassification"
    conversations: Any = [[{"role": "user", "content": "where " * n}, *said(text)] for n, text in enumerate([*GOODNESS, "the"], start=1)]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    rows = [render(ours, messages).ids for messages in conversations]
    mine = score_rows(load_model(trained, head="scalar"), rows)
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        assert [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)] == rows
        with torch.no_grad():
            scores = theirs(**batch).logits[:, 0].tolist()
        assert mine == pytest.approx(scores, abs=1e-5), side
    assert max(mine) - min(mine) > 0.5


def test_where_the_score_stands_is_written_down_and_one_id_for_padding_and_end_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    # A checkpoint of others that says nothing of padding, and one whose padding is the end of an answer.
    shutil.copytree(tiny_checkpoint, tmp_path / "init")
    config = read_json(tiny_checkpoint / "config.json")
    write_json(tmp_path / "init" / "config.json", {key: value for key, value in config.items() if key != "pad_token_id"})
    model = replace_head(load_model(tmp_path / "init"), seed=0)
    save_model(model, tmp_path / "out", tokenizer=tmp_path / "init", like=tmp_path / "init")
    assert read_json(tmp_path / "out" / "config.json")["pad_token_id"] == load_tokenizer(tiny_checkpoint).pad_id
    names = read_json(tiny_checkpoint / "tokenizer_config.json")
    write_json(tmp_path / "init" / "tokenizer_config.json", {**names, "pad_token": names["eos_token"]})
    with pytest.raises(ConfigError, match="padding and end of answer are the same token"):
        save_model(model, tmp_path / "out2", tokenizer=tmp_path / "init", like=tmp_path / "init")


def test_rewards_of_the_best_held_out_answers_have_mean_0_and_deviation_1(trained: Path, pairs: Path) -> None:
    found = read_comparisons(TINY, [pairs], load_whole_renderer(trained, load_tokenizer(trained)), max_tokens=48)
    model = load_model(trained, head="scalar")
    rewards = torch.tensor(score_rows(model, [row.answers[0] for row in found.held_out]))
    scaling = read_json(trained / "training.json")["scaling"]
    assert scaling["shifted"] and scaling["shift_error"] < 0.1
    assert abs(rewards.mean()) < 1e-4 and rewards.std(correction=0) == pytest.approx(1.0, abs=1e-4)
    # The chance that the model gives a pair is in nats of what it was trained in.
    held_out = read_json(trained / "training.json")["held_out"]
    gaps = torch.tensor([first - second for first, second in (score_rows(model, row.answers) for row in found.held_out)])
    expected = torch.nn.functional.softplus(-gaps.double() * scaling["deviation"]).mean()
    assert held_out["log_loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_references_of_ones_own_are_what_rewards_are_normalised_on(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    demonstrations: Any = [[{"role": "user", "content": f"where {i}"}, *said(GOODNESS[i % 4])] for i in range(300, 340)]
    write_jsonl(tmp_path / "references.jsonl", [{"messages": messages} for messages in demonstrations])
    config = TINY.model_copy(update={"epochs": 1.0, "held_out_fraction": 0.0})
    arguments: Any = {"init": tiny_checkpoint, "pairs": [pairs], "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    metrics = reward_model(config, references=[tmp_path / "references.jsonl"], **arguments)
    tokenizer = load_tokenizer(tiny_checkpoint)
    rewards = torch.tensor(score_rows(load_model(tmp_path / "out", head="scalar"), [render(tokenizer, m).ids for m in demonstrations]))
    assert abs(rewards.mean()) < 1e-4 and rewards.std(correction=0) == pytest.approx(1.0, abs=1e-4)
    assert metrics["held_out_pairs"] == 0 and "held_out_accuracy" not in metrics


@pytest.mark.parametrize("settings", [{}, {"loss": "plackett_luce"}, {"ties": "even"}])
def test_it_learns_from_rankings_whose_answers_stay_together(tmp_path: Path, tiny_checkpoint: Path, settings: dict[str, Any]) -> None:
    write_jsonl(tmp_path / "rankings.jsonl", [ranking(i) for i in range(60)])
    config = TINY.model_copy(update={"batch_prompts": 8, **settings})
    runtime = Runtime(quiet=True, launch=Launch(micro_batch_tokens=100))  # less than one prompt's four answers
    metrics = reward_model(config, init=tiny_checkpoint, pairs=[tmp_path / "rankings.jsonl"], out=tmp_path / "out", runtime=runtime)
    assert metrics["held_out_accuracy"] > 0.9 and metrics["pairs"] == 6 * metrics["comparisons"]


def test_margins_are_trained_on_only_when_they_are_asked_for(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    losses = []
    for weight in (0.0, 5.0):
        config = TINY.model_copy(update={"margin_weight": weight, "steps": 1, "centering": 0.0})
        out = tmp_path / str(weight)
        reward_model(config, init=tiny_checkpoint, pairs=[pairs], out=out, runtime=Runtime(quiet=True))
        losses.append(read_json(out / "training.json")["train_loss"])
    assert losses[1] > losses[0] + 4  # equal rewards cost about the margin, 5 at least
    assert "margin_weight" in check_config(RewardModelConfig, {"margin_weight": 1.0, "loss": "plackett_luce"})[1][0]


def test_fewer_pairs_are_a_part_of_more_and_accuracy_is_told_by_their_number(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    config = TINY.model_copy(update={"max_pairs": 64, "accuracy_at_pairs": (4, 32), "epochs": 8.0, "batch_prompts": 4})
    metrics = reward_model(config, init=tiny_checkpoint, pairs=[pairs], out=tmp_path / "out", runtime=Runtime(quiet=True))
    assert metrics["pairs"] == 64 and metrics["steps"] == 128
    by_pairs = read_json(tmp_path / "out" / "training.json")["accuracy_by_pairs"]
    assert {count: row["pairs"] for count, row in by_pairs.items()} == {"4": 4, "32": 32}
    assert metrics["accuracy_at/4"] == by_pairs["4"]["accuracy"] and metrics["accuracy_at/32"] > 0.8
    assert (tmp_path / "out" / "accuracy_by_pairs.svg").is_file()


def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    config = TINY.model_copy(update={"accuracy_at_pairs": (16,), "epochs": 2.0})
    arguments: Any = {"init": tiny_checkpoint, "pairs": [pairs], "runtime": Runtime(quiet=True)}
    expected = reward_model(config, **arguments, out=tmp_path / "whole")
    reward_model(config, **arguments, out=tmp_path / "cut")
    (tmp_path / "cut" / "training.json").unlink()
    newest = max((tmp_path / "cut" / ".scratch" / "run").glob("step-*"))
    (newest / "state.json").write_text("{")
    assert reward_model(config, **arguments, out=tmp_path / "cut") == expected
    for path in (p for p in (tmp_path / "whole").iterdir() if p.is_file()):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_adapters_are_trained_with_the_head_and_merged_into_the_folder(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    config = TINY.model_copy(update={"lora": TINY.lora.model_copy(update={"rank": 4}), "learning_rate": 0.01, "epochs": 12.0})
    reward_model(config, init=tiny_checkpoint, pairs=[pairs], out=tmp_path / "out", runtime=Runtime(quiet=True))
    before, after = load_model(tiny_checkpoint), load_model(tmp_path / "out", head="scalar")
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["held_out"]["accuracy"] > 0.8


def test_comparisons_of_one_prompt_are_split_by_their_answers(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [{**pair(i), "prompt": "where", "chosen": f"the sea {i}"} for i in range(60)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    render_whole = load_whole_renderer(tiny_checkpoint, load_tokenizer(tiny_checkpoint))
    found = read_comparisons(TINY, [tmp_path / "pairs.jsonl"], render_whole, max_tokens=48)
    assert len(found.train) + len(found.held_out) == 60 and 3 < len(found.held_out) < 30


def test_labelled_answers_to_one_prompt_are_pairs_and_not_one_ranking_of_thousands(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_jsonl(tmp_path / "labels.jsonl", [{"prompt": "q", "completion": f"the sea {i}", "label": i % 2 == 0} for i in range(80)])
    render_whole = load_whole_renderer(tiny_checkpoint, load_tokenizer(tiny_checkpoint))
    found = read_comparisons(TINY, [tmp_path / "labels.jsonl"], render_whole, max_tokens=48)
    assert len(found.train) + len(found.held_out) == 40 and {len(row.answers) for row in found.train} == {2}


def test_data_that_cannot_teach_anything_is_refused_with_what_was_found(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tied = {"prompt": "q", "completions": ["the sea", "a mat"], "ranks": [1, 1]}
    long = {"prompt": "where " * 60, "chosen": "the sea", "rejected": "a mat"}
    write_jsonl(tmp_path / "tied.jsonl", [tied])
    write_jsonl(tmp_path / "long.jsonl", [long])
    arguments: Any = {"init": tiny_checkpoint, "out": tmp_path / "out", "runtime": Runtime(quiet=True)}
    with pytest.raises(DataError, match=r"0 held out, 1 longer than the model reads, 1 without a better and a worse answer"):
        reward_model(
            TINY.model_copy(update={"held_out_fraction": 0.0}), pairs=[tmp_path / "tied.jsonl", tmp_path / "long.jsonl"], **arguments
        )
    assert check_launch(TINY, Launch(devices=2, tensor=2), {}) == ["launch: tensor = 2 is not for reward_model; it takes data"]


def test_a_reward_model_as_a_source_scores_answers_alike_whatever_their_company(trained: Path) -> None:
    source = reward_model_source(trained)
    rows: Any = [{"messages": [{"role": "user", "content": "where " * (1 + i % 9)}, *said("not read")]} for i in range(24)]
    answers = [Answer("the sea " * (1 + i % 5) + "cat" * (i % 2), stopped=i % 3 > 0) for i in range(24)]
    together = source(rows, answers)
    assert [source([row], [answer])[0] for row, answer in zip(rows, answers, strict=True)] == together
    backwards = source(rows[::-1], answers[::-1])
    assert backwards[::-1] == together and source([], []) == []
    assert source([{"prompt": "where"}], [Answer("the sea", True)]) == source(
        [{"messages": [{"role": "user", "content": "where"}]}], [Answer("the sea", False)]
    )
    with pytest.raises(DataError, match="a prompt row needs `messages` or a `prompt`"):
        source([{"question": "where"}], [Answer("the sea", True)])


def test_a_conversation_longer_than_the_model_reads_loses_its_beginning(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = reward_model_source(trained)
    scores = source([{"prompt": "where " * 60}, {"prompt": "there " + "where " * 60}], [Answer("the sea", True)] * 2)
    assert scores[0] == scores[1] and "reads 48 tokens" in caplog.text
