"""A curriculum goes on where it was on another number of processes, with the same token ids in every global batch."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.core import dist
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape
from bloomery.model.huggingface import load_model
from bloomery.stages import pretrain as stage
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.train import checkpoint, step

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran"]
# AdamW, as in test_equivalence.py. The second stage begins at step 5; the small source is in its second epoch by then.
CONFIG = stage.PretrainConfig(
    model=ModelShape(depth=1, dim=16, head_dim=8, mlp_dim=24), sequence_tokens=32, batch_tokens=256, names=["large", "small"],
    mixture={"large": 2, "small": 1}, num_validations=1, optimizer="adamw", learning_rate=0.001, embedding_learning_rate=0.001,
    precision="fp32", seed=4,
    curriculum=[{"tokens": 1280}, {"tokens": 768, "mixture": {"small": 1, "large": 1}, "sequence_tokens": 64, "batch_tokens": 256}],
)  # fmt: skip
INTERRUPTED_AT = 4


class Interrupted(Exception):
    """Stands for a SIGKILL."""


class BreakingLog(MetricsLog):
    def write(self, values: Mapping[str, float | int | str]) -> None:
        if values["step"] == INTERRUPTED_AT + 1 and "train/loss" in values:
            raise Interrupted


def write_inputs(folder: Path) -> None:
    write_tokenizer(folder / "tokenizer", train_bpe([" ".join(WORDS)], vocab_size=270, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    for name, count in (("large", 60), ("small", 9)):
        texts = [" ".join(WORDS[(i * 3 + k) % 8] for k in range(4 + i % 30)) for i in range(count)]
        ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id] for text in texts]
        for split, part in (("train", ids[3:]), ("validation", ids[:3])):
            write_shard(folder / name / split / "00000", part, vocab_size=tokenizer.vocab_size)
        sizes = {"train": [1], "validation": [1]}
        write_manifest(folder / name, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes=sizes)


def train(folder: Path, name: str, metrics: MetricsLog | None = None) -> None:
    """Trains in this process and keeps the ids that it reads in each step, as ids-<name>-<rank>-<step>.npy."""
    make_batch, plan_draw = stage.make_mixed_batch, stage.Plan.draw
    here = threading.local()  # a thread reads ahead, and draws are also looked at for the log

    def draw(self, number):  # type: ignore[no-untyped-def]
        here.step = number
        return plan_draw(self, number)

    def keep(*arguments):  # type: ignore[no-untyped-def]
        batch = make_batch(*arguments)
        np.save(folder / f"ids-{name}-{dist.rank()}-{here.step}.npy", batch.token_BT.numpy())
        return batch

    stage.make_mixed_batch, stage.Plan.draw = keep, draw
    try:
        torch.set_num_threads(1)
        runtime = Runtime(device="cpu", quiet=True, metrics=metrics or MetricsLog(None))
        inputs = {"tokens": [folder / "large", folder / "small"], "tokenizer": folder / "tokenizer"}
        stage.pretrain(CONFIG, **inputs, out=folder / name, runtime=runtime)
    finally:
        stage.make_mixed_batch, stage.Plan.draw = make_batch, plan_draw


def ids_of(folder: Path, name: str, num_ranks: int) -> dict[int, list[list[int]]]:
    """The rows of each global batch, by step."""
    found = {int(path.stem.rpartition("-")[2]) for path in folder.glob(f"ids-{name}-*.npy")}
    steps = sorted(found - {8})  # which is read ahead, though no step comes to train on it
    return {s: np.concatenate([np.load(folder / f"ids-{name}-{rank}-{s}.npy") for rank in range(num_ranks)]).tolist() for s in steps}


def start_rank(rank: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    group = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([sys.executable, __file__, str(folder)], env={**os.environ, **group})


def test_a_run_resumed_on_two_processes_reads_the_same_ids_and_trains_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
        patch.setattr(checkpoint, "SAVE_FRACTION", 1e9)
        with pytest.raises(Interrupted):
            train(tmp_path, "resumed", BreakingLog(None))
    for path in tmp_path.glob("ids-resumed-*.npy"):
        path.unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [start_rank(rank, port, tmp_path) for rank in range(2)]
    monkeypatch.setattr(step, "MICRO_BATCH_TOKENS", {False: 64, True: 64})
    train(tmp_path, "one")
    for process in ranks:
        assert process.wait(timeout=300) == 0
    whole, resumed = ids_of(tmp_path, "one", 1), ids_of(tmp_path, "resumed", 2)
    first = min(resumed)
    assert list(whole) == list(range(8)) and list(resumed) == list(range(first, 8))
    assert 0 < first <= INTERRUPTED_AT  # from a snapshot, whichever was whole by then
    assert {s: whole[s] for s in resumed} == resumed
    one, two = load_model(tmp_path / "one"), load_model(tmp_path / "resumed")
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


if __name__ == "__main__":
    with dist.process_group():
        assert dist.world_size() == 2
        train(Path(sys.argv[1]), "resumed")
