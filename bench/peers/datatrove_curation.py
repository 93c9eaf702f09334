"""datatrove's side of bench/curation.py: WARC -> trafilatura -> Gopher -> MinHash -> JSONL. Runs in .venv-peers.

    python datatrove_curation.py WARC_FOLDER OUT_FOLDER WORKERS

Prints one JSON object: seconds of each executor, seconds by step (summed over tasks), documents written.
"""

import gzip
import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter

NUM_BUCKETS = 14


def main(warcs: Path, out: Path, workers: int) -> None:
    files = len(list(warcs.glob("*.warc.gz")))
    config = MinhashConfig(n_grams=5, num_buckets=NUM_BUCKETS, hashes_per_bucket=8)
    written, signatures, buckets, removals = (str(out / name) for name in ("filtered", "signatures", "buckets", "removals"))
    pipelines = [
        (
            [
                WarcReader(str(warcs)),
                Trafilatura(favour_precision=True),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                JsonlWriter(written),
            ],
            files,
        ),
        ([JsonlReader(written), MinhashDedupSignature(signatures, config)], files),
        ([MinhashDedupBuckets(signatures, buckets, config=config)], NUM_BUCKETS),
        ([MinhashDedupCluster(buckets, removals, config=config)], 1),
        ([JsonlReader(written), MinhashDedupFilter(removals), JsonlWriter(str(out / "unique"))], files),
    ]
    seconds, by_step = [], {}
    for number, (steps, tasks) in enumerate(pipelines):
        began = time.perf_counter()
        logs = out / "logs" / str(number)
        LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=workers, logging_dir=str(logs)).run()
        seconds.append(time.perf_counter() - began)
        for step in json.loads((logs / "stats.json").read_text()):
            time_spent = step["time_stats"]["total"] if isinstance(step["time_stats"], dict) else step["time_stats"]
            by_step[step["name"]] = by_step.get(step["name"], 0.0) + time_spent
    documents = 0
    for path in (out / "unique").glob("*.jsonl.gz"):
        with gzip.open(path) as lines:
            documents += sum(1 for _ in lines)
    print(json.dumps({"by_executor": seconds, "by_step": by_step, "documents": documents}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
