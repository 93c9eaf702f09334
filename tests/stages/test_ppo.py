"""ppo: answers that are worth more become likelier, and its pieces do what their settings say."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bloomery.align.rollouts import load_rollout
from bloomery.core.errors import ConfigError, Stopped
from bloomery.core.files import read_json, sha256_file, write_jsonl
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Launch, Runtime
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model, save_model
from bloomery.stages.ppo import PpoConfig, explained_variance, ppo
from bloomery.stages.sft import SftConfig, sft

FAST = {
    "rollouts": 3, "batch_prompts": 20, "max_tokens": 5,
    "learning_rate": 1e-3, "embedding_learning_rate": 1e-3, "critic_learning_rate": 1e-3,
    "held_out_fraction": 0.2, "num_validations": 1, "num_samples": 0, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Asked to say a letter, with answers that are wrong for every third."""
    rows = []
    for i in range(8):
        for k, letter in enumerate("abcdefgh"):
            said = letter if (i + k) % 3 else "on"
            messages = [{"role": "user", "content": f"say {letter} {i}"}, {"role": "assistant", "content": said}]
            rows.append({"messages": messages, "answer": letter, "format": "[a-z]+"})
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def init(tmp_path_factory, tiny_checkpoint, prompts) -> Path:
    torch.set_num_threads(1)
    rate = {"learning_rate": 0.02, "embedding_learning_rate": 0.02}
    config = SftConfig(steps=26, sequence_tokens=48, batch_tokens=768, held_out_fraction=0.0, num_samples=0, **rate)
    out = tmp_path_factory.mktemp("sft") / "out"
    sft(config, init=tiny_checkpoint, conversations=[prompts], out=out, runtime=Runtime(quiet=True))
    return out


def run(out: Path, init: Path, prompts: Path, runtime: Runtime | None = None, *, inputs: dict | None = None, **settings) -> dict:
    config = PpoConfig(**{**FAST, **settings})
    ppo(config, init=init, prompts=[prompts], out=out, runtime=runtime or Runtime(quiet=True), **(inputs or {}))
    return read_json(out / "training.json")


def rollouts_of(out: Path):
    return [load_rollout(path) for path in sorted((out / ".scratch").glob("rollouts-*/*.safetensors"))]


def weights_hash(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def test_a_policy_and_its_critic_learn_and_only_the_policy_is_saved(tmp_path, init, prompts) -> None:
    runtime = Runtime(quiet=True, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    settings = {"rollouts": 20, "batch_prompts": 48, "learning_rate": 0.002, "embedding_learning_rate": 0.002, "kl_weight": 0.01}
    training = run(tmp_path / "out", init, prompts, runtime, critic_learning_rate=0.005, gold=[{"source": "verifier"}], **settings)
    first, last = training["validation"][0], training["validation"][-1]
    assert last["reward"] > first["reward"] + 0.05, (first, last)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    told = [row for row in rows if "rollout/reward" in row]
    assert len(told) == 20 and len([row for row in rows if "train/policy_loss" in row]) == 80 == training["steps"]
    assert {
        "rollout/explained_variance",
        "rollout/kl_weight",
        "rollout/kl",
        "rollout/gold",
        "rollout/logp_drift",
        "train/value_loss",
    } <= set(told[0])
    # A critic that starts with zeros has foreseen nothing; later it has.
    assert told[0]["rollout/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert max(row["rollout/explained_variance"] for row in told[8:]) > 0.1
    assert set(dict(load_model(tmp_path / "out").named_parameters())) == set(dict(load_model(init).named_parameters()))


def test_the_first_step_of_a_rollout_has_ratio_1_and_later_ones_do_not(tmp_path, init, prompts) -> None:
    runtime = Runtime(quiet=True, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    run(tmp_path / "out", init, prompts, runtime, rollouts=1, epochs=3, minibatches=1, num_validations=0)
    steps = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/ratio" in row]
    assert steps[0]["train/ratio"] == pytest.approx(1.0, abs=1e-6) and steps[0]["train/approx_kl"] == pytest.approx(0.0, abs=1e-9)
    assert steps[0]["train/clip_fraction"] == 0.0 and steps[0]["train/policy_loss"] == pytest.approx(0.0, abs=1e-5)  # whitened
    assert steps[2]["train/approx_kl"] > 1e-6


def test_rewards_values_and_returns_of_a_rollout_fit_together(tmp_path, init, prompts) -> None:
    settings = {"rollouts": 2, "num_validations": 0, "whiten_advantages": False, "kl_weight": 0.3, "epochs": 1, "minibatches": 1}
    run(tmp_path / "out", init, prompts, **settings, lam=1.0)
    for rollout in rollouts_of(tmp_path / "out"):
        given, said = rollout.episodes.of_token, rollout.episodes.said_NT
        torch.testing.assert_close(given["return"], (given["advantage"] + given["old_value"]) * said, atol=1e-5, rtol=1e-5)
    # With lambda 1 the first return of an answer is all that it gets: its reward less the weight of KL times the KL.
    (rollout, *_) = rollouts_of(tmp_path / "out")
    assert rollout.values["reward"].float().tolist() == pytest.approx(rollout.episodes.of_token["return"][:, 0].tolist(), abs=1e-4)


def test_an_answer_that_does_not_stop_gets_the_reward_that_is_fixed_for_it(tmp_path, init, prompts) -> None:
    settings = {"rollouts": 1, "num_validations": 0, "max_tokens": 2, "whiten_advantages": False, "lam": 1.0, "kl_weight": 0.0}
    run(tmp_path / "out", init, prompts, **settings, unstopped_reward=-3.0)
    (rollout,) = rollouts_of(tmp_path / "out")
    stopped_N, total_N = rollout.episodes.stopped_N, rollout.episodes.of_token["return"][:, 0]
    assert 0 < int(stopped_N.sum()) < len(stopped_N)
    assert (total_N[~stopped_N] + 3.0).abs().max() < 1e-4 and total_N[stopped_N].min() >= 0.0


def test_the_weight_of_kl_adapts_and_a_stopped_run_goes_on_with_it_to_the_same_bytes(tmp_path, init, prompts) -> None:
    class StopAfter:
        left = 5

        def __call__(self) -> bool:
            self.left -= 1
            return self.left < 0

    settings = {"kl_target": 0.02, "kl_horizon": 100, "whiten_rewards": True, "dual_clip": 3.0}
    whole = run(tmp_path / "whole", init, prompts, **settings)
    weights = [row["kl_weight"] for row in whole["history"]]
    kls = [row["kl"] for row in whole["history"]]
    expected = [0.05]
    for kl in kls[:-1]:
        expected.append(expected[-1] * (1 + min(max(kl / 0.02 - 1, -0.2), 0.2) * 20 / 100))
    assert weights == pytest.approx(expected, rel=1e-4) and len(set(weights)) == 3
    with pytest.raises(Stopped):
        run(tmp_path / "broken", init, prompts, Runtime(quiet=True, stop_requested=StopAfter()), **settings)
    assert run(tmp_path / "broken", init, prompts, **settings) == whole
    assert weights_hash(tmp_path / "broken") == weights_hash(tmp_path / "whole")


def test_the_size_of_micro_batches_changes_nothing_with_kl_in_the_loss_and_pretraining_mixed_in(
    tmp_path, init, prompts, tiny_tokens
) -> None:
    settings = {
        "kl_in": "loss", "kl_estimator": "k3", "kl_weight": 0.1, "entropy_weight": 0.01, "pretraining_weight": 0.5, "pretraining_rows": 6,
        "pretraining_sequence_tokens": 40, "num_validations": 0, "rollouts": 2,
    }  # fmt: skip
    mixed = {"pretraining": tiny_tokens}
    runtime = Runtime(quiet=True, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    run(tmp_path / "one", init, prompts, runtime, inputs=mixed, **settings)
    run(tmp_path / "other", init, prompts, Runtime(quiet=True, launch=Launch(micro_batch_tokens=90)), inputs=mixed, **settings)
    for (name, a), (_, b) in zip(
        load_model(tmp_path / "one").named_parameters(), load_model(tmp_path / "other").named_parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    steps = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss/pretraining" in row]
    assert len(steps) == 8 and steps[-1]["train/loss/pretraining"] < steps[0]["train/loss/pretraining"]
    # The loss is the policy's per token, and half a mean over pretraining tokens, whatever the numbers of tokens are.
    row = steps[0]
    parts = row["train/policy_loss"] + 0.1 * row["train/value_loss"] - 0.01 * row["train/entropy"] + 0.5 * row["train/loss/pretraining"]
    assert row["train/loss"] == pytest.approx(parts, rel=1e-4)  # KL is 0 in the first step


def test_the_rest_of_a_rollouts_steps_is_passed_over_once_the_policy_has_moved_too_far(tmp_path, init, prompts) -> None:
    runtime = Runtime(quiet=True, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    settings = {"epochs": 4, "minibatches": 1, "rollouts": 3, "learning_rate": 0.01, "embedding_learning_rate": 0.01}
    training = run(tmp_path / "out", init, prompts, runtime, max_update_kl=1e-4, **settings)
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "train/ratio" in row]
    assert training["steps"] == 12 and len(training["history"]) == 3
    assert steps == [1, 2, 5, 6, 9, 10], "the second step of each sees what the first has done, and is the last"
    assert [row["step"] for row in training["validation"]] == [0, 12]


def test_a_critic_starts_as_the_reward_model_if_there_is_one(tmp_path, init, prompts) -> None:
    model = replace_head(load_model(init), seed=3)
    save_model(model, tmp_path / "rm", tokenizer=init)
    settings = {"rollouts": 1, "num_validations": 0}
    run(tmp_path / "rm_critic", init, prompts, inputs={"reward_models": [tmp_path / "rm"]}, **settings)
    run(tmp_path / "plain", init, prompts, inputs={"reward_models": [tmp_path / "rm"]}, critic_from="policy", **settings)
    (started,), (zero,) = rollouts_of(tmp_path / "rm_critic"), rollouts_of(tmp_path / "plain")
    assert started.episodes.of_token["old_value"].abs().sum() > 0.1 and zero.episodes.of_token["old_value"].abs().sum() == 0
    with pytest.raises(ConfigError, match='critic_from = "reward_model", but the input reward_models is empty'):
        run(tmp_path / "none", init, prompts, critic_from="reward_model", **settings)


def test_adapters_train_beside_a_critic(tmp_path, init, prompts) -> None:
    training = run(tmp_path / "out", init, prompts, lora={"rank": 4}, learning_rate=0.01, rollouts=3)
    assert training["history"][0]["kl"] == pytest.approx(0.0, abs=1e-5) and training["history"][-1]["kl"] != 0.0
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_pretraining_needs_its_weight_and_its_tokens_together(tmp_path, init, prompts, tiny_tokens) -> None:
    with pytest.raises(ConfigError, match=r"pretraining_weight = 0\.0 and an input `pretraining`"):
        run(tmp_path / "a", init, prompts, inputs={"pretraining": tiny_tokens})
    with pytest.raises(ConfigError, match=r"pretraining_weight = 1\.0 and no input `pretraining`"):
        run(tmp_path / "b", init, prompts, pretraining_weight=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dual_clip": 1.0}, "a bound on the ratio is above 1"), ({"kl_target": 6.0, "kl_weight": 0.0}, "steers kl_weight, which is 0")],
)
def test_settings_that_cannot_be_are_refused(settings, message) -> None:
    with pytest.raises(ValidationError, match=message):
        PpoConfig(**settings)


def test_explained_variance_is_1_for_a_seer_and_0_for_a_critic_that_says_one_thing() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[1, 1, 1, 0]])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.full((1, 4), 5.0), returns, mask) == pytest.approx(0.0)
    assert explained_variance(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), returns, mask) < 0
