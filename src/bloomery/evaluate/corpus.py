"""Bits per byte and perplexity of any documents, over all and by source.

A document is read from its own beginning, in windows of the model's context that overlap by one token, so that every
token is predicted once (as in scoring.py, whose documents are tokens of an artifact; these are texts). Bytes are those of
the text itself, not of what its tokens spell: what a tokenizer changes on the way costs nothing it did not say.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: JSON records

from bloomery.core.documents import list_held_out_files, read_document_batches
from bloomery.core.errors import DataError
from bloomery.evaluate.metrics import Interval, bootstrap_ratio
from bloomery.evaluate.packed import Text, score_texts
from bloomery.generate.engine import Engine
from bloomery.tokens.tokenizer import Tokenizer

DOCUMENTS_AT_ONCE = 64
BYTES_PER_TOKEN = 4
"""Roughly, to choose as many documents as a number of tokens asks for."""
NAME = "bits_per_byte"


class Chosen(NamedTuple):
    """A document that is scored: its file's name, its number there from 1, its source and text."""

    file: str
    line: int
    source: str
    text: str


def choose_texts(paths: Sequence[Path], *, max_tokens: int, names: Sequence[str] = (), max_document_tokens: int = 0) -> list[Chosen]:
    """Documents spread evenly over all files, of about `max_tokens` tokens together (0 = all), at least one.

    With `names`, one for each path, every document of a path counts as of that source, and each source gets an equal part of
    the tokens. Of a document of more than about `max_document_tokens` (0 = no limit) only the beginning is taken. Raises
    DataError if there is no document with text.
    """
    if names:
        part = -(-max_tokens // len(names))
        named = zip(paths, names, strict=True)
        each = [(name, choose_texts([path], max_tokens=part, max_document_tokens=max_document_tokens)) for path, name in named]
        return [one._replace(source=name) for name, some in each for one in some]
    longest = max_document_tokens * BYTES_PER_TOKEN or None
    total = sum(len(one.text[:longest].encode()) for one in _read(paths))
    stride = max(1, math.ceil(total / (max_tokens * BYTES_PER_TOKEN))) if max_tokens else 1
    chosen = [one._replace(text=one.text[:longest]) for i, one in enumerate(_read(paths)) if i % stride == 0]
    if not chosen:
        raise DataError(f"{', '.join(map(str, paths))}: no document with text to score")
    return chosen


def score_corpus(
    engine: Engine, tokenizer: Tokenizer, documents: Sequence[Chosen], *, context_tokens: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """A benchmark's record, whose samples have nats, tokens and bytes of each document."""
    context = min(context_tokens, engine.context_tokens)
    begin = tokenizer.begin or [tokenizer.end_id]
    samples = []
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[first : first + DOCUMENTS_AT_ONCE]
        items: list[list[Text]] = []
        owners: list[int] = []
        for number, document in enumerate(some):
            ids = [*begin, *tokenizer.encode(document.text)]
            for start in range(0, len(ids) - 1, context):
                items.append([Text(ids[start : start + context + 1], 1)])
                owners.append(number)
        names = [f"{some[owner].file}:{some[owner].line}" for owner in owners]
        nats, counts = [0.0] * len(some), [0] * len(some)
        for owner, found in zip(owners, score_texts(engine.model, items, names=names), strict=True):
            nats[owner] -= found[0].logp
            counts[owner] += len(found[0].logps)
        for document, cost, count in zip(some, nats, counts, strict=True):
            samples.append(
                {
                    "file": document.file,
                    "line": document.line,
                    "group": document.source,
                    "question": document.text[:300],
                    "gold": "",
                    "prediction": "",
                    "values": {"nats": cost, "num_tokens": float(count), "num_bytes": float(len(document.text.encode()))},
                }
            )
        advance(len(some))
    return {
        "title": "bits per byte",
        "kind": "corpus",
        "metric": NAME,
        "chance": 0.0,
        "chat": False,
        "version": 1,
        "num_shots": 0,
        "rows": len(samples),
        "rows_in_file": len(documents),
        "files": {},
        "cut": 0,
        "example_prompt": "",
        "samples": samples,
    }


def measure_corpus(record: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """The record without its samples, with `bits_per_byte`, `perplexity` (by token) and both by source."""
    samples = record["samples"]
    sources = sorted({sample["group"] for sample in samples})
    by_group = {source: _measure([s for s in samples if s["group"] == source], seed)[NAME] for source in sources}
    out = {key: value for key, value in record.items() if key != "samples"}
    return {**out, "metrics": _measure(samples, seed), **({"by_group": by_group} if len(sources) > 1 else {})}


def _measure(samples: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    nats, tokens, sizes = ([sample["values"][name] for sample in samples] for name in ("nats", "num_tokens", "num_bytes"))
    bits = bootstrap_ratio([cost / math.log(2) for cost in nats], sizes, seed=seed)
    each = bootstrap_ratio(nats, tokens, seed=seed)
    perplexity = Interval(math.exp(each.value), math.exp(each.low), math.exp(each.high), each.count)
    return {NAME: bits.record(), "perplexity": perplexity.record()}


def _read(paths: Sequence[Path]) -> Iterator[Chosen]:
    for path in list_held_out_files(paths):
        number = 0
        for table in read_document_batches(path):
            for text, source in zip(table.column("text").to_pylist(), table.column("source").to_pylist(), strict=True):
                number += 1
                if text and text.strip():
                    yield Chosen(path.name, number, source or path.name, text)
