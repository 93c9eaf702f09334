"""Tokenizer training and encoding beside Hugging Face's `tokenizers`, on the same texts, one process order, several rounds.

    python bench/tokenizer.py TEXTS.jsonl.gz ... [--megabytes 16] [--vocab-size 32768] [--rounds 3]

CPU seconds of one thread (the peers' thread pools are held to one: in a pipeline the pool's workers are the
parallelism). Training: rustbpe as `train_bpe` calls it, and the trainer it falls back to. Encoding: tiktoken as
`Tokenizer.encode` calls it, and the library reading the same tokenizer.json; the ids are compared.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before the libraries start their pools

import numpy as np
import tokenizers

from bloomery.core.files import read_jsonl
from bloomery.tokens import train
from bloomery.tokens.tokenizer import SPECIAL_TOKENS, load_tokenizer


def read_texts(paths: list[Path], *, num_bytes: int) -> list[str]:
    """Documents of these files, over and over, until there are so many bytes."""
    pool = [row["text"] for path in paths for row in read_jsonl(path) if row.get("text")]
    texts: list[str] = []
    total, i = 0, 0
    while total < num_bytes:
        text = pool[i % len(pool)]
        texts.append(text)
        total, i = total + len(text.encode()), i + 1
    return texts


def cpu_seconds(work: Callable[[], object]) -> float:
    """What `work` takes of one core."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts, num_bytes=int(arguments.megabytes * 1e6))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    wanted, pattern = arguments.vocab_size - len(SPECIAL_TOKENS), train.PATTERNS["llama3"]
    rust = train.rustbpe
    times: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        times.setdefault(name, []).append(cpu_seconds(work))

    tokens = train.train_bpe(texts, vocab_size=arguments.vocab_size, pattern="llama3")
    for _ in range(arguments.rounds):
        note("train: rustbpe", lambda: rust.Tokenizer().train_from_iterator(iter(texts), wanted, pattern=pattern))
        note("train: Hugging Face", lambda: train._train_with_hugging_face(texts, wanted, pattern))
    with tempfile.TemporaryDirectory() as folder:
        train.write_tokenizer(Path(folder), tokens, pattern="llama3")
        ours, library = load_tokenizer(Path(folder)), tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        assert ours.encode_batch(texts[:200]) == [e.ids for e in library.encode_batch(texts[:200], add_special_tokens=False)]
        for _ in range(arguments.rounds):
            note("encode: tiktoken", lambda: ours.encode_batch(texts))
            note("encode: Hugging Face", lambda: library.encode_batch_fast(texts, add_special_tokens=False))
    print(f"{megabytes:.1f} MB in {len(texts):,} documents, {arguments.vocab_size:,} entries; CPU seconds, median of {arguments.rounds}")
    for name, found in times.items():
        print(f"{name:22} {np.median(found):7.2f} s  {megabytes / np.median(found):7.1f} MB/s")
    for what, mine, peer in (("train", "rustbpe", "Hugging Face"), ("encode", "tiktoken", "Hugging Face")):
        ratio = np.median(times[f"{what}: {peer}"]) / np.median(times[f"{what}: {mine}"])
        print(f"{what}: {mine} is {ratio:.2f} times as fast as {peer}")


if __name__ == "__main__":
    main()
