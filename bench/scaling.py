"""One curation recipe with one worker, two workers, and Ray: wall time of each, ratios, and whether the bytes are the same.

    python bench/scaling.py                     # 200 MB of synthetic text in 16 files
    python bench/scaling.py --megabytes 50

The recipe is tests/data/curation.toml: crawl text, extract, filter, dedup, decontaminate, mix. Each run begins with an empty
store in a process of its own, so that start-up (imports, workers, a Ray cluster of two workers) is part of its time.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from memory import make_texts

RECIPE = Path(__file__).resolve().parents[1] / "tests" / "data" / "curation.toml"
PLACES = {"1 worker": ["--workers", "1"], "2 workers": ["--workers", "2"], "Ray, 2": ["--workers", "2", "--cluster", "ray"]}


def write_inputs(folder: Path, *, num_bytes: int, num_files: int) -> list[str]:
    """Files of documents and of prompts; the --set options that name them."""
    for i in range(num_files):
        texts = make_texts(i, num_bytes // num_files)
        pq.write_table(pa.table({"text": texts, "language": ["en"] * len(texts)}), folder / f"{i:03d}.parquet", compression="zstd")
    prompt = " ".join(make_texts(0, 1_000_000)[3].as_py().split()[:30])
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n")
    options = [f"texts.inputs.pages=file:{folder}/*.parquet", f"clean.inputs.prompts=file:{folder}/prompts.jsonl"]
    return [*options, "corpus.shard_bytes=16000000", "filtered.rules=['gopher']"]


def hash_artifacts(store: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in (store / "artifacts").rglob("*") if path.is_file()):
        digest.update(path.relative_to(store).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--files", type=int, default=16)
    options = parser.parse_args()
    results: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = write_inputs(folder, num_bytes=options.megabytes * 1_000_000, num_files=options.files)
        words = [word for setting in settings for word in ("--set", setting)]
        for place, arguments in PLACES.items():
            store = folder / place.replace(" ", "-").replace(",", "")
            command = [sys.executable, "-m", "bloomery", "run", str(RECIPE), "--store", str(store), *words, *arguments]
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results[place] = (time.monotonic() - started, hash_artifacts(store))
    first_seconds, first_hash = results["1 worker"]
    print(f"\n{options.megabytes} MB in {options.files} files, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for place, (seconds, digest) in results.items():
        same = "same bytes" if digest == first_hash else "OTHER BYTES"
        print(f"{place:10}{seconds:>8.1f} s{first_seconds / seconds:>8.2f} x   {same}")
    return 0 if all(digest == first_hash for _, digest in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
