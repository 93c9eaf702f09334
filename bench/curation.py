"""Crawl to corpus, side by side with datatrove 0.10: the same WARC files to deduplicated documents on disk.

    make peers                                              # once: datatrove in an environment of its own
    python bench/curation.py --data ../shared/data          # 2,953 real pages, about 10 minutes
    python bench/curation.py --data ... --pages 600         # a shorter look

Both sides: read WARC, extract, Gopher repetition and quality, MinHash 14 x 8 of word 5-grams, clusters, written output.
Ours also names each page's language, keeps every signal and writes the ledger. Runs: 1 and 2 workers with our default
extractor, and 1 worker with trafilatura on both sides (datatrove pins 1.11, ours is 2.3). Prints seconds of whole processes,
start-up included, and ratios, also of CPU time: on a machine that others use too only that ratio means something. Run it in
an environment of the package alone: pyarrow imports pandas where there is one, a quarter of a second in each of our processes.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bloomery.curate.warc import Capture, WrittenPage, read_captures, write_warc

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-peers" / "bin" / "python"
NUM_FILES = 2

STEP = """
import atexit, gc, json, sys, time
from pathlib import Path
gc.set_threshold(20_000, 20, 20)  # this, and the two below, as the command line does
atexit.register(gc.freeze)
started = time.perf_counter()
warcs, out, workers, extractor = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
from bloomery.core.pool import start_fork_server
if workers > 1:
    start_fork_server()
from bloomery.core.config import check_config
from bloomery.core.stage import Runtime
from bloomery.stages import dedup, extract, filter
seconds, source = {"imports": time.perf_counter() - started}, warcs
runtime = Runtime(workers=workers, quiet=True)
documents = 0
for module, slot, config in (
    (extract, "pages", {"extractor": extractor}),
    (filter, "documents", {"rules": ["gopher"], "languages": []}),
    (dedup, "documents", {}),
):
    stage = module.STAGE
    target = out / stage.name
    target.mkdir(parents=True)
    began = time.perf_counter()
    made, mistakes = check_config(stage.config_type, config)
    assert not mistakes, mistakes
    documents = stage.run(made, **{slot: [source]}, out=target, runtime=runtime)["documents_out"]
    seconds[stage.name], source = time.perf_counter() - began, target
print(json.dumps({"by_step": seconds, "documents": documents}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with web/ and extraction/")
    parser.add_argument("--pages", type=int, default=0, help="take only so many pages (0: all)")
    parser.add_argument("--skip-trafilatura", action="store_true", help="leave out our run with trafilatura")
    options = parser.parse_args()
    if not PEER.exists():
        sys.exit(f"{PEER} is missing: run `make peers` first")
    with tempfile.TemporaryDirectory() as folder:
        warcs = Path(folder) / "warcs"
        count, size = repack(options.data, warcs, options.pages)
        print(f"{count:,} pages, {size / 1e6:.0f} MB of WARC (gzip), {NUM_FILES} files\n")
        run_ours(warcs, Path(folder), 1, "blocks")  # compiles and caches kernels, as an installed copy has them
        results = {}
        for workers in (1, 2):
            results["datatrove", workers] = run_datatrove(warcs, Path(folder), workers)
            results["bloomery", workers] = run_ours(warcs, Path(folder), workers, "blocks")
        if not options.skip_trafilatura:
            results["bloomery, trafilatura", 1] = run_ours(warcs, Path(folder), 1, "trafilatura")
        show(results, count)


def show(results: dict[tuple[str, int], dict], count: int) -> None:
    print(f"{'':24}{'workers':>8}{'seconds':>9}{'pages/s':>9}{'kept':>7}{'ratio':>7}{'CPU s':>8}{'ratio':>7}")
    for (name, workers), result in results.items():
        peer = results["datatrove", workers]
        print(
            f"{name:24}{workers:8}{result['wall']:9.1f}{count / result['wall']:9.0f}{result['documents']:7}"
            f"{peer['wall'] / result['wall']:7.1f}"
            + (f"{result['cpu']:8.1f}{peer['cpu'] / result['cpu']:7.1f}" if workers == 1 else "")  # not all workers are our children
        )
    theirs, ours = results["datatrove", 1]["by_step"], results["bloomery", 1]["by_step"]
    rest_theirs = results["datatrove", 1]["wall"] - sum(s for name, s in theirs.items() if "Trafilatura" in name)
    rest_ours = results["bloomery", 1]["wall"] - ours["extract"]
    print(f"\neverything but extraction, 1 worker: {rest_theirs:.1f} s and {rest_ours:.1f} s, ratio {rest_theirs / rest_ours:.1f}")
    print("ours counts reading the archives and naming languages as extraction; theirs counts reading as the rest")
    for name, steps in (("datatrove", theirs), ("bloomery", ours)):
        print(f"{name}: " + ", ".join(f"{step.encode('ascii', 'ignore').decode().strip(' -')} {s:.1f}" for step, s in steps.items()))


def run_datatrove(warcs: Path, folder: Path, workers: int) -> dict:
    with clean_folder(folder / "datatrove") as out:
        command = [str(PEER), str(ROOT / "bench" / "peers" / "datatrove_curation.py"), str(warcs), str(out), str(workers)]
        return run(command)


def run_ours(warcs: Path, folder: Path, workers: int, extractor: str) -> dict:
    with clean_folder(folder / "bloomery") as out:
        return run([sys.executable, "-W", "ignore", "-c", STEP, str(warcs), str(out), str(workers), extractor])


def run(command: list[str]) -> dict:
    """The JSON of the last line that a process prints; `wall` and `cpu` are its whole time, from start to end, with its children's."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **one_thread})
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-3000:]}")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "wall": wall, "cpu": cpu}


@contextlib.contextmanager
def clean_folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def repack(data: Path, out: Path, limit: int) -> tuple[int, int]:
    """All real pages as NUM_FILES WARC files of response records, dealt in turn; how many, and how large."""
    sources = sorted((data / "web").glob("*.warc.gz")) + sorted((data / "extraction").glob("*.warc.*"))
    pages = [
        WrittenPage(item.url, item.body)
        for path in sources
        for item in read_captures(path, max_record_bytes=64 << 20)
        if isinstance(item, Capture)
    ]
    pages = pages[:: max(1, len(pages) // limit)] if limit else pages
    out.mkdir()
    for number in range(NUM_FILES):
        write_warc(out / f"{number:05d}.warc.gz", pages[number::NUM_FILES], media_type="text/html")
    return len(pages), sum(path.stat().st_size for path in out.iterdir())


if __name__ == "__main__":
    main()
