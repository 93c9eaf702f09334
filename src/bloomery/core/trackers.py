"""Other people's dashboards: rows of metrics.jsonl also go to TensorBoard, Weights & Biases or trackio, when asked.

metrics.jsonl stays the truth; a tracker is a copy of it. Rows carry their own `step`, because after a rollback or a
continued run a step comes twice. The packages are optional and imported by name when asked for.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol  # Any: the objects of packages that may not be there

from bloomery.core.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "trackio"]

PROJECT = "bloomery"
EXTRAS = {"tensorboard": "tracking", "wandb": "tracking", "trackio": "trackio"}

Row = Mapping[str, float | int | str]


class Tracker(Protocol):
    """Where rows go, too."""

    def write(self, row: Row) -> None:
        """Takes one row with a `step`."""
        ...

    def close(self) -> None:
        """Hands over what is not yet written."""
        ...


def open_trackers(names: Sequence[TrackerName], *, folder: Path, label: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """Trackers of one training, whose logs lie in `folder`; its name there tells it from others, and stays when it goes on.

    Raises ConfigError if a package is not installed, or does not let us in.
    """
    makers: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]]
    makers = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases, "trackio": _Trackio}
    return [makers[name](folder, label, settings) for name in dict.fromkeys(names)]


def find_missing(names: Sequence[TrackerName]) -> list[str]:
    """What installs each package that is not there, in words."""
    missing = []
    for name in dict.fromkeys(names):
        try:
            _load(name, name)
        except ConfigError as error:
            missing.append(str(error))
    return missing


class _TensorBoard:
    """Event files in FOLDER/tensorboard: `tensorboard --logdir runs/logs`."""

    def __init__(self, folder: Path, label: str, settings: Mapping[str, Any]) -> None:
        writer = _load("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _load("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = _load("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        self._writer = writer.EventFileWriter(str(folder / "tensorboard"))

    def write(self, row: Row) -> None:
        numbers = {name: value for name, value in row.items() if name not in ("step", "time") and not isinstance(value, str)}
        values = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in numbers.items()]
        self._writer.add_event(self._event(wall_time=row["time"], step=int(row["step"]), summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of the project "bloomery"; WANDB_MODE, WANDB_PROJECT and the like are read by the package itself."""

    def __init__(self, folder: Path, label: str, settings: Mapping[str, Any]) -> None:
        wandb = _load("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(project=PROJECT, name=label, id=folder.name, resume="allow", dir=str(folder), config=dict(settings))
        except wandb.Error as error:  # no key, or no connection
            raise ConfigError(
                f'launch.trackers = ["wandb"]: {error} With WANDB_MODE=offline it writes into {folder}, for `wandb sync`.'
            ) from error
        # Their own count of steps can only rise; ours may go back.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        self._run.log({name: value for name, value in row.items() if name != "time"})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run of the project "bloomery": `trackio show`."""

    def __init__(self, folder: Path, label: str, settings: Mapping[str, Any]) -> None:
        self._trackio = _load("trackio", "trackio")
        self._trackio.init(project=PROJECT, name=folder.name, group=label, config=dict(settings), resume="allow", embed=False)

    def write(self, row: Row) -> None:
        self._trackio.log({name: value for name, value in row.items() if name not in ("time", "step")}, step=int(row["step"]))

    def close(self) -> None:
        self._trackio.finish()


def _load(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"launch.trackers = [\"{package}\"]: the package {package} is not installed: pip install 'bloomery[{EXTRAS[package]}]'"
        raise ConfigError(message) from error
