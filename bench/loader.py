"""The loader: its share of a training step, a plan of ten billion tokens, and a thousand sources mixed exactly.

    python bench/loader.py step [--tokens N] [--batch-tokens N] [--step-seconds S]
    python bench/loader.py ten-billion [--folder DIR]        # 20 GB of token files on disk, sparse: they take no room
    python bench/loader.py thousand

`step` times batches, forward and backward (eager, bf16) of a model of 13.8 M parameters beside them, and prints the share; with
--step-seconds the share of a step of that length (say, one measured on a GPU). The peer is what most small trainers
do: draw random offsets from one flat array of ids and stack the slices (nanoGPT's get_batch), which packs nothing.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bloomery.core.files import sha256_file, write_json
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.loader import make_mixed_batch, open_rows, token_rows
from bloomery.tokens.packing import MAX_PADDING
from bloomery.tokens.packing_index import open_verified
from bloomery.tokens.plan import Phase, make_plan
from bloomery.tokens.shards import open_tokens, write_manifest, write_shard

VOCAB = 32_768
TOKENIZER = "0" * 64


def draw_lengths(count: int, *, seed: int) -> np.ndarray:
    """Lengths as web pages have them: log-normal, median 450 tokens, mean about 900."""
    return np.random.default_rng(seed).lognormal(6.1, 1.18, count).astype(np.int64) + 2


def write_tokens(folder: Path, num_documents: int, *, seed: int) -> Path:
    """A tokens artifact of random ids."""
    rng = np.random.default_rng(seed)
    documents = [rng.integers(0, VOCAB, n).astype(np.uint16) for n in draw_lengths(num_documents, seed=seed)]
    write_shard(folder / "train" / "00000", documents, vocab_size=VOCAB)
    write_manifest(folder, tokenizer_sha256=TOKENIZER, vocab_size=VOCAB, text_bytes={"train": [0], "validation": []})
    return folder


def step(arguments: argparse.Namespace) -> None:
    """CPU seconds of loading a batch, and of training a step (over its threads: what it takes of the clock at least), interleaved."""
    with tempfile.TemporaryDirectory() as name:
        folders = [write_tokens(Path(name) / str(i), 4000, seed=i) for i in range(4)]
        sources = [token_rows(open_tokens(f, split="train"), row_tokens=arguments.tokens, max_padding=MAX_PADDING) for f in folders]
        rows = arguments.batch_tokens // arguments.tokens
        phases = [Phase(num_steps=1000, batch_rows=rows, row_tokens=arguments.tokens, weights=[4, 3, 2, 1])]
        plan = make_plan(phases, {arguments.tokens: [s.packed.num_rows for s in sources]}, seed=0)
        flat = np.concatenate([s.tokens.document(i) for s in sources for i in range(s.tokens.num_documents)])
        sizes = {"num_heads": 6, "num_kv_heads": 6, "head_dim": 64, "mlp_dim": 1024, "max_positions": arguments.tokens}
        model = Transformer(ModelConfig(vocab_size=8192, dim=384, num_layers=6, **sizes))
        model.compute_dtype = torch.bfloat16
        times: dict[str, list[float]] = {"ours": [], "random slices": [], "step": []}
        for k in range(arguments.rounds):
            started = time.process_time()
            draw = plan.draw(k)
            batch = make_mixed_batch(sources, draw.source, draw.row)
            times["ours"].append(time.process_time() - started)
            started = time.process_time()
            offsets = torch.randint(len(flat) - arguments.tokens - 1, (rows,))
            for shift in (0, 1):
                torch.stack([torch.from_numpy(flat[o + shift : o + shift + arguments.tokens].astype(np.int64)) for o in offsets.tolist()])
            times["random slices"].append(time.process_time() - started)
            if not arguments.step_seconds:
                started = time.process_time()
                for part in batch.split(max(1, arguments.batch_tokens // 8192)):
                    part.token_BT.clamp_(max=8191), part.target_BT.clamp_(max=8191)
                    next_token_objective(model, part, z_loss=0.0).loss_sum.backward()
                times["step"].append((time.process_time() - started) / torch.get_num_threads())
        middle = {name: float(np.median(found[1:])) for name, found in times.items() if found}
        whole = arguments.step_seconds or middle["step"]
        for name in ("ours", "random slices"):
            share = 100 * middle[name] / whole
            print(f"{name:14} {1000 * middle[name]:8.2f} ms a batch of {arguments.batch_tokens:,} tokens: {share:.3f} % of a step")
        print(f"step           {1000 * whole:8.0f} ms")
        packed = sum(s.packed.num_tokens for s in sources) / sum(s.packed.num_rows * s.packed.row_tokens for s in sources)
        print(f"padding {100 * (1 - packed):.4f} %, tokens lost 0")


def ten_billion(arguments: argparse.Namespace) -> None:
    """Makes the index in one process, opens it in another, and draws from it."""
    folder = Path(arguments.folder or tempfile.mkdtemp()) / "ten-billion"
    if not (folder / "manifest.json").exists():
        started = time.perf_counter()
        num_tokens = _write_sparse(folder)
        print(f"{num_tokens / 1e9:.2f} billion tokens, made in {time.perf_counter() - started:.0f} s")
    for what in ("make", "open"):
        done = subprocess.run([sys.executable, __file__, "open", str(folder)], check=True, capture_output=True, text=True)
        print(what, done.stdout.strip())


def _write_sparse(folder: Path) -> int:
    """Shards of a gigabyte: offsets as they would be, ids that are all 0 and lie in a file with a hole."""
    total, shards = 0, []
    (folder / "train").mkdir(parents=True)
    for shard in range(20):
        offset = np.cumsum([0, *draw_lengths(555_000, seed=shard)]).astype("<i8")
        stem = folder / "train" / f"{shard:05d}"
        offset.tofile(stem.with_suffix(".idx"))
        with stem.with_suffix(".bin").open("wb") as file:
            file.truncate(2 * int(offset[-1]))
        total += int(offset[-1])
        paths = [stem.with_suffix(".bin"), stem.with_suffix(".idx")]
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}
        shards.append({"name": stem.name, "files": files, "documents": len(offset) - 1, "tokens": int(offset[-1]), "bytes": 0})
    manifest = {"format": 1, "dtype": "uint16", "tokenizer_sha256": TOKENIZER, "vocab_size": VOCAB}
    counts = {name: sum(shard[name] for shard in shards) for name in ("documents", "tokens")}
    train, validation = {**counts, "shards": shards}, {"documents": 0, "tokens": 0, "shards": []}
    write_json(folder / "manifest.json", {**manifest, "splits": {"train": train, "validation": validation}})
    return total


def open_plan(arguments: argparse.Namespace) -> None:
    """Opens the plan, and reports what it took beyond the libraries."""
    folder = Path(arguments.folder)
    make_plan([Phase(num_steps=1, batch_rows=1, row_tokens=2, weights=[1])], {2: [1]}, seed=0).draw(0)  # the kernels are loaded
    before, started = _bytes_in_use(), time.perf_counter()
    tokens = open_verified(folder, split="train", tokenizer_sha256=TOKENIZER, index=folder / "index")
    rows = open_rows(tokens, row_tokens=2048, max_padding=MAX_PADDING, index=folder / "index")
    plan = make_plan([Phase(num_steps=19_000, batch_rows=256, row_tokens=2048, weights=[1])], {2048: [rows.packed.num_rows]}, seed=0)
    opened, grown = time.perf_counter() - started, _bytes_in_use() - before
    started = time.process_time()
    for number in range(18_000, 18_020):
        draw = plan.draw(number)
        make_mixed_batch([rows], draw.source, draw.row)
    drawn = (time.process_time() - started) / 20
    numbers = {"tokens": tokens.num_tokens, "documents": tokens.num_documents, "rows": rows.packed.num_rows}
    numbers |= {
        "seconds": round(opened, 2),
        "grown_MB": round(grown / 1e6, 1),
        "process_peak_MB": round(_peak_bytes() / 1e6),
        "padding_fraction": round(rows.packed.padding_fraction, 7),
    }
    print(json.dumps({**numbers, "cpu_ms_a_batch_of_524288_tokens": round(1000 * drawn, 2)}))


def _bytes_in_use() -> int:
    # Linux: the second number is pages in memory, mapped files among them as far as they were read.
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def thousand(_: argparse.Namespace) -> None:
    """A thousand sources of unlike weights: the distance from the asked shares at every prefix of a period."""
    weights = np.random.default_rng(0).lognormal(0, 1.5, 1000)
    weights = np.maximum(np.round(weights * 100), 1).astype(int)
    started = time.perf_counter()
    plan = make_plan([Phase(num_steps=10**6, batch_rows=256, row_tokens=2048, weights=weights.tolist())], {2048: [5000] * 1000}, seed=0)
    opened = time.perf_counter() - started
    total = int(weights.sum() // np.gcd.reduce(weights))
    sources = np.concatenate([plan.draw(k).source for k in range(-(-total // 256))])[:total]
    worst, place = 0.0, np.arange(1, total + 1)
    for i in range(1000):
        worst = max(worst, float(np.abs(np.cumsum(sources == i) - place * weights[i] / weights.sum()).max()))
    started = time.perf_counter()
    for k in range(999_000, 999_100):
        plan.draw(k)
    print(f"1,000 sources, a period of {total:,} rows: opened in {opened:.2f} s; farthest from its share at any prefix: {worst:.6f} rows;")
    print(f"a step of 256 rows at step 999,000 is drawn in {10 * (time.perf_counter() - started):.2f} ms")


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    found = commands.add_parser("step")
    found.add_argument("--tokens", type=int, default=512)
    found.add_argument("--batch-tokens", type=int, default=8192)
    found.add_argument("--step-seconds", type=float, default=0.0)
    found.add_argument("--rounds", type=int, default=8)
    found.set_defaults(run=step)
    found = commands.add_parser("ten-billion")
    found.add_argument("--folder", default="")
    found.set_defaults(run=ten_billion)
    found = commands.add_parser("open")
    found.add_argument("folder")
    found.set_defaults(run=open_plan)
    commands.add_parser("thousand").set_defaults(run=thousand)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
