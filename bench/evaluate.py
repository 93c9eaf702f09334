"""Evaluation beside lm-eval 0.4.13 with its Hugging Face backend: the same checkpoint, rows and prompts in one process, by turns.

    python bench/evaluate.py --data DIR [--rows 200] [--rounds 2] [--model FOLDER]

HellaSwag and both ARC zero-shot, MMLU with its five examples; DIR holds core/ and mmlu/ as docs/evaluation.md describes
them. Without --model a Llama of random weights is written: times do not depend on what a model knows. Its vocabulary is
that of recipes/speedrun.toml (--vocab-size; the smaller it is, the less lm-eval loses by computing logits everywhere).
Both sides read the same prompts, lm-eval from JSONL files by local YAML, in float32 on the CPU, as many threads as
OMP_NUM_THREADS says. Neither side's start-up and loading of the model is timed; tokenising, scoring and metrics of both
are. lm-eval runs with each batch size of --batch-sizes, and its best time counts.

Prints the time of each task, the ratio, the largest difference of a log-likelihood, and whether all accuracies are equal.
"""

import argparse
import gzip
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bloomery.evaluate.asking import arrange, pairs_of
from bloomery.evaluate.benchmark import Benchmark
from bloomery.evaluate.rows import Rows, read_rows
from bloomery.evaluate.run import run_benchmark
from bloomery.evaluate.tasks.catalog import catalog
from bloomery.generate.engine import Engine
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

SHOTS = {"hellaswag": 0, "arc_easy": 0, "arc_challenge": 0, "mmlu": 5}
YAML = """
task: bench_{name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: " "
num_fewshot: 0
metric_list:
  - {{metric: acc}}
  - {{metric: acc_norm}}
"""


def make_model(folder: Path, data: Path, vocab_size: int) -> Path:
    """A Llama of random weights with 6 M parameters in its layers, and a BPE tokenizer made of the rows of `data`."""
    texts = [gzip.decompress(path.read_bytes()).decode() for path in sorted(data.glob("*/*.jsonl.gz"))]
    write_tokenizer(folder / "tokenizer", train_bpe(texts, vocab_size=vocab_size, pattern="llama3"), pattern="llama3")
    vocab_size = load_tokenizer(folder / "tokenizer").vocab_size
    shape = {"dim": 256, "num_layers": 6, "num_heads": 4, "num_kv_heads": 4, "head_dim": 64, "mlp_dim": 704, "qk_norm": False}
    shape["tied_embeddings"] = True
    model = Transformer(ModelConfig(vocab_size=vocab_size, max_positions=2048, **shape), seed=0)
    save_model(model, folder / "model", tokenizer=folder / "tokenizer")
    return folder / "model"


def first_rows(benchmark: Benchmark, data: Path, num_rows: int) -> Rows:
    """The first rows of a file: of MMLU whole subjects, as a whole evaluation has them."""
    rows = read_rows(benchmark, [data])
    some = rows.examples[:num_rows]
    return Rows(some, some if rows.shots is rows.examples else rows.shots, rows.files)


def write_task(folder: Path, benchmark: Benchmark, rows: Rows, num_shots: int) -> list[int]:
    """The prompts of a task as lm-eval's rows and its YAML; returns the lines in their order."""
    lines = []
    with (folder / f"{benchmark.name}.jsonl").open("w") as file:
        for asked in arrange(benchmark, rows, limit=0, num_shots=num_shots):
            pairs = pairs_of(benchmark, asked)
            row = {"context": pairs[0][0].rstrip(), "choices": [choice for _, choice in pairs], "gold": asked.located.example.gold}
            file.write(json.dumps(row) + "\n")
            lines.append(asked.located.line)
    (folder / f"{benchmark.name}.yaml").write_text(YAML.format(name=benchmark.name, file=folder / f"{benchmark.name}.jsonl"))
    return lines


class Seconds(NamedTuple):
    """By the clock on the wall, and of processor time: the second hardly knows what else the machine does."""

    wall: float
    cpu: float


def clock() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def since(began: Seconds) -> Seconds:
    return Seconds(*(now - then for now, then in zip(clock(), began, strict=True)))


def run_theirs(lm: HFLM, manager: TaskManager, name: str) -> tuple[Seconds, dict[str, float], list[list[float]]]:
    began = clock()
    found = simple_evaluate(
        lm, tasks=[f"bench_{name}"], task_manager=manager, num_fewshot=0, bootstrap_iters=0, log_samples=True, verbosity="ERROR"
    )
    seconds = since(began)
    scores = found["results"][f"bench_{name}"]
    samples = sorted(found["samples"][f"bench_{name}"], key=lambda sample: sample["doc_id"])
    logps = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    return seconds, {"accuracy": scores["acc,none"], "accuracy_per_character": scores["acc_norm,none"]}, logps


def run_ours(engine: Engine, benchmark: Benchmark, rows: Rows, num_shots: int) -> tuple[Seconds, dict[str, float], list[list[float]]]:
    began = clock()
    record = run_benchmark(engine, engine.tokenizer, benchmark, rows, num_shots=num_shots)
    names = ("accuracy", "accuracy_per_character")
    scores = {name: sum(sample["values"][name] for sample in record["samples"]) / record["rows"] for name in names}
    return since(began), scores, [sample["logps"] for sample in record["samples"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-sizes", default="16")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        benchmarks = {name: catalog()[name] for name in SHOTS}
        rows = {name: first_rows(benchmark, options.data, options.rows) for name, benchmark in benchmarks.items()}
        for name, benchmark in benchmarks.items():
            write_task(folder, benchmark, rows[name], SHOTS[name])
        model = options.model or make_model(folder, options.data, options.vocab_size)
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        tokenizer = load_tokenizer(model)
        engine = Engine(load_model(model, device=options.device).eval(), tokenizer)
        peers = {
            size: HFLM(pretrained=str(model), device=options.device, dtype="float32", batch_size=size, add_bos_token=True)
            for size in map(int, options.batch_sizes.split(","))
        }
        compare(engine, benchmarks, rows, peers, manager, options.rounds)


def describe(mine: list[float], peer: list[float], batch: str) -> str:
    return (
        f"{mine[0]:12.2f} ({mine[1]:6.2f}) {peer[0]:13.2f} ({peer[1]:6.2f}) {batch:>6} {peer[0] / mine[0]:6.2f} ({peer[1] / mine[1]:5.2f})"
    )


def compare(engine: Engine, benchmarks: dict, rows: dict, peers: dict, manager: TaskManager, rounds: int) -> None:
    ours, theirs = {name: [] for name in SHOTS}, {(name, size): [] for name in SHOTS for size in peers}
    farthest, equal = 0.0, True
    for _ in range(rounds):
        for name, benchmark in benchmarks.items():
            seconds, scores, logps = run_ours(engine, benchmark, rows[name], SHOTS[name])
            ours[name].append(seconds)
            for size, lm in peers.items():
                their_seconds, their_scores, their_logps = run_theirs(lm, manager, name)
                theirs[name, size].append(their_seconds)
                pairs = [(a, b) for one, two in zip(logps, their_logps, strict=True) for a, b in zip(one, two, strict=True)]
                farthest = max([farthest, *(abs(a - b) for a, b in pairs)])
                equal &= all(abs(scores[key] - their_scores[key]) < 1e-9 for key in scores)
    size = sum(p.numel() for p in engine.model.parameters()) / 1e6
    print(f"threads {torch.get_num_threads()}, {size:.1f} M parameters, fastest of {rounds}")
    print(f"{'task':14} shots  rows     bloomery s (cpu)      lm-eval s (cpu)  batch  ratio  (cpu)")
    totals = [[0.0, 0.0], [0.0, 0.0]]
    for name in SHOTS:
        best = min(peers, key=lambda size: min(theirs[name, size]))
        mine, peer = ([min(run[k] for run in runs) for k in (0, 1)] for runs in (ours[name], theirs[name, best]))
        totals = [[x + y for x, y in zip(total, more, strict=True)] for total, more in zip(totals, (mine, peer), strict=True)]
        print(f"{name:14} {SHOTS[name]:5} {len(rows[name].examples):5} {describe(mine, peer, str(best))}")
    print(f"{'all':14} {'':5} {'':5} {describe(*totals, '')}")
    print(f"largest difference of a log-likelihood: {farthest:.2e}; accuracies equal: {equal}")


if __name__ == "__main__":
    main()
