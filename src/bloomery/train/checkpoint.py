"""Snapshots of a run, from which it goes on as if nothing had happened.

    FOLDER/step-000120/   model.safetensors, optimizer.safetensors, state.json; manifest.json with their sha256

A snapshot is written under another name and renamed when it is whole. Reading takes the newest one that its manifest
vouches for, so neither a kill while writing nor a damaged file costs more than the steps since the one before. Plain
safetensors and JSON, not torch's distributed checkpoint: at this size every process holds everything, files are read
without pickle, and saving takes a tenth of a second. (Sharded training will need the other.)
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file, write_atomically, write_json
from bloomery.model.lora import trained_parameters
from bloomery.train.spikes import SpikeRule, is_anchor, oldest_anchor
from bloomery.train.state import TrainState

log = logging.getLogger(__name__)

KEEP_SNAPSHOTS = 2
SAVE_FRACTION = 0.02
"""The share of the time that saving may take: the dearer a snapshot, the rarer. By the clock and not by steps, because
which steps are saved does not touch the result."""
FIRST_COST_SECONDS = 0.02
"""What a snapshot is thought to cost before the first one: that one is made after a second."""
COUNTERS = (
    "step", "data_step", "tokens", "skipped", "skipped_in_a_row", "recent_losses", "usual_losses", "usual_norms", "spikes",
    "rollbacks", "loss_scale", "steps_at_scale", "curve", "samples",
)  # fmt: skip
"""Every field of TrainState but its tensors."""


class Snapshots:
    """The snapshots of one run in a folder. `settings` says what the run is: a snapshot of other settings is refused."""

    def __init__(self, folder: Path, *, settings: str) -> None:
        self.folder, self.settings = folder, settings
        self.rule = SpikeRule()
        """Which snapshots a spike may lead back to: these are kept longer."""
        self._saved_at, self._cost_seconds = time.monotonic(), FIRST_COST_SECONDS

    def save_when_due(self, state: TrainState) -> None:
        """Saves if enough time has passed since the last time, or if a spike may lead back to this step.

        Only rank 0 writes: all processes hold the same.
        """
        is_due = is_anchor(state.step, self.rule) or time.monotonic() - self._saved_at >= self._cost_seconds / SAVE_FRACTION
        if dist.rank() == 0 and is_due:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Writes a snapshot, and removes all but the newest two and those that a spike may lead back to. Rank 0's work only."""
        if dist.rank() != 0:
            return
        started = time.monotonic()
        final = self.folder / f"step-{state.step:06d}"
        writing = self.folder / f"writing-{final.name}"
        for leftover in (*self.folder.glob("writing-*"), final):
            shutil.rmtree(leftover, ignore_errors=True)
        writing.mkdir(parents=True)
        _write_tensors(writing / "model.safetensors", dict(trained_parameters(state.model)))
        _write_tensors(writing / "optimizer.safetensors", _optimizer_tensors(state))
        write_json(writing / "state.json", {"settings": self.settings, **{name: getattr(state, name) for name in COUNTERS}})
        write_json(writing / "manifest.json", {path.name: sha256_file(path) for path in sorted(writing.iterdir())})
        writing.rename(final)
        for old in self._newest_first()[KEEP_SNAPSHOTS:]:
            if not (is_anchor(_step(old), self.rule) and _step(old) >= oldest_anchor(state.step, self.rule)):
                shutil.rmtree(old, ignore_errors=True)
        self._saved_at = time.monotonic()
        self._cost_seconds = self._saved_at - started

    def restore(self, state: TrainState, *, step: int | None = None) -> bool:
        """Fills `state` from the newest whole snapshot, or from that after `step`; False if there is none.

        Raises DataError for one of other settings.
        """
        for folder in self._newest_first():
            if step is not None and _step(folder) != step:
                continue
            problem = _find_damage(folder)
            if problem:
                log.warning("%s: %s; the snapshot before it is used", folder, problem)
                continue
            counters = read_json(folder / "state.json")
            if counters["settings"] != self.settings:
                raise DataError(f"{folder}: a snapshot of a run with other settings or inputs. Choose another output folder, or delete it.")
            _fill(state, counters, load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors"))
            return True
        return False

    def forget_after(self, step: int) -> None:
        """Removes the snapshots of later steps, which belong to a past that a rollback has undone. Rank 0's work only."""
        for folder in self._newest_first() if dist.rank() == 0 else ():
            if _step(folder) > step:
                shutil.rmtree(folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in trained_parameters(state.model).items():
        for optimizer in state.optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value
    return tensors


def _fill(state: TrainState, counters: dict[str, Any], weights: dict[str, Tensor], optimizer_tensors: dict[str, Tensor]) -> None:
    owner = {p: optimizer for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained_parameters(state.model).items():
        with torch.no_grad():
            parameter.copy_(weights[name])
        prefix = f"{name}/"
        found = {key.removeprefix(prefix): value for key, value in optimizer_tensors.items() if key.startswith(prefix)}
        owner[parameter].state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
    for name in COUNTERS:
        setattr(state, name, counters[name])


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with write_atomically(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def _find_damage(folder: Path) -> str | None:
    try:
        manifest = read_json(folder / "manifest.json")
        for name, expected in manifest.items():
            if sha256_file(folder / name) != expected:
                return f"{name} is damaged"
            if name.endswith(".safetensors"):
                with safetensors.safe_open(folder / name, framework="pt"):
                    pass
    except (DataError, OSError, safetensors.SafetensorError) as error:
        return f"cannot be read ({error})"
    return None
