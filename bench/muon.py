"""Muon (matrices) with AdamW (the rest) against AdamW alone: same model, same tokens in the same order, several seeds.

Both get a sweep of learning rates on the first seed, and the best rate of each is run on the others. Prints bits a byte of
held-out documents over tokens, and after how many tokens Muon is where AdamW ends; draws the curves with 95 % intervals
(Student's t over seeds).

    python bench/muon.py --text stories.jsonl.gz --work /tmp/muon --plot docs/images/muon.svg

0.6 M parameters, 0.4 M tokens a run, 11 runs: about 10 minutes of one core. What is finished in --work is not run again.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bloomery.core.files import read_json, read_jsonl
from bloomery.core.plots import PALETTE, STYLE
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape
from bloomery.stages.pretrain import PretrainConfig, pretrain
from bloomery.tokens.shards import write_manifest, write_shard
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

RATES = {"adamw": (0.002, 0.004, 0.008, 0.016), "muon": (0.005, 0.01, 0.02)}
STUDENT_T = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % points by number of seeds."""

Curve = list[tuple[float, float]]


def main() -> None:
    options = read_options()
    prepare(options.text, options.work)
    curves: dict[str, list[Curve]] = {}
    for optimizer, rates in RATES.items():
        swept = {rate: train(options, optimizer, rate, seed=0) for rate in rates}
        for rate, curve in swept.items():
            print(f"{optimizer} at {rate:g}, seed 0: {curve[-1][1]:.4f} bits a byte", flush=True)
        best = min(swept, key=lambda rate: swept[rate][-1][1])
        curves[optimizer] = [swept[best], *(train(options, optimizer, best, seed=seed) for seed in range(1, options.seeds))]
        last = [curve[-1][1] for curve in curves[optimizer]]
        low, mean, high = interval(last)
        print(f"{optimizer} at {best:g}, {options.seeds} seeds: {mean:.4f} [{low:.4f}, {high:.4f}] bits a byte", flush=True)
    ends = statistics.fmean(curve[-1][1] for curve in curves["adamw"])
    reached = [tokens_to(curve, ends) for curve in curves["muon"]]
    share = statistics.fmean(reached) / curves["adamw"][0][-1][0]
    print(f"Muon is where AdamW ends after {', '.join(f'{tokens:,.0f}' for tokens in reached)} tokens: {100 * share:.0f} % of AdamW's")
    if options.plot:
        draw(curves, options.plot)


def train(options: argparse.Namespace, optimizer: str, rate: float, *, seed: int) -> Curve:
    """(tokens, bits a byte) at each validation of one run."""
    out = options.work / f"{optimizer}-{rate:g}-{seed}"
    config = PretrainConfig(
        model=ModelShape(depth=options.depth),
        tokens=options.tokens,
        batch_tokens=4096,
        num_validations=8,
        validation_tokens=16_384,
        num_samples=0,
        optimizer=optimizer,
        learning_rate=rate,
        embedding_learning_rate=rate if optimizer == "adamw" else 0.01,
        seed=seed,
    )
    pretrain(config, tokens=options.work / "tokens", tokenizer=options.work / "tokenizer", out=out, runtime=Runtime(quiet=True))
    return [(tokens, bits) for _, tokens, bits in read_json(out / "training.json")["curve"]]


def prepare(path: Path, work: Path) -> None:
    """A tokenizer of 2,048 entries and token shards of the documents, every twentieth held out."""
    if (work / "tokens" / "manifest.json").is_file():
        return
    texts = [row["text"] for row in read_jsonl(path)]
    write_tokenizer(work / "tokenizer", train_bpe(texts, vocab_size=2048, pattern="llama3"), pattern="llama3")
    tokenizer = load_tokenizer(work / "tokenizer")
    parts = {"train": [text for i, text in enumerate(texts) if i % 20], "validation": texts[::20]}
    for split, kept in parts.items():
        (work / "tokens" / split).mkdir(parents=True, exist_ok=True)
        ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.end_id] for text in kept]
        write_shard(work / "tokens" / split / "00000", ids, vocab_size=tokenizer.vocab_size)
        print(f"{split}: {len(kept):,} documents, {sum(map(len, ids)):,} tokens", flush=True)
    sizes = {split: [sum(len(text.encode()) for text in kept)] for split, kept in parts.items()}
    write_manifest(work / "tokens", tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, text_bytes=sizes)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Low, mean and high of the mean's 95 % interval."""
    mean = statistics.fmean(values)
    half = STUDENT_T[len(values)] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean - half, mean, mean + half


def tokens_to(curve: Curve, goal: float) -> float:
    """Tokens after which a curve is at `goal`, in a straight line between validations; infinity if it never is."""
    for (tokens_a, bits_a), (tokens_b, bits_b) in itertools.pairwise(curve):
        if bits_b <= goal:
            return tokens_a + (tokens_b - tokens_a) * (bits_a - goal) / (bits_a - bits_b)
    return float("inf")


def draw(curves: dict[str, list[Curve]], path: Path) -> None:
    """Mean and interval of each optimizer over tokens."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        names = {"adamw": "AdamW", "muon": "Muon, and AdamW for embeddings and norms"}
        for color, (optimizer, runs) in zip(PALETTE[1::-1], curves.items(), strict=True):
            tokens = [tokens / 1e6 for tokens, _ in runs[0]][1:]
            low, mean, high = zip(*(interval([run[i][1] for run in runs]) for i in range(1, len(runs[0]))), strict=True)
            axes.fill_between(tokens, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(tokens, mean, color=color, linewidth=1.6, label=names[optimizer])
        axes.set_xlabel("million tokens")
        axes.set_ylabel("bits per byte, held-out documents")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="JSONL with a column `text`, plain, .gz or .zst")
    parser.add_argument("--work", type=Path, required=True, help="a folder for tokens and finished runs")
    parser.add_argument("--plot", type=Path, help="where to draw the curves (.svg, .png)")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
