"""A whole curation recipe gives the same bytes in one process, in two, and on a Ray cluster of two node processes,
whoever is killed on the way: a worker in the midst of a shard, a node with all on it, or the process that runs it all.
"""

import contextlib
import hashlib
import json
import multiprocessing.forkserver
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bloomery.core.artifact import Store
from bloomery.core.files import read_json
from bloomery.pipeline.plan import make_plan
from bloomery.pipeline.recipe import load_recipe
from bloomery.pipeline.run import run_plan

RECIPE = Path(__file__).resolve().parent / "data" / "curation.toml"
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
NUM_FILES = 8


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """The --set options of the recipe: files of documents, some too short, some twice, some with a prompt in them."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random("scale")
    nouns = ["the furnace", "a smith", "the ore", "some charcoal", "the river", "a bellows", "the hill", "an anvil", "the old mill"]
    verbs = ["warms", "breaks", "carries", "finds", "holds", "melts", "leaves", "turns"]
    prompts = [f"How many baskets of ore does the {word} smith of the valley carry to the furnace" for word in ("tall", "young", "tired")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"{prompt}?"}) + "\n" for prompt in prompts))
    texts: list[str] = []
    for i in range(NUM_FILES):
        for j in range(60):
            halves = [" ".join(draw.choice(words) for words in (nouns, verbs, nouns)) for _ in range(2 * draw.randint(8, 30))]
            texts.append(" and ".join(halves).capitalize() + ("." if j % 20 else f". {draw.choice(prompts)}? Nobody knows."))
        texts += draw.sample(texts, 5)
        rows = ["Too short.", *texts[-65:]]
        (folder / f"{i}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return [f"texts.inputs.pages=file:{folder}/[0-9].jsonl", f"clean.inputs.prompts=file:{folder}/prompts.jsonl"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, options) -> dict[str, str]:
    """The hash of every file that one process makes."""
    store = Store(tmp_path_factory.mktemp("one"))
    run_recipe(store, options, workers=1)
    counts = {record["stage"]: record["metrics"] for record in map(read_json, store.root.glob("artifacts/*/artifact.json"))}
    assert all(counts[stage]["documents_out"] < counts[stage]["documents_in"] for stage in ("filter", "dedup", "decontaminate")), counts
    return hashes(store.root)


@pytest.fixture
def nodes(monkeypatch):
    """A Ray cluster of two node processes with one core each; the first is the head."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's default, 15, gets little of a machine that runs other tests
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def run_recipe(store: Store, options: list[str], *, workers: int) -> None:
    run_plan(make_plan(load_recipe(RECIPE, overrides=options), store), store, workers=workers)


def hashes(store: Path) -> dict[str, str]:
    files = sorted(path for path in (store / "artifacts").rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def children_of(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(entry.name))
    return found


def command_of(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\x00", " ").strip()
    return ""


@contextlib.contextmanager
def killing_one_in_each_stage(work: Path, find_victims: Callable[[], list[int]]) -> Iterator[list[str]]:
    """Kills a worker in the midst of each stage, as soon as there is one; gives the names of the stages where that was."""
    struck: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            stages = [path.name.partition("-")[0] for path in work.glob("*-*") if path.is_dir()]
            victims = find_victims() if stages and stages[0] not in struck else []
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victims[0], signal.SIGKILL)
                    struck.append(stages[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield struck
    finally:
        done.set()
        watcher.join()


def test_two_workers_of_which_one_is_killed_in_each_stage_make_the_bytes_of_one(tmp_path, options, expected):
    def workers() -> list[int]:
        server = multiprocessing.forkserver._forkserver._forkserver_pid
        return children_of(server) if server else []

    with killing_one_in_each_stage(tmp_path / "work", workers) as struck:
        run_recipe(Store(tmp_path), options, workers=2)
    assert hashes(tmp_path) == expected
    assert len(struck) >= 3, struck


def test_two_ray_nodes_of_which_one_is_killed_with_workers_in_each_stage_make_the_bytes_of_one_process(tmp_path, nodes, options, expected):
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes.list_all_nodes()]
    on_ray = [*options, "cluster.kind=ray", f"cluster.address={nodes.address}"]

    def tasks() -> list[int]:
        return [process for raylet in raylets for process in children_of(raylet) if command_of(process).startswith("ray::bloomery")]

    def tasks_and_a_node() -> list[int]:
        running = tasks()
        if running and list((tmp_path / "store" / "work").glob("dedup-*")) and "dedup" not in struck:
            return [raylets[1]]
        return running

    with killing_one_in_each_stage(tmp_path / "store" / "work", tasks_and_a_node) as struck:
        run_recipe(Store(tmp_path / "store"), on_ray, workers=0)
    assert hashes(tmp_path / "store") == expected
    assert "dedup" in struck and len(struck) >= 3, struck
    assert command_of(raylets[1]) == "", "the second node is dead"


def test_a_run_on_ray_whose_own_process_is_killed_continues_and_makes_the_bytes_of_one_process(tmp_path, options, expected):
    pytest.importorskip("ray")
    command = [
        sys.executable,
        "-m",
        "bloomery",
        "run",
        str(RECIPE),
        "--store",
        str(tmp_path),
        "--cluster",
        "ray",
        "--workers",
        "2",
    ]
    command += ["--cluster", "ray", "--workers", "2", *(word for option in options for word in ("--set", option))]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log)
        while not list(tmp_path.glob("work/filter-*/0*.parquet")):
            assert first.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.005)
        started = [process for process in children_of(first.pid) if "raylet" in command_of(process)]
        first.kill()
        first.wait()
        assert not list(tmp_path.glob("artifacts/mix-*"))
        subprocess.run(command, stdout=log, stderr=log, check=True)
    assert hashes(tmp_path) == expected
    assert read_json(tmp_path / "curation" / "spec.json")["recipe"]["cluster"] == {"address": "local", "kind": "ray", "workers": 0}
    assert len(started) == 1
    assert command_of(started[0]) == "", "the cluster that was started for the run ends with it"
