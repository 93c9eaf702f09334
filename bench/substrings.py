"""Speed of substring and paragraph deduplication, beside suffix arrays over all bytes, on one core in one run.

    python bench/substrings.py DOCUMENT_FILE [DOCUMENT_FILE ...] [--copies 0.3] [--megabytes 64]

The text of the files, repeated with a share of passages copied between documents, so that there is something to find.
Ours: the stage from files to files, with its ledger. Theirs: pydivsufsort over the bytes of all texts with common prefixes,
the first step of Lee et al.'s program (which is Rust); what its users run after it to cut text is not counted. Seconds are
of processor time: other work on the machine does not count.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import pydivsufsort

from bloomery.core.documents import document_table, read_documents, write_documents
from bloomery.core.stage import Runtime
from bloomery.curate.paragraphs import DedupParagraphsConfig
from bloomery.curate.substrings import DedupSubstringsConfig
from bloomery.stages.dedup_paragraphs import dedup_paragraphs
from bloomery.stages.dedup_substrings import dedup_substrings

DOCUMENT_CHARACTERS = 4000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--copies", type=float, default=0.1, help="share of documents that get a passage of an earlier one")
    parser.add_argument("--megabytes", type=int, default=24)
    options = parser.parse_args()
    texts = make_corpus(options.files, options.copies, options.megabytes * 1_000_000)
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shard in range(4):
            rows = [{"id": str(i), "text": text} for i, text in enumerate(texts) if i % 4 == shard]
            write_documents(folder / "in" / f"{shard}.parquet", document_table(rows))
        small = document_table([{"id": "a", "text": f"{texts[0]}\n\n{texts[0]}"}])
        write_documents(folder / "small" / "0.parquet", small)
        steps = {
            "substrings, 50 words": lambda source, out: dedup_substrings(
                DedupSubstringsConfig(), documents=[source], out=out, runtime=Runtime.local(out)
            ),
            "paragraphs": lambda source, out: dedup_paragraphs(
                DedupParagraphsConfig(), documents=[source], out=out, runtime=Runtime.local(out)
            ),
            "paragraphs, 13-grams": lambda source, out: dedup_paragraphs(
                DedupParagraphsConfig(match="ngrams"), documents=[source], out=out, runtime=Runtime.local(out)
            ),
        }
        seconds = {}
        for step, run in steps.items():
            for source in ("small", "in"):  # the first compiles
                out = folder / f"{step}-{source}"
                out.mkdir()
                started = time.process_time()
                metrics = run(folder / source, out)
                seconds[step] = time.process_time() - started
            facts = {key: metrics[key] for key in ("edited_documents", "removed_bytes", "candidate_words") if key in metrics}
            print(f"{step}: {size:.1f} MB in {seconds[step]:.1f} s, {size / seconds[step]:.1f} MB/s; {facts}", flush=True)
    data = "\0".join(texts).encode()
    started = time.process_time()
    order = pydivsufsort.divsufsort(data)
    pydivsufsort.kasai(data, order)
    theirs = time.process_time() - started
    print(f"suffix array of all bytes, common prefixes: {theirs:.1f} s, {size / theirs:.1f} MB/s")
    print(f"ratio: {theirs / seconds['substrings, 50 words']:.1f} (ours from files to files; theirs the array alone)")


def make_corpus(files: list[Path], copies: float, size: int) -> list[str]:
    """Pieces of the files' texts, each once, and passages of them put into others."""
    draw = random.Random(0)
    pieces: list[str] = []
    total = 0
    for path in files:
        for text in read_documents(path).column("text").to_pylist():
            pieces.extend(text[i : i + DOCUMENT_CHARACTERS] for i in range(0, len(text), DOCUMENT_CHARACTERS))
    draw.shuffle(pieces)
    texts: list[str] = []
    for piece in pieces:
        if texts and draw.random() < copies:
            start = draw.randrange(1000)
            piece = f"{piece[:1500]}\n\n{draw.choice(texts)[start : start + draw.randrange(200, 2000)]}\n\n{piece[1500:]}"
        texts.append(piece)
        total += len(piece)
        if total >= size:
            break
    return texts


if __name__ == "__main__":
    main()
