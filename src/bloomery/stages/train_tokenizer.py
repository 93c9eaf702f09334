"""documents -> tokenizer: learns a byte-level BPE vocabulary and writes it with the chat template.

Only training documents are seen: where an input has `train/` and `validation/` (a mix), the files under `train/`. Of a
corpus larger than the sample, documents are taken by a hash of their id, so that no source or shard is favoured.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: metrics are JSON values

from pydantic import PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import text_bytes
from bloomery.tokens.tokenizer import SPECIAL_TOKENS, load_tokenizer
from bloomery.tokens.train import PatternName, train_bpe, write_tokenizer


class TrainTokenizerConfig(Config):
    """Byte-level BPE."""

    vocab_size: PositiveInt = 4096
    """Entries, the 256 bytes and the special tokens counted."""
    pattern: PatternName = "llama3"
    """How text is cut before merging; both are known to llama.cpp."""
    sample_bytes: PositiveInt = 256_000_000
    """About how much text to learn from; more hardly changes the vocabulary."""


@dataclass
class _Seen:
    documents: int = 0
    num_bytes: int = 0


def train_tokenizer(config: TrainTokenizerConfig, *, documents: Sequence[Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes tokenizer.json and tokenizer_config.json to `out`. Raises DataError if the documents hold no text."""
    files = list_document_files([folder / "train" if (folder / "train").is_dir() else folder for folder in documents])
    share = _sample_share(files, config.sample_bytes)
    seen = _Seen()
    with runtime.progress(len(files), "files") as bar:

        def texts() -> Iterator[str]:
            for path in files:
                for text in _read_sample(path, share):
                    seen.documents += 1
                    seen.num_bytes += len(text.encode("utf-8", "replace"))
                    yield text
                bar.advance()

        tokens = train_bpe(texts(), vocab_size=config.vocab_size, pattern=config.pattern)
    if not seen.num_bytes:
        raise DataError(f"{files[0]} and {len(files) - 1} more files hold no text to learn a tokenizer from")
    write_tokenizer(out, tokens, pattern=config.pattern)
    tokenizer = load_tokenizer(out)
    first = [text for path in files[:1] for text in _read_sample(path, share)]
    num_tokens = sum(len(ids) for ids in tokenizer.encode_batch(first))
    return {
        "vocab_size": len(tokens) + len(SPECIAL_TOKENS),
        "documents": seen.documents,
        "bytes": seen.num_bytes,
        "bytes_per_token": round(sum(len(text.encode("utf-8", "replace")) for text in first) / max(num_tokens, 1), 4),
    }


def _sample_share(files: Sequence[Path], sample_bytes: int) -> float:
    total = sum(text_bytes(table) for path in files for table in read_document_batches(path))
    return min(1.0, sample_bytes / max(total, 1))


def _read_sample(path: Path, share: float) -> Iterator[str]:
    for batch in read_document_batches(path):
        for name, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            if text and (share == 1.0 or _fraction(name) < share):
                yield text


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(f"tokenizer-sample\x00{name}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


STAGE = Stage(
    name="train_tokenizer",
    config_type=TrainTokenizerConfig,
    run=train_tokenizer,
    inputs={"documents": Slot("documents", many=True)},
    output="tokenizer",
    version=1,
)
