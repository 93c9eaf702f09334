"""Faults planted in the data: a batch of NaN, a batch of huge loss, a region of garbage. The weights must not know of them.

This file is also what each of two gloo processes runs: `python test_spikes.py FOLDER` with torchrun's environment.
"""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, write_json
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.stage import Launch, Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_next_token
from bloomery.objectives.terms import LossTerms
from bloomery.train import checkpoint, spikes
from bloomery.train.checkpoint import Snapshots, counters_of
from bloomery.train.fit import Run, TrainingConfig, fit, make_state
from bloomery.train.sharding import arrange, distribute, gather_model
from bloomery.train.spikes import WINDOW, SpikeRule, find_spike, note_usual, rollback_target, spike_limit
from bloomery.train.state import TrainState
from bloomery.train.step import own_share

SIZES = {"vocab_size": 20, "dim": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 8, "max_positions": 16}
# A constant learning rate: the schedule counts steps that are left out, and the weights would differ by it.
CONFIG = TrainingConfig(precision="fp32", optimizer="adamw", decay="constant", warmup_fraction=0.0, learning_rate=0.003, rollback_steps=40)


class Rows:
    """Counting up from a random start, so that there is something to learn; `fault` is what is wrong with it."""

    def __init__(self, data_step: int, fault: str = "") -> None:
        start_B1 = torch.randint(0, 20, (4, 1), generator=torch.Generator().manual_seed(data_step))
        self.token_BT = (start_B1 + torch.arange(9)) % 20
        self.document_BT = torch.ones(4, 9, dtype=torch.long)
        self.fault = fault


class Killed(Exception):
    pass


def objective(model: Transformer, rows: Rows) -> LossTerms:
    hidden_ND, target_N = model.hidden_states(rows.token_BT[:, :-1]).flatten(0, 1), rows.token_BT[:, 1:].flatten()
    terms = linear_next_token(hidden_ND, model.head_weight(), target_N, torch.ones(target_N.shape))
    return terms._replace(loss_sum=terms.loss_sum * {"": 1.0, "nan": math.nan, "huge": 1000.0}[rows.fault])


def fresh_state() -> TrainState:
    return make_state(Transformer(ModelConfig(**SIZES), seed=1), CONFIG)


def train(
    folder: Path, *, num_steps: int, fault_at: Callable[[int], str], kill_at: int = -1, left_out: frozenset[int] = frozenset(), **changes
) -> TrainState:
    """Trains on data steps 0, 1, 2 ... but those of `left_out`, which are as if they had never been there."""
    there = [step for step in range(num_steps + 400) if step not in left_out]

    def batches_of_step(step: int) -> list[Rows]:
        if step == kill_at:
            raise Killed
        return [Rows(there[step], fault_at(there[step]))]

    state = fresh_state()
    run = Run(num_steps=num_steps, objective=objective, batches_of_step=batches_of_step, window_of_step=lambda step: {"rows": [4 * step]})
    runtime = Runtime(quiet=True, metrics=MetricsLog(folder / "metrics.jsonl"))
    fit(state, run, CONFIG.model_copy(update=changes), snapshots=Snapshots(folder / "snapshots", settings="s"), runtime=runtime)
    return state


def weights(state: TrainState) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in state.model.parameters()]


def healthy(step: int) -> str:
    return ""


@pytest.fixture(autouse=True)
def no_time_for_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 1e9)  # but those that a spike may lead back to


def test_nothing_is_a_spike_before_128_steps_are_known_and_low_values_never_are() -> None:
    state = fresh_state()
    for i in range(WINDOW):
        assert find_spike(state, 1e9, 1e9, sigmas=6.0) == ""
        note_usual(state, 5.0 + 0.1 * (-1) ** i, 1.0 + 0.01 * (-1) ** i, sigmas=6.0)
    assert find_spike(state, 5.59, 1.05, sigmas=6.0) == "" and find_spike(state, 0.0, 0.0, sigmas=6.0) == ""
    assert find_spike(state, 5.61, 1.0, sigmas=6.0) == "loss 5.61 is above 5.6, the mean of the last 128 steps and 6 deviations"
    assert "gradient norm 1.07" in find_spike(state, 5.0, 1.07, sigmas=6.0)
    assert find_spike(state, 1e9, 1e9, sigmas=0.0) == "" and "not both finite" in find_spike(state, math.nan, 1.0, sigmas=0.0)


def test_on_data_of_constant_loss_a_small_rise_is_no_spike() -> None:
    assert spike_limit([2.0] * WINDOW, sigmas=6.0) == pytest.approx(2.12)


def test_one_enormous_value_does_not_hide_the_next() -> None:
    state = fresh_state()
    for i in range(WINDOW):
        note_usual(state, 2.0 + 0.01 * (i % 2), 1.0, sigmas=6.0)
    note_usual(state, 1e6, 1e6, sigmas=6.0)
    assert find_spike(state, 2.3, 1.0, sigmas=6.0) and find_spike(state, 2.0, 1.2, sigmas=6.0)


def test_a_lasting_change_of_level_is_accepted_after_a_dozen_steps() -> None:
    state = fresh_state()
    for i in range(WINDOW):
        note_usual(state, 2.0 + 0.05 * (i % 2), 1.0, sigmas=6.0)
    left_out = 0
    while find_spike(state, 3.0, 1.0, sigmas=6.0):
        note_usual(state, 3.0, 1.0, sigmas=6.0)
        left_out += 1
    assert 8 <= left_out <= 16


def test_a_run_of_falling_loss_has_no_spikes(tmp_path: Path) -> None:
    state = train(tmp_path, num_steps=200, fault_at=healthy)
    assert state.spikes == [] and state.data_step == state.step == 200
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in row]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("fault", "where"), [("nan", 3), ("nan", 150), ("huge", 150)])
def test_a_faulty_batch_is_left_out_and_the_weights_are_as_if_it_had_never_been(tmp_path: Path, fault: str, where: int) -> None:
    found = train(tmp_path / "a", num_steps=160, fault_at=lambda step: fault if step == where else "")
    clean = train(tmp_path / "b", num_steps=159, fault_at=healthy, left_out=frozenset([where]))
    assert weights(found) == weights(clean)
    assert [(event["step"], event["data_step"]) for event in found.spikes] == [(where + 1, where)] and found.skipped == 1
    assert found.rollbacks == []
    row = next(row for row in read_metrics(tmp_path / "a" / "metrics.jsonl") if "spike/data_step" in row)
    assert (row["step"], row["spike/data_step"], row["spike/rows"]) == (where + 1, where, f"[{4 * where}]")
    assert ("not both finite" if fault == "nan" else "loss") in row["spike/reason"]


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 steps in place of 128: the same, sooner."""
    monkeypatch.setattr(spikes, "WINDOW", 16)


SHORT = {"num_steps": 64, "rollback_steps": 8}


def in_region(step: int) -> str:
    return "huge" if 34 <= step < 44 else ""


def test_a_region_of_garbage_is_gone_around_from_the_snapshot_before_it(tmp_path: Path, short_window: None) -> None:
    found = train(tmp_path / "a", fault_at=in_region, **SHORT)
    assert found.rollbacks == [
        {"from_step": 37, "to_step": 32, "first_data_step": 32, "last_data_step": 36},
        {"from_step": 35, "to_step": 32, "first_data_step": 32, "last_data_step": 39},
        {"from_step": 35, "to_step": 32, "first_data_step": 32, "last_data_step": 42},
    ]
    # Three returns to one step are all there are; what is left of the region, step 43, is left out by itself.
    clean = train(tmp_path / "b", fault_at=healthy, left_out=frozenset(range(32, 44)), **{**SHORT, "num_steps": 63})
    assert weights(found) == weights(clean)
    assert (found.step, found.data_step, len(found.spikes), found.skipped) == (64, 64 + 11, 10, 10)


def fingerprint(state: TrainState) -> tuple[object, ...]:
    return weights(state), counters_of(state)


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize("kill_at", [36, 41])
def test_a_run_with_rollbacks_that_is_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, kill_at: int, often: bool, short_window: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "a", fault_at=in_region, **SHORT)
    if often:
        monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
        monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)  # a snapshot after every step
    with pytest.raises(Killed):
        train(tmp_path / "b", fault_at=in_region, kill_at=kill_at, **SHORT)
    assert fingerprint(train(tmp_path / "b", fault_at=in_region, **SHORT)) == fingerprint(whole)


def test_the_snapshots_that_a_spike_may_lead_back_to_are_kept_and_those_after_them_forgotten(tmp_path: Path, short_window: None) -> None:
    def steps() -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "snapshots").iterdir())

    with pytest.raises(Killed):
        train(tmp_path, fault_at=healthy, kill_at=33, **SHORT)
    assert steps() == [16, 24, 32]
    with pytest.raises(Killed):
        train(tmp_path, fault_at=lambda step: "huge" if 38 <= step < 41 else "", kill_at=41, **SHORT)
    assert steps() == [24, 32]  # when that of step 40 came, that of 16 went; now it is of a past that is undone


def test_without_a_snapshot_to_go_back_to_a_run_goes_on_and_ten_steps_that_are_not_finite_end_it(tmp_path: Path) -> None:
    def faulty(step: int) -> str:
        return "nan" if 5 <= step < 10 else ""

    state = train(tmp_path / "a", num_steps=20, fault_at=faulty)
    assert len(state.spikes) == 5 and state.rollbacks == []
    with pytest.raises(DataError, match=r"10 steps in a row"):
        train(tmp_path / "b", num_steps=50, fault_at=lambda step: "nan" if step >= 20 else "")


def test_rollbacks_can_be_turned_off(tmp_path: Path, short_window: None) -> None:
    state = train(tmp_path, fault_at=in_region, rollback_spikes=0, **SHORT)
    assert state.rollbacks == [] and len(state.spikes) > 3


def test_spikes_that_are_far_apart_lead_nowhere() -> None:
    state, rule = fresh_state(), SpikeRule(6.0, 3, 10)
    state.spikes = [{"step": step + 1, "data_step": step} for step in (20, 100, 260)]
    state.data_step = 261
    assert rollback_target(state, rule) is None
    state.spikes[0]["data_step"] = 150
    state.spikes[0]["step"], state.spikes[1]["data_step"] = 151, 151
    assert rollback_target(state, rule) == 150


def test_a_snapshot_that_is_missing_or_damaged_means_no_rollback(
    tmp_path: Path, short_window: None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "snapshots"

    def in_region_that_eats_the_snapshot(step: int) -> str:
        if step == 34:
            while not (folder / "step-000032").exists():  # a thread writes it
                time.sleep(0.01)
            (folder / "step-000032" / "tensors" / "__0_0.distcp").write_bytes(b"")
        return in_region(step)

    state = train(tmp_path, fault_at=in_region_that_eats_the_snapshot, **SHORT)
    assert state.rollbacks == [] and "the snapshot of step 32 cannot be read: going on" in caplog.text


def test_what_begins_anew_is_not_measured_against_what_was_before(tmp_path: Path) -> None:
    jump = [Rows(step, "huge" if step >= 140 else "") for step in range(400)]
    for new_levels, expected in ((frozenset(), True), (frozenset([140]), False)):
        state = fresh_state()
        run = Run(num_steps=150, objective=objective, batches_of_step=lambda step: [jump[step]], new_levels=new_levels)
        fit(state, run, CONFIG, snapshots=Snapshots(tmp_path / str(expected), settings="s"), runtime=Runtime(quiet=True))
        assert bool(state.spikes) is expected


def test_a_return_to_before_a_change_of_level_does_not_bring_the_old_level_back(tmp_path: Path) -> None:
    state, faults = fresh_state(), {38: "nan", 39: "nan", 41: "nan"}
    batches = [Rows(step, faults.get(step, "")) for step in range(80)]
    run = Run(num_steps=50, objective=objective, batches_of_step=lambda step: [batches[step]], new_levels=frozenset([40]))
    changed = CONFIG.model_copy(update={"rollback_steps": 32})
    fit(state, run, changed, snapshots=Snapshots(tmp_path, settings="s"), runtime=Runtime(quiet=True))
    assert state.rollbacks == [{"from_step": 42, "to_step": 32, "first_data_step": 32, "last_data_step": 41}]
    assert len(state.usual_losses) == len(state.usual_norms) == 50 - 32  # of the new level alone


def test_every_field_of_a_run_is_in_its_snapshots() -> None:
    state = fresh_state()
    assert {"model", "optimizers", "parallel", *counters_of(state)} == set(vars(state))
    assert json.loads(json.dumps(counters_of(state))) == counters_of(state)


def train_on_ranks(folder: Path, strategy: str) -> None:
    """Each of two processes has two of the four rows; what each of them decides goes into the folder."""
    launch, cpu = Launch(devices=2, strategy=strategy), torch.device("cpu")
    parallel = arrange(launch, cpu)
    model = distribute(Transformer(ModelConfig(**SIZES), seed=1), parallel, launch, cpu)
    state = make_state(model, CONFIG, parallel)

    def batches_of_step(step: int) -> list[Rows]:
        rows, own = Rows(step, in_region(step)), own_share(np.arange(4), launch)
        rows.token_BT, rows.document_BT = rows.token_BT[own], rows.document_BT[own]
        return [rows]

    run = Run(num_steps=SHORT["num_steps"], objective=objective, batches_of_step=batches_of_step)
    config = CONFIG.model_copy(update={"rollback_steps": SHORT["rollback_steps"]})
    fit(state, run, config, snapshots=Snapshots(folder / strategy, settings="s"), runtime=Runtime(quiet=True))
    whole = gather_model(model)
    numbers = [] if whole is None else [p.detach().flatten().tolist() for p in whole.parameters()]
    write_json(folder / f"{strategy}-{dist.rank()}.json", {"counters": counters_of(state), "weights": numbers})


def test_two_processes_leave_out_the_same_steps_as_one_and_go_back_together(tmp_path: Path, short_window: None) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [subprocess.Popen([sys.executable, __file__, str(tmp_path)], env={**os.environ, **group, "RANK": str(i)}) for i in range(2)]
    one = train(tmp_path / "one", fault_at=in_region, **SHORT)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    for strategy in ("ddp", "fsdp"):
        found = [read_json(tmp_path / f"{strategy}-{rank}.json") for rank in range(2)]
        assert found[0]["counters"] == found[1]["counters"]
        assert found[0]["counters"]["rollbacks"] == one.rollbacks and found[0]["counters"]["data_step"] == one.data_step
        for expected, numbers in zip(weights(one), found[0]["weights"], strict=True):
            assert numbers == pytest.approx(expected, abs=1e-5)


if __name__ == "__main__":
    spikes.WINDOW = 16
    torch.set_num_threads(1)
    with dist.process_group():
        for name in ("ddp", "fsdp"):
            train_on_ranks(Path(sys.argv[1]), name)
