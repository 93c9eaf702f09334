"""documents -> tokenizer: learns a byte-level BPE vocabulary and writes it with the chat template and a report.

Only training documents are seen: where an input has `train/` and `validation/` (a mix), the files under `train/`. Of a
corpus larger than the sample, documents are taken by a hash of their id, so that no shard is favoured; sources or
languages are favoured only where weights or a temperature say so, lest a small one be starved of merges.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: metrics are JSON values

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.tokens.tokenizer import SPECIAL_TOKENS, load_tokenizer
from bloomery.tokens.train import PatternName, is_one_piece, train_bpe, write_tokenizer
from bloomery.tokens.usage import UNKNOWN, Sample, count_usage, usage_report, write_report

log = logging.getLogger(__name__)

PART_CHARACTERS = 1_000_000
"""Longer documents are sampled in parts of this length: a whole corpus may be one text file."""
REPORT_BYTES = 16_000_000
"""Text that the report is measured on, in equal parts from all sources as far as they have it; a few seconds."""


class TrainTokenizerConfig(Config):
    """Byte-level BPE."""

    vocab_size: int = Field(default=4096, ge=256, le=200_000)
    """Entries, the 256 bytes and all special tokens counted."""
    pattern: PatternName = "llama3"
    """How text is cut before merging; both are known to llama.cpp."""
    reserved_tokens: NonNegativeInt = 0
    """Special tokens <|reserved_0|>, <|reserved_1|> ... of no meaning yet: later stages may give them one without resizing a model."""
    special_tokens: list[str] = Field(default=[])
    """More special tokens, by name, such as <|tool|>: none that could be a piece of ordinary text."""
    sample_bytes: PositiveInt = 256_000_000
    """About how much text to learn from; more hardly changes the vocabulary."""
    sample_by: Literal["source", "language"] = "source"
    """The column of the documents whose values `weights` and `temperature` speak of."""
    weights: dict[str, PositiveFloat] = Field(default={})
    """By source or language: how many times its share of the sample is multiplied; 1 for those not named. Documents of a share
    larger than there is are taken several times."""
    temperature: PositiveFloat = 1.0
    """Shares proportional to a source's or language's size to the power 1/temperature (arXiv:1901.07291, sec. 3.1). 1 samples
    all alike; larger ones favour the small."""

    @model_validator(mode="after")
    def _check_specials(self) -> "TrainTokenizerConfig":
        names = self.extra_specials
        for name in names:
            if not name or name in SPECIAL_TOKENS or names.count(name) > 1:
                raise ValueError(f"special_tokens: {name!r} is empty, there already, or given twice")
            if is_one_piece(name, self.pattern):
                raise ValueError(
                    f"special_tokens: {name!r} is what ordinary text is made of; use a name that is not, such as <|{name.strip('<|>')}|>"
                )
        smallest = 256 + len(SPECIAL_TOKENS) + len(names)
        if self.vocab_size < smallest:
            raise ValueError(f"vocab_size = {self.vocab_size} is too small: 256 bytes and {smallest - 256} special tokens need {smallest}")
        return self

    @property
    def extra_specials(self) -> list[str]:
        """The special tokens beside those of the chat format."""
        return [*self.special_tokens, *(f"<|reserved_{i}|>" for i in range(self.reserved_tokens))]


class _Document(NamedTuple):
    text: str
    source: str | None
    language: str | None
    place: float
    """The hash of its id, in [0, 1)."""
    fraction: float
    """How much of a document it is: 1, or a part of a long one."""


@dataclass
class _Seen:
    documents: float = 0.0
    num_bytes: int = 0


def train_tokenizer(config: TrainTokenizerConfig, *, documents: Sequence[Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Writes tokenizer.json, tokenizer_config.json and a report to `out`. Raises DataError if the documents hold no text, or
    `weights` names a source or language that is not among them."""
    files = list_document_files([folder / "train" if (folder / "train").is_dir() else folder for folder in documents])
    sizes = {column: _count_bytes(files, column) for column in ("source", "language")}
    copies = _copies(sizes[config.sample_by], config)
    seen = _Seen()
    with runtime.progress(len(files), "files") as bar:

        def texts() -> Iterator[str]:
            for path in files:
                for document in _read(path):
                    wanted = copies[getattr(document, config.sample_by) or UNKNOWN]
                    for _ in range(int(wanted) + (document.place < wanted % 1)):
                        seen.documents += document.fraction
                        seen.num_bytes += len(document.text.encode("utf-8", "replace"))
                        yield document.text
                bar.advance()

        tokens = train_bpe(texts(), vocab_size=config.vocab_size, pattern=config.pattern, extra_specials=config.extra_specials)
    if not seen.num_bytes:
        raise DataError(f"{files[0]} and {len(files) - 1} more files hold no text to learn a tokenizer from")
    write_tokenizer(out, tokens, pattern=config.pattern, extra_specials=config.extra_specials)
    tokenizer = load_tokenizer(out)
    if tokenizer.vocab_size < config.vocab_size:
        log.warning(
            "vocab_size = %d was asked for, but %d bytes of text have pieces for %d entries only; more text makes more",
            config.vocab_size, seen.num_bytes, tokenizer.vocab_size,
        )  # fmt: skip
    report = usage_report(tokenizer, count_usage(tokenizer, _report_sample(files, sizes["source"])))
    write_report(out, report)
    return {
        "vocab_size": tokenizer.vocab_size,
        "documents": round(seen.documents),
        "bytes": seen.num_bytes,
        **{name: report[name] for name in ("bytes_per_token", "one_byte_fraction", "vocabulary_used_fraction")},
    }


def _count_bytes(files: Sequence[Path], column: str) -> Counter[str]:
    """Bytes of text by source or language."""
    sizes: Counter[str] = Counter()
    for path in files:
        for batch in read_document_batches(path):
            lengths = pc.fill_null(pc.binary_length(batch.column("text")), 0)
            names = pc.fill_null(batch.column(column), UNKNOWN)
            grouped = pa.table({"name": names, "bytes": lengths}).group_by("name").aggregate([("bytes", "sum")])
            for name, size in zip(grouped.column("name").to_pylist(), grouped.column("bytes_sum").to_pylist(), strict=True):
                sizes[name or UNKNOWN] += size
    return sizes


def _copies(sizes: Mapping[str, int], config: TrainTokenizerConfig) -> dict[str, float]:
    """How often the documents of each source or language are taken: a share below 1, or several times."""
    for name in config.weights:
        if name not in sizes:
            raise DataError(f'weights: there are no documents of the {config.sample_by} "{name}"; {suggest(name, sizes)}')
    total = max(sum(sizes.values()), 1)
    wanted = {name: (size / total) ** (1 / config.temperature) * config.weights.get(name, 1.0) for name, size in sizes.items()}
    if config.temperature == 1.0 and not config.weights:
        return dict.fromkeys(sizes, min(1.0, config.sample_bytes / total))
    scale = min(config.sample_bytes, total) / max(sum(wanted.values()), 1e-300)
    return {name: wanted[name] * scale / max(size, 1) for name, size in sizes.items()}


def _read(path: Path) -> Iterator[_Document]:
    for batch in read_document_batches(path):
        columns = (batch.column(name).to_pylist() for name in ("id", "text", "source", "language"))
        for name, text, source, language in zip(*columns, strict=True):
            num_parts = -(-len(text or "") // PART_CHARACTERS)
            for i in range(num_parts):
                part = text[i * PART_CHARACTERS : (i + 1) * PART_CHARACTERS]
                yield _Document(part, source or None, language or None, _fraction(f"{name}\x00{i}" if i else name), 1 / num_parts)


def _report_sample(files: Sequence[Path], sizes: Mapping[str, int]) -> Iterator[Sample]:
    share = {name: min(1.0, REPORT_BYTES / max(len(sizes), 1) / max(size, 1)) for name, size in sizes.items()}
    for path in files:
        for document in _read(path):
            # Of a small source all documents, so that each source is measured; the weight gives all of them their part of the whole.
            wanted = share[document.source or UNKNOWN]
            if document.place < wanted:
                yield Sample(document.text, document.source, document.language, 1 / wanted, document.fraction)


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(f"tokenizer-sample\x00{name}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


STAGE = Stage(
    name="train_tokenizer",
    config_type=TrainTokenizerConfig,
    run=train_tokenizer,
    inputs={"documents": Slot("documents", many=True)},
    output="tokenizer",
    version=4,
)
