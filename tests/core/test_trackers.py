"""What trackers were given is read back with their own readers."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError
from bloomery.core.metrics import MetricsLog, read_metrics
from bloomery.core.trackers import find_missing, open_trackers

ROWS = [
    {"step": 1, "tokens": 100, "train/loss": 3.0},
    {"step": 2, "tokens": 200, "train/loss": 2.5, "spike/reason": "none"},
    {"step": 2, "tokens": 200, "validation/loss": 2.75},
]


def log_rows(folder: Path, name: str) -> None:
    log = MetricsLog(folder / "metrics.jsonl", open_trackers([name], folder=folder, label="base", settings={"seed": 3}))
    for row in ROWS:
        log.write(row)
    log.write({"pretrain/steps": 2})  # a row of a stage, without a step, is no point of a curve
    log.close()


def test_tensorboard_reads_every_number_with_its_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_rows(tmp_path / "pretrain-abc", "tensorboard")
    found = EventAccumulator(str(tmp_path / "pretrain-abc" / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"tokens", "train/loss", "validation/loss"}
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 3.0), (2, 2.5)]
    assert [(event.step, event.value) for event in found.Scalars("validation/loss")] == [(2, 2.75)]
    assert abs(found.Scalars("tokens")[0].wall_time - read_metrics(tmp_path / "pretrain-abc" / "metrics.jsonl")[0]["time"]) < 0.01


def test_a_log_that_goes_on_adds_to_what_tensorboard_shows(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    for _ in range(2):
        log_rows(tmp_path / "pretrain-abc", "tensorboard")
    found = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert list(found.Runs()) == ["pretrain-abc/tensorboard"]


OFFLINE = """
import os, sys
from pathlib import Path
os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"], os.environ["WANDB_CONSOLE"] = "offline", "true", "off"
os.environ["WANDB_ERROR_REPORTING"] = "false"
from bloomery.core.trackers import open_trackers
tracker = open_trackers(["wandb"], folder=Path(sys.argv[1]), label="base", settings={"seed": 3})[0]
for step, loss in ((1, 3.0), (2, 2.5), (1, 2.0)):
    tracker.write({"time": 0.0, "step": step, "train/loss": loss})
tracker.close()
"""


def read_chunks(content: bytes) -> Iterator[bytes]:
    """The messages of LevelDB's log format, in blocks of 32 kB: checksum, length, and whether it is whole, begins, goes on or ends."""
    at, message = 0, b""
    while at + 7 <= len(content):
        if 32_768 - (at + 7) % 32_768 < 7:  # the first block began with the 7 bytes of the file's own head
            at += 32_768 - (at + 7) % 32_768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield message
            message = b""


def test_weights_and_biases_keeps_the_rows_of_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="of the tracking extra")
    from wandb.proto import wandb_internal_pb2

    # In a process of its own: the package starts a service that outlives its run.
    subprocess.run([sys.executable, "-c", OFFLINE, str(tmp_path / "pretrain-abc")], check=True, timeout=120, capture_output=True)
    path = next((tmp_path / "pretrain-abc" / "wandb").glob("offline-run-*/*.wandb"))
    assert "pretrain-abc" in path.name
    losses = []
    for data in read_chunks(path.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        if "train/loss" in items:
            losses.append((items["step"], items["train/loss"]))
    assert losses == [(1, 3.0), (2, 2.5), (1, 2.0)]  # also the step that came again


def test_weights_and_biases_without_a_key_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="of the tracking extra")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_ERROR_REPORTING": "false"}
    script = OFFLINE.replace('os.environ["WANDB_MODE"]', 'os.environ["WANDB_QUIET"]').replace('"offline"', '"true"')
    command = [sys.executable, "-c", script, str(tmp_path / "pretrain-abc")]
    ended = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert re.search(r'ConfigError: launch.trackers = \["wandb"\]: .*key.* WANDB_MODE=offline', ended.stderr.splitlines()[-1])


def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("wandb", "tracking"), ("trackio", "trackio")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=rf"the package {name} is not installed: pip install 'bloomery\[{extra}\]'"):
            open_trackers([name], folder=tmp_path, label="base", settings={})
    both = find_missing(["tensorboard", "wandb", "trackio"])
    assert [re.search(r"package (\w+) is not", problem)[1] for problem in both] == ["wandb", "trackio"]


def test_trackio_takes_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="its pins do not go with ours: tested in an environment of its own")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "data"))
    log_rows(tmp_path / "pretrain-abc", "trackio")
    assert list((tmp_path / "data").glob("*.db"))
