"""Runs: what they leave, how they fail, and that two at once do no harm."""

import dataclasses
import multiprocessing
import os
import resource
import time
from pathlib import Path

import pytest

from bloomery.core.artifact import Store
from bloomery.core.errors import DataError, StoreError
from bloomery.core.files import read_json, write_text
from bloomery.core.metrics import read_metrics
from bloomery.pipeline.run import run_plan
from bloomery.pipeline.status import read_status


def artifacts(store):
    return sorted(path.name for path in (store.root / "artifacts").iterdir()) if (store.root / "artifacts").exists() else []


def test_a_run_leaves_links_a_spec_logs_and_records(toys, store):
    result = run_plan(toys.plan(store), store, command=["bloomery", "run", "toy.toml"])
    assert result.made == ["small", "more", "verdict"]
    folder = store.root / "toy"
    assert (folder / "verdict" / "sum.txt").read_text() == str(3 + 4 + 2)
    assert not (folder / "verdict").readlink().is_absolute()
    spec = read_json(folder / "spec.json")
    assert spec["status"] == "done"
    assert spec["command"] == ["bloomery", "run", "toy.toml"]
    assert [(node["id"], node["status"]) for node in spec["nodes"]] == [("small", "done"), ("more", "done"), ("verdict", "done")]
    assert spec["recipe"]["stages"]["small"]["config"] == {"count": 2, "seed": 3, "limits": {"low": 0, "high": 100}}
    record = read_json(folder / "small" / "artifact.json")
    assert record["metrics"] == {"count": 2}
    assert list(record["files"]) == ["numbers.json"]
    logs = store.log_path("numbers", record["fingerprint"])
    timing = read_json(logs / "timing.json")
    assert timing["peak_memory_bytes"] > 1e6
    of_stage, of_run = read_metrics(logs / "metrics.jsonl")
    assert of_stage["tokens"] == 2
    assert of_run["numbers/count"] == 2 and of_run["stage/seconds"] > 0


def test_a_second_run_makes_nothing_and_changes_no_file(toys, store):
    run_plan(toys.plan(store), store)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file() and "work" not in path.parts}
    toys.calls.clear()
    result = run_plan(toys.plan(store), store)
    assert result.made == [] and result.found == ["small", "more", "verdict"]
    assert toys.calls == []
    after = {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.is_file() and "work" not in path.parts}
    assert {path.name for path in after if after[path] != before.get(path)} == set()


def test_the_reason_why_something_was_made_is_kept_by_later_runs(toys, store):
    run_plan(toys.plan(store), store)
    run_plan(toys.plan(store, "more.amount=2"), store)
    run_plan(toys.plan(store, "more.amount=2"), store)
    reasons = {node["id"]: node["reason"] for node in read_status(store.root / "toy")["nodes"]}
    assert reasons == {"small": "never made", "more": "config changed: amount 1 -> 2", "verdict": "input changed: more"}


def test_a_failing_stage_leaves_no_artifact_and_what_it_had_done_is_continued(toys, store):
    def fail_once(config, *, documents, out, runtime):
        first = not (out / "part.txt").exists()
        write_text(out / "part.txt", "done")
        if first:
            raise DataError("the third shard is broken")
        return {}

    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=fail_once)
    with pytest.raises(DataError, match="third shard"):
        run_plan(toys.plan(store), store)
    assert [name.split("-")[0] for name in artifacts(store)] == ["numbers"]
    state = read_status(store.root / "toy")
    assert [node["status"] for node in state["nodes"]] == ["done", "failed", "waiting"]
    assert not (store.root / "toy" / "more").exists()
    text = 'name = "toy"\nseed = 3\n[stages.small]\nstage = "numbers"\nconfig = { count = 2 }\n'
    text += '[stages.more]\nstage = "add"\ninputs = { documents = "small" }\n'
    assert run_plan(toys.plan(store, text=text), store).made == ["more"]


def test_an_artifact_removed_during_the_run_is_a_clear_error(toys, store):
    def lose_input(config, *, documents, out, runtime):
        store.discard("numbers", documents[0].name.split("-")[1] + "x" * 48)
        return {"size": documents[0].stat().st_size}

    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=lose_input)
    with pytest.raises(DataError, match=r"more: its input .*numbers-.* has disappeared"):
        run_plan(toys.plan(store), store)


def test_an_input_file_changed_during_the_run_makes_no_artifact(toys, store, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("1")

    def change_input(config, *, files, out, runtime):
        file.write_text("22")
        return {}

    toys.stages["numbers"] = dataclasses.replace(toys.stages["numbers"], run=change_input)
    text = f'name = "toy"\n[stages.small]\nstage = "numbers"\ninputs = {{ files = "file:{file}" }}\n'
    with pytest.raises(DataError, match=r"small\.inputs\.files: .*changed during the run"):
        run_plan(toys.plan(store, text=text), store)
    assert artifacts(store) == []
    plan = toys.plan(store, text=text)
    file.unlink()
    with pytest.raises(DataError, match="found no file there"):
        run_plan(plan, store)
    assert artifacts(store) == []


def test_ctrl_c_is_passed_on_and_noted(toys, store):
    def stop(config, *, documents, out, runtime):
        raise KeyboardInterrupt

    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=stop)
    with pytest.raises(KeyboardInterrupt):
        run_plan(toys.plan(store), store)
    assert [node["status"] for node in read_status(store.root / "toy")["nodes"]] == ["done", "interrupted", "waiting"]


def test_a_store_that_is_a_file_is_a_clear_error(toys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file stands where a folder is needed"):
        run_plan(toys.plan(Store(tmp_path / "file")), Store(tmp_path / "file"))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys, where not even root may make folders")
def test_a_store_that_cannot_be_written_is_a_clear_error(toys):
    store = Store(Path("/sys/bloomery-store"))
    with pytest.raises(StoreError, match=r"/sys/bloomery-store: no access .*--store DIR"):
        run_plan(toys.plan(store), store)


def test_a_full_disk_is_a_clear_error_and_leaves_no_artifact(toys, store):
    def fill(config, *, documents, out, runtime):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            write_text(out / "big.txt", "x" * 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return {}

    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=fill)
    with pytest.raises(StoreError, match="limit"):
        run_plan(toys.plan(store), store)
    assert [name.split("-")[0] for name in artifacts(store)] == ["numbers"]


def _run_slowly(toys, store_root, started):
    def slow(config, *, documents, out, runtime):
        started.set()
        time.sleep(0.5)
        write_text(out / "who.txt", str(os.getpid()))
        write_text(out / "numbers.json", "[1]")
        return {}

    toys.stages["add"] = dataclasses.replace(toys.stages["add"], run=slow)
    run_plan(toys.plan(Store(store_root)), Store(store_root))


def test_of_two_runs_at_once_the_second_waits_and_finds_the_artifact(toys, store, caplog):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    first = context.Process(target=_run_slowly, args=(toys, store.root, started))
    first.start()
    assert started.wait(20)
    with caplog.at_level("INFO", logger="bloomery"):
        result = run_plan(toys.plan(store), store)
    first.join(20)
    assert first.exitcode == 0
    assert "more" in result.found
    assert (store.root / "toy" / "more" / "who.txt").read_text() == str(first.pid)
    assert f"waiting for process {first.pid}" in caplog.text
    assert len(artifacts(store)) == 3
    assert [path.name for path in (store.root / "work").iterdir() if path.is_dir()] == []
