"""Learning from rewards on this machine's CPU beside TRL's GRPOTrainer, on the same folder and prompts, in turns.

    GOMP_SPINCOUNT=2000 python bench/grpo.py                     # 10.2 M parameters, about 4 minutes
    python bench/grpo.py --rounds 12 --threads 1 --prompts 4 --samples 4 --sides ours trl

Three sides, each a process of its own that trains whole, as its users do: our stage `grpo`, TRL with float32 weights (its
default for training in bf16), and TRL with bf16 weights. They take turns, step by step; a step is all that happens between
the end of one and the end of the next: answers by each side's own engine (transformers' `generate` there), rewards by one
Python function, loss, update, logging. bf16 for all, AdamW, clipping, GRPO's loss without KL, no activation checkpointing.
Weights are random, so that hardly an answer ends by itself: all have `--max-tokens` tokens.

Printed: seconds a step, answer tokens a second of the whole step (by the clock, and by processor time, which other work on the
machine moves less), the peak memory of each process, and how many times as fast ours is.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from peers.turns import Turns

from bloomery.core.files import write_jsonl
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.grpo import GrpoConfig, grpo
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SHAPE = ModelShape(dim=320, num_layers=6, num_heads=5, num_kv_heads=5, head_dim=64, mlp_dim=896, qk_norm=False, tied_embeddings=False)
PEER = Path(__file__).parent / "peers" / "trl_grpo.py"
VOCAB, LEARNING_RATE, PROMPT_WORDS = 4096, 1e-4, 60
REWARD = """
def reward(prompts, completions, **columns):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [text.count("e") / (1 + len(text)) for text in texts]
"""
COUNTS = ("rounds", "threads", "prompts", "samples", "max-tokens")
SIDES = ("ours", "trl", "trl-bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in zip(COUNTS, (10, 2, 8, 8, 64), strict=True):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        torch.set_num_threads(arguments.threads)
        return train_ours(arguments.serve, arguments, Turns())
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments)
        compare(Path(folder), arguments)
    return None


def write_inputs(folder: Path, arguments: argparse.Namespace) -> None:
    """A model, prompts of about 64 tokens, and the reward."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(os.__file__).parent.glob("*.py"))[:60]]
    write_tokenizer(folder / "tokenizer", train_bpe(texts, vocab_size=VOCAB, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = make_model_config(SHAPE, vocab_size=tokenizer.vocab_size, max_positions=512)
    save_model(Transformer(config, seed=0), folder / "model", tokenizer=folder / "tokenizer")
    known = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size))
    words = [text for text in known if text[:1] == " " and text[1:].isalpha() and len(tokenizer.encode(text + " the")) == 2]
    count = arguments.prompts * (arguments.rounds + 2)
    asked = ["".join(words[(i * 7919 + k * (13 + i % 5)) % len(words)] for k in range(PROMPT_WORDS)) for i in range(count)]
    write_jsonl(folder / "prompts.jsonl", [{"messages": [{"role": "user", "content": text}]} for text in asked])
    (folder / "reward.py").write_text(REWARD)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Starts every side, has them take turns, prints the table."""
    servers, found = {}, {}
    for side in arguments.sides:
        script = [__file__, "--serve"] if side == "ours" else [str(PEER), side]
        counts = [str(value) for name in COUNTS for value in (f"--{name}", vars(arguments)[name.replace("-", "_")])]
        command = [sys.executable, *script, str(folder), *counts]
        servers[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ask(servers[side])  # up to the end of the first step, which begins nowhere in particular
        found[side] = [ask(servers[side])]
    for i in range(arguments.rounds):
        for side in arguments.sides if i % 2 else arguments.sides[::-1]:
            found[side].append(ask(servers[side]))
    for server in servers.values():
        server.communicate()
    seconds = {side: [answer["seconds"] for answer in answers[1:]] for side, answers in found.items()}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    speeds = {side: statistics.median(a["tokens"] / a["seconds"] for a in answers[1:]) for side, answers in found.items()}
    size = count_params(make_model_config(SHAPE, vocab_size=VOCAB, max_positions=512)) / 1e6
    asked = f"{arguments.prompts} prompts x {arguments.samples} answers of {arguments.max_tokens} tokens"
    print(f"{size:.1f} M parameters, {asked}, {arguments.threads} threads")
    pairs = {side: itertools.pairwise(answers) for side, answers in found.items()}
    cpu = {side: statistics.median(b["tokens"] / (b["cpu_seconds"] - a["cpu_seconds"]) for a, b in pairs[side]) for side in found}
    print("| side | s a step, median | best | answer tokens/s | ours is x times | tokens/s of processor time | x times | peak memory, GB |")
    print("|---|---|---|---|---|---|---|---|")
    for side, values in seconds.items():
        memory = found[side][-1]["peak_bytes"] / 1e9
        wall, busy = (f"{by['ours'] / by[side]:.2f}" if "ours" in by else "-" for by in (speeds, cpu))
        times = f"{medians[side]:.3f} | {min(values):.3f} | {speeds[side]:.0f} | {wall} | {cpu[side]:.0f} | {busy}"
        print(f"| {side} | {times} | {memory:.2f} |")


def ask(server: "subprocess.Popen[str]") -> dict[str, float]:
    """One turn of a side."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write("step\n")
    server.stdin.flush()
    answer: dict[str, float] = json.loads(server.stdout.readline())
    return answer


def train_ours(folder: Path, arguments: argparse.Namespace, turns: Turns) -> None:
    """The stage, as a recipe runs it."""

    class Log(MetricsLog):
        def write(self, values: Mapping[str, float | int | str]) -> None:
            super().write(values)
            if "train/loss" in values:
                tokens = float(values["rollout/length"]) * arguments.prompts * arguments.samples
                turns.facts |= {"tokens": tokens, "cpu_seconds": time.process_time()}
                turns.end_step(float(values["train/loss"]))

    config = GrpoConfig(
        rollouts=arguments.rounds + 2, batch_prompts=arguments.prompts, group_size=arguments.samples, max_tokens=arguments.max_tokens,
        rewards=[{"source": "function"}], measure_kl=False, learning_rate=LEARNING_RATE, embedding_learning_rate=LEARNING_RATE,
        held_out_fraction=0.0, precision="bf16", seed=0,
    )  # fmt: skip
    runtime = Runtime(device="cpu", quiet=True, metrics=Log(folder / "metrics.jsonl"))
    grpo(
        config,
        init=folder / "model",
        prompts=[folder / "prompts.jsonl"],
        functions=[folder / "reward.py"],
        out=folder / "out",
        runtime=runtime,
    )


if __name__ == "__main__":
    main()
