"""The stage that puts methods side by side: what it measures of models whose answers are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bloomery.core.errors import ConfigError
from bloomery.core.files import read_json, write_json, write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.frontier import FrontierConfig, frontier
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

LETTERS = "abcdefgh"
CONFIG = FrontierConfig(names=["echo"], max_tokens=3, num_samples=2, best_of=[1, 2, 4], best_of_prompts=4)


def prompt_row(letter: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": letter}], "skill": "echo", "answer": letter, "format": "[a-z]"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A start that knows nothing, a model of two seeds that says every letter again, a reward model that knows nothing either."""
    folder = tmp_path_factory.mktemp("frontier")
    write_tokenizer(folder / "tokenizer", train_bpe(["abc"], vocab_size=280, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    shape = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "mlp_dim": 64, "max_positions": 32}
    rendered = [render(tokenizer, [*prompt_row(x)["messages"], {"role": "assistant", "content": x}]) for x in LETTERS]
    token_BT = torch.tensor([row.ids for row in rendered])
    mask_BT = torch.tensor([row.loss_mask for row in rendered])[:, 1:]
    paths = {}
    for name, seed, steps in (("start", 0, 0), ("echo-0", 0, 120), ("echo-1", 1, 120)):
        model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(steps):
            F.cross_entropy(model(token_BT[:, :-1])[mask_BT], token_BT[:, 1:][mask_BT]).backward()
            optimizer.step()
            optimizer.zero_grad()
        paths[name] = folder / name
        save_model(model, paths[name], tokenizer=folder / "tokenizer")
    paths["reward"] = folder / "reward"
    start = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=3)
    save_model(replace_head(start, seed=0), paths["reward"], tokenizer=folder / "tokenizer")
    write_jsonl(folder / "prompts.jsonl", [prompt_row(letter) for letter in LETTERS])
    return {**paths, "prompts": [folder / "prompts.jsonl"]}


def run(config: FrontierConfig, made: dict[str, Any], models: list[str], out: Path, **inputs: Any) -> dict[str, Any]:
    paths = [made[name] for name in models]
    found = frontier(config, reference=made["start"], models=paths, prompts=made["prompts"], out=out, runtime=Runtime.local(out), **inputs)
    return dict(found)


def test_what_a_method_gained_and_how_far_it_went_is_measured_over_its_seeds(made: dict[str, Any], tmp_path: Path) -> None:
    metrics = run(CONFIG, made, ["echo-0", "echo-1"], tmp_path / "out", reward_models=[])
    report = read_json(tmp_path / "out" / "frontier.json")
    assert report["start"]["greedy"]["value"] < 0.3 and report["start"]["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    figures = report["methods"]["echo"]["figures"]
    assert metrics["echo/greedy"] == figures["greedy"]["value"] > 0.9 and figures["answer_tokens"]["value"] < 2.5
    assert figures["kl"]["value"] > 3 and len(figures["kl"]["seeds"]) == 2 and figures["kl"]["interval_over"] == "seeds"
    assert report["methods"]["echo"]["gains"]["sampled"]["value"] > 0.7
    assert [row["n"] for row in report["best_of"]["gold"]] == [1, 2, 4]
    page = (tmp_path / "out" / "frontier.html").read_text()
    assert "echo" in page and "<svg" in page and "<script" not in page
    assert "| echo |" in (tmp_path / "out" / "frontier.md").read_text()


def test_a_reward_model_has_its_curve_of_best_of_n_and_a_run_its_curve_while_it_trained(made: dict[str, Any], tmp_path: Path) -> None:
    history = [{"step": i, "reward": 0.1 * i, "gold": 0.5 - 0.01 * i, "kl": 0.02 * i} for i in range(60)]
    stop = {"from_step": 50, "to_step": 30, "reason": "gold fell"}
    write_json(made["echo-0"] / "training.json", {"history": history, "early_stop": stop})
    config = CONFIG.model_copy(update={"names": ["rl"], "reward_names": ["guess"]})
    run(config, made, ["echo-0"], tmp_path / "out", reward_models=[made["reward"]])
    report = read_json(tmp_path / "out" / "frontier.json")
    rewards = [row["reward"]["value"] for row in report["best_of"]["guess"]]
    assert rewards == sorted(rewards) and rewards[0] < rewards[-1]
    curve = report["methods"]["rl"]["logs"][0]["curve"]
    assert len(curve) == 24 and curve[0]["gold"] == pytest.approx(0.49) and curve[-1]["reward"] == pytest.approx(5.85)
    text = (tmp_path / "out" / "frontier.html").read_text()
    assert "ended at step 50, back to step 30: gold fell" in text and "While training: gold" in text


def test_models_that_do_not_fit_the_names_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"names": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"3 models for 2 names \(a, b\)"):
        run(config, made, ["start", "echo-0", "echo-1"], tmp_path / "out")
    with pytest.raises(ValueError, match='baselines: "ehco" is not among the names; did you mean "echo"'):
        FrontierConfig(names=["echo"], baselines=["ehco"])
    with pytest.raises(ValueError, match='names: "start" is what the page calls something else'):
        FrontierConfig(names=["start"])
    with pytest.raises(ConfigError, match=r"0 reward_models for 1 names \(guess\)"):
        run(CONFIG.model_copy(update={"reward_names": ["guess"]}), made, ["echo-0"], tmp_path / "out")
