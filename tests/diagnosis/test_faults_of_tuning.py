"""Faults in learning from conversations, pairs and rewards: planted in real trainings, or written where none can be made here."""

from pathlib import Path

import pytest
from planted_runs import Run, train, write_texts

from bloomery.core.files import write_jsonl
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Runtime
from bloomery.diagnosis.diagnose import diagnose
from bloomery.diagnosis.finding import Facts
from bloomery.stages.grpo import GrpoConfig, grpo
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.stages.reward_model import RewardModelConfig, reward_model
from bloomery.stages.sft import SftConfig, sft

LETTERS = "bcdefgh"
PROXY = """
def long(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def nothing(completions, **columns):
    return [0.0 for _ in completions]
"""


def tune(stage, config, out: Path, **inputs) -> Run:
    """A stage's training and what the doctor is told of it."""
    log = MetricsLog(out.with_name(f"{out.name}.jsonl"))
    metrics = stage(config, **inputs, out=out, runtime=Runtime(metrics=log, quiet=True))
    settings = config.model_dump(mode="json")
    facts = Facts(stage=stage.__name__, config=settings, has_init=True, vocab_size=320, record=metrics, finished=True)
    return Run(out, read_metrics(log.path), facts)


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus, language) -> Path:
    return train(
        tmp_path_factory.mktemp("base") / "out", corpus, language, model={"depth": 1, "dim": 32, "head_dim": 16, "mlp_dim": 64}
    ).out


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    """Asked to say a letter."""
    rows = [
        {"messages": [{"role": "user", "content": f"say {letter} {i}"}, {"role": "assistant", "content": letter}], "answer": letter}
        for i in range(20)
        for letter in LETTERS
    ]
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    write_jsonl(path, rows)
    return path


USUAL_SFT = {"sequence_tokens": 64, "batch_tokens": 1024, "learning_rate": 0.02, "embedding_learning_rate": 0.02, "num_samples": 0}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, base, talks) -> Run:
    config = SftConfig(**USUAL_SFT, steps=40, held_out_fraction=0.1, num_validations=3)
    return tune(sft, config, tmp_path_factory.mktemp("tuned") / "out", init=base, conversations=[talks])


def pairs(folder: Path, *, noise: bool = False) -> Path:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = []
    for i, text in enumerate(write_texts(160, seed=4, shortest=2, longest=5)):
        better, worse = said(text), said(f"{text} {text}" if not noise else write_texts(1, seed=1000 + i, shortest=2, longest=5)[0])
        rows.append({"prompt": [{"role": "user", "content": f"say it {i}"}], "chosen": better, "rejected": worse})
    write_jsonl(folder / "train.jsonl.gz", rows)
    return folder


def reinforce(out: Path, tuned: Run, talks: Path, *, function: str = "", **settings) -> Run:
    path = out.with_name("proxy.py")
    path.write_text(PROXY)
    usual = {"rollouts": 24, "batch_prompts": 8, "group_size": 6, "max_tokens": 5, "held_out_fraction": 0.2, "num_validations": 4}
    usual |= {"rewards": [{"source": "function", "function": function} if function else {"source": "exact"}], "num_samples": 0}
    usual |= {"learning_rate": 1e-3, "embedding_learning_rate": 1e-3, "validation_prompts": 32, "precision": "fp32"}
    config = GrpoConfig(**{**usual, **settings})
    return tune(grpo, config, out, init=tuned.out, prompts=[talks], functions=[path] if function else [])


def test_healthy_tuning_has_no_findings(tmp_path, base, tuned, talks):
    rates = {"learning_rate": 0.003, "embedding_learning_rate": 0.003, "held_out_fraction": 0.2}
    preferred = pairs(tmp_path / "pairs")
    model = tune(reward_model, RewardModelConfig(epochs=3, batch_prompts=16, **rates), tmp_path / "rm", init=base, pairs=[preferred])
    policy = tune(
        preference, PreferenceConfig(epochs=3, batch_pairs=16, num_samples=0, **rates), tmp_path / "dpo", init=tuned.out, pairs=preferred
    )
    learner = reinforce(tmp_path / "rl", tuned, talks)
    assert {run.facts.stage: run.codes() for run in (tuned, model, policy, learner)} == {
        "sft": [], "reward_model": [], "preference": [], "grpo": []
    }  # fmt: skip


def test_a_policy_that_hacks_its_reward_runs_away_and_never_stops(tmp_path, tuned, talks):
    rates = {"learning_rate": 0.01, "embedding_learning_rate": 0.01}
    run = reinforce(tmp_path / "rl", tuned, talks, function="long", gold=[{"source": "exact"}], stop_errors=0.0, max_tokens=8, **rates)
    assert {"reward_hacking", "kl_runaway", "answers_cut"} <= set(run.codes()), (run.codes(), run.facts.record)


def test_a_reward_that_does_not_look_at_the_answer(tmp_path, tuned, talks):
    run = reinforce(tmp_path / "rl", tuned, talks, function="nothing", rollouts=12)
    assert set(run.codes()) == {"no_reward_spread"}


def test_answers_that_the_limit_cuts_off(tmp_path, tuned, talks):
    run = reinforce(tmp_path / "rl", tuned, talks, max_tokens=1, rollouts=12)
    assert "answers_cut" in run.codes()


def test_rows_that_are_mostly_padding_and_prompts_that_dwarf_their_answers(tmp_path, base):
    long = write_texts(60, seed=8, shortest=23, longest=26)
    rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]} for text in long]
    write_jsonl(tmp_path / "talks.jsonl", rows)
    config = SftConfig(**USUAL_SFT, steps=30, held_out_fraction=0.0)
    run = tune(sft, config, tmp_path / "wide", init=base, conversations=[tmp_path / "talks.jsonl"])
    assert set(run.codes()) == {"padding_wasted", "masks_wasted"}, run.findings()


def test_labels_that_follow_nothing(tmp_path, base):
    rates = {"learning_rate": 0.003, "embedding_learning_rate": 0.003, "held_out_fraction": 0.3}
    config = RewardModelConfig(epochs=8, batch_prompts=16, **rates)
    run = tune(reward_model, config, tmp_path / "rm", init=base, pairs=[pairs(tmp_path / "pairs", noise=True)])
    assert {"labels_not_learned", "overfitting"} >= set(run.codes()) != set(), run.findings()


def test_a_process_that_all_others_wait_for():
    def rows(slowest):
        return [{"step": i, "train/slowest_rank": slowest(i), "train/rank_lag": 1.6, "train/loss": 3 / i} for i in range(1, 60)]

    facts = Facts(stage="pretrain", has_init=True)
    (finding,) = diagnose(rows(lambda i: 5), facts)
    assert finding.code == "rank_lags" and finding.evidence["rank"] == 5
    assert diagnose(rows(lambda i: i % 8), facts) == []


def test_steps_that_are_often_left_out():
    rows = [
        {"step": i, "train/loss": 2 + 3 / i, "train/learning_rate": 0.01, "train/skipped": i // 20, "train/gradient_norm": 1.0}
        for i in range(1, 400)
    ]
    assert [f.code for f in diagnose(rows, Facts(stage="pretrain"))] == ["steps_left_out"]
    assert diagnose([{**row, "train/skipped": 1} for row in rows], Facts(stage="pretrain")) == []


def test_a_reward_that_pays_for_length_where_no_gold_is_measured():
    rows = [
        {"step": i, "rollout/reward": i / 40 + 0.01 * (i % 3), "rollout/length": 10 + i, "rollout/distinct_2": 0.5, "train/entropy": 1.0}
        for i in range(40)
    ]
    assert [(f.code, f.severity) for f in diagnose(rows, Facts(stage="grpo"))] == [("reward_hacking", "warning")]
    assert diagnose([{**row, "rollout/length": 10 + row["step"] / 10} for row in rows], Facts(stage="grpo")) == []


def test_a_policy_that_has_only_one_thing_left_to_say():
    rows = [{"step": i, "train/entropy": max(0.01, 1.0 - i / 20), "rollout/reward": 0.5 + 0.01 * (i % 3)} for i in range(40)]
    (finding,) = diagnose(rows, Facts(stage="ppo"))
    assert finding.code == "entropy_collapse" and finding.step == 19
    assert diagnose([{**row, "train/entropy": max(0.3, row["train/entropy"])} for row in rows], Facts(stage="ppo")) == []
