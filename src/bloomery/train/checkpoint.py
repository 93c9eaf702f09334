"""Snapshots of a run, from which it goes on as if nothing had happened, on as many processes as there are then.

    FOLDER/step-000120/   tensors/ weights and optimizer, state.json; manifest.json with the sha256 of every file

The tensors are in torch's distributed checkpoint format: each process writes its own parts into a file, and any other
number of processes, however they share the model, reads what it needs of them. (Its index is pickled: a snapshot is read
by the run that wrote it, after its hashes were compared, and is nothing to hand on.) Everything else that a run is stands
in state.json: what draws at random here does so from the seed and the step, so there is no generator to keep.

Tensors are copied while training waits, and written by a thread while it goes on. A snapshot is written under another
name and renamed when it is whole. Reading takes the newest one that its manifest vouches for, so neither a kill while
writing nor a damaged file costs more than the steps since the one before.
"""

import dataclasses
import logging
import shutil
import threading
import time
import warnings
from pathlib import Path
from typing import Any  # Any: the values of a JSON document

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.core.files import read_json, sha256_file, write_json
from bloomery.model.lora import trained_parameters
from bloomery.train.spikes import SpikeRule, is_anchor, oldest_anchor
from bloomery.train.state import TrainState

log = logging.getLogger(__name__)

SAVE_FRACTION = 0.02
"""The share of the time that saving may take: the dearer a snapshot, the rarer. By the clock and not by steps, because
which steps are saved does not touch the result."""
FIRST_COST_SECONDS = 0.02
"""What a snapshot is thought to cost before the first one: that one is made after a second."""
NOT_COUNTERS = ("model", "optimizers", "parallel")
"""Fields of TrainState that state.json does not hold."""
TENSORS = "tensors"


class Snapshots:
    """The snapshots of one run in a folder. `settings` says what the run is: a snapshot of other settings is refused.

    The newest `keep_last` are kept; every `keep_every_steps` steps (0 = never) one is made and kept, too. Made, and its
    functions called, on every process that takes part.
    """

    def __init__(self, folder: Path, *, settings: str, keep_last: int = 2, keep_every_steps: int = 0) -> None:
        self.folder, self.settings = folder, settings
        self.keep_last, self.keep_every_steps = keep_last, keep_every_steps
        self.rule = SpikeRule()
        """Which snapshots a spike may lead back to: these are kept longer."""
        self.kept_step = -1
        """A step whose snapshot is kept, too: the best one so far, of a run that may go back to it."""
        self._group = dist.new_group()  # the thread's messages must not meet those of the training
        self._writer: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._saved_at, self._cost_seconds = time.monotonic(), FIRST_COST_SECONDS

    def save_when_due(self, state: TrainState) -> None:
        """Begins a snapshot if enough time has passed since the last one, or if this step is one to keep."""
        must = is_anchor(state.step, self.rule) or bool(self.keep_every_steps and state.step % self.keep_every_steps == 0)
        is_idle = self._writer is None or not self._writer.is_alive()
        is_due = is_idle and time.monotonic() - self._saved_at >= self._cost_seconds / SAVE_FRACTION
        if must or dist.say(is_due):
            self._begin(state)

    def save(self, state: TrainState) -> None:
        """Writes a snapshot, and returns when it is on the disk."""
        self._begin(state)
        self.close()

    def restore(self, state: TrainState, *, step: int | None = None) -> bool:
        """Fills `state` from the newest whole snapshot, or from that after `step`; False if there is none.

        Raises DataError for one of other settings.
        """
        self.close()
        passed_over = False
        for folder in dist.gather_objects(self._newest_first())[0]:
            if step is not None and _step(folder) != step:
                continue
            problem = _find_damage(folder)
            if problem:
                passed_over = True
                if dist.rank() == 0:
                    log.warning("%s: %s; it is passed over", folder, problem)
                continue
            counters = read_json(folder / "state.json")
            if counters["settings"] != self.settings:
                raise DataError(f"{folder}: a snapshot of a run with other settings or inputs. Choose another output folder, or delete it.")
            _fill(state, counters, folder / TENSORS)
            if passed_over and dist.rank() == 0:
                log.warning("going on from the one before it, after step %d", state.step)
            return True
        if passed_over and step is None and dist.rank() == 0:
            log.warning("%s: no snapshot is whole; training begins anew", self.folder)
        return False

    def forget_after(self, step: int) -> None:
        """Removes the snapshots of later steps, which belong to a past that a rollback has undone."""
        self.close()
        if dist.rank() == 0:
            self._remove_after(step)

    def _begin(self, state: TrainState) -> None:
        self.close()
        started = time.monotonic()
        writing = self.folder / f"writing-step-{state.step:06d}"
        if dist.rank() == 0:
            for leftover in self.folder.glob("writing-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            writing.mkdir(parents=True)
        dist.barrier()
        writer = _Writer(writing / TENSORS)
        if dist.rank() == 0:
            write_json(writing / "state.json", {"settings": self.settings, **counters_of(state)})
        copied = writer.stage(_tensors(state))
        self._writer = threading.Thread(target=self._write, args=(writer, copied, writing, started), name="snapshot")
        self._writer.start()

    def _write(self, writer: FileSystemWriter, tensors: dict[str, Any], writing: Path, started: float) -> None:
        """The thread's part: what `_begin` has copied goes to the disk."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what is meant
                save(tensors, storage_writer=writer, process_group=self._group)
            own = (writing / TENSORS).glob(f"__{dist.rank()}_*")
            hashes = {path: sha256_file(path) for path in own}
            everywhere = dist.gather_objects(hashes, self._group)
            if dist.rank() == 0:
                found = {path: digest for hashes in everywhere for path, digest in hashes.items()}
                found |= {path: sha256_file(path) for path in (writing / TENSORS / ".metadata", writing / "state.json")}
                write_json(writing / "manifest.json", {path.relative_to(writing).as_posix(): found[path] for path in sorted(found)})
                final = writing.with_name(writing.name.removeprefix("writing-"))
                replaced = writing.with_name("writing-replaced")
                if final.is_dir():  # of the same step, whole: out of the way in one move, because removing it takes time
                    final.rename(replaced)
                writing.rename(final)
                shutil.rmtree(replaced, ignore_errors=True)
                self._remove_old(_step(final))
            self._saved_at = time.monotonic()
            self._cost_seconds = self._saved_at - started
        except CheckpointException as error:  # its own text is the tracebacks of all processes
            self._problem = next(problem for problem, _ in error.failures.values())
            shutil.rmtree(writing, ignore_errors=True)  # of a full disk: room to say so
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that trains)
            self._problem = error

    def _remove_old(self, step: int) -> None:
        # Those of later steps were passed over as damaged: they are not among the newest.
        self._remove_after(step)
        for old in self._newest_first()[self.keep_last :]:
            is_kept = _step(old) == self.kept_step or (bool(self.keep_every_steps) and _step(old) % self.keep_every_steps == 0)
            if not (is_kept or (is_anchor(_step(old), self.rule) and _step(old) >= oldest_anchor(step, self.rule))):
                shutil.rmtree(old, ignore_errors=True)

    def _remove_after(self, step: int) -> None:
        for later in self._newest_first():
            if _step(later) > step:
                shutil.rmtree(later, ignore_errors=True)

    def close(self) -> None:
        """Returns when the snapshot that is being written is on the disk. Raises what went wrong with it."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=_step, reverse=True)


class _Writer(FileSystemWriter):
    """Raises what the system said of a file: torch hides it behind an error of its zip writer, and only that reaches other processes."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """This process's tensors, to the disk."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def counters_of(state: TrainState) -> dict[str, Any]:
    """Everything that a run is but its tensors, by the names of TrainState's fields."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name not in NOT_COUNTERS}


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Weights and what the optimizers keep of each, by name."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(state.model).items():
        tensors[f"model/{name}"] = parameter.detach()
        for optimizer in state.optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def _fill(state: TrainState, counters: dict[str, Any], folder: Path) -> None:
    reader = FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    owner = {p: optimizer for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = trained_parameters(state.model)
    wanted: dict[str, Any] = {f"model/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name in stored:
        room, _, rest = name.partition("/")
        parameter_name, _, key = rest.rpartition("/")
        if room == "optimizer" and parameter_name in parameters:
            parameter = parameters[parameter_name]
            wanted[name] = owner[parameter].state[parameter][key] = _room_for(stored[name], parameter)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(wanted, storage_reader=reader)
    for name, value in counters.items():
        if name != "settings":
            setattr(state, name, value)


def _room_for(stored: Any, parameter: Tensor) -> Tensor:
    """An empty tensor to read an optimizer's into: cut like its parameter, if it is of that size."""
    assert isinstance(stored, TensorStorageMetadata)
    if stored.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=stored.properties.dtype).detach()
    return torch.zeros(stored.size, dtype=stored.properties.dtype, device=parameter.device)


def _find_damage(folder: Path) -> str | None:
    """What is wrong with a snapshot, the same on every process: each reads some of its files."""
    try:
        manifest = read_json(folder / "manifest.json")
        found = None if f"{TENSORS}/.metadata" in manifest else "is of another version of bloomery"
        for name in sorted(manifest)[dist.rank() :: dist.world_size()]:
            if sha256_file(folder / name) != manifest[name]:
                found = f"{name} is damaged"
    except (DataError, OSError) as error:
        found = f"cannot be read ({error})"
    return next((problem for problem in dist.gather_objects(found) if problem), None)
