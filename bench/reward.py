"""Training a reward model on this machine's CPU beside TRL's RewardTrainer: one model folder, the same pairs, the same loss.

    python bench/reward.py                                # both settings, one thread, about 4 minutes; needs trl==1.16.0
    python bench/reward.py --settings ragged --rounds 12 --precision fp32

Each side is a process of its own that takes whole training steps (reading the pairs, forward, loss, backward, clipping, AdamW, what its
loop counts and logs), in turns, so that whatever else the machine does meets both. Ours is the stage's own step; theirs is
`RewardTrainer.train()`, stopped by a callback between steps. 8.9 M parameters (Llama: 6 layers of 320, 4,096 tokens of vocabulary, a
head of one row), 8 pairs a step.

- even: every answer has 256 tokens: nothing is padded.
- ragged: 40 to 256 tokens.

Printed: median and best seconds of a step, tokens a second (padding not counted), the peak memory of the whole process, how many
times as fast ours is, and how far the losses of the same step are apart.
"""

import argparse
import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bloomery.align.reward_model import RankedIds, make_rank_batch, split_rankings
from bloomery.core.stage import Launch
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.device import keep_freed_memory
from bloomery.model.heads import replace_head
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.reward_model import RewardModelConfig, reward_objective
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.train.compute import prepare_model
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import MICRO_BATCH_TOKENS, train_step

PAIRS, ROW_TOKENS, LEARNING_RATE, CENTERING = 8, 256, 1e-4, 0.01
SETTINGS = ("even", "ragged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        torch.set_num_threads(arguments.threads)
        serve(arguments.serve[0], arguments.settings[0], Path(arguments.serve[1]), arguments.precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder))
        print(f"{PAIRS} pairs a step, {arguments.precision}, {arguments.threads} threads, in turns\n")
        print("| setting | side | s a step, median (best) | tokens/s | peak memory, MB | loss | ours is x times as fast |")
        print("|---|---|---|---|---|---|---|")
        for setting in arguments.settings:
            compare(setting, Path(folder), arguments)


def compare(setting: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Starts both sides, has them take turns, prints the rows of the table."""
    servers = {}
    for side in ("ours", "trl"):
        command = [sys.executable, __file__, "--serve", side, str(folder), "--settings", setting]
        command += ["--threads", str(arguments.threads), "--precision", arguments.precision]
        read, write = os.pipe()  # what a library prints must not meet the answers
        environment = {**os.environ, "ANSWERS": str(write)}
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, pass_fds=(write,), text=True, env=environment)
        os.close(write)
        servers[side] = (server, os.fdopen(read))
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in servers}
    for i in range(arguments.rounds + 2):
        for side in list(servers) if i % 2 else list(servers)[::-1]:
            answers[side].append(ask(servers[side]))
    for server, _ in servers.values():
        server.stdin.close()
        server.wait()
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(answers["ours"], answers["trl"], strict=True))
    answers = {side: found[2:] for side, found in answers.items()}  # the first two warm up
    median = {side: statistics.median(a["tokens"] / a["seconds"] for a in found) for side, found in answers.items()}
    for side, found in answers.items():
        seconds = [a["seconds"] for a in found]
        ratio = f"{median['ours'] / median['trl']:.2f}" if side == "ours" else ""
        times = f"{statistics.median(seconds):.3f} ({min(seconds):.3f})"
        peak, loss = found[-1]["peak_bytes"] / 1e6, statistics.fmean(a["loss"] for a in found)
        print(f"| {setting} | {side} | {times} | {median[side]:,.0f} | {peak:,.0f} | {loss:.4f} | {ratio} |", flush=True)
    print(f"  losses of the same step differ by at most {apart:.5f}", flush=True)


def ask(server: Any) -> dict[str, float]:
    """One turn of a side."""
    process, answers = server
    process.stdin.write("step\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(answers.readline())
    return answer


def serve(side: str, setting: str, folder: Path, precision: str) -> None:
    """Answers each line with the time, tokens and loss of one step, and the memory the process has needed."""
    with os.fdopen(int(os.environ["ANSWERS"]), "w") as answers:

        def answer(seconds: float, tokens: float, loss: float) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"seconds": seconds, "tokens": tokens, "loss": loss, "peak_bytes": peak}), file=answers, flush=True)

        if side == "trl":
            train_theirs(setting, folder, precision, answer)
            return
        step = our_step(setting, folder, precision)
        for number, _ in enumerate(sys.stdin):
            started = time.perf_counter()
            tokens, loss = step(number)
            answer(time.perf_counter() - started, tokens, loss)


def write_folder(folder: Path) -> None:
    """A tokenizer and a random reward model of Llama's shape, as both sides read them."""
    tokens = train_bpe([Path(__file__).read_text()], vocab_size=4096, pattern="llama3")
    filler = [bytes([255, i // 256, i % 256]) for i in range(4088 - len(tokens))]  # rows of the vocabulary that no text needs
    write_tokenizer(folder, [*tokens, *filler], pattern="llama3")
    shape = ModelShape(dim=320, num_layers=6, head_dim=64, num_heads=5, num_kv_heads=5, mlp_dim=896, qk_norm=False, tied_embeddings=False)
    config = make_model_config(shape, vocab_size=4096, max_positions=512)
    save_model(replace_head(Transformer(config, seed=0), seed=0), folder, tokenizer=folder)


def make_pairs(setting: str) -> list[RankedIds]:
    """Pairs of answers to a prompt of 32 tokens, all of random tokens."""
    rng = random.Random(1)
    found = []
    for _ in range(40 * PAIRS):
        prompt = [rng.randrange(4000) for _ in range(32)]
        lengths = [ROW_TOKENS if setting == "even" else rng.randint(40, ROW_TOKENS) for _ in range(2)]
        found.append(RankedIds([prompt + [rng.randrange(4000) for _ in range(length - 32)] for length in lengths], [1, 2]))
    return found


def our_step(setting: str, folder: Path, precision: Any) -> Callable[[int], tuple[float, float]]:
    """A step as the stage `reward_model` takes it, with AdamW."""
    keep_freed_memory()
    model, device = load_model(folder, head="scalar"), torch.device("cpu")
    prepare_model(model, precision=precision, launch=Launch(), device=device)
    rates = {"learning_rate": LEARNING_RATE, "embedding_learning_rate": LEARNING_RATE}
    state = TrainState(model, make_optimizers(model, name="adamw", **rates, weight_decay=0.0))
    config, pairs = RewardModelConfig(centering=CENTERING), make_pairs(setting)

    def step(number: int) -> tuple[float, float]:
        chosen = pairs[number * PAIRS : (number + 1) * PAIRS]
        parts = split_rankings(chosen, places=MICRO_BATCH_TOKENS[False])
        batches = [make_rank_batch([chosen[i] for i in part], device) for part in parts]
        report = train_step(
            state, batches, lambda model, batch: reward_objective(model, batch, config=config), max_gradient_norm=1.0, spike_sigmas=6.0
        )
        return report.tokens, report.loss

    return step


def train_theirs(setting: str, folder: Path, precision: str, answer: Callable[[float, float, float], None]) -> None:
    """RewardTrainer.train(); it waits for a line before each step."""
    transformers, trl, datasets = (importlib.import_module(name) for name in ("transformers", "trl", "datasets"))
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    args = trl.RewardConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=PAIRS, max_steps=10_000, learning_rate=LEARNING_RATE,
        bf16=precision == "bf16", use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True, lr_scheduler_type="constant", max_grad_norm=1.0, max_length=None, center_rewards_coefficient=CENTERING,
        optim="adamw_torch_fused", adam_beta2=0.95, dataloader_num_workers=0,
    )  # fmt: skip
    seen: list[int] = []

    class Turns(transformers.TrainerCallback):  # type: ignore[misc]  # of an untyped module
        started = 0.0
        lines: Iterator[str] = iter(sys.stdin)

        def wait(self, control: Any) -> None:
            control.should_training_stop = next(self.lines, None) is None
            self.started = time.perf_counter()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.wait(control)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:  # after every step, the last thing that the loop does
                answer(time.perf_counter() - self.started, seen.pop(), float(logs["loss"]))
                self.wait(control)

    class Trainer(trl.RewardTrainer):  # type: ignore[misc]  # of an untyped module
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            seen.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, num_items_in_batch)

    pairs = make_pairs(setting)
    columns = {"chosen_ids": [pair.answers[0] for pair in pairs], "rejected_ids": [pair.answers[1] for pair in pairs]}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    Trainer(model, args=args, train_dataset=datasets.Dataset.from_dict(columns), processing_class=tokenizer, callbacks=[Turns()]).train()


if __name__ == "__main__":
    main()
