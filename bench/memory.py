"""Memory of a worker over more text than the machine could hold: at most 2 GB, whatever the size of the input or of one file.

    python bench/memory.py                      # 20 GB in shards, then one file of 4 GB; about an hour on two cores
    python bench/memory.py --gigabytes 2 --file-gigabytes 0.5

A stream of synthetic shards (Parquet, JSONL and WARC in turn, each decided by its number): a worker makes one, takes it
through extract, filter and dedup, adds up what they counted, and deletes it all, so that the disk never holds more than a
few. Then one single JSONL.zst goes through extract and filter. Ends with a table, and with exit code 1 if a worker went
over 2 GB, the disk over 3 GB, or the counts do not add up.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from bloomery.core.documents import document_id
from bloomery.core.memory import peak_memory_bytes
from bloomery.core.pool import WORKER_MEMORY_BYTES, LocalPool
from bloomery.core.stage import Runtime
from bloomery.curate.warc import WrittenPage, write_warc
from bloomery.stages.catalog import load_stage

MAX_DISK_BYTES = 3_000_000_000
NUM_PHRASES = 1 << 16
VOCABULARY = 30_000
SETTINGS = {"filter": {"rules": ["gopher"]}}
FORMATS = ("parquet", "jsonl", "parquet", "warc")


@functools.lru_cache(maxsize=1)
def phrases() -> pa.Array:
    """65,536 pieces of 3 to 12 words of a Zipf vocabulary with English's most frequent words at its head, most ending a sentence."""
    draw = np.random.default_rng([0, 1])
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    weight = 1 / np.arange(1, len(letters) + 1) ** 0.6
    frequent = ("the", "of", "and", "to", "a", "in", "is", "that", "for", "it", "was", "with", "as", "on", "be", "have", "this", "from")
    made = ["".join(draw.choice(letters, draw.integers(2, 11), p=weight / weight.sum())) for _ in range(VOCABULARY)]
    words = [*frequent, *made]
    chances = 1 / (np.arange(len(words)) + 2.7)
    counts = draw.integers(3, 13, NUM_PHRASES)
    chosen = iter(draw.choice(len(words), counts.sum(), p=chances / chances.sum()))
    pieces = []
    for i, count in enumerate(counts):
        text = " ".join(words[next(chosen)] for _ in range(count))
        pieces.append(text.capitalize() + (".\n\n" if i % 9 == 0 else ". "))
    return pa.array(pieces, pa.large_string())


def make_texts(index: int, num_bytes: int) -> pa.LargeStringArray:
    """About so much text as documents of 300 bytes to 30 KB; of ten, one is a copy of an earlier one with a few words changed."""
    draw = np.random.default_rng([0, 2, index])
    bank = phrases()
    bank_offsets = np.frombuffer(bank.buffers()[1], np.int64, len(bank) + 1)
    chosen = draw.integers(0, NUM_PHRASES, int(num_bytes * NUM_PHRASES / bank_offsets[-1]) + 1)
    lengths = np.exp(draw.normal(4.0, 1.0, len(chosen) // 40 + 2)).clip(6, 600).astype(np.int64)
    ends = np.cumsum(lengths)
    ends = ends[ends < len(chosen)]
    for i in range(10, len(ends) - 1, 10):
        source, start, stop = ends[i - 5], ends[i], ends[i + 1]
        length = min(stop - start, ends[i - 4] - source)
        chosen[start : start + length - 1] = chosen[source : source + length - 1]
    text = bank.take(pa.array(chosen[: ends[-1]]))
    offsets = np.frombuffer(text.buffers()[1], np.int64, len(text) + 1)[np.concatenate([[0], ends])]
    return pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets.copy()), text.buffers()[2])


def write_shard(folder: Path, index: int, num_bytes: int) -> tuple[Path, int]:
    """One shard in the format of its number, and the bytes of its texts (of its pages, for a WARC)."""
    texts = make_texts(index, num_bytes)
    kind = FORMATS[index % len(FORMATS)]
    path = folder / f"{index:06d}.{ {'parquet': 'parquet', 'jsonl': 'jsonl', 'warc': 'warc.gz'}[kind] }"
    if kind == "warc":
        size = 0

        def pages() -> Iterator[WrittenPage]:
            nonlocal size
            for i, text in enumerate(texts):
                body = "".join(f"<p>{part}</p>\n" for part in str(text).split("\n\n"))
                html = f"<html><head><title>Page {i}</title></head><body><nav><a href='/'>Home</a></nav>{body}</body></html>".encode()
                size += len(html)
                yield WrittenPage(f"https://example.org/{index}/{i}", html)

        write_warc(path, list(pages()))
        return path, size
    if kind == "jsonl":
        with path.open("wb") as file:
            for text in texts:
                file.write(json.dumps({"text": text.as_py(), "language": "en"}).encode() + b"\n")
    else:
        ids = [document_id(path.name, i) for i in range(len(texts))]
        languages, scores = ["en"] * len(texts), pa.array(np.ones(len(texts), np.float32))
        columns = {"id": ids, "text": texts, "language": languages, "language_score": scores, "meta": ["{}"] * len(texts)}
        pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=8192)
    return path, num_bytes


def work_on_shard(folder: Path, num_bytes: int, index: int) -> dict[str, float]:
    """Makes shard `index`, takes it through the stages and deletes it all; returns what was counted, summed."""
    here = folder / f"{index:06d}"
    here.mkdir()
    try:
        phrases()  # once a worker, and no part of any shard
        started = time.process_time()
        path, size = write_shard(here, index, num_bytes)
        made = time.process_time() - started
        counts = run_stages(path, here, ("extract", "filter", "dedup"))
    finally:
        shutil.rmtree(here)
    return {"bytes": size, "making_seconds": made, "cpu_seconds": time.process_time() - started, **counts}


def run_stages(path: Path, folder: Path, names: tuple[str, ...], *, keep_input: bool = False) -> dict[str, float]:
    """Stage after stage over one file, each output deleted when the next is made. Checks that the counts add up."""
    counts: dict[str, float] = {}
    for name in names:
        stage = load_stage(name)
        out = folder / name
        out.mkdir()
        config = stage.config_type(**SETTINGS.get(name, {}))
        found = stage.run(config, **{next(iter(stage.inputs)): [path]}, out=out, runtime=Runtime(quiet=True))
        dropped = sum(count for rule, count in found.items() if rule.startswith("dropped/"))
        assert found["documents_in"] == found["documents_out"] + dropped, found
        counts |= {f"{name}_in": found["documents_in"], f"{name}_out": found["documents_out"]}
        if not keep_input or name != names[0]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        path = out
    return counts


def write_large_file(path: Path, num_bytes: int) -> int:
    """One JSONL.zst of about so much text; returns the bytes of the lines."""
    size, index = 0, 1_000_000
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as sink:
        while size < num_bytes:
            for text in make_texts(index, 16 << 20):
                size += sink.write(json.dumps({"text": text.as_py(), "language": "en"}).encode() + b"\n")
            index += 1
    return size


def work_on_large_file(folder: Path, num_bytes: int) -> dict[str, float]:
    """Makes a single file of so many bytes and takes it through extract and filter; returns counts and seconds."""
    path = folder / "large.jsonl.zst"
    size = write_large_file(path, num_bytes)
    started, cpu = time.monotonic(), time.process_time()
    counts = run_stages(path, folder, ("extract", "filter"))
    return {"bytes": size, "seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu, **counts}


class DiskWatch:
    """Measures, once a second, what lies in a folder; `peak` is the most that was found."""

    def __init__(self, folder: Path) -> None:
        self.peak = 0
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            size = 0
            for path in self._folder.rglob("*"):
                try:
                    size += path.stat().st_size
                except OSError:
                    continue  # deleted between listing and looking
            self.peak = max(self.peak, size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="text of the stream")
    parser.add_argument("--file-gigabytes", type=float, default=4.0, help="text of the single file; 0 leaves it out")
    parser.add_argument("--shard-megabytes", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where shards are made (default: a temporary folder)")
    options = parser.parse_args()
    assert options.workers > 1, "memory is measured in worker processes: at least two"
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < 1.2 * MAX_DISK_BYTES:
            sys.exit(f"{folder}: {free / 1e9:.1f} GB free; needs {1.2 * MAX_DISK_BYTES / 1e9:.1f}")
        watch = DiskWatch(folder)
        rows = [measure_stream(folder, options)]
        if options.file_gigabytes:
            rows.append(measure_file(folder, options))
        watch.close()
    print(f"\n{'':8}{'input':>10}{'time':>10}{'MB/CPU s':>13}{'peak of a worker':>18}{'documents in':>14}{'kept':>12}")
    for row in rows:
        print(
            f"{row['name']:8}{row['bytes'] / 1e9:>7.2f} GB{row['seconds']:>8.0f} s{row['rate'] / 1e6:>13.1f}{row['peak'] / 2**30:>15.2f} GB"
            f"{row['in']:>14,.0f}{row['out']:>12,.0f}"
        )
    print(f"most on disk: {watch.peak / 1e9:.2f} GB; main process: {peak_memory_bytes() / 2**30:.2f} GB")
    ok = watch.peak <= MAX_DISK_BYTES and all(row["peak"] <= WORKER_MEMORY_BYTES for row in rows)
    print("bounded" if ok else "NOT bounded")
    return 0 if ok else 1


def measure_stream(folder: Path, options: argparse.Namespace) -> dict[str, float | str]:
    shard_bytes = options.shard_megabytes * 1_000_000
    num_shards = max(1, round(options.gigabytes * 1e9 / shard_bytes))
    pool = LocalPool(options.workers)
    started, total = time.monotonic(), dict.fromkeys(("bytes", "cpu_seconds", "making_seconds", "extract_in", "dedup_out"), 0.0)
    for done, counts in enumerate(pool.map(functools.partial(work_on_shard, folder, shard_bytes), range(num_shards)), start=1):
        for key in total:
            total[key] += counts[key]
        took = time.monotonic() - started
        left = took / done * (num_shards - done)
        peak = pool.worker_peak_bytes / 2**30
        print(f"{done}/{num_shards} shards, {total['bytes'] / 1e9:.2f} GB, {took:.0f} s, {left:.0f} s left, peak {peak:.2f} GB", flush=True)
    took, peak_bytes = time.monotonic() - started, pool.worker_peak_bytes
    pool.close()
    print(f"making the shards: {total['bytes'] / total['making_seconds'] / 1e6:.0f} MB/CPU s")
    rate = total["bytes"] / (total["cpu_seconds"] - total["making_seconds"])
    facts = {"in": total["extract_in"], "out": total["dedup_out"], "rate": rate}
    return {"name": "stream", "bytes": total["bytes"], "seconds": took, "peak": peak_bytes, **facts}


def measure_file(folder: Path, options: argparse.Namespace) -> dict[str, float | str]:
    pool = LocalPool(options.workers)
    (counts,) = pool.map(functools.partial(work_on_large_file, folder), [int(options.file_gigabytes * 1e9)])
    peak = pool.worker_peak_bytes
    pool.close()
    facts = {"in": counts["extract_in"], "out": counts["filter_out"], "rate": counts["bytes"] / counts["cpu_seconds"]}
    return {"name": "file", "bytes": counts["bytes"], "seconds": counts["seconds"], "peak": peak, **facts}


if __name__ == "__main__":
    sys.exit(main())
