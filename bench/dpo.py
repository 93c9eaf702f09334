"""Direct preference optimisation on this machine's CPU beside TRL's DPOTrainer, on the same folder and pairs, in turns.

    GOMP_SPINCOUNT=2000 python bench/dpo.py                      # 10.2 M parameters, about 3 minutes
    python bench/dpo.py --rounds 12 --threads 1 --tokens-of-prompt 64 --tokens-of-answer 192

Three sides, each a process of its own that trains whole, as its users do: our stage `preference` (the reference's figures
computed before the first step and kept), TRL with its reference model in memory (its default), and TRL with
`precompute_ref_log_probs`. They take turns, step by step; a step is all that happens between the end of one and the end of
the next, data, loop and logging included. bf16 for all, AdamW, clipping, no activation checkpointing (TRL's default is
on, which would be slower), 8 pairs a step in the same order, no padding.

Printed: seconds a step by the clock and of processor time (medians; with one thread the latter does not care what else the
machine does), the peak memory of each process, how long the reference took over all pairs, and how many times as fast
ours is: by the step alone, and with the reference's time spread over one epoch. The losses of the first and the last step
stand beside each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peers.turns import Turns

from bloomery.align import reference
from bloomery.core.files import write_jsonl
from bloomery.core.metrics import MetricsLog
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.tokens.loader import rows_of_step
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SHAPE = ModelShape(dim=320, num_layers=6, num_heads=5, num_kv_heads=5, head_dim=64, mlp_dim=896, qk_norm=False, tied_embeddings=False)
PEER = Path(__file__).parent / "peers" / "trl_dpo.py"
VOCAB, BATCH_PAIRS, LEARNING_RATE = 4096, 8, 1e-4
COLUMNS = (
    "side", "s a step", "CPU s a step", "reference of all pairs, CPU s", "peak memory, GB", "ours is x times, by the clock", "by CPU time",
    "with the reference, one epoch", "first loss", "last",
)  # fmt: skip
SIDES = ("ours", "trl", "trl-precomputed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens-of-prompt", type=int, default=64)
    parser.add_argument("--tokens-of-answer", type=int, default=192)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        torch.set_num_threads(arguments.threads)
        os.environ["BLOOMERY_REFERENCE_CACHE"] = str(arguments.serve / "cache")
        return train_ours(arguments.serve, arguments.rounds + 2, Turns())
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments)
        compare(Path(folder), arguments)
    return None


def write_inputs(folder: Path, arguments: argparse.Namespace) -> None:
    """A model, and pairs in the order in which every side will read them, each row of exactly the asked number of tokens."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(os.__file__).parent.glob("*.py"))[:60]]
    write_tokenizer(folder / "tokenizer", train_bpe(texts, vocab_size=VOCAB, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(folder / "tokenizer")
    longest = arguments.tokens_of_prompt + arguments.tokens_of_answer
    config = make_model_config(SHAPE, vocab_size=tokenizer.vocab_size, max_positions=longest)
    save_model(Transformer(config, seed=0), folder / "model", tokenizer=folder / "tokenizer")
    count = BATCH_PAIRS * (arguments.rounds + 2)
    words = single_token_words(tokenizer)

    def write(i: int, num_tokens: int) -> str:
        return "".join(words[(i * 7919 + k * (13 + i % 5)) % len(words)] for k in range(num_tokens))

    # <|bos|><|user|> words <|end|><|assistant|>, and words <|end|>
    sizes = {"prompt": arguments.tokens_of_prompt - 4, "chosen": arguments.tokens_of_answer - 1, "rejected": arguments.tokens_of_answer - 1}
    rows = [{name: write(3 * i + part, size) for part, (name, size) in enumerate(sizes.items())} for i in range(count)]
    write_jsonl(folder / "pairs.jsonl", rows)
    order = [i for step in range(arguments.rounds + 2) for i in rows_of_step(step, num_rows=count, batch_rows=BATCH_PAIRS, seed=0)]
    (folder / "order.json").write_text(json.dumps([int(i) for i in order]))


def single_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words with a space before them that are one token each."""
    texts = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size))
    return [text for text in texts if text[:1] == " " and text[1:].isalpha() and len(tokenizer.encode(text + " the")) == 2]


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Starts every side, has them take turns, prints the table."""
    servers, found = {}, {}
    for side in arguments.sides:
        script = [__file__, "--serve"] if side == "ours" else [str(PEER), side]
        counts = ["--rounds", str(arguments.rounds), "--threads", str(arguments.threads)]
        command = [sys.executable, *script, str(folder), *counts]
        servers[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found[side] = [ask(servers[side])]  # up to the end of the first step, which begins nowhere in particular
        ask(servers[side])
    for i in range(arguments.rounds):
        for side in arguments.sides if i % 2 else arguments.sides[::-1]:
            found[side].append(ask(servers[side]))
    for server in servers.values():
        server.communicate()
    wall, cpu = ({side: [one[name] for one in answers[1:]] for side, answers in found.items()} for name in ("seconds", "cpu_seconds"))
    reference = {side: answers[0].get("reference_cpu_seconds", 0.0) for side, answers in found.items()}
    whole = {side: statistics.median(cpu[side]) + reference[side] / (arguments.rounds + 2) for side in cpu}
    print(f"{count_params(make_model_config(SHAPE, vocab_size=VOCAB, max_positions=256)) / 1e6:.1f} M parameters, ", end="")
    print(f"{2 * BATCH_PAIRS} x {arguments.tokens_of_prompt + arguments.tokens_of_answer} tokens a step, threads: {arguments.threads}")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for side, answers in found.items():
        medians = statistics.median(wall[side]), statistics.median(cpu[side])
        ours = (statistics.median(wall["ours"]), statistics.median(cpu["ours"])) if "ours" in found else (float("nan"),) * 2
        row = [side, *(f"{median:.3f}" for median in medians), f"{reference[side]:.2f}", f"{answers[-1]['peak_bytes'] / 1e9:.2f}"]
        row += [
            *(f"{median / our:.2f}" for median, our in zip(medians, ours, strict=True)),
            f"{whole[side] / whole.get('ours', float('nan')):.2f}",
        ]
        print("| " + " | ".join([*row, *(f"{answers[i]['loss']:.4f}" for i in (0, -1))]) + " |")


def ask(server: "subprocess.Popen[str]") -> dict[str, float]:
    """One turn of a side."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write("step\n")
    server.stdin.flush()
    answer: dict[str, float] = json.loads(server.stdout.readline())
    return answer


def train_ours(folder: Path, num_steps: int, turns: Turns) -> None:
    """The stage, as a recipe runs it."""

    class Log(MetricsLog):
        def write(self, values: Mapping[str, float | int | str]) -> None:
            super().write(values)
            if "train/loss" in values:
                turns.end_step(float(values["train/loss"]))

    compute = reference.reference_logps

    def timed(*arguments: Any, **settings: Any) -> Any:
        with turns.reference():
            return compute(*arguments, **settings)

    reference.reference_logps = timed
    config = PreferenceConfig(
        steps=num_steps, batch_pairs=BATCH_PAIRS, learning_rate=LEARNING_RATE, embedding_learning_rate=LEARNING_RATE,
        held_out_fraction=0.0, precision="bf16", warmup_fraction=0.0, seed=0,
    )  # fmt: skip
    runtime = Runtime(device="cpu", quiet=True, metrics=Log(folder / "metrics.jsonl"))
    preference(config, init=folder / "model", pairs=folder / "pairs.jsonl", out=folder / "out", runtime=runtime)


if __name__ == "__main__":
    main()
