"""Supervised fine-tuning on this machine's CPU beside TRL's SFTTrainer: one model folder, the same rows, bf16, the same loss.

    python bench/sft.py                                   # both settings, two threads, about 5 minutes; needs trl==1.16.0
    python bench/sft.py --settings conversations --rounds 12

Each side is a process of its own that takes whole training steps (reading the rows, forward, loss, backward, clipping, AdamW,
what its loop counts and logs), in turns, so that whatever else the machine does meets both. Ours is the stage's own step; theirs is
`SFTTrainer.train()`, stopped by a callback between steps. 10.2 M parameters (Llama: 6 layers of 320, 4,096 tokens of vocabulary).

- rows: 8 rows of 256 tokens, every token trained. Nothing to pack: the losses of each step are compared.
- conversations: questions and short answers, packed into 8 rows of 256 by each side, trained on the answers only.

Printed: median and best seconds of a step, trained and all tokens a second, the peak memory of the whole process, and how many times as
fast ours is (of all tokens a second, because rows are not filled alike).
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

import numpy as np
import torch

from bloomery.core.stage import Launch
from bloomery.curate.skills import WORDS
from bloomery.model.config import ModelShape, count_params, make_model_config
from bloomery.model.device import keep_freed_memory
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages.sft import response_objective
from bloomery.tokens.chat import Rendered, render
from bloomery.tokens.loader import conversation_rows, make_batch, rows_of_step
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer
from bloomery.train.compute import prepare_model
from bloomery.train.optimizer import make_optimizers
from bloomery.train.state import TrainState
from bloomery.train.step import num_micro_batches, train_step

ROWS, ROW_TOKENS, LEARNING_RATE = 8, 256, 1e-3
SETTINGS = ("rows", "conversations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        torch.set_num_threads(arguments.threads)
        serve(arguments.serve[0], arguments.settings[0], Path(arguments.serve[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        params = write_folder(Path(folder))
        print(f"{params / 1e6:.1f} M parameters, {ROWS} rows of {ROW_TOKENS} tokens, bf16, {arguments.threads} threads, in turns\n")
        print("| setting | side | s a step, median (best) | tokens/s | trained | peak memory, MB | loss | ours is x times as fast |")
        print("|---|---|---|---|---|---|---|---|")
        for setting in arguments.settings:
            compare(setting, Path(folder), arguments)


def compare(setting: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Starts both sides, has them take turns, prints the rows of the table."""
    servers = {}
    for side in ("ours", "trl"):
        command = [sys.executable, __file__, "--serve", side, str(folder), "--settings", setting, "--threads", str(arguments.threads)]
        # What a library prints to its standard output must not meet the answers: these go through a pipe of their own.
        read, write = os.pipe()
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=sys.stderr, pass_fds=(write,), text=True, env={**os.environ, "ANSWERS": str(write)}
        )
        os.close(write)
        servers[side] = (server, os.fdopen(read))
        for _ in range(2):
            ask(servers[side])
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in servers}
    for i in range(arguments.rounds):
        for side in list(servers) if i % 2 else list(servers)[::-1]:
            answers[side].append(ask(servers[side]))
    for server, _ in servers.values():
        server.stdin.close()
        server.wait()
    speed = {side: sum(a["tokens"] for a in found) / sum(a["seconds"] for a in found) for side, found in answers.items()}
    median = {side: statistics.median(a["tokens"] / a["seconds"] for a in found) for side, found in answers.items()}
    for side, found in answers.items():
        seconds = [a["seconds"] for a in found]
        trained = sum(a["trained"] for a in found) / sum(a["tokens"] for a in found)
        loss = statistics.fmean(a["loss"] for a in found)
        ratio = f"{median['ours'] / median['trl']:.2f} (of sums {speed['ours'] / speed['trl']:.2f})" if side == "ours" else ""
        times = f"{statistics.median(seconds):.3f} ({min(seconds):.3f})"
        row = [
            setting,
            side,
            times,
            f"{median[side]:,.0f}",
            f"{trained:.0%}",
            f"{found[-1]['peak_bytes'] / 1e6:,.0f}",
            f"{loss:.5f}",
            ratio,
        ]
        print("| " + " | ".join(row) + " |", flush=True)
    if setting == "rows":
        apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(answers["ours"], answers["trl"], strict=True))
        print(f"  losses of the same step differ by at most {apart:.5f}")


def ask(server: Any) -> dict[str, float]:
    """One turn of a side."""
    process, answers = server
    process.stdin.write("step\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(answers.readline())
    return answer


def serve(side: str, setting: str, folder: Path) -> None:
    """Answers each line with the time, tokens and loss of one step, and the memory the process has needed."""
    with os.fdopen(int(os.environ["ANSWERS"]), "w") as answers:

        def answer(seconds: float, tokens: float, trained: float, loss: float) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(
                json.dumps({"seconds": seconds, "tokens": tokens, "trained": trained, "loss": loss, "peak_bytes": peak}),
                file=answers,
                flush=True,
            )

        if side == "ours":
            step = our_step(setting, folder)
            for number, _ in enumerate(sys.stdin):
                started = time.perf_counter()
                tokens, trained, loss = step(number)
                answer(time.perf_counter() - started, tokens, trained, loss)
        else:
            train_theirs(setting, folder, answer)


def write_folder(folder: Path) -> int:
    """A tokenizer and a random model of Llama's shape, as both sides read them. Returns its parameters."""
    texts = [" ".join(random.Random(i).choices(WORDS, k=60)) for i in range(200)]
    tokens = train_bpe([*texts, Path(__file__).read_text()], vocab_size=4096, pattern="llama3")
    filler = [bytes([255, i // 256, i % 256]) for i in range(4088 - len(tokens))]  # rows of the vocabulary that no text needs
    write_tokenizer(folder, [*tokens, *filler], pattern="llama3")
    shape = ModelShape(dim=320, num_layers=6, head_dim=64, num_heads=5, num_kv_heads=5, mlp_dim=896, qk_norm=False, tied_embeddings=False)
    config = make_model_config(shape, vocab_size=4096, max_positions=512)
    save_model(Transformer(config, seed=0), folder, tokenizer=folder)
    return count_params(config)


def make_conversations(setting: str, folder: Path) -> list[Rendered]:
    """The data: whole rows, or conversations of 30 to 200 tokens."""
    rng = random.Random(1)
    tokenizer = load_tokenizer(folder)
    if setting == "rows":
        return [Rendered([rng.randrange(4000) for _ in range(ROW_TOKENS)], [True] * ROW_TOKENS) for _ in range(40 * ROWS)]
    talks = []
    for _ in range(1600):
        question, answer = (" ".join(rng.choices(WORDS, k=rng.randint(low, high))) for low, high in ((15, 120), (5, 60)))
        talks.append(render(tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]))
    return [Rendered(t.ids[:ROW_TOKENS], t.loss_mask[:ROW_TOKENS]) for t in talks]


def our_step(setting: str, folder: Path) -> Callable[[int], tuple[float, float, float]]:
    """A step as the stage `sft` takes it, with AdamW."""
    keep_freed_memory()
    model, device, launch = load_model(folder), torch.device("cpu"), Launch()
    launch = prepare_model(model, precision="bf16", launch=launch, device=device)
    rates = {"learning_rate": LEARNING_RATE, "embedding_learning_rate": LEARNING_RATE}
    state = TrainState(model, make_optimizers(model, name="adamw", **rates, weight_decay=0.0))
    source = conversation_rows(make_conversations(setting, folder), row_tokens=ROW_TOKENS)
    num_rows = source.packed.num_rows
    row_of_document = np.argsort(source.packed.document)

    def step(number: int) -> tuple[float, float, float]:
        if setting == "rows":  # in the order in which they are, as the other side reads them
            rows = row_of_document[number * ROWS : (number + 1) * ROWS]
        else:
            rows = rows_of_step(number, num_rows=num_rows, batch_rows=ROWS, seed=0)
        batch = make_batch(source, rows)
        parts = [part.to(device) for part in batch.split(num_micro_batches(ROWS, ROW_TOKENS, device, launch))]
        report = train_step(state, parts, response_objective, max_gradient_norm=1.0, spike_sigmas=6.0)
        return report.tokens, float(batch.weight_BT.sum()), report.loss

    return step


def train_theirs(setting: str, folder: Path, answer: Callable[[float, float, float, float], None]) -> None:
    """SFTTrainer.train(); it waits for a line before each step."""
    transformers, trl, datasets = (importlib.import_module(name) for name in ("transformers", "trl", "datasets"))
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = make_conversations(setting, folder)
    columns = {"input_ids": [r.ids for r in rows]}
    if setting == "conversations":
        columns["completion_mask"] = [[int(m) for m in r.loss_mask] for r in rows]
    args = trl.SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=ROWS, max_steps=10_000, learning_rate=LEARNING_RATE, bf16=True,
        use_cpu=True, gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        lr_scheduler_type="constant", max_grad_norm=1.0, max_length=ROW_TOKENS, packing=setting == "conversations",
        optim="adamw_torch_fused",
        adam_beta2=0.95, dataloader_num_workers=0, shuffle_dataset=False,
        completion_only_loss=setting == "conversations",
    )  # fmt: skip
    batches: list[dict[str, Any]] = []

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
                seconds = time.perf_counter() - self.started
                seen = batches.pop(0)
                batches.clear()
                answer(seconds, seen["tokens"], seen["trained"], logs["loss"])
                self.wait(control)

    class Trainer(trl.SFTTrainer):  # type: ignore[misc]  # of an untyped module
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            if setting == "rows":
                return torch.utils.data.SequentialSampler(self.train_dataset)
            return super()._get_train_sampler(*args, **kwargs)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            labels = inputs["labels"]
            batches.append({"tokens": int(labels.numel()), "trained": int((labels != -100).sum())})
            return super().training_step(model, inputs, num_items_in_batch)

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dataset = datasets.Dataset.from_dict(columns)
    Trainer(model, args=args, train_dataset=dataset, processing_class=tokenizer, callbacks=[Turns()]).train()


if __name__ == "__main__":
    main()
