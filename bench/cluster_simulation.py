"""The cluster step of deduplication on synthetic keys, from 10^6 upwards: time, memory and disk as the corpus grows.

    python bench/cluster_simulation.py                          # 10^6, 10^7 and 10^8 keys, about 3 minutes
    python bench/cluster_simulation.py --keys 1000000000        # 10^9 keys = 71 million documents, about 15 minutes

A document has 14 keys, as with 14 bands. Clusters are planted: 5 of 8 documents have keys of their own, 3 of 8 are in
chains of 2, 3 or 7 of which only neighbours are sure to share a key, and one document in 2048 is in one cluster that
shares a single key, as error pages do. The keys are made and grouped as many bands at a time as fit into --disk-gb, and
deleted. The steps are the stage's own: units, stars, scatter, partitions, forests, one union-find on an array mapped
from disk. At the end every document's cluster is compared with the planted one. One process, one core.
"""

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa

from bloomery.core.memory import peak_memory_bytes
from bloomery.core.shuffle import choose_partitions, gather, scatter
from bloomery.curate.clusters import flatten, gather_buckets, join, span

BANDS = 14
DOCUMENTS_PER_UNIT = 131_072
ROW_BYTES = 24
GROUP_SIZES = [1] * 20 + [2, 3, 7]
"""Of every 32 documents."""

GROUP = np.repeat(np.arange(len(GROUP_SIZES)), GROUP_SIZES)
MEMBER = np.concatenate([np.arange(size) for size in GROUP_SIZES])
BOILERPLATE_SLOT, BOILERPLATE_BLOCKS = 0, 64

U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="*", default=[10**6, 10**7, 10**8])
    parser.add_argument("--disk-gb", type=float, default=12, help="keys on disk at a time")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    for num_keys in arguments.keys:
        check_room(arguments.folder, num_keys, disk_bytes=int(arguments.disk_gb * 1e9))
        folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="clusters-"))
        try:
            simulate(folder, num_documents=num_keys // BANDS, disk_bytes=int(arguments.disk_gb * 1e9))
        finally:
            shutil.rmtree(folder)


def check_room(folder: Path, num_keys: int, *, disk_bytes: int) -> None:
    """Stops before anything is written where disk or memory would run out."""
    num_documents = num_keys // BANDS
    # Forests: at most one edge of 16 bytes a document, from units and from partitions, in every round.
    needed = min(num_keys * ROW_BYTES, disk_bytes) + num_documents * (8 + 2 * 16 * rounds_for(num_keys, disk_bytes))
    free = shutil.disk_usage(folder).free
    if free < 1.5 * needed:
        need = f"{num_keys:.0e} keys need {1.5 * needed / 1e9:.0f} GB"
        sys.exit(f"{folder}: {free / 1e9:.0f} GB free, {need}; give a lower --disk-gb or another --folder")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if memory < num_documents * 8 + (1 << 30):
        print(f"warning: {memory / 1e9:.0f} GB of free memory; the parents of {num_documents:,} documents will be paged", file=sys.stderr)


def rounds_for(num_keys: int, disk_bytes: int) -> int:
    """In how many turns of whole bands the keys fit on the disk."""
    bands_at_once = max(1, math.floor(disk_bytes / (num_keys / BANDS * ROW_BYTES)))
    return math.ceil(BANDS / min(bands_at_once, BANDS))


def simulate(folder: Path, *, num_documents: int, disk_bytes: int) -> None:
    """Groups, joins and checks the keys of so many documents, and prints a row for each step."""
    num_keys = num_documents * BANDS
    rounds = rounds_for(num_keys, disk_bytes)
    num_partitions = choose_partitions(num_documents * math.ceil(BANDS / rounds))
    print(f"{num_keys:,} keys of {num_documents:,} documents, {rounds} rounds of {num_partitions} partitions", flush=True)
    steps = ("make keys", "stars and scatter", "partitions", "union-find", "check")
    seconds, processor = dict.fromkeys(steps, 0.0), dict.fromkeys(steps, 0.0)
    disk = 0

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started, used = time.perf_counter(), time.process_time()
        yield
        seconds[step] += time.perf_counter() - started
        processor[step] += time.process_time() - used

    edges = 0
    for turn in range(rounds):
        bands = np.arange(turn, BANDS, rounds)
        for unit, first in enumerate(range(0, num_documents, DOCUMENTS_PER_UNIT)):
            documents = np.arange(first, min(first + DOCUMENTS_PER_UNIT, num_documents))
            with timed("make keys"):
                keys = make_keys(documents, bands, num_documents=num_documents)
            with timed("stars and scatter"):
                buckets = gather_buckets(keys.reshape(-1), np.repeat(documents, len(bands)))
                edges += save_forest(folder, f"unit-{turn:02d}-{unit:06d}", buckets.edges)
                columns = {"key": buckets.keys, "document": buckets.documents, "count": buckets.counts}
                table = pa.table({name: pa.array(column) for name, column in columns.items()})
                scatter(folder / "keys", unit, table, key="key", num_partitions=num_partitions)
        disk = max(disk, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        with timed("partitions"):
            for partition in range(num_partitions):
                table = gather(folder / "keys", partition)
                buckets = gather_buckets(*(table.column(name).to_numpy() for name in ("key", "document", "count")))
                edges += save_forest(folder, f"part-{turn:02d}-{partition:06d}", buckets.edges)
        shutil.rmtree(folder / "keys")
    with timed("union-find"):
        root = np.memmap(folder / "root.i64", np.int64, "w+", shape=(num_documents,))
        root[:] = np.arange(num_documents)
        for path in sorted(folder.glob("*.npy")):
            join(root, np.load(path))
        flatten(root)
    with timed("check"):
        wrong, clusters = count_wrong(root, num_documents=num_documents)
    for step, spent in processor.items():
        print(f"  {step:20} {seconds[step]:9.2f} s, of the processor {spent:9.2f} s, {spent / num_keys * 1e6:7.3f} µs a key")
    own, wall = (sum(of[step] for step in steps[1:4]) for of in (processor, seconds))
    print(f"  {'in all (ours)':20} {wall:9.2f} s, of the processor {own:9.2f} s, {own / num_keys * 1e6:7.3f} µs a key")
    print(
        f"  {edges:,} edges of forests; at most {disk / 1e9:.3f} GB on disk; peak memory of the process {peak_memory_bytes() / 1e9:.2f} GB"
    )
    print(f"  {clusters:,} clusters, {wrong} documents in another than planted", flush=True)
    if wrong:
        sys.exit("the clusters found are not the planted ones")


def make_keys(documents: I64, bands: I64, *, num_documents: int) -> U64:
    """Keys of some documents in some bands (documents x bands)."""
    block, slot = place_of(documents, num_documents=num_documents)
    group, member = GROUP[slot], MEMBER[slot]
    keys = np.empty((len(documents), len(bands)), np.uint64)
    for column, band in enumerate(bands):
        own = mix(documents, 1000 + band)
        # Link m of a chain is between members m - 1 and m, in band m; in other bands, half of the members have the chain's key.
        link = np.where(member == band, member, np.where(member + 1 == band, member + 1, 0))
        linked = (link > 0) & (link < np.array(GROUP_SIZES)[group])
        chained = (np.array(GROUP_SIZES)[group] > 1) & (own % 2 == 0)
        chain = mix(block * 32 + group, 2000 + band)
        boilerplate = (band == 3) & (slot == BOILERPLATE_SLOT) & (block % BOILERPLATE_BLOCKS == 0)
        keys[:, column] = np.where(boilerplate, mix(np.zeros(1, np.int64), 3), np.where(linked | chained, chain, own))
    return keys


def count_wrong(root: I64, *, num_documents: int) -> tuple[int, int]:
    """How many documents are not with the smallest of their planted cluster, and how many clusters of more than one there are."""
    wrong, clusters, boilerplate = 0, 0, []
    step = multiplier(num_documents)
    for first in range(0, num_documents, 32 << 15):
        positions = np.arange(first, min(first + (32 << 15), num_documents))
        documents = positions * step % num_documents
        slot, block = positions % 32, positions // 32
        key = (block - block[0]) * 32 + GROUP[slot]
        smallest = np.full(key.max() + 1, num_documents)
        np.minimum.at(smallest, key, documents)
        common = (slot == BOILERPLATE_SLOT) & (block % BOILERPLATE_BLOCKS == 0)
        boilerplate.append(documents[common])
        wrong += int((root[documents] != smallest[key])[~common].sum())
        clusters += int((np.bincount(key) > 1).sum())
    together = np.concatenate(boilerplate)
    return wrong + int((root[together] != together.min()).sum()), clusters + 1


def place_of(documents: I64, *, num_documents: int) -> tuple[I64, I64]:
    """Where a document stands: members of a chain are neighbours there, and far from each other in the corpus."""
    positions = documents * pow(multiplier(num_documents), -1, num_documents) % num_documents
    return positions // 32, positions % 32


def multiplier(num_documents: int) -> int:
    """A number without a common factor, small enough that products of it stay below 2**63."""
    candidate = min(int(num_documents * 0.618), 1 << 30)
    while math.gcd(candidate, num_documents) != 1:
        candidate += 1
    return candidate


def mix(numbers: I64, salt: int) -> U64:
    """64 bits that look random (SplitMix64)."""
    value = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int(salt) * 0xD1B54A32D192ED03 % 2**64)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def save_forest(folder: Path, name: str, edges: I64) -> int:
    """Writes the spanning forest of some edges; returns its size."""
    forest = span(edges)
    np.save(folder / f"{name}.npy", forest)
    return len(forest)


if __name__ == "__main__":
    main()
