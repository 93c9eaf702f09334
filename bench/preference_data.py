"""Preferences of real data sets, learnt without a reward model by a small model, measured on pairs it has not seen.

    python bench/preference_data.py --data shared/data/preference                       # all sets and losses, about 20 minutes of one core
    python bench/preference_data.py --data shared/data/preference --sets polarity --losses sigmoid kto

For each set: a tenth of the prompts is held out (of sentence polarity, whose prompt is always the same, a tenth of the pairs).
A model of 1.1 M parameters is trained on all answers of the rest, good and bad (so that it knows how such answers are
written, not which are better), and is the reference. Then each loss trains one pass over the pairs from there.

Printed, on the held-out pairs, with 95 % intervals: how often the model has moved towards the better answer (log pi - log ref of the chosen
above that of the rejected), how often the better answer is the likelier a token (before and after), the log-ratios in nats
an answer, and what three rules that read nothing would score: the longer answer, the shorter one, the likelier one of the reference.
"""

import argparse
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bloomery.align.preference_data import RenderedPair, render_pairs
from bloomery.align.preference_formats import PairRow
from bloomery.align.preference_rows import as_columns, read_pairs
from bloomery.align.reference import reference_logps
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.preference import PreferenceConfig, preference
from bloomery.stages.sft import SftConfig, sft
from bloomery.tokens.renderer import load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SETS = {"hh-rlhf": "hh_rlhf_harmless_base_test", "gsm8k": "gsm8k_solution_pairs", "polarity": "sentence_polarity"}
LOSSES = {"sigmoid": 0.1, "kto": 0.1, "simpo": 2.0, "orpo": 0.5}
MAX_POSITIONS = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with the files")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--losses", nargs="*", default=["sigmoid", "kto"], choices=LOSSES)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--work", type=Path, help="keep what is made in this folder, and find it there the next time")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.sets:
            compare(name, arguments, (arguments.work or Path(temporary)) / name)


def compare(name: str, arguments: argparse.Namespace, folder: Path) -> None:
    """One set, as a table."""
    rows = list(read_pairs(arguments.data / f"{SETS[name]}.jsonl.gz"))
    held_out = [row for row in rows if is_held_out(row, by_prompt=name != "polarity")]
    train = [row for row in rows if row not in held_out]
    started = time.perf_counter()
    make_reference(train, folder)
    tokenizer = load_tokenizer(folder / "sft")
    pairs = render_pairs(held_out, load_renderer(folder / "sft", tokenizer), max_tokens=MAX_POSITIONS, held_out_fraction=0.0).train
    length_N2 = np.array([[sum(answer.loss_mask) for answer in pair.answers] for pair in pairs])
    reference_N2 = logps(folder / "sft", pairs)
    sft_seconds = time.perf_counter() - started
    too_long = f"{len(held_out) - len(pairs)} longer than {MAX_POSITIONS} tokens"
    print(f"\n{name}: {len(train)} pairs to learn from, {len(pairs)} held out ({too_long}); reference made in {sft_seconds:.0f} s")
    shorter = np.mean(length_N2[:, 0] < length_N2[:, 1]) + np.mean(length_N2[:, 0] == length_N2[:, 1]) / 2
    print(f"rules: the longer one {share(1 - shorter, len(pairs))}, the shorter one {share(shorter, len(pairs))}, ", end="")
    print(f"the likelier one {share(np.mean(reference_N2[:, 0] > reference_N2[:, 1]), len(pairs))}, ", end="")
    likelier = reference_N2 / length_N2
    print(f"the likelier one a token {share(np.mean(likelier[:, 0] > likelier[:, 1]), len(pairs))}")
    print("| loss | moved towards the better one | better one likelier a token, before | after | log-ratio of chosen | of rejected | s |")
    print("|---|---|---|---|---|---|---|")
    for loss in arguments.losses:
        started, out = time.perf_counter(), folder / f"{loss}-{arguments.learning_rate:g}-{arguments.epochs:g}"
        config = PreferenceConfig(
            loss=loss, beta=LOSSES[loss], epochs=arguments.epochs, batch_pairs=32, learning_rate=arguments.learning_rate,
            embedding_learning_rate=arguments.learning_rate, held_out_fraction=0.0, num_samples=0,
        )  # fmt: skip
        preference(config, init=folder / "sft", pairs=folder / "pairs.jsonl.gz", out=out, runtime=Runtime(device="cpu", quiet=True))
        seconds, policy_N2 = time.perf_counter() - started, logps(out, pairs)
        ratio_N2, mean_N2 = policy_N2 - reference_N2, policy_N2 / length_N2
        cells = [np.mean(ratio_N2[:, 0] > ratio_N2[:, 1]), np.mean(likelier[:, 0] > likelier[:, 1]), np.mean(mean_N2[:, 0] > mean_N2[:, 1])]
        numbers = [*(share(cell, len(pairs)) for cell in cells), *(f"{value:+.2f}" for value in ratio_N2.mean(0)), f"{seconds:.0f}"]
        print("| " + " | ".join([loss, *numbers]) + " |", flush=True)


def make_reference(train: list[PairRow], folder: Path) -> None:
    """A tokenizer of the set's texts and a model trained on all its answers; pairs.jsonl.gz beside them."""
    if (folder / "sft" / "training.json").is_file():
        return
    write_jsonl(folder / "pairs.jsonl.gz", (as_columns(row) for row in train))
    conversations = [{"messages": [*row.prompt, *answer]} for row in train for answer in (row.chosen, row.rejected)]
    write_jsonl(folder / "conversations.jsonl.gz", conversations)
    write_tokenizer(folder / "tokenizer", train_bpe(texts_of(train), vocab_size=2048, pattern="llama3"), pattern="llama3")
    vocab_size = load_tokenizer(folder / "tokenizer").vocab_size
    config = make_model_config(ModelShape(dim=128, num_layers=4, head_dim=32), vocab_size=vocab_size, max_positions=MAX_POSITIONS)
    save_model(Transformer(config), folder / "base", tokenizer=folder / "tokenizer")
    settings = SftConfig(epochs=3, sequence_tokens=MAX_POSITIONS, batch_tokens=8 * MAX_POSITIONS, num_samples=0, num_validations=1)
    runtime = Runtime(device="cpu", quiet=True)
    sft(settings, init=folder / "base", conversations=[folder / "conversations.jsonl.gz"], out=folder / "sft", runtime=runtime)


def texts_of(rows: list[PairRow]) -> Iterator[str]:
    for row in rows:
        yield from (message["content"] for message in [*row.prompt, *row.chosen, *row.rejected])


def is_held_out(row: PairRow, *, by_prompt: bool) -> bool:
    """A tenth of all, by a hash."""
    text = json.dumps(row.prompt if by_prompt else row)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") < 0.1 * 2**64


def logps(checkpoint: Path, pairs: list[RenderedPair]) -> np.ndarray:
    return reference_logps(load_model(checkpoint), [answer for pair in pairs for answer in pair.answers]).reshape(-1, 2)


def share(value: float, count: int) -> str:
    """A share in percent with its 95 % interval (Wald's, of so many pairs)."""
    return f"{100 * value:.1f} ± {196 * math.sqrt(value * (1 - value) / count):.1f} %"


if __name__ == "__main__":
    main()
