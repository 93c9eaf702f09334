"""MinHash signatures (112 hashes of word 5-grams), side by side with Daft's built-in and datatrove, one core each.

    make peers                                        # once: datatrove in an environment of its own
    python bench/minhash.py --data ../shared/data     # 50 MB of real text, about 2 minutes

Every side gets the same texts in memory, in a process of its own that is bound to one core, and is run several times in
turn with the others; the fastest counts. MB are of UTF-8 text, seconds are of the processor (other work on the machine
does not count) with the wall clock beside it. "all of sign" is what the stage does to a batch of text: signature, exact
hash, sketch and keys. datatrove gets every 12th text: it would take minutes for all. First the quality of the signatures:
planted pairs against theory.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any  # Any: what a side makes of its texts

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.documents import read_documents
from bloomery.curate.kernels import band_keys
from bloomery.curate.minhash import DedupConfig, estimate_from_sketches, estimate_similarity, sign_texts, sketch
from bloomery.stages.dedup import sign_table

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
DATATROVE_SHARE = 12
FILES = (
    "stories.jsonl.gz stories_multilingual.jsonl.gz encyclopedia.parquet science_tech.jsonl.gz science_abstracts.jsonl.gz "
    "speeches.jsonl.gz reviews.jsonl.zst mixed_masc.jsonl.gz web_c4.jsonl.gz"
)
SIDES = ("ours: signatures", "ours: all of sign", "Daft minhash", "Daft normalize + minhash", "datatrove signatures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with text/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.texts)))
        return
    print_quality(num_pairs=10_000, num_unrelated=2_000)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments.data / "text", Path(folder), rounds=arguments.rounds)


def compare(data: Path, folder: Path, *, rounds: int) -> None:
    """Runs every side in turn, and prints the fastest of each and the ratios."""
    texts = [text for name in FILES.split() for text in read_documents(data / name).column("text").to_pylist()]
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), folder / "texts.parquet")
    some = texts[::DATATROVE_SHARE]
    (folder / "some.json").write_text(json.dumps(some))
    core = sorted(os.sched_getaffinity(0))[-1]
    megabytes = dict.fromkeys(SIDES, sum(len(text.encode()) for text in texts) / 1e6)
    megabytes[SIDES[-1]] = sum(len(text.encode()) for text in some) / 1e6
    print(f"{len(texts):,} texts, {megabytes[SIDES[0]]:.1f} MB; datatrove {len(some):,} texts, {megabytes[SIDES[-1]]:.1f} MB; core {core}")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            if side.startswith("ours"):
                command = [sys.executable, __file__, "--side", side, "--texts", str(folder / "texts.parquet")]
            elif side.startswith("Daft") and PEERS.exists():
                command = [str(PEERS), str(ROOT / "bench" / "peers" / "daft_minhash.py"), side, str(folder / "texts.parquet")]
            elif PEERS.exists():
                command = [str(PEERS), str(ROOT / "bench" / "peers" / "datatrove_minhash.py"), str(folder / "some.json")]
            else:
                continue
            environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
            run = subprocess.run(["taskset", "-c", str(core), *command], env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[side].append(json.loads(run.stdout.splitlines()[-1]))
    speed = {side: megabytes[side] / min(row["cpu_seconds"] for row in rows) for side, rows in found.items() if rows}
    for side, rows in found.items():
        if rows:
            wall = min(row["seconds"] for row in rows)
            print(f"{side:26} {speed[side]:8.2f} MB/s of processor time {megabytes[side] / wall:8.2f} MB/s of wall clock")
        else:
            print(f"{side:26} not run: no {PEERS}; make peers")
    for ours in SIDES[:2]:
        for other in [side for side in SIDES[2:] if found[side]]:
            print(f"{ours} / {other}: {speed[ours] / speed[other]:.2f} x")


def print_quality(*, num_pairs: int, num_unrelated: int) -> None:
    """Estimates and band hits of planted pairs, whose similarity is counted, against what theory says; and of unrelated texts."""
    config, draw = DedupConfig(), random.Random(1)
    pairs = [plant_pair(draw) for _ in range(num_pairs)]
    first, second = (sign_texts(pa.chunked_array([pa.array(side, pa.large_string())]), config) for side in zip(*pairs, strict=True))
    true = np.array([count_similarity(a, b) for a, b in pairs])
    theory = float(np.sqrt(np.mean(true * (1 - true)) / config.num_hashes))
    print(f"{num_pairs:,} planted pairs of similarity {true.min():.2f} to {true.max():.2f}")
    print(f"  root mean square error by theory {theory:.4f}; found:")
    for name, estimate in (
        ("of signatures (448 bytes)", estimate_similarity(first, second)),
        ("of sketches (112 bytes)", estimate_from_sketches(sketch(first), sketch(second))),
    ):
        error = estimate - true
        print(f"  {name:26} {np.sqrt(np.mean(error**2)):.4f}, mean {error.mean():+.5f}")
    hit = (band_keys(first, config.bands) == band_keys(second, config.bands)).any(axis=1)
    expected = 1 - (1 - true ** (config.num_hashes // config.bands)) ** config.bands
    for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        there = (true >= low) & (true < low + 0.1)
        spread = np.sqrt((expected[there] * (1 - expected[there])).sum()) / there.sum()
        found = f"{there.sum():5} pairs, share a band {hit[there].mean():.3f}, theory {expected[there].mean():.3f} +- {spread:.3f}"
        print(f"  similarity {low:.1f} to {low + 0.1:.1f}: {found}")
    texts = [" ".join(f"w{draw.randrange(3000)}" for _ in range(150)) for _ in range(num_unrelated)]
    keys = band_keys(sign_texts(pa.chunked_array([pa.array(texts, pa.large_string())]), config), config.bands)
    hits = sum(num_unrelated - len(np.unique(keys[:, band])) for band in range(config.bands))
    print(f"  {num_unrelated * (num_unrelated - 1) // 2:,} pairs of unrelated texts: {hits} share a band")


def plant_pair(draw: random.Random) -> tuple[str, str]:
    """A text and an edited copy."""
    words = [f"w{draw.randrange(10**6)}" for _ in range(draw.randrange(60, 300))]
    other = list(words)
    for _ in range(draw.randrange(14)):
        other[draw.randrange(len(other))] = f"w{draw.randrange(10**6)}"
    return " ".join(words), " ".join(other)


def count_similarity(first: str, second: str) -> float:
    """Jaccard similarity of the sets of word 5-grams."""
    sets = []
    for text in (first, second):
        words = text.split()
        sets.append(set(zip(*(words[i:] for i in range(5)), strict=False)))
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def measure(side: str, texts: Path) -> dict[str, float]:
    """The fastest of three runs over all texts, after one over a few."""
    table = pq.read_table(texts).combine_chunks()
    sign = _prepare(side)
    sign(table.slice(0, 20))
    runs = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        sign(table)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    return {"cpu_seconds": min(run[0] for run in runs), "seconds": min(run[1] for run in runs)}


def _prepare(side: str) -> Callable[[pa.Table], Any]:
    config = DedupConfig()
    if side == SIDES[0]:
        return lambda table: sign_texts(table.column("text"), config)
    return lambda table: sign_table(table.append_column("id", pa.array([str(i) for i in range(len(table))])), config, Path("texts.parquet"))


if __name__ == "__main__":
    main()
