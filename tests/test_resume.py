"""Killed with SIGKILL at any moment, the same command continues and ends with the same bytes as an unbroken run.

The kills are of two kinds: at a counted rename or fsync (so that commits, shard files and snapshots are hit exactly,
just before and just after), and after a random time (so that everything between is hit, too, and pools of workers).
"""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bloomery.core.files import read_json

TESTS = Path(__file__).resolve().parent
MUST_BE_HIT = {"crawl", "filter", "dedup", "pretrain", "sft", "commit"}


class Runner:
    """Talks to tests/kill_runner.py."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "runs.log"
        command = [sys.executable, "-W", "ignore", str(TESTS / "kill_runner.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        assert json.loads(self.process.stdout.readline())["ready"]

    def run(self, store: Path, **request) -> dict:
        texts = f"texts.inputs.pages=file:{store.parent}/texts.jsonl"
        arguments = ["run", str(TESTS / "data" / "tiny.toml"), "--store", str(store), "--set", texts]
        arguments += ["--workers", str(request.pop("workers", 1))]
        self.process.stdin.write(json.dumps({"arguments": arguments, "log": str(self.log), **request}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_texts(folder / "texts.jsonl")
    return folder


@pytest.fixture(scope="module")
def runner(folder):
    runner = Runner(folder)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def unbroken(runner, folder):
    """Hashes of every artifact file of a run that nothing disturbs, and its calls."""
    done = runner.run(folder / "unbroken")
    assert done["code"] == 0, runner.log.read_text()[-3000:]
    return hashes(folder / "unbroken"), done["calls"]


def write_texts(path: Path) -> None:
    """Small English documents, some too short, some twice, some nearly twice."""
    draw = random.Random("texts")
    nouns = ["the furnace", "a smith", "the ore", "some charcoal", "the river", "a bellows", "the hill", "an anvil"]
    verbs = ["warms", "breaks", "carries", "finds", "holds", "melts", "leaves", "turns"]
    texts = []
    for _ in range(60):
        sentences = [f"{draw.choice(nouns).capitalize()} {draw.choice(verbs)} {draw.choice(nouns)} and" for _ in range(draw.randint(4, 14))]
        texts.append(" ".join(f"{sentence} {draw.choice(verbs)} it with {draw.choice(nouns)}." for sentence in sentences))
    texts += [texts[3], texts[4] + " That is all.", "Too short."]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def hashes(store: Path) -> dict[str, str]:
    files = sorted(path for path in (store / "artifacts").rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def place_of(call: list[str]) -> str:
    """Which stage, or whose commit, an operation on the disk belongs to."""
    parts = Path(call[1]).parts
    for i, part in enumerate(parts[:-1]):
        if part in ("work", "artifacts") and "-" in parts[i + 1]:
            is_commit = part == "artifacts" or i + 2 == len(parts) or parts[i + 2].strip(".").startswith("artifact.json")
            return "commit" if is_commit else parts[i + 1].rpartition("-")[0]
    return "artifacts" if parts[-1:] == ("artifacts",) else "run"


def test_a_run_killed_at_many_renames_and_flushes_ends_with_the_same_bytes(runner, folder, unbroken):
    expected, _ = unbroken
    draw = random.Random("renames")
    store, hit = folder / "renames", []
    while True:
        # Mostly a few operations further, so that every stage is hit several times; sometimes a long way.
        kill_at = draw.randint(1, 12) if draw.random() < 0.7 else draw.randint(5, 60)
        done = runner.run(store, kill_at=kill_at, after=draw.random() < 0.5)
        if done["code"] == 0:
            break
        assert done["code"] == -9, runner.log.read_text()[-3000:]
        hit.append(place_of(done["calls"][-1]))
        assert len(hit) < 400, f"no progress: {hit[-20:]}"
    assert len(hit) >= 25
    assert set(hit) >= MUST_BE_HIT, sorted(set(hit))
    assert hashes(store) == expected
    assert leftovers(store) == []


def test_a_run_with_two_workers_killed_at_random_times_ends_with_the_same_bytes(runner, folder, unbroken):
    expected, _ = unbroken
    draw = random.Random("times")
    store, kills = folder / "times", 0
    while True:
        done = runner.run(store, workers=2, kill_seconds=draw.uniform(0.3, 2.5))
        if done["code"] == 0:
            break
        assert done["code"] == -9, runner.log.read_text()[-3000:]
        kills += 1
        assert kills < 200, "no progress"
    assert kills >= 5
    assert hashes(store) == expected
    assert leftovers(store) == []


def leftovers(store: Path) -> list[str]:
    """What a finished run should not leave: work folders, temporary files, anything hidden in an artifact."""
    work = [path.name for path in (store / "work").iterdir() if path.is_dir()]
    hidden = [path.name for path in (store / "artifacts").rglob(".*")]
    status = read_json(store / "tiny" / "spec.json")["status"]
    return work + hidden + ([] if status == "done" else [status])
