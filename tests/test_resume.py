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
KILLS = {
    "crawl": 3,
    "extract": 2,
    "train_extractor": 1,
    "url_filter": 2,
    "filter": 3,
    "train_classifier": 1,
    "train_perplexity": 1,
    "train_relevance": 1,
    "augment": 1,
    "dedup": 3,
    "dedup_paragraphs": 3,
    "dedup_substrings": 3,
    "redact": 2,
    "synthesize": 1,
    "decontaminate": 1,
    "mix": 2,
    "train_tokenizer": 1,
    "tokenize": 2,
    "pretrain": 5,
    "sft": 5,
    "collect_pairs": 2,
    "preference": 3,
    "ppo": 3,
    "grpo": 3,
    "score_documents": 1,
    "evaluate": 1,
    "export": 1,
}
"""How often a run is killed in each stage, at least; then once more in its commit."""


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


def is_of_commit(call: list[str]) -> bool:
    """Whether an operation on the disk is part of a commit: the record, the folder itself, or its rename."""
    parts = Path(call[1]).parts
    return "artifacts" in parts or parts[-2] == "work" or parts[-1].strip(".").startswith("artifact.json")


def test_a_run_killed_at_many_renames_and_flushes_ends_with_the_same_bytes(runner, folder, unbroken):
    expected, calls = unbroken
    draw = random.Random("renames")
    store, kills, kills_in_commit = folder / "renames", 0, 0
    for stage, count in KILLS.items():
        num_calls = sum(f"/{stage}-" in path for _, path in calls)
        for kill_at in [*(draw.randint(1, max(2, num_calls // count)) for _ in range(count)), num_calls]:
            done = runner.run(store, kill_in=stage, kill_at=kill_at, after=draw.random() < 0.5)
            if done["code"] == 0:
                break  # the kill before this one came just after the end of the last commit
            assert done["code"] == -9, runner.log.read_text()[-3000:]
            kills += 1
            kills_in_commit += is_of_commit(done["calls"][-1])
    assert runner.run(store)["code"] == 0
    assert kills >= 25 and kills_in_commit >= 5, (kills, kills_in_commit)
    assert hashes(store) == expected
    assert leftovers(store) == []


def test_a_run_with_two_workers_killed_at_random_times_ends_with_the_same_bytes(runner, folder, unbroken):
    expected, _ = unbroken
    draw = random.Random("times")
    store, kills = folder / "times", 0
    for attempt in range(8):
        # Longer from time to time: a stage's first shard, with the start of its workers, must fit into an attempt.
        done = runner.run(store, workers=2, kill_seconds=draw.uniform(0.2, 1.5) * (1 + attempt / 2))
        assert done["code"] in (0, -9), runner.log.read_text()[-3000:]
        kills += done["code"] == -9
    assert runner.run(store, workers=2)["code"] == 0, runner.log.read_text()[-3000:]
    assert kills >= 3
    assert hashes(store) == expected
    assert leftovers(store) == []


def leftovers(store: Path) -> list[str]:
    """What a finished run should not leave: work folders, temporary files, anything hidden in an artifact."""
    work = [path.name for path in (store / "work").iterdir() if path.is_dir()]
    hidden = [path.name for path in (store / "artifacts").rglob(".*")]
    status = read_json(store / "tiny" / "spec.json")["status"]
    return work + hidden + ([] if status == "done" else [status])
