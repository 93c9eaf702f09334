"""Perplexity of documents under an n-gram model of their own language, in thirds: head, middle and tail, as CCNet.

CCNet (arXiv:1911.00359, sec. 4.3) trains a model of each language on good text (Wikipedia), scores every line of a web
document, and splits the documents of a language into thirds by perplexity. So here, with words in place of
SentencePiece pieces: perplexity = 10 ** (-log10 p / tokens), tokens being words and ends of lines. The bounds of the
thirds are learned from documents that the model has not seen, and kept with the scorer.

    scorer.json          kind, name, settings, and for each language the bounds of its thirds
    <code>.safetensors   the model of one language (curate/kneser_ney.py)
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays; JSON values

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.files import write_json
from bloomery.curate.classifier import set_signal
from bloomery.curate.kneser_ney import (
    NgramConfig,
    NgramModel,
    describe_estimate,
    estimate_ngrams,
    load_ngrams,
    measure_log_probabilities,
    save_ngrams,
)
from bloomery.curate.language import identify_language

KIND = "perplexity"
FORMAT = 1
BUCKETS = ("head", "middle", "tail")


class PerplexityConfig(Config):
    """An n-gram model for each language, and the bounds of its thirds."""

    name: str = Field(default="perplexity", pattern=r"^[a-z][a-z0-9_]*$")
    """The scores are `signal_<name>` and `signal_<name>_bucket`: 0 head, 1 middle, 2 tail."""
    languages: list[str] = Field(default=[])
    """ISO 639-1 codes to learn; none = every language with enough documents."""
    ngrams: NgramConfig = Field(default=NgramConfig())
    sample_bytes: PositiveInt = Field(default=64_000_000, le=4_000_000_000)
    """About how much text of each language to learn from; memory is about 20 times that, one language at a time in each worker."""
    min_documents: PositiveInt = 50
    """Languages with fewer documents get no model."""
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the documents, by a hash of their text, that is kept from learning and that perplexities are reported on."""


class LanguageModel(NamedTuple):
    """The model of one language, and the perplexities up to which a document is head, and up to which it is middle."""

    ngrams: NgramModel
    head_below: float
    middle_below: float


class PerplexityScorer(NamedTuple):
    """A trained scorer; see Scorer in curate/scorers.py."""

    name: str
    models: Mapping[str, LanguageModel]

    def add_signals(self, table: pa.Table) -> pa.Table:
        """The table with `signal_<name>` and `signal_<name>_bucket`.

        Null for documents in a language without a model and for documents without words: no rule drops a null.
        """
        values, buckets = np.full(len(table), np.nan), np.full(len(table), np.nan)
        languages = np.array(_languages(table), dtype=object)
        for code in sorted(self.models):
            rows = np.flatnonzero(languages == code)
            if len(rows):
                model = self.models[code]
                values[rows] = measure_perplexities(model.ngrams, table.column("text").take(pa.array(rows)))
                buckets[rows] = np.searchsorted([model.head_below, model.middle_below], values[rows], side="left")
        known = ~np.isnan(values)
        return set_signal(set_signal(table, self.name, values, known=known), f"{self.name}_bucket", buckets, known=known)


class Sampled(NamedTuple):
    """Documents of one language: to learn from, and kept from learning."""

    training: list[str]
    test: list[str]


def measure_perplexities(model: NgramModel, texts: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The perplexity of every text; NaN for one without words."""
    scored = measure_log_probabilities(model, texts)
    exponent = np.divide(-scored.log10, scored.tokens, out=np.full(len(scored.tokens), np.nan), where=scored.tokens > 0)
    return np.asarray(10.0**exponent)


def count_languages(path: Path) -> dict[str, tuple[int, int]]:
    """Documents and bytes of text of each language in a file of documents."""
    counts: dict[str, tuple[int, int]] = {}
    for table in read_document_batches(path):
        sizes = pc.fill_null(pc.binary_length(table.column("text")), 0).to_pylist()
        for code, size in zip(_languages(table), sizes, strict=True):
            documents, num_bytes = counts.get(code, (0, 0))
            counts[code] = (documents + 1, num_bytes + size)
    return counts


def choose_languages(config: PerplexityConfig, counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """The languages that get a model, sorted. Raises DataError if none does, or one that was asked for has too little."""
    for code in config.languages:
        documents = counts.get(code, (0, 0))[0]
        if documents < config.min_documents:
            raise DataError(f'languages: {documents} documents are in "{code}"; a model needs min_documents = {config.min_documents}')
    if config.languages:
        return sorted(set(config.languages))
    chosen = sorted(code for code, (documents, _) in counts.items() if documents >= config.min_documents and code != "und")
    if not chosen:
        most = max(counts.items(), key=lambda item: (item[1][0], item[0]), default=("none", (0, 0)))
        raise DataError(
            f"no language has min_documents = {config.min_documents} documents; the most are {most[1][0]} in {most[0]}. "
            "Give more documents, or a smaller min_documents"
        )
    return chosen


def train_language(
    config: PerplexityConfig, files: Sequence[Path], num_bytes: Mapping[str, int], compared: Sequence[Path], out: Path, code: str
) -> dict[str, Any]:
    """Learns the model of one language, writes it to `out`, and returns what scorer.json and report.json say of it.

    `compared` are files whose documents set the bounds of the thirds, in place of the documents kept from learning.
    """
    share = min(1.0, config.sample_bytes / max(num_bytes[code], 1))
    sampled = _sample(config, files, code, share)
    if not sampled.training or not sampled.test:
        found = f"{len(sampled.training)} documents to learn from and {len(sampled.test)} to measure on"
        raise DataError(f"{code}: {found}; expected some of both: give more documents, or another test_fraction")
    estimate = estimate_ngrams(_texts(sampled.training), config.ngrams)
    save_ngrams(out / f"{code}.safetensors", estimate.model)
    held_out = measure_log_probabilities(estimate.model, _texts(sampled.test))
    documents = measure_perplexities(estimate.model, _texts(sampled.test))
    if compared:
        others = [text for path in compared for text in _texts_of(path, code)]
        bounds_from = measure_perplexities(estimate.model, _texts(others)) if others else documents
    else:
        bounds_from = documents
    known = bounds_from[~np.isnan(bounds_from)]
    if not len(known):
        raise DataError(f"{code}: none of the documents that set the bounds of head, middle and tail has a word in it")
    head, middle = (float(f"{value:.6g}") for value in np.quantile(known, [1 / 3, 2 / 3]))
    thirds = np.bincount(np.searchsorted([head, middle], known, side="left"), minlength=3).tolist()
    return {
        "head_below": head,
        "middle_below": middle,
        "bounds_from_documents": len(known),
        "thirds": dict(zip(BUCKETS, thirds, strict=True)),
        "documents": len(sampled.training),
        "test_documents": len(sampled.test),
        "test_perplexity": round(float(10 ** (-held_out.log10.sum() / max(held_out.tokens.sum(), 1))), 4),
        "test_unknown_fraction": round(float(held_out.unknown.sum() / max(held_out.tokens.sum(), 1)), 6),
        "median_document_perplexity": round(float(np.nanmedian(documents)), 4) if np.any(~np.isnan(documents)) else None,
        **describe_estimate(estimate),
    }


def save_perplexity_scorer(folder: Path, config: PerplexityConfig, languages: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes scorer.json, which comes after the models and says that the folder is whole."""
    bounds = {code: {name: record[name] for name in ("head_below", "middle_below")} for code, record in languages.items()}
    record = {
        "kind": KIND,
        "format": FORMAT,
        "name": config.name,
        "signals": [f"signal_{config.name}", f"signal_{config.name}_bucket"],
        "languages": bounds,
        "settings": config.model_dump(mode="json"),
    }
    write_json(folder / "scorer.json", record)


def load_perplexity_scorer(folder: Path, record: Mapping[str, Any]) -> PerplexityScorer:
    """The scorer in a folder whose scorer.json is `record`."""
    models = {code: LanguageModel(load_ngrams(folder / f"{code}.safetensors"), **bounds) for code, bounds in record["languages"].items()}
    return PerplexityScorer(record["name"], models)


def _languages(table: pa.Table) -> list[str]:
    codes, texts = table.column("language").to_pylist(), table.column("text")
    return [code if code is not None else identify_language(texts[i].as_py() or "").code for i, code in enumerate(codes)]


def _texts_of(path: Path, code: str) -> Iterator[str]:
    for table in read_document_batches(path):
        rows = pa.array([i for i, found in enumerate(_languages(table)) if found == code], pa.int64())
        yield from (text for text in table.column("text").take(rows).to_pylist() if text)


def _sample(config: PerplexityConfig, files: Sequence[Path], code: str, share: float) -> Sampled:
    sampled = Sampled([], [])
    for path in files:
        for text in _texts_of(path, code):
            # By the text, not by the id: copies of a text must not stand on both sides.
            digest = hashlib.blake2b(f"{KIND}\x00{text}".encode("utf-8", "replace"), digest_size=16).digest()
            if int.from_bytes(digest[:8], "little") / 2**64 < share:
                is_test = int.from_bytes(digest[8:], "little") / 2**64 < config.test_fraction
                (sampled.test if is_test else sampled.training).append(text)
    return sampled


def _texts(texts: Sequence[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])
