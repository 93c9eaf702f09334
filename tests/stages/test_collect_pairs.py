import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from bloomery.align import candidates
from bloomery.align.rewards import RewardSpec
from bloomery.core.config import check_config
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.best_of_n import BestOfNConfig, best_of_n
from bloomery.stages.collect_pairs import CollectPairsConfig, collect_pairs
from bloomery.tokens.chat import render
from bloomery.tokens.renderer import load_prompt_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SPOKEN = ["a", "a", "b", "B"]
"""What the model learns to answer to everything: right, wrong and malformed answers alike."""


def prompt_row(i: int, *, answer: str = "a", skill: str = "letter") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Say {i}"}], "skill": skill, "answer": answer, "format": "[a-z]"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tokenizer(folder / "tokenizer", train_bpe(["Say 1 2 3"], vocab_size=264, pattern="llama3"), pattern="llama3")
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
    monkeypatch.setattr(candidates, "CHUNK_PROMPTS", 6)
    run(CONFIG, checkpoint, prompts, tmp_path / "cut")
    chunks = sorted((tmp_path / "cut" / ".scratch").glob("chunk-*"))
    scores = sorted((tmp_path / "cut" / ".scratch").glob("scores-*"))
    assert len(chunks) == len(scores) == 4
    scores[1].unlink()
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


def test_every_sample_is_kept_with_its_rewards_and_golds(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"gold": [RewardSpec(source="verifier", name="truth", weight=2.0)]})
    metrics = run(config, checkpoint, prompts, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert len(table) == 120 and {"prompt", "answer", "stopped", "reward/verifier", "gold/truth"} <= set(table.column_names)
    for row in table.to_pylist():
        assert row["reward"] == row["reward/verifier"] and row["gold"] == 2 * row["gold/truth"] == 2 * row["reward"]
        assert (row["reward"] == 1.0) == (row["answer"] == "a" and row["stopped"])
    assert metrics["sampled_gold"] == pytest.approx(2 * metrics["sampled_reward"])
    curve = read_json(tmp_path / "out" / "best_of_n.json")["curve"]
    assert [point["n"] for point in curve] == [1, 2, 3, 4, 5, 6] and curve[0]["kl_nats"] == 0.0
    assert curve[0]["reward"]["value"] == pytest.approx(metrics["sampled_reward"])
    assert all(a["reward"]["value"] <= b["reward"]["value"] for a, b in itertools.pairwise(curve))


def test_rankings_order_the_different_answers_of_a_prompt(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    metrics = run(CONFIG.model_copy(update={"write": "rankings", "max_ranked": 3}), checkpoint, prompts, tmp_path / "out")
    rows = pairs(tmp_path / "out")
    assert len(rows) == metrics["rankings"] > 5
    worth = {"a": 1.0, "b": 0.3, "B": 0.1}
    for row in rows:
        texts = [completion[0]["content"] for completion in row["completions"]]
        assert 2 <= len(texts) == len(set(texts)) == len(row["ranks"]) <= 3 and min(row["ranks"]) == 1
        known = [(worth[text], rank) for text, rank in zip(texts, row["ranks"], strict=True) if text in worth]
        assert [rank for _, rank in sorted(known, reverse=True)] == sorted(rank for _, rank in known)


def test_labels_can_be_had_at_a_ratio_and_with_noise(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"write": "labels", "num_prompts": 30})
    metrics = run(config, checkpoint, prompts, tmp_path / "all")
    rows = pairs(tmp_path / "all")
    assert all(row["label"] == (row["completion"][0]["content"] == "a") for row in rows if row["completion"][0]["content"] in "abB")
    assert metrics["desirable"] + metrics["undesirable"] == len(rows) == metrics["labels"]
    one_to_four = run(config.model_copy(update={"desirable_per_undesirable": 0.25}), checkpoint, prompts, tmp_path / "few")
    assert one_to_four["undesirable"] == metrics["undesirable"] and one_to_four["desirable"] == round(metrics["undesirable"] / 4)
    noisy = run(config.model_copy(update={"label_noise": 0.5}), checkpoint, prompts, tmp_path / "noisy")
    differing = sum(a["label"] != b["label"] for a, b in zip(rows, pairs(tmp_path / "noisy"), strict=True))
    assert noisy["flipped"] == differing and 0.2 < differing / len(rows) < 0.8


def test_fewer_pairs_are_a_part_of_more_and_any_two_answers_may_be_paired(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"pairing": "all", "max_pairs_per_prompt": 9, "min_margin": 0.0, "with_margin": True})
    run(config, checkpoint, prompts, tmp_path / "all")
    run(config.model_copy(update={"max_rows": 5}), checkpoint, prompts, tmp_path / "few")
    made = pairs(tmp_path / "all")
    assert pairs(tmp_path / "few") == made[:5]
    assert {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made} >= {("a", "b"), ("a", "B"), ("b", "B")}
    assert all(row["margin"] > 0 for row in made)
    run(config.model_copy(update={"pairing": "best_worst"}), checkpoint, prompts, tmp_path / "ends")
    assert len({row["prompt"][0]["content"] for row in pairs(tmp_path / "ends")}) == len(pairs(tmp_path / "ends"))


def test_best_of_n_keeps_the_best_answer_of_each_prompt(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    config = BestOfNConfig(num_prompts=20, num_samples=6, max_tokens=4, min_reward=1.0, gold=[RewardSpec(source="verifier")])
    runtime = Runtime(quiet=True, device="cpu")
    metrics = best_of_n(config, model=checkpoint, prompts=[prompts], out=tmp_path / "out", runtime=runtime)
    rows = pairs(tmp_path / "out")
    assert {row["messages"][-1]["content"] for row in rows} == {"a"} and all(len(row["messages"]) == 2 for row in rows)
    assert len(rows) == metrics["prompts/kept"] > 10 and all(row["answer"] == "a" for row in rows)
    assert metrics["best_of_1/gold"] < metrics["best_of_6/gold"] == metrics["best_of_6/reward"]
    with pytest.raises(DataError, match=r"none of 20 prompts has an answer worth min_reward = 2"):
        best_of_n(
            config.model_copy(update={"min_reward": 2.0}), model=checkpoint, prompts=[prompts], out=tmp_path / "none", runtime=runtime
        )


def test_settings_of_another_kind_of_row_are_refused() -> None:
    for values, problem in (
        ({"write": "rankings", "label_noise": 0.1}, "label_noise is of pairs and labels"),
        ({"desirable_per_undesirable": 0.1}, 'of labels; found write = "pairs"'),
        ({"pairing": "all", "gold_as_chosen": True}, "gold_as_chosen is of"),
    ):
        assert problem in check_config(CollectPairsConfig, values)[1][0]


def test_a_checkpoint_of_others_is_asked_in_the_form_of_its_own_template(foreign_checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    talk = [{"role": "user", "content": "the house"}]
    render = load_prompt_renderer(foreign_checkpoint, load_tokenizer(foreign_checkpoint))
    expected = AutoTokenizer.from_pretrained(foreign_checkpoint).apply_chat_template(talk, add_generation_prompt=True)
    assert render(talk) == list(expected["input_ids"])
    config = CollectPairsConfig(write="labels", num_prompts=3, num_samples=2, max_tokens=4, min_margin=0.0)
    metrics = run(config, foreign_checkpoint, prompts, tmp_path / "out")
    assert metrics["samples"] == 6
