"""What shards must know of each other: every shard states rows by key, rows of equal key are judged together, and the
verdicts come back to the shards they are about.

Two uses of `core/shuffle.py`, out and home. Each step of each shard or partition is one file: a killed run repeats only
what has no file yet. The verdicts do not depend on the number of partitions.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bloomery.core.shuffle import gather, is_scattered, scatter
from bloomery.core.stage import Runtime
from bloomery.curate.flow import Shard

Emit = Callable[[Shard], pa.Table]
"""The rows of one shard, with a uint64 column `key`."""

Judge = Callable[[pa.Table], pa.Table]
"""The verdicts over the rows of one partition, in order of shards and rows, with a column `shard` (int64)."""


def regroup(emit: Emit, judge: Judge, shards: Sequence[Shard], *, folder: Path, num_partitions: int, runtime: Runtime, verb: str) -> None:
    """Runs both steps into `folder`; afterwards `verdicts` gives each shard its own. `emit` and `judge` travel to workers."""
    stated, judged = folder / "stated", folder / "judged"
    num_homes = _count_homes(shards)
    waiting = [shard for shard in shards if not is_scattered(stated, shard.index)]
    left = [partition for partition in range(num_partitions) if not is_scattered(judged, partition)]
    with runtime.progress(len(shards) + num_partitions, f"{verb}: shards and partitions") as bar:
        bar.advance(len(shards) - len(waiting) + num_partitions - len(left))
        if left:
            for _ in runtime.pool().map(functools.partial(_state, emit, stated, num_partitions), waiting):
                bar.advance()
        for _ in runtime.pool().map(functools.partial(_judge_partition, judge, stated, judged, num_homes), left):
            bar.advance()


def judge_here(judge: Callable[[], pa.Table], shards: Sequence[Shard], *, folder: Path) -> None:
    """As `regroup`, for verdicts that one function gives over all shards at once, in this process."""
    judged = folder / "judged"
    if not is_scattered(judged, 0):
        _write_verdicts(judged, 0, judge(), num_homes=_count_homes(shards))


def verdicts(folder: Path, shard: Shard, *, num_shards: int) -> pa.Table:
    """What was judged of one shard, in order of partitions."""
    return gather(folder / "judged", shard.index if num_shards > 1 else 0)


def _state(emit: Emit, stated: Path, num_partitions: int, shard: Shard) -> None:
    scatter(stated, shard.index, emit(shard), key="key", num_partitions=num_partitions)


def _judge_partition(judge: Judge, stated: Path, judged: Path, num_homes: int, partition: int) -> None:
    _write_verdicts(judged, partition, judge(gather(stated, partition)), num_homes=num_homes)


def _write_verdicts(judged: Path, partition: int, table: pa.Table, *, num_homes: int) -> None:
    """Sends verdicts to the shards that their column `shard` names."""
    shift = np.uint64(64 - (num_homes.bit_length() - 1))
    shard = table.column("shard").to_numpy().astype(np.uint64)
    home = shard << shift if num_homes > 1 else np.zeros(len(shard), np.uint64)
    scatter(judged, partition, table.append_column("home", pa.array(home)), key="home", num_partitions=num_homes)


def _count_homes(shards: Sequence[Shard]) -> int:
    return 1 << max(0, len(shards) - 1).bit_length()
