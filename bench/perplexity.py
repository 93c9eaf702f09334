"""Our n-gram model and KenLM on one model and the same lines: the same log-probabilities, and how fast each is.

    python bench/perplexity.py ../shared/data/text/stories.jsonl.gz ../shared/data/text/speeches.jsonl.gz --peer PYTHON

We learn from nine tenths of the documents and write the model as ARPA; KenLM reads that file. PYTHON is an interpreter that has
`kenlm` (no wheel: pip builds it where a C++ compiler is). Both score the last tenth on one core, warm, three times; the least CPU time
counts: KenLM gets lines that were cut into words beforehand (its time is that of `Model.score` alone, which is called from
Python for each line), ours gets the texts as they are and finds the words itself. Without a peer, only ours is timed.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bloomery.core.documents import read_documents
from bloomery.curate.kneser_ney import NgramConfig, estimate_ngrams, export_arpa, measure_log_probabilities

PEER = """
import json, sys, time
import kenlm
model = kenlm.Model(sys.argv[1])
documents = json.load(open(sys.argv[2]))
best = float("inf")
for _ in range(3):
    started = time.process_time()
    scores = [sum(model.score(line) for line in lines) for lines in documents]
    best = min(best, time.process_time() - started)
print(json.dumps({"scores": scores, "seconds": best}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--peer", help="an interpreter that has kenlm")
    parser.add_argument("--order", type=int, default=3)
    arguments = parser.parse_args()
    texts = [text for path in arguments.files for text in read_documents(path).column("text").to_pylist()]
    training, test = [t for i, t in enumerate(texts) if i % 10], texts[::10]
    config = NgramConfig(order=arguments.order)
    estimate_ngrams(column(training[:20]), config)  # compiles
    started = time.process_time()
    estimate = estimate_ngrams(column(training), config)
    seconds = time.process_time() - started
    print(f"learning: {estimate.num_tokens:,} tokens, {megabytes(training):.1f} MB in {seconds:.1f} s: "
          f"{megabytes(training) / seconds:.1f} MB/s; n-grams {estimate.num_ngrams}")  # fmt: skip
    ours, best = measure_log_probabilities(estimate.model, column(test)), math.inf
    for _ in range(3):
        started = time.process_time()
        ours = measure_log_probabilities(estimate.model, column(test))
        best = min(best, time.process_time() - started)
    num_tokens = int(ours.tokens.sum())
    print(
        f"scoring:  {num_tokens:,} tokens, {megabytes(test):.1f} MB: {megabytes(test) / best:.1f} MB/s, {num_tokens / best:,.0f} tokens/s"
    )
    if not arguments.peer:
        return
    with tempfile.TemporaryDirectory() as folder:
        export_arpa(estimate.model, Path(folder) / "model.arpa")
        # `measure_log_probabilities` is about Unicode words; \w is the same for text in Latin letters.
        lines = [[" ".join(words) for line in text.split("\n") if (words := words_of(line))] for text in test]
        (Path(folder) / "lines.json").write_text(json.dumps(lines))
        command = [arguments.peer, "-c", PEER, f"{folder}/model.arpa", f"{folder}/lines.json"]
        peer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    expected = np.array(peer["scores"]) - ours.unknown * math.log10(estimate.model.unknown_types[0])
    error = np.abs(ours.log10 - expected) / np.maximum(np.abs(expected), 1)
    print(f"KenLM:    {num_tokens / peer['seconds']:,.0f} tokens/s on words cut beforehand; ours / KenLM: {peer['seconds'] / best:.2f}")
    print(f"log10 p of {len(test):,} documents: largest relative difference {error.max():.2e}; over 1e-5: {int((error > 1e-5).sum())}")
    sys.exit(int((error > 1e-5).mean() > 0.01))


def words_of(line: str) -> list[str]:
    return re.findall(r"\w+", re.sub("[1-9]", "0", line.lower()))


def column(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


if __name__ == "__main__":
    main()
