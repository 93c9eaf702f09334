"""Daft's side of bench/minhash.py: its built-in `minhash` of a column of texts, on one thread.

python daft_minhash.py "Daft minhash" TEXTS.parquet
"""

import json
import sys
import time
from pathlib import Path

import daft
import pyarrow as pa
import pyarrow.parquet as pq


def main(side: str, texts: Path) -> None:
    daft.set_runner_native(num_threads=1)
    table = pq.read_table(texts).combine_chunks()
    text = daft.col("text")
    # Without it Daft's words are those between spaces, with case and punctuation; with it they are as ours.
    text = text.normalize(remove_punct=True, lowercase=True, white_space=True) if "normalize" in side else text
    column = text.minhash(num_hashes=112, ngram_size=5, seed=1, hash_function="xxhash3_64")
    sign(table.slice(0, 20), column)
    runs = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        sign(table, column)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    print(json.dumps({"cpu_seconds": min(run[0] for run in runs), "seconds": min(run[1] for run in runs)}))


def sign(table: pa.Table, column: daft.Expression) -> None:
    daft.from_arrow(table).select(column).collect()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
