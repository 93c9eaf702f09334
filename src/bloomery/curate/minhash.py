"""Near duplicates: MinHash signatures (Broder 1997), the keys of their bands, and what is kept to estimate similarity.

Two documents with Jaccard similarity s of their word n-grams share at least one of `bands` bands of `rows` hashes with
probability 1 - (1 - s**rows)**bands. Who shares a band is joined (`curate/clusters.py`).
"""

import math
from pathlib import Path
from typing import Any, Literal  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.errors import DataError
from bloomery.curate.kernels import band_keys, folded_characters, sign_documents, text_column

U32 = np.ndarray[Any, np.dtype[np.uint32]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]
U8 = np.ndarray[Any, np.dtype[np.uint8]]
F64 = np.ndarray[Any, np.dtype[np.float64]]

NO_WORDS = np.uint32(0xFFFFFFFF)
"""Every hash of the signature of a text without words."""

SIGNATURE_VERSION = 2
"""Raised when the same text gets another signature, or other keys: those of both cannot be compared."""

CHANCE = 1 / 256
"""Probability that two bytes are equal by chance."""


class DedupConfig(Config):
    """MinHash-LSH near-duplicate removal over all inputs. Half of the pairs at about (1/bands)**(1/rows) Jaccard are found."""

    ngram_words: PositiveInt = 5
    num_hashes: PositiveInt = 112
    bands: PositiveInt = 14
    """14 x 8: threshold about 0.72, FineWeb's setting (arXiv:2406.17557)."""
    min_similarity: float = Field(default=0.0, ge=0, le=1)
    """Two documents that share a band are joined only if their estimated Jaccard similarity is at least this."""
    keep: Literal["longest", "newest", "quality", "first"] = "longest"
    """Which document of a cluster stays: the one with most bytes, the latest `date`, the highest `keep_signal`, or the first
    in order of inputs. Of equal ones the first; one without date or signal only where none has any."""
    keep_signal: str = ""
    """The signal of keep = "quality": "words" for the column `signal_words`."""
    keep_bands: bool = False
    """Write `bands/` beside the documents, against which later runs can deduplicate new documents (slot `existing`)."""

    @model_validator(mode="after")
    def _quality_names_its_signal(self) -> "DedupConfig":
        if (self.keep == "quality") != bool(self.keep_signal):
            raise ValueError(
                f'keep = "{self.keep}" with keep_signal = "{self.keep_signal}": keep = "quality" needs a signal, the others use none'
            )
        return self

    @model_validator(mode="after")
    def _bands_share_out_the_hashes(self) -> "DedupConfig":
        if self.num_hashes % self.bands:
            raise ValueError(f"num_hashes = {self.num_hashes} cannot be shared out over bands = {self.bands}: choose a multiple")
        return self


def sign_texts(texts: pa.ChunkedArray, config: DedupConfig) -> U32:
    """MinHash signatures of texts (uint32, texts x num_hashes)."""
    column = text_column(texts, lowercase=False)
    return np.asarray(sign_documents(*column, config.ngram_words, *hash_family(config.num_hashes), folded_characters()))


def hash_family(num_hashes: int) -> tuple[U32, U32]:
    """Multipliers (odd) and addends of the hashes, always the same: signatures of two runs can be compared."""
    numbers = [_split_mix(i) >> 32 for i in range(2 * num_hashes)]
    return np.array([n | 1 for n in numbers[:num_hashes]], np.uint32), np.array(numbers[num_hashes:], np.uint32)


def estimate_similarity(first: U32, second: U32) -> F64:
    """Estimated Jaccard similarity of documents, row by row: the share of equal hashes. Standard error at most 0.047 for 112."""
    return np.asarray((first == second).mean(axis=-1), dtype=np.float64)


def document_keys(signatures: U32, exact: U64, config: DedupConfig) -> U64:
    """The keys that near and exact duplicates share (uint64, documents x (bands + 1)): one a band, and the exact hash.

    A document without words has nothing that could be similar: all its keys are those of its exact hash.
    """
    keys = np.empty((len(signatures), config.bands + 1), np.uint64)
    keys[:, :-1] = band_keys(signatures, config.bands)
    keys[:, -1] = exact[:, 0]
    wordless = (signatures == NO_WORDS).all(axis=1)
    keys[wordless, :-1] = exact[wordless, :1] + np.arange(1, config.bands + 1, dtype=np.uint64)
    return keys


def sketch(signatures: U32) -> U8:
    """One byte of each hash of a signature (uint8, documents x num_hashes): b-bit minwise hashing (arXiv:0910.3349), b = 8.

    A quarter of the space for an estimate that is as good: see `estimate_from_sketches`.
    """
    # Multiplied first: the low bytes of a linear hash say the same for all hashes.
    return np.asarray((signatures * np.uint32(0x9E3779B1)) >> np.uint32(24), dtype=np.uint8)


def estimate_from_sketches(first: U8, second: U8) -> F64:
    """As estimate_similarity, of sketches, whose bytes are equal by chance once in 256. Standard error at most 0.048 for 112."""
    equal = (first == second).mean(axis=-1) if first.size else np.zeros(len(first))
    return np.asarray(np.maximum(equal - CHANCE, 0) / (1 - CHANCE), dtype=np.float64)


def least_equal(min_similarity: float, num_hashes: int) -> int:
    """How many bytes of two sketches must be equal, so that their estimated similarity is at least this."""
    return math.ceil((CHANCE + min_similarity * (1 - CHANCE)) * num_hashes - 1e-9)


def rank_documents(table: pa.Table, config: DedupConfig, path: Path) -> I64:
    """What `keep` sorts the documents of a cluster by: the lowest stays. Raises DataError if the signal is not there."""
    if config.keep == "longest":
        return np.asarray(-pc.fill_null(pc.binary_length(table.column("text")), 0).cast(pa.int64()).to_numpy())
    if config.keep == "newest":
        return -_date_numbers(table.column("date"))
    if config.keep == "first":
        return np.zeros(len(table), np.int64)
    name = f"signal_{config.keep_signal}"
    if name not in table.column_names:
        known = [column.removeprefix("signal_") for column in table.column_names if column.startswith("signal_")]
        raise DataError(f'{path}: no column {name} for keep_signal = "{config.keep_signal}"; {suggest(config.keep_signal, known)}')
    # 0.0 is added, because -0.0 has other bits. The bits of floats, as integers, sort as these if the negative are turned round.
    bits = (table.column(name).to_numpy() + 0.0).view(np.int64)
    ordered = np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)
    return np.asarray(np.where(np.isnan(bits.view(np.float64)), np.int64(2**63 - 1), ~ordered))


def _date_numbers(dates: pa.ChunkedArray) -> I64:
    # "2024-05-01T10:00:00Z" is 20240501100000; 0 for none, or what does not start with a year.
    digits = pc.utf8_slice_codeunits(pc.replace_substring_regex(dates, "[^0-9]", ""), 0, 14)
    dated = pc.fill_null(pc.match_substring_regex(dates, "^[0-9]{4}(-|$)"), False)
    numbers = pc.utf8_rpad(pc.if_else(dated, digits, "0"), 14, "0")
    return np.asarray(numbers.cast(pa.int64()).to_numpy())


def _split_mix(index: int) -> int:
    # SplitMix64 (Steele et al. 2014): numpy's generators may change their streams between versions.
    value = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)
