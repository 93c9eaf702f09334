"""Scorers: folders that measure documents by something that was learned. One function loads any of them.

    classifier    curate/classifier.py    probability of being like good, toxic, ... documents
    perplexity    curate/perplexity.py    an n-gram model for each language, head, middle and tail
    relevance     curate/relevance.py     nearness to example documents of a domain

A scorer folder holds scorer.json (kind, format, name, signals, settings) and safetensors files: nothing in it can run.
What a scorer cannot judge (no words, a language without a model) has null in its columns, and no rule drops a null.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol  # Any: the values of scorer.json

import pyarrow as pa
from safetensors import SafetensorError

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_json
from bloomery.curate import classifier, perplexity, relevance
from bloomery.curate.signal_names import SIGNALS


class Scorer(Protocol):
    """Something that adds float64 columns `signal_<name>...` to a document table, row by row: batches do not matter."""

    @property
    def name(self) -> str:
        """The name of its first signal, without the prefix."""
        ...

    def add_signals(self, table: pa.Table) -> pa.Table:
        """The table with the scorer's columns, in place of older ones of the same names."""
        ...


class _Kind(NamedTuple):
    format: int
    load: Callable[[Path, Mapping[str, Any]], Scorer]


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        classifier.KIND: _Kind(classifier.FORMAT, classifier.load_classifier),
        perplexity.KIND: _Kind(perplexity.FORMAT, perplexity.load_perplexity_scorer),
        relevance.KIND: _Kind(relevance.FORMAT, relevance.load_relevance),
    }
)


def load_scorer(folder: Path) -> Scorer:
    """The scorer in a folder; loaded once in each process. Raises DataError for a folder that is none, or damaged."""
    path = folder / "scorer.json"
    if not path.is_file():
        raise DataError(f"{folder}: no scorer.json there; expected the output of train_classifier, train_perplexity or train_relevance")
    return _load(folder, path.stat().st_mtime_ns)


def load_scorers(folders: Sequence[Path]) -> list[Scorer]:
    """Several scorers. Raises ConfigError where one would write a column of another, or a signal that is measured anyway."""
    seen: dict[str, Path] = {}
    for folder in folders:
        for signal in scorer_signals(folder):
            if signal.removeprefix("signal_") in SIGNALS:
                raise ConfigError(f"{folder}: its column {signal} is one that every document has; train it under another `name`")
            if signal in seen:
                raise ConfigError(f"two scorers write {signal}: {seen[signal]} and {folder}; train one of them under another `name`")
            seen[signal] = folder
    return [load_scorer(folder) for folder in folders]


def scorer_signals(folder: Path) -> list[str]:
    """The columns that a scorer will add, with their prefix: what rules on them are checked against before a run."""
    signals: list[str] = _read_record(folder)["signals"]
    return signals


@functools.lru_cache(maxsize=16)
def _load(folder: Path, _modified: int) -> Scorer:
    record = _read_record(folder)
    try:
        return KINDS[record["kind"]].load(folder, record)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: a damaged scorer: {type(error).__name__}: {error}. Train it again.") from error


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "scorer.json"
    record: dict[str, Any] = read_json(path)
    kind = str(record.get("kind")) if isinstance(record, dict) else "none"
    if kind not in KINDS:
        raise DataError(f"{path}: a scorer of the kind {kind}; {suggest(kind, KINDS)}")
    if record.get("format") != KINDS[kind].format:
        raise DataError(f"{path}: format {record.get('format')!r}; this version reads format {KINDS[kind].format}. Train it again.")
    return record
