"""States of runs, judged from locks, processes and what was written; resume and stop with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from bloomery.chat.refusal import Refusal
from bloomery.core.artifact import Store
from bloomery.core.errors import DataError
from bloomery.core.processes import is_alive, process_start, this_process
from bloomery.web.directory import Directory
from bloomery.web.runs.compare import differing_fields
from bloomery.web.runs.control import resume_options, stop
from bloomery.web.runs.states import QUIET_SECONDS, STOP_FILE, read_state
from bloomery.web.runs.view import Summaries

PRINT = "ab" * 32
HOLD = """
import sys, time
from pathlib import Path
from bloomery.core.artifact import Store
with Store(Path(sys.argv[1])).begin("pretrain", sys.argv[2], on_wait=print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def write_spec(store, *, process=None, status="running", node_status="running", **node):
    spec = {
        "name": "toy",
        "seed": 0,
        "recipe_file": "toy.toml",
        "overrides": [],
        "command": ["bloomery", "run", "toy.toml"],
        "status": status,
        "process": process,
        "recipe": {"name": "toy", "stages": {"base": {"stage": "pretrain", "inputs": {}, "config": {}, "launch": {}}}},
        "nodes": [{"id": "base", "stage": "pretrain", "fingerprint": PRINT, "artifact": "artifacts/x", "status": node_status, **node}],
    }
    (store.root / "toy").mkdir(exist_ok=True)
    (store.root / "toy" / "spec.json").write_text(json.dumps(spec))
    return entry_of(store)


def entry_of(store):
    (entry,) = Directory(store).runs()
    return entry


@pytest.fixture
def holder(store):
    """A process that holds the lock of the one stage, as `bloomery run` would."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(store.root), PRINT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def record_of(store):
    return json.loads(store.lock_path("pretrain", PRINT).read_text())


def test_a_held_lock_is_a_running_stage_and_progress_tells_what_is_left(store, holder):
    entry = write_spec(store, process=record_of(store), reason="never made")
    logs = store.log_path("pretrain", PRINT)
    logs.mkdir(parents=True)
    said = {"time": time.time(), "done": 30, "total": 100, "unit": "steps", "per_second": 2.0}
    (logs / "progress.json").write_text(json.dumps(said))
    state = read_state(entry, store, now=said["time"] + 5)
    assert (state.state, state.stages[0].state, state.stages[0].reason) == ("running", "running", "never made")
    assert state.seconds_left == pytest.approx(35 - 5) and state.left_is_complete and state.can_stop and not state.can_resume


def test_progress_of_an_earlier_process_is_not_taken_for_this_ones(store, holder):
    entry = write_spec(store, process=record_of(store))
    logs = store.log_path("pretrain", PRINT)
    logs.mkdir(parents=True)
    (logs / "progress.json").write_text(json.dumps({"time": time.time() - 100, "done": 3, "total": 4, "unit": "steps", "per_second": 2.0}))
    state = read_state(entry, store)
    assert state.stages[0].progress is None and state.seconds_left is None


def test_stop_asks_the_process_once_and_the_page_sees_it_stopping_then_stopped(store, holder):
    entry = write_spec(store, process=record_of(store))
    os.kill(holder.pid, signal.SIGSTOP)  # so that SIGTERM waits, as it does in a long step
    assert stop(entry, store)["sent"] is True
    assert read_state(entry, store).state == "stopping"
    assert stop(entry, store) == {"sent": False, "message": "it was asked to stop already"}
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.wait(10) == -signal.SIGTERM
    state = read_state(entry, store)
    assert (state.state, state.can_resume) == ("stopped", True) and "its process ended" in state.reason
    assert stop(entry, store)["sent"] is False


def test_a_number_that_went_to_another_process_is_left_alone(store, holder):
    """The recorded process is gone, its number another's: the lock is another run's, and nobody is sent anything."""
    entry = write_spec(store, process={**record_of(store), "start": "an earlier process"})
    state = read_state(entry, store)
    assert state.state == "running" and not state.can_stop
    with pytest.raises(Refusal, match="is not of this run"):
        stop(entry, store)
    assert holder.poll() is None and not (entry.folder / STOP_FILE).exists()


def test_a_run_of_another_machine_is_shown_and_not_stopped_from_here(store, holder):
    process = {**record_of(store), "host": "node7", "pid": 4711}
    store.lock_path("pretrain", PRINT).write_text(json.dumps(process))
    entry = write_spec(store, process=process)
    state = read_state(entry, store)
    assert state.state == "running" and not state.can_stop and "runs on node7: stop it there (kill 4711)" in state.refusal
    with pytest.raises(Refusal, match="node7"):
        stop(entry, store)


@pytest.mark.parametrize(("age", "expected"), [(30, "running"), (QUIET_SECONDS + 60, "stopped")])
def test_where_a_foreign_lock_tells_nothing_what_was_written_last_decides(store, age, expected):
    lock = store.lock_path("pretrain", PRINT)
    lock.parent.mkdir()
    process = {"pid": 1, "host": "node7", "start": "x"}
    lock.write_text(json.dumps(process))
    entry = write_spec(store, process=process)
    for path in (lock, entry.folder / "spec.json"):
        os.utime(path, (1e9, 1e9))
    state = read_state(entry, store, now=1e9 + age)
    assert state.state == expected and "process 1 on node7" in state.stages[0].reason
    assert ("a guess" in state.reason) == (expected == "stopped")


@pytest.mark.parametrize(
    ("status", "more", "expected"),
    [
        ("failed", {"problem": "the loss is not finite"}, ("failed", "the loss is not finite")),
        ("interrupted", {"problem": "stopped by SIGTERM after step 3"}, ("stopped", "stopped by SIGTERM after step 3")),
        ("waiting", {"reason": "never made"}, ("waiting", "never made")),
        ("left out", {"reason": "--only other"}, ("left out", "--only other")),
        ("done", {}, ("removed", "its artifact has been removed: resume makes it again")),
    ],
)
def test_every_other_state_comes_with_its_reason(store, status, more, expected):
    entry = write_spec(store, status="failed", node_status=status, **more)
    stage = read_state(entry, store).stages[0]
    assert (stage.state, stage.reason) == expected


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone():
    me = this_process()
    assert me["host"] == socket.gethostname() and is_alive(me) is True
    assert is_alive({**me, "start": "another"}) is False
    assert is_alive({**me, "host": "elsewhere"}) is None and is_alive({}) is None


def test_an_ended_process_that_nobody_waited_for_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record = {**this_process(), "pid": child.pid, "start": process_start(child.pid)}
    assert is_alive(record) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_alive(record) is False
    child.wait()


def test_resume_keeps_the_number_of_workers_and_what_was_left_out():
    nodes = [{"id": "a", "status": "done", "reason": "done"}, {"id": "b", "status": "left out", "reason": "--only a"}]
    assert resume_options({"command": ["bloomery", "run", "x", "--workers", "3"], "nodes": nodes}) == ["--workers", "3", "--only", "a"]
    assert resume_options({"command": ["bloomery", "run", "x", "--workers=2"], "nodes": nodes[:1]}) == ["--workers", "2"]
    assert resume_options({"command": ["bloomery", "run", "x", "--workers", "$(reboot)"], "nodes": nodes[:1]}) == []


def test_only_fields_that_differ_are_listed():
    recipes = [{"seed": 0, "stages": {"a": {"config": {"x": x, "y": []}}}} for x in (1, 2)]
    assert differing_fields(recipes) == [{"field": "stages.a.config.x", "values": [1, 2]}]


def test_a_run_that_is_done_is_looked_at_again_when_its_record_changes_and_every_ten_seconds(store):
    artifact = store.artifact_path("pretrain", PRINT)
    artifact.mkdir(parents=True)
    (artifact / "artifact.json").write_text("{}")
    write_spec(store, status="done", node_status="done")
    directory, summaries = Directory(store), Summaries(store)

    def state_at(now):
        return summaries.rows(directory.runs(), now=now)[0]["state"]

    assert state_at(0) == "done"
    (artifact / "artifact.json").unlink()
    assert state_at(5) == "done"
    assert state_at(11) == "removed"
    write_spec(store, status="failed", node_status="failed", problem="the loss is not finite")
    assert state_at(11.5) == "failed"


def test_a_damaged_record_says_so_and_leaves_the_other_runs_alone(store):
    write_spec(store, status="failed", node_status="failed")
    (store.root / "bad").mkdir()
    spec = json.loads((store.root / "toy" / "spec.json").read_text())
    (store.root / "bad" / "spec.json").write_text(json.dumps({**spec, "nodes": [{"id": 3}]}))
    rows = {row["name"]: row for row in Summaries(store).rows(Directory(store).runs())}
    assert rows["toy"]["state"] == "failed" and rows["bad"]["state"] == "damaged" and "Run its recipe again" in rows["bad"]["reason"]
    bad = next(entry for entry in Directory(store).runs() if entry.name == "bad")
    with pytest.raises(DataError, match=r"bad: its spec\.json is damaged"):
        stop(bad, store)
