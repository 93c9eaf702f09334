"""datatrove's side of bench/minhash.py: get_shingles and get_signature of every text. Runs in .venv-peers.

    python datatrove_minhash.py TEXTS.json

Only the two functions are timed: no reading, sorting or writing of datatrove's is counted against it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig


def main(path: Path) -> None:
    texts = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))
    sign(step, texts[:3])
    wall, cpu = time.perf_counter(), time.process_time()
    sign(step, texts)
    print(json.dumps({"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}))


def sign(step: MinhashDedupSignature, texts: list[str]) -> None:
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
