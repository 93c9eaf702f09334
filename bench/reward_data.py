"""Reward models from real preferences: how often a small one agrees with people, by the number of pairs, and how honest its odds are.

    python bench/reward_data.py --data shared/data/preference                      # all sets, about 10 minutes of one core
    python bench/reward_data.py --data shared/data/preference --sets polarity --work runs/rewards

For each set a tenth of the prompts is held out (of sentence polarity, whose prompt is always the same, a tenth of the pairs). A language
model of 1.1 M parameters is trained on all answers, without a word on which are better, and from it reward models on 100, 500 ... pairs.

Printed, on the held-out pairs, with 95 % intervals: accuracy by number of pairs, calibration error, accuracy in the quarter of pairs
with the largest and the smallest difference of rewards, and how often simply the longer answer is the better one. The
model of hh-rlhf is asked about LLMBar, too, whose pairs are about following instructions.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from bloomery.align.preference_rows import read_pairs
from bloomery.align.score_file import score_files
from bloomery.core.files import read_json, write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.reward_model import RewardModelConfig, reward_model
from bloomery.stages.sft import SftConfig, sft
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SETS = {"polarity": "sentence_polarity", "gsm8k": "gsm8k_solution_pairs", "hh-rlhf": "hh_rlhf_harmless_base_test"}
COUNTS = (100, 500, 1000)
EVALUATED = ("llmbar_natural", "llmbar_neighbor", "llmbar_gptinst")
MAX_POSITIONS = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with the files")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--work", type=Path, help="keep what is made in this folder, and find it there the next time")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.sets:
            measure(name, arguments, (arguments.work or Path(temporary)) / name)


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> None:
    """One set, as a table."""
    file = arguments.data / f"{SETS[name]}.jsonl.gz"
    rows = list(read_pairs(file))
    longer = sum(len(row.chosen[-1]["content"]) > len(row.rejected[-1]["content"]) for row in rows) / len(rows)
    make_language_model(file, folder)
    started = time.perf_counter()
    config = RewardModelConfig(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate, embedding_learning_rate=arguments.learning_rate,
        batch_prompts=32, held_out_fraction=0.1, accuracy_at_pairs=COUNTS, num_validations=2,
    )  # fmt: skip
    out = folder / f"reward-{arguments.learning_rate:g}-{arguments.epochs:g}"
    reward_model(config, init=folder / "sft", pairs=[file], out=out, runtime=Runtime(device="cpu", quiet=True))
    training = read_json(out / "training.json")
    held_out, scaling = training["held_out"], training["scaling"]
    print(
        f"\n{name}: {training['pairs']} pairs, {held_out['pairs']} held out, {training['too_long']} longer than {MAX_POSITIONS} tokens, ",
        end="",
    )
    print(f"{time.perf_counter() - started:.0f} s; the longer answer is the better one in {100 * longer:.1f} %")
    print("| pairs | accuracy |\n|---|---|")
    by_pairs = sorted(training["accuracy_by_pairs"].values(), key=lambda row: row["pairs"])
    for row in [*by_pairs, {**held_out, "pairs": training["pairs"]}]:
        print(f"| {row['pairs']} | {interval(row)} |")
    print(f"calibration error {held_out['calibration_error']:.3f}, log loss {held_out['log_loss']:.3f} (a coin: 0.693); ", end="")
    print(", ".join(f"{100 * row['accuracy']:.1f} % at {row['from']:.2f} to {row['to']:.2f}" for row in held_out["by_margin"]))
    print(
        f"before scaling: mean {scaling['mean']:+.3f}, deviation {scaling['deviation']:.3f}, shift error {scaling['shift_error']:.4f}",
        flush=True,
    )
    for other in EVALUATED if name == "hh-rlhf" else ():
        fitting = folder / f"{other}.jsonl"
        keep_short(arguments.data / f"{other}.jsonl.gz", fitting)
        print(f"{other}: {interval(score_files(out, [fitting], device='cpu').summary)}", flush=True)


def make_language_model(file: Path, folder: Path) -> None:
    """A tokenizer of the set's texts and a model trained on all its answers that are not held out."""
    if (folder / "sft" / "training.json").is_file():
        return
    train = list(read_pairs(file))
    texts = [message["content"] for row in train for message in [*row.prompt, *row.chosen, *row.rejected]]
    write_jsonl(
        folder / "conversations.jsonl.gz", [{"messages": [*row.prompt, *said]} for row in train for said in (row.chosen, row.rejected)]
    )
    write_tokenizer(folder / "tokenizer", train_bpe(texts, vocab_size=2048, pattern="llama3"), pattern="llama3")
    shape = ModelShape(dim=128, num_layers=4, head_dim=32)
    config = make_model_config(shape, vocab_size=load_tokenizer(folder / "tokenizer").vocab_size, max_positions=MAX_POSITIONS)
    save_model(Transformer(config), folder / "base", tokenizer=folder / "tokenizer")
    settings = SftConfig(epochs=3, sequence_tokens=MAX_POSITIONS, batch_tokens=8 * MAX_POSITIONS, num_samples=0, num_validations=1)
    runtime = Runtime(device="cpu", quiet=True)
    sft(settings, init=folder / "base", conversations=[folder / "conversations.jsonl.gz"], out=folder / "sft", runtime=runtime)


def keep_short(file: Path, out: Path) -> None:
    """The pairs whose texts surely fit into the model."""
    kept = [
        row for row in read_pairs(file) if sum(len(m["content"]) for m in [*row.prompt, *row.chosen, *row.rejected]) < 2 * MAX_POSITIONS
    ]
    write_jsonl(out, [{"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in kept])


def interval(row: dict) -> str:
    """An accuracy in percent with its 95 % interval."""
    return f"{100 * row['accuracy']:.1f} % [{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]"


if __name__ == "__main__":
    main()
