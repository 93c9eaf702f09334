"""Relevance to a domain: how much likelier a document's n-grams are among example documents than in the background.

The importance weight of DSIR (arXiv:2302.03169, sec. 4): hashed word uni- and bigrams in 10,000 buckets, a bag-of-n-grams
model of the examples and one of the background, log p(document | examples) - log p(document | background). Divided by
the number of n-grams it compares documents of different lengths (`signal_<name>`, in nats for each n-gram; above 0 is
nearer to the examples); as it is, it is DSIR's weight for resampling (`signal_<name>_log_weight`).

    scorer.json           kind, name, settings
    weights.safetensors   log_ratio [10000]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays; JSON values

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveFloat, PositiveInt
from safetensors.numpy import load_file, save_file

from bloomery.core.config import Config
from bloomery.core.files import write_atomically, write_json
from bloomery.curate.classifier import set_signal
from bloomery.curate.kernels import POLYNOMIAL, compiled, hash_words, text_column

KIND = "relevance"
FORMAT = 1
MAX_TEST_DOCUMENTS = 2_000
"""As many documents of either side as are kept in memory to measure on."""

Vector = np.ndarray[Any, np.dtype[np.float64]]


class RelevanceConfig(Config):
    """Two bags of hashed n-grams: of the domain's examples, and of the background."""

    name: str = Field(default="relevance", pattern=r"^[a-z][a-z0-9_]*$")
    """The scores are `signal_<name>` and `signal_<name>_log_weight`."""
    num_buckets: PositiveInt = 10_000
    smoothing: PositiveFloat = 1.0
    """Added to the count of every bucket, scaled so that the background counts as much text as the examples."""
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the documents, by a hash of their text, that is kept from counting and that the report is made from."""


class RelevanceScorer(NamedTuple):
    """A trained scorer; see Scorer in curate/scorers.py."""

    name: str
    log_ratio: np.ndarray[Any, np.dtype[np.float32]]

    def add_signals(self, table: pa.Table) -> pa.Table:
        """The table with both signals; null for documents without words, which no rule drops."""
        sums, counts = measure_relevance(self.log_ratio, table.column("text"))
        known = counts > 0
        mean = np.divide(sums, counts, out=np.zeros(len(sums)), where=known)
        return set_signal(set_signal(table, self.name, mean, known=known), f"{self.name}_log_weight", sums, known=known)


def measure_relevance(log_ratio: np.ndarray[Any, np.dtype[np.float32]], texts: pa.ChunkedArray) -> tuple[Vector, Vector]:
    """For every text: the sum of the log ratios of its n-grams, and their number."""
    result = _sum_ratios(*text_column(texts, lowercase=True), log_ratio)
    return result[:, 0], result[:, 1]


def save_relevance(folder: Path, scorer: RelevanceScorer, *, settings: Mapping[str, Any]) -> None:
    """Writes the scorer; scorer.json comes last, and says that the folder is whole."""
    with write_atomically(folder / "weights.safetensors") as temporary:
        save_file({"log_ratio": np.ascontiguousarray(scorer.log_ratio)}, temporary)
    signals = [f"signal_{scorer.name}", f"signal_{scorer.name}_log_weight"]
    record = {"kind": KIND, "format": FORMAT, "name": scorer.name, "signals": signals, "settings": dict(settings)}
    write_json(folder / "scorer.json", record)


def load_relevance(folder: Path, record: Mapping[str, Any]) -> RelevanceScorer:
    """The scorer in a folder whose scorer.json is `record`."""
    return RelevanceScorer(record["name"], load_file(folder / "weights.safetensors")["log_ratio"])


@compiled
def count_buckets(data, offsets, num_buckets):  # type: ignore[no-untyped-def]  # compiled
    """How many n-grams of all texts fall into each bucket."""
    total, size = np.zeros(num_buckets, np.float64), np.uint64(num_buckets)
    words = np.empty(1024, np.uint64)
    for d in range(len(offsets) - 1):
        if offsets[d + 1] - offsets[d] + 1 > len(words):
            words = np.empty(2 * (offsets[d + 1] - offsets[d] + 1), np.uint64)
        found = hash_words(data, offsets[d], offsets[d + 1], words)
        for i in range(found):
            total[np.int64(words[i] % size)] += 1.0
            if i:
                total[np.int64(((words[i - 1] * POLYNOMIAL + words[i]) * POLYNOMIAL >> np.uint64(16)) % size)] += 1.0
    return total


@compiled
def _sum_ratios(data, offsets, log_ratio):  # type: ignore[no-untyped-def]  # compiled
    num_documents, size = len(offsets) - 1, np.uint64(len(log_ratio))
    result, words = np.zeros((num_documents, 2), np.float64), np.empty(1024, np.uint64)
    for d in range(num_documents):
        if offsets[d + 1] - offsets[d] + 1 > len(words):
            words = np.empty(2 * (offsets[d + 1] - offsets[d] + 1), np.uint64)
        found = hash_words(data, offsets[d], offsets[d + 1], words)
        total = 0.0
        for i in range(found):
            total += log_ratio[np.int64(words[i] % size)]
            if i:
                total += log_ratio[np.int64(((words[i - 1] * POLYNOMIAL + words[i]) * POLYNOMIAL >> np.uint64(16)) % size)]
        result[d, 0], result[d, 1] = total, max(2 * found - 1, 0)
    return result
