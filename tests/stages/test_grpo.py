"""grpo: answers that are worth more become likelier, and the run is what it says it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from bloomery.align.rollouts import load_rollout
from bloomery.core.errors import Stopped
from bloomery.core.files import read_json, sha256_file, write_jsonl
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Launch, Runtime
from bloomery.model.huggingface import load_model
from bloomery.stages.grpo import DEFAULTS, GrpoConfig, grpo
from bloomery.stages.sft import SftConfig, sft

FAST = {
    "rollouts": 4, "batch_prompts": 6, "group_size": 4, "max_tokens": 5, "learning_rate": 1e-3, "embedding_learning_rate": 1e-3,
    "held_out_fraction": 0.2, "num_validations": 2, "precision": "fp32",
}  # fmt: skip
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Asked to say a letter, with answers that are wrong for every third."""
    rows = []
    for i in range(8):
        for k, letter in enumerate(LETTERS):
            said = letter if (i + k) % 3 else "on"
            messages = [{"role": "user", "content": f"say {letter} {i}"}, {"role": "assistant", "content": said}]
            rows.append({"messages": messages, "answer": letter, "format": "[a-z]+"})
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def init(tmp_path_factory, tiny_checkpoint, prompts) -> Path:
    """A checkpoint that has half learned to answer them, so that samples differ."""
    torch.set_num_threads(1)
    config = SftConfig(
        steps=26, sequence_tokens=48, batch_tokens=768, learning_rate=0.02, embedding_learning_rate=0.02, held_out_fraction=0.0,
        num_samples=0,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("sft") / "out"
    sft(config, init=tiny_checkpoint, conversations=[prompts], out=out, runtime=Runtime(quiet=True))
    return out


def run(out: Path, init: Path, prompts: Path, runtime: Runtime | None = None, **settings) -> dict:
    grpo(GrpoConfig(**{**FAST, **settings}), init=init, prompts=[prompts], out=out, runtime=runtime or Runtime(quiet=True))
    return read_json(out / "training.json")


def weights_hash(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def test_a_policy_learns_to_answer_rightly_and_its_numbers_are_recorded(tmp_path, init, prompts) -> None:
    runtime = Runtime(quiet=True, metrics=MetricsLog(tmp_path / "metrics.jsonl"))
    rate = {"learning_rate": 0.003, "embedding_learning_rate": 0.003}
    training = run(
        tmp_path / "out", init, prompts, runtime, rollouts=25, batch_prompts=12, group_size=8, gold=[{"source": "verifier"}], **rate
    )
    first, last = training["validation"][0], training["validation"][-1]
    assert last["reward"] > first["reward"] + 0.15, (first, last)
    assert first["kl"] == pytest.approx(0.0, abs=1e-5) and last["kl"] > 0.05
    assert last["gold"] == last["reward"] and last["gold_error"] > 0
    assert len(training["history"]) == 25 and training["steps"] == 25
    assert {"step", "rollout", "reward", "gold", "kl", "kl_k3", "length", "stopped", "groups_without_spread"} <= set(training["history"][0])
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "rollout/reward" in row]
    assert len(rows) == 25 and rows[3]["rollout/reward"] == training["history"][3]["reward"]
    told = {
        "reward/verifier",
        "gold",
        "kl",
        "kl_k3",
        "length",
        "length_p95",
        "stopped",
        "groups_without_spread",
        "distinct_2",
        "logp_drift",
    }
    assert {f"rollout/{name}" for name in told} <= set(rows[0])
    assert {"train/entropy", "train/ratio", "train/approx_kl", "train/clip_fraction"} <= set(rows[0])
    assert all(row["train/ratio"] == 1.0 and row["train/approx_kl"] == 0.0 and row["rollout/logp_drift"] < 1e-4 for row in rows)
    assert not torch.equal(load_model(tmp_path / "out").head_weight(), load_model(init).head_weight())


@pytest.mark.parametrize("algorithm", DEFAULTS)
def test_every_algorithm_trains_and_the_size_of_micro_batches_changes_nothing(tmp_path, init, prompts, algorithm) -> None:
    settings = {"algorithm": algorithm, "rollouts": 2, "kl_weight": 0.1, "entropy_weight": 0.01, "minibatches": 2, "epochs": 2}
    settings |= {"num_validations": 0, "baseline": "moving_mean"} if algorithm == "reinforce" else {"num_validations": 0}
    one = run(tmp_path / "one", init, prompts, **settings)
    small = Runtime(quiet=True, launch=Launch(micro_batch_tokens=50))
    other = run(tmp_path / "other", init, prompts, small, **settings)
    assert one["steps"] == other["steps"] == 8
    assert [row | {"kl": 0, "kl_k3": 0} for row in one["history"]] == [row | {"kl": 0, "kl_k3": 0} for row in other["history"]]
    for (name, a), (_, b) in zip(
        load_model(tmp_path / "one").named_parameters(), load_model(tmp_path / "other").named_parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert weights_hash(tmp_path / "one") != weights_hash(init)


class StopAfter:
    """Asks a run to stop once it has been asked itself so many times."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("stops", [[1], [3, 2], [4]])
def test_a_run_that_is_stopped_within_a_rollout_goes_on_to_the_same_bytes(tmp_path, init, prompts, stops, monkeypatch) -> None:
    settings = {"rollouts": 3, "minibatches": 2, "epochs": 1, "algorithm": "reinforce", "baseline": "moving_mean", "kl_weight": 0.05}
    whole = run(tmp_path / "whole", init, prompts, **settings)
    for count in stops:
        with pytest.raises(Stopped):
            run(tmp_path / "broken", init, prompts, Runtime(quiet=True, stop_requested=StopAfter(count)), **settings)
    assert run(tmp_path / "broken", init, prompts, **settings) == whole
    assert weights_hash(tmp_path / "broken") == weights_hash(tmp_path / "whole")


def test_a_run_killed_before_its_snapshot_takes_the_rollout_that_lies_on_the_disk(tmp_path, init, prompts) -> None:
    settings = {"rollouts": 2, "minibatches": 2, "num_validations": 0}
    whole = run(tmp_path / "whole", init, prompts, **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    # As if it had been killed in its first step: the rollout is there, snapshots and results are not.
    for path in (tmp_path / "killed").iterdir():
        if path.name != ".scratch":
            path.unlink()
    for path in (tmp_path / "killed" / ".scratch").glob("step-*"):
        shutil.rmtree(path)
    (kept,) = (tmp_path / "killed" / ".scratch").glob("rollouts-*")
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert run(tmp_path / "killed", init, prompts, **settings) == whole
    assert weights_hash(tmp_path / "killed") == weights_hash(tmp_path / "whole")
    assert all((kept / name).stat().st_mtime_ns == stamp for name, stamp in before.items() if (kept / name).exists())


def test_adapters_learn_with_the_policy_without_them_as_the_reference(tmp_path, init, prompts) -> None:
    training = run(tmp_path / "out", init, prompts, lora={"rank": 4}, kl_weight=0.1, learning_rate=0.01, rollouts=4)
    assert training["history"][0]["kl"] == pytest.approx(0.0, abs=1e-5) and training["history"][-1]["kl"] > 1e-3
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert weights_hash(tmp_path / "out") != weights_hash(init)


def test_without_kl_no_reference_is_asked(tmp_path, init, prompts) -> None:
    training = run(tmp_path / "out", init, prompts, measure_kl=False, rollouts=1)
    assert "kl" not in training["history"][0] and "kl" not in training["validation"][-1]


def test_cut_answers_are_left_out_of_the_loss_but_count_in_their_group(tmp_path, init, prompts) -> None:
    run(tmp_path / "out", init, prompts, mask_truncated=True, max_tokens=2, rollouts=1, num_validations=0, batch_prompts=20)
    (path,) = (tmp_path / "out" / ".scratch").glob("rollouts-*/*.safetensors")
    rollout = load_rollout(path)
    stopped_N, weight_NT = rollout.episodes.stopped_N, rollout.episodes.of_token["weight"]
    assert 0 < int(stopped_N.sum()) < len(stopped_N) and torch.equal(rollout.trained_N, stopped_N)
    assert torch.equal(weight_NT.sum(1) > 0, stopped_N) and not rollout.values["reward"].isnan().any()
    reward_PG = rollout.values["reward"].view(-1, 4)
    group = next(p for p in range(len(reward_PG)) if reward_PG[p].std() > 0)
    advantage = rollout.episodes.of_token["advantage"][4 * group : 4 * group + 4, 0]
    assert advantage.sum().item() == pytest.approx(0.0, abs=1e-5) and (advantage != 0).any()


def test_groups_without_spread_make_room_for_those_of_other_prompts(tmp_path, init, prompts) -> None:
    settings = {"rollouts": 3, "batch_prompts": 3, "group_size": 2, "num_validations": 0}
    plain = run(tmp_path / "plain", init, prompts, **settings)
    chosen = run(tmp_path / "chosen", init, prompts, resample_attempts=8, **settings)
    assert max(row["groups_without_spread"] for row in plain["history"]) > 0
    assert max(row["groups_without_spread"] for row in chosen["history"]) == 0.0


def test_gold_that_falls_ends_the_run_at_its_best(tmp_path, init, prompts) -> None:
    # Gold is the verifier's, and what is trained on is its opposite.
    rate = {"learning_rate": 0.005, "embedding_learning_rate": 0.005}
    settings = {
        "rewards": [{"source": "verifier", "weight": -1.0}], "gold": [{"source": "verifier"}], "rollouts": 40, "num_validations": 20,
        "stop_checks": 2, "stop_errors": 1.0, **rate,
    }  # fmt: skip
    training = run(tmp_path / "out", init, prompts, **settings)
    stop = training["early_stop"]
    assert stop["from_step"] < 40 and stop["to_step"] == training["steps"] < stop["from_step"]
    assert "held-out gold fell" in stop["reason"] and "the trained reward" in stop["reason"]
    best = max(training["validation"], key=lambda row: row["gold"])
    assert best["step"] == stop["to_step"] and training["validation"][-1]["gold"] < best["gold"]
    with pytest.raises(Stopped):  # once between the best validation and the last one
        run(tmp_path / "again", init, prompts, Runtime(quiet=True, stop_requested=StopAfter(stop["from_step"] - 1)), **settings)
    again = run(tmp_path / "again", init, prompts, Runtime(quiet=True), **settings)
    assert again == training and weights_hash(tmp_path / "again") == weights_hash(tmp_path / "out")
    if stop["to_step"] == 0:
        assert torch.equal(load_model(tmp_path / "out").head_weight(), load_model(init).head_weight())


def test_an_algorithm_is_a_set_of_defaults_and_every_setting_can_be_said() -> None:
    dapo = GrpoConfig(algorithm="dapo")
    assert (dapo.clip_low, dapo.clip_high, dapo.aggregate, dapo.mask_truncated, dapo.resample_attempts) == (0.2, 0.28, "token", True, 3)
    assert GrpoConfig(algorithm="dapo", clip_high=0.3).clip_high == 0.3
    assert GrpoConfig(algorithm="rloo").ratio_of == "answer" and GrpoConfig(algorithm="dr_grpo").baseline == "group_mean"
    again = GrpoConfig(**json.loads(dapo.model_dump_json()))
    assert again == dapo


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "compares at least 2 answers"),
        ({"dual_clip": 0.5}, "a bound on the ratio is above 1"),
        ({"algorithm": "ppo"}, "algorithm"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message) -> None:
    with pytest.raises(ValidationError, match=message):
        GrpoConfig(**settings)


def test_a_launch_that_would_cut_the_policy_is_refused() -> None:
    from bloomery.stages.grpo import STAGE

    assert "every process holds a whole policy" in STAGE.check_launch(GrpoConfig(), Launch(devices=2, tensor=2), {})[0]
    assert "'fsdp' is not for rollouts" in STAGE.check_launch(GrpoConfig(), Launch(devices=2, strategy="fsdp"), {})[0]
    assert STAGE.check_launch(GrpoConfig(), Launch(devices=2), {}) == []
