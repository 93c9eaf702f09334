"""Several devices: the processes are started, the result is that of one, and an error keeps its message."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bloomery.core.artifact import Store
from bloomery.core.errors import ConfigError, DataError, Stopped
from bloomery.core.metrics import read_metrics
from bloomery.core.stage import Launch
from bloomery.pipeline import launch, ranks
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.single import run_single_stage
from bloomery.stages.catalog import load_stage

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SETTINGS = {
    "model": {"depth": 1, "dim": 32, "head_dim": 16},
    "tokens": 1024,
    "sequence_tokens": 64,
    "batch_tokens": 256,
    "num_validations": 1,
    "precision": "fp32",
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "embedding_learning_rate": 0.001,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    rows = [{"text": f"the {i} smiths of hill {i * 7 % 40} melt {i * i % 91} stones of ore " * 3} for i in range(120)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, vocab_size in (("tokenizer", 300), ("other", 310)):
        made = {"inputs": {"documents": [str(folder / "a.jsonl")]}, "settings": {"vocab_size": vocab_size}}
        run_single_stage(load_stage("train_tokenizer"), **made, out=folder / name)
    tokens = {"documents": [str(folder / "a.jsonl")], "tokenizer": [str(folder / "tokenizer")]}
    run_single_stage(load_stage("tokenize"), inputs=tokens, settings={"validation_fraction": 0.1}, out=folder / "tokens")
    return folder


def pretrain(folder, out, *, tokenizer="tokenizer", devices=1, **launch):
    slots = {"tokens": [str(folder / "tokens")], "tokenizer": [str(folder / tokenizer)]}
    return run_single_stage(load_stage("pretrain"), inputs=slots, settings=SETTINGS, out=out, devices=devices, launch_settings=launch)


def start_second_machine(work_folders):
    """What one calls on another machine of two: here on this one, as soon as there is a SPEC.json."""
    deadline = time.monotonic() + 60
    while not (specs := list(work_folders.glob(".two.unfinished-*/.launch/spec.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    subprocess.run([sys.executable, "-m", "bloomery.pipeline.ranks", str(specs[0]), "1"], check=True)


def test_trackers_get_the_numbers_of_a_training_and_are_no_part_of_what_is_made(inputs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, tracked = pretrain(inputs, tmp_path / "plain"), pretrain(inputs, tmp_path / "tracked", trackers=["tensorboard"])
    assert plain.fingerprint == tracked.fingerprint and not (tmp_path / "plain.logs" / "tensorboard").exists()
    found = EventAccumulator(str(tmp_path / "tracked.logs" / "tensorboard")).Reload()
    rows = [row for row in read_metrics(tmp_path / "tracked.logs" / "metrics.jsonl") if "train/loss" in row]
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [
        (row["step"], pytest.approx(row["train/loss"], rel=1e-6)) for row in rows
    ]
    assert {"train/gradient_norm", "train/mfu", "train/memory_bytes", "validation/bits_per_byte"} <= set(found.Tags()["scalars"])


def test_two_machines_make_the_model_of_one_and_only_the_first_logs(inputs, tmp_path):
    one = pretrain(inputs, tmp_path / "one")
    second = threading.Thread(target=start_second_machine, args=[tmp_path])
    second.start()
    two = pretrain(inputs, tmp_path / "two", nodes=2, rendezvous=f"127.0.0.1:{ranks._free_port()}", strategy="fsdp")
    second.join()
    assert one.fingerprint == two.fingerprint
    assert set(one.record["files"]) == set(two.record["files"])
    weights = load_file(two.path / "model.safetensors")
    for name, expected in load_file(one.path / "model.safetensors").items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5)
    steps = [row["step"] for row in read_metrics(tmp_path / "two.logs" / "metrics.jsonl") if "train/loss" in row]
    assert steps == sorted(set(steps)) and len(steps) == 4


def test_an_error_in_the_started_processes_keeps_its_message_and_nothing_is_printed_around_it(inputs, tmp_path, capfd):
    with pytest.raises(DataError, match=r"pretrain: .*tokenizer"):
        pretrain(inputs, tmp_path / "out", tokenizer="other", devices=2)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_a_snapshot_that_the_disk_does_not_take_ends_all_processes_with_one_line(inputs, tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))  # the processes have it from this one
    try:
        with pytest.raises(DataError, match=r"the file grew beyond this system's limit"):
            pretrain(inputs, tmp_path / "out", devices=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_is_killed_is_told_from_one_that_failed(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "run_ranks", lambda *arguments: -signal.SIGKILL)
    with pytest.raises(DataError, match=r"pretrain: one of 2 processes was ended by SIGKILL.*The same command continues"):
        pretrain(inputs, tmp_path / "out", devices=2)


def test_a_process_that_dies_ends_the_others_and_its_exit_code_is_told(tmp_path, monkeypatch):
    script = tmp_path / "python"
    wait_for_others = "while [ ! -s 0-of-3 ] || [ ! -s 2-of-3 ]; do sleep 0.01; done; exit 3"
    lines = [f"cd {tmp_path}; echo $$ > $RANK-of-$WORLD_SIZE", f"if [ $RANK = 1 ]; then {wait_for_others}; fi", "exec sleep 60"]
    script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    script.chmod(0o755)
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(ranks.sys, "executable", str(script))
    assert ranks.run_ranks(tmp_path / "spec.json", Launch(devices=3)) == 3
    started = sorted(tmp_path.glob("*-of-3"))
    assert len(started) == 3 and not any(Path(f"/proc/{path.read_text().strip()}").exists() for path in started)


def test_a_launch_that_does_not_fit_is_refused_before_anything_is_started(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "run_ranks", lambda *arguments: pytest.fail("started"))
    facts = r"tensor = 4 does not divide num_heads = 2, num_kv_heads = 1 and mlp_dim = 96; it can be 1"
    with pytest.raises(ConfigError, match=facts):
        pretrain(inputs, tmp_path / "out", devices=4, tensor=4)


def test_a_recipe_whose_last_stage_cannot_be_launched_runs_none(tmp_path):
    recipe = load_recipe(RECIPES / "quickstart.toml", overrides=["base.launch.devices=4", "base.launch.pipeline=8"])
    with pytest.raises(ConfigError, match=r"base: launch: tensor = 1 times pipeline = 8 does not divide 4 processes .*1, 2, 4"):
        make_plan(recipe, Store(tmp_path))


def test_a_recipe_whose_last_stage_asks_for_a_tracker_that_is_not_installed_runs_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = load_recipe(
        RECIPES / "quickstart.toml", overrides=['base.launch.trackers=["wandb"]', "sft.launch.devices=2", "sft.launch.tensor=3"]
    )
    facts = r"2 launch\(es\) .*\n  base: .*wandb is not installed: pip install 'bloomery\[tracking\]'\n  sft: launch: tensor = 3"
    with pytest.raises(ConfigError, match=facts):
        make_plan(recipe, Store(tmp_path))


def wait_for_steps(log, process=None):
    """Until training has logged a few steps."""
    for _ in range(2000):
        if sum("train/loss" in row for row in read_metrics(log)) >= 3 or (process is not None and process.poll() is not None):
            return
        time.sleep(0.05)


def test_sigterm_saves_and_ends_a_training_in_this_process(inputs, tmp_path):
    def send():
        wait_for_steps(tmp_path / "out.logs" / "metrics.jsonl")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    slots = {"tokens": [str(inputs / "tokens")], "tokenizer": [str(inputs / "tokenizer")]}
    with pytest.raises(Stopped, match=r"stopped by SIGTERM after step \d+ of 39062, which is saved"):
        run_single_stage(load_stage("pretrain"), inputs=slots, settings={**SETTINGS, "tokens": 10_000_000}, out=tmp_path / "out")
    sender.join()
    assert list(tmp_path.glob(".out.unfinished-*/.scratch/step-*")) and not (tmp_path / "out").exists()


def test_sigterm_to_the_command_saves_and_ends_all_its_processes_with_exit_code_143(inputs, tmp_path):
    command = [sys.executable, "-m", "bloomery", "stage", "pretrain", "--out", str(tmp_path / "out"), "--devices", "2"]
    command += ["--launch", "strategy=fsdp"]
    command += ["--input", f"tokens={inputs / 'tokens'}", "--input", f"tokenizer={inputs / 'tokenizer'}"]
    for name, value in {**SETTINGS, "tokens": 10_000_000}.items():
        command += ["--set", f"{name}={json.dumps(value).replace(': ', ' = ') if isinstance(value, dict) else value}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "out.logs" / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM after step" in said and "The same command continues" in said and "Traceback" not in said
    assert list(tmp_path.glob(".out.unfinished-*/.scratch/step-*"))
