"""Snapshots: whole or not there, newest first, and nothing of a run is missing in them."""

import itertools
import json
import logging
import resource
import threading
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import DataError, Stopped
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import next_token
from bloomery.objectives.terms import LossTerms
from bloomery.train import checkpoint
from bloomery.train.checkpoint import Snapshots
from bloomery.train.fit import Run, TrainingConfig, fit, make_state, validation_steps
from bloomery.train.state import TrainState
from bloomery.train.step import train_step

SIZES = {"vocab_size": 30, "dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_dim": 12, "max_positions": 16}
CONFIG = TrainingConfig(precision="fp32")


class Rows:
    """The batch of a step: a pure function of it."""

    def __init__(self, step: int) -> None:
        self.token_BT = torch.randint(0, 30, (4, 8), generator=torch.Generator().manual_seed(step))
        self.document_BT = torch.ones_like(self.token_BT)


class Killed(Exception):
    pass


def objective(model: Transformer, rows: Rows) -> LossTerms:
    return next_token(model(rows.token_BT[:, :-1]), rows.token_BT[:, 1:], torch.ones(4, 7))


def fresh_state(optimizer: str = "muon") -> TrainState:
    return make_state(Transformer(ModelConfig(**SIZES), seed=1), CONFIG.model_copy(update={"optimizer": optimizer}))


def make_run(*, kill_at: int = -1) -> Run[Rows]:
    def batches_of_step(step: int) -> list[Rows]:
        if step == kill_at:
            raise Killed
        return [Rows(step)]

    def validate(model: Transformer) -> dict[str, float]:
        return {"loss": float(objective(model, Rows(999)).loss_sum.detach() / 28)}

    return Run(num_steps=12, objective=objective, batches_of_step=batches_of_step, validate=validate, num_validations=3)


def fingerprint(state: TrainState) -> tuple[object, ...]:
    tensors = [p.detach().tolist() for p in state.model.parameters()]
    moments = [
        sorted((k, v.tolist()) for k, v in o.state[p].items()) for o in state.optimizers for g in o.param_groups for p in g["params"]
    ]
    return tensors, moments, state.step, state.tokens, state.recent_losses, state.curve


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("kill_at", [0, 1, 4, 7, 11])
def test_a_run_killed_at_any_step_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, kill_at: int, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)
    whole, cut, resumed = (fresh_state(optimizer) for _ in range(3))
    fit(whole, make_run(), CONFIG, snapshots=Snapshots(tmp_path / "a", settings="s"), runtime=Runtime(quiet=True))
    with pytest.raises(Killed):
        fit(cut, make_run(kill_at=kill_at), CONFIG, snapshots=Snapshots(tmp_path / "b", settings="s"), runtime=Runtime(quiet=True))
    fit(resumed, make_run(), CONFIG, snapshots=Snapshots(tmp_path / "b", settings="s"), runtime=Runtime(quiet=True))
    assert fingerprint(resumed) == fingerprint(whole)
    assert [row["step"] for row in resumed.curve] == [0, 4, 8, 12]


def test_a_run_that_is_asked_to_stop_is_saved_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped, resumed = (fresh_state() for _ in range(3))
    fit(whole, make_run(), CONFIG, snapshots=Snapshots(tmp_path / "a", settings="s"), runtime=Runtime(quiet=True))
    asked = itertools.count()
    runtime = Runtime(quiet=True, stop_requested=lambda: next(asked) >= 5)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM after step 5 of 12, which is saved"):
        fit(stopped, make_run(), CONFIG, snapshots=Snapshots(tmp_path / "b", settings="s"), runtime=runtime)
    assert (tmp_path / "b" / "step-000005").is_dir()
    fit(resumed, make_run(kill_at=4), CONFIG, snapshots=Snapshots(tmp_path / "b", settings="s"), runtime=Runtime(quiet=True))
    assert fingerprint(resumed) == fingerprint(whole)


def trained(folder: Path, steps: int, settings: str = "s") -> TrainState:
    state, snapshots = fresh_state(), Snapshots(folder, settings=settings)
    for step in range(steps):
        train_step(state, [Rows(step)], objective, max_gradient_norm=1.0)
        snapshots.save(state)
    return state


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_every_so_many_steps_one_more_is_made_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 1e9)  # none by the clock
    state, snapshots = fresh_state(), Snapshots(tmp_path, settings="s", keep_last=1, keep_every_steps=3)
    for step in range(8):
        train_step(state, [Rows(step)], objective, max_gradient_norm=1.0)
        snapshots.save_when_due(state)
    snapshots.save(state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000006", "step-000008"]


def test_training_goes_on_while_a_snapshot_is_written_and_does_not_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, write = threading.Event(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *arguments, **options: (go.wait(30), write(*arguments, **options)))
    state, snapshots = fresh_state(), Snapshots(tmp_path, settings="s", keep_every_steps=2)
    for step in range(3):
        train_step(state, [Rows(step)], objective, max_gradient_norm=1.0)
        snapshots.save_when_due(state)
    assert [p.name for p in tmp_path.iterdir()] == ["writing-step-000002"]
    go.set()
    snapshots.close()
    restored = fresh_state()
    assert Snapshots(tmp_path, settings="s").restore(restored) and restored.step == 2
    train_step(restored, [Rows(2)], objective, max_gradient_norm=1.0)
    assert fingerprint(restored) == fingerprint(state)


def test_what_goes_wrong_while_a_snapshot_is_written_is_told_to_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        Snapshots(tmp_path, settings="s").save(fresh_state())


def test_a_file_that_the_system_does_not_take_is_told_in_its_words_and_nothing_half_written_stays(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    limits, snapshots = resource.getrlimit(resource.RLIMIT_FSIZE), Snapshots(tmp_path, settings="s")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # state.json is smaller, the tensors are not
    try:
        with pytest.raises(OSError, match=r"File too large"):  # as with a full disk, torch's own words are "unexpected pos 704 vs 598"
            snapshots.save(fresh_state())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("name", ["tensors/__0_0.distcp", "tensors/.metadata", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_snapshot_is_passed_over_for_the_one_before_it(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, 3)
    path = tmp_path / "step-000003" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    state = fresh_state()
    with caplog.at_level(logging.WARNING):
        assert Snapshots(tmp_path, settings="s").restore(state)
    assert state.step == 2 and "step-000003" in caplog.text and "going on from the one before it, after step 2" in caplog.text


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_damaged_snapshot_does_not_count_among_the_newest_and_goes_when_the_next_is_made(tmp_path: Path, keep_last: int) -> None:
    trained(tmp_path, 5)
    (tmp_path / "step-000005" / "state.json").write_text("{")
    state, snapshots = fresh_state(), Snapshots(tmp_path, settings="s", keep_last=keep_last)
    assert snapshots.restore(state) and state.step == 4
    state.step = 3  # had the run gone on from still further back
    snapshots.save(state)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]
    state.step = 4
    snapshots.save(state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"][-keep_last:]


def test_where_no_snapshot_is_whole_training_says_that_it_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path, 2)
    for name in ("step-000001", "step-000002"):
        (tmp_path / name / "state.json").unlink()
    assert not Snapshots(tmp_path, settings="s").restore(fresh_state())
    assert "no snapshot is whole; training begins anew" in caplog.text and "going on" not in caplog.text


def test_what_a_kill_left_while_writing_is_not_read_and_is_cleared_away(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    (tmp_path / "step-000002").rename(tmp_path / "writing-step-000002")
    state, snapshots = fresh_state(), Snapshots(tmp_path, settings="s")
    assert snapshots.restore(state) and state.step == 1
    snapshots.save(state)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_snapshot_of_another_run_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, 1, settings="other")
    with pytest.raises(DataError, match=r"step-000001: a snapshot of a run with other settings"):
        Snapshots(tmp_path, settings="s").restore(fresh_state())


def test_without_snapshots_nothing_is_restored(tmp_path: Path) -> None:
    state = fresh_state()
    assert not Snapshots(tmp_path / "none", settings="s").restore(state) and state.step == 0


def test_saving_is_rarer_the_dearer_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    state, snapshots = fresh_state(), Snapshots(tmp_path, settings="s")
    saved = []
    for second in range(1, 6):
        now[0] = float(second)
        state.step = second
        snapshots.save_when_due(state)
        snapshots.close()
        saved.append((tmp_path / f"step-{second:06d}").exists())
    assert saved == [True, True, True, True, True]  # by this clock saving costs nothing
    snapshots._cost_seconds = 0.1  # 2 % of the time: every five seconds
    for second in range(6, 11):
        now[0] = float(second)
        state.step = second
        snapshots.save_when_due(state)
        snapshots.close()
    assert (tmp_path / "step-000010").exists() and not (tmp_path / "step-000009").exists()


def test_a_snapshot_says_where_the_run_was_in_plain_json(tmp_path: Path) -> None:
    state = trained(tmp_path, 1)
    state_json = json.loads((tmp_path / "step-000001" / "state.json").read_text())
    assert state_json["step"] == 1 and state_json["tokens"] == state.tokens == 32
    manifest = json.loads((tmp_path / "step-000001" / "manifest.json").read_text())
    assert set(manifest) == {"tensors/__0_0.distcp", "tensors/.metadata", "state.json"}


def test_validations_are_spread_evenly_with_one_at_each_end() -> None:
    assert validation_steps(10, 3) == {0, 3, 7, 10}
    assert validation_steps(1, 10) == {0, 1} and validation_steps(10, 0) == set()
