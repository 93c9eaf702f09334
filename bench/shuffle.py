"""Grouping 24 million rows by key on two cores: core/shuffle side by side with Daft's groupby.

    pip install daft==0.7.26                       # it wants pyarrow below 26: in an environment for this script
    python bench/shuffle.py                        # about 1 minute, 1 GB in the temporary folder

Both read the same 24 Parquet files (a 64-bit key, a number), count the rows of every key, take the smallest number, keep
the keys of more than one row and write these to Parquet. Ours: two maps over a pool of two processes, rows through files;
Daft: its native runner with two threads, rows in memory. In turn, the fastest counts; the answers are compared. Seconds
are of the wall clock, with starting the pool; what of the processor was used stands beside them.
"""

import argparse
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.pool import LocalPool
from bloomery.core.shuffle import choose_partitions, gather, scatter
from bloomery.curate.clusters import gather_buckets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24_000_000)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows", num_rows=arguments.rows, num_files=arguments.files)
        daft.set_runner_native(num_threads=2)
        sides: dict[str, Callable[[Path, Path], float]] = {"ours": functools.partial(group_by_files, arguments.rows), "Daft": group_by_daft}
        best: dict[str, tuple[float, float]] = {}
        answers = {}
        for _ in range(arguments.rounds):
            for side, group in sides.items():
                shutil.rmtree(folder / side, ignore_errors=True)
                wall, here = time.perf_counter(), time.process_time()
                of_workers = group(folder / "rows", folder / side)
                used = of_workers + time.process_time() - here
                before = best.get(side, (1e9, 1e9))
                best[side] = (min(before[0], time.perf_counter() - wall), min(before[1], used))
                answers[side] = digest(folder / side / "groups")
        assert answers["ours"] == answers["Daft"], answers
        print(f"{arguments.rows:,} rows, {answers['ours'][0]:,} keys of more than one row, the same from both; {os.cpu_count()} cores")
        for side, (wall, used) in best.items():
            print(f"{side:5} {wall:6.2f} s, {used:6.2f} s of the processor")
        print(f"Daft / ours: {best['Daft'][0] / best['ours'][0]:.2f} x in time, {best['Daft'][1] / best['ours'][1]:.2f} x of the processor")


def write_rows(folder: Path, *, num_rows: int, num_files: int) -> None:
    """Rows of which about half share their key with another."""
    draw = np.random.default_rng(1)
    folder.mkdir()
    distinct = draw.integers(0, 2**62, num_rows * 2 // 3, dtype=np.uint64) * np.uint64(4)
    for index in range(num_files):
        size = num_rows // num_files
        columns = {"key": draw.choice(distinct, size), "document": np.arange(index * size, (index + 1) * size)}
        pq.write_table(pa.table(columns), folder / f"{index:05d}.parquet", compression="none")


def group_by_files(num_rows: int, rows: Path, out: Path) -> float:
    """Two maps: rows to partitions, partitions to groups. Returns the workers' seconds of the processor."""
    files = sorted(rows.iterdir())
    num_partitions = choose_partitions(num_rows)
    (out / "groups").mkdir(parents=True)
    pool = LocalPool(2)
    used = sum(pool.map(functools.partial(scatter_file, out / "parted", num_partitions), list(enumerate(files))))
    used += sum(pool.map(functools.partial(reduce_partition, out), range(num_partitions)))
    pool.close()
    return used


def scatter_file(folder: Path, num_partitions: int, item: tuple[int, Path]) -> float:
    """The first map."""
    started = time.process_time()
    index, path = item
    scatter(folder, index, pq.read_table(path), key="key", num_partitions=num_partitions)
    return time.process_time() - started


def reduce_partition(out: Path, partition: int) -> float:
    """The second map."""
    started = time.process_time()
    table = gather(out / "parted", partition)
    buckets = gather_buckets(table.column("key").to_numpy(), table.column("document").to_numpy())
    many = buckets.counts > 1
    columns = {"key": buckets.keys[many], "count": buckets.counts[many], "first": buckets.documents[many]}
    pq.write_table(pa.table(columns), out / "groups" / f"{partition:05d}.parquet", compression="none")
    return time.process_time() - started


def group_by_daft(rows: Path, out: Path) -> float:
    """One query, in this process."""
    grouped = (
        daft.read_parquet(f"{rows}/*.parquet")
        .groupby("key")
        .agg(daft.col("document").count().alias("count"), daft.col("document").min().alias("first"))
    )
    grouped.where(daft.col("count") > 1).write_parquet(str(out / "groups"), compression="none")
    return 0.0


def digest(folder: Path) -> tuple[int, int, int, int]:
    """What both must agree on: the number of groups, and sums over them."""
    table = pa.concat_tables([pq.read_table(path, columns=["key", "count", "first"]) for path in sorted(folder.glob("*.parquet"))])
    key, count, first = (table.column(name).to_numpy().astype(np.uint64) for name in ("key", "count", "first"))
    return len(table), int(key.sum()), int(count.sum()), int((key ^ (first * np.uint64(0x9E3779B97F4A7C15))).sum())


if __name__ == "__main__":
    main()
