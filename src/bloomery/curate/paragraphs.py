"""Paragraph, line and n-gram duplicates: units of text that several documents have, and texts without them.

Two units are equal if their words are (case, punctuation and white space do not count; `curate/run_kernels.py`). Counted
are the documents that have a unit, over all inputs. A unit that `min_documents` of them have is removed everywhere, or
everywhere but in the first (in order of inputs and rows). With `match = "ngrams"` a unit is removed if most of its word
n-grams are in enough documents of which an earlier one has them first (after Groeneveld's Big Friendly Filter, as used
by Dolma, arXiv:2402.00159, and DCLM, arXiv:2406.11794; exact here, where theirs is a Bloom filter that depends on timing).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt

from bloomery.core.config import Config
from bloomery.core.documents import read_document_batches
from bloomery.curate.kernels import TextColumn, text_column
from bloomery.curate.ledger import sample_text
from bloomery.curate.passages import CutText, cut_passages, to_characters
from bloomery.curate.run_kernels import hash_unit_ngrams, hash_units, split_units, word_tables

SECOND_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
"""Makes a second hash beside that of kernels.POLYNOMIAL: together 128 bits name a unit."""

NUM_FREQUENT = 100

DOCUMENT_SHIFT = 40
"""A document's number over all shards is its shard's, shifted so far, plus its row."""


class DedupParagraphsConfig(Config):
    """Which units of text are duplicates, and what is left of a document."""

    unit: Literal["paragraph", "line"] = "paragraph"
    """Paragraphs are parted by empty lines."""
    match: Literal["exact", "ngrams"] = "exact"
    """`exact`: all words equal. `ngrams`: a share of the unit's word n-grams was seen before."""
    min_characters: NonNegativeInt = 30
    """Units of fewer characters are never removed."""
    min_documents: PositiveInt = 2
    """So many documents must have a unit (or n-gram) for it to be a duplicate."""
    keep: Literal["first", "none"] = "first"
    """`first`: the first document that has a unit keeps it. `none`: nobody does, as for boilerplate."""
    ngram_words: PositiveInt = 13
    """For `ngrams`: words in a row; a unit of fewer words is one n-gram."""
    min_ngram_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    """For `ngrams`: a unit of which at least this share was seen is removed."""
    min_characters_left: NonNegativeInt = 50
    """A document that lost units and has fewer characters left is dropped."""


class Units(NamedTuple):
    """The units of a column of texts: rows of (text, first byte, end), and which may be removed."""

    column: TextColumn
    spans: np.ndarray[Any, np.dtype[np.int64]]
    keys: np.ndarray[Any, np.dtype[np.uint64]]
    eligible: np.ndarray[Any, np.dtype[np.bool_]]


def find_units(texts: pa.ChunkedArray, config: DedupParagraphsConfig) -> Units:
    """The units of each text in their order, with the 128 bits (uint64 x 2) that name their words."""
    column = text_column(texts, lowercase=False)
    spans = split_units(column.data, column.offsets, config.unit == "paragraph")
    keys, sizes = hash_units(column.data, spans, word_tables(), SECOND_MULTIPLIER)
    return Units(column, spans, keys, (sizes[:, 0] > 0) & (sizes[:, 1] >= config.min_characters))


def state_units(config: DedupParagraphsConfig, path: Path, shard: int) -> pa.Table:
    """One row for each unit of a file (or each of its n-grams): `key`, `check`, `unit` (its number in the file), `document`."""
    parts: list[pa.Table] = []
    first_row, first_unit = shard << DOCUMENT_SHIFT, 0
    for table in read_document_batches(path):
        units = find_units(table.column("text"), config)
        chosen = np.flatnonzero(units.eligible)
        keys, checks = units.keys[chosen, 0], units.keys[chosen, 1]
        if config.match == "ngrams":
            keys, bounds = hash_unit_ngrams(units.column.data, units.spans[chosen], word_tables(), config.ngram_words)
            checks = np.zeros(len(keys), np.uint64)
            chosen = np.repeat(chosen, np.diff(bounds))
        documents = first_row + units.spans[chosen, 0]
        parts.append(pa.table({"key": keys, "check": checks, "unit": first_unit + chosen, "document": documents}))
        first_row, first_unit = first_row + len(table), first_unit + len(units.spans)
    return pa.concat_tables(parts)


def judge_units(config: DedupParagraphsConfig, stated: pa.Table) -> pa.Table:
    """Which stated rows are duplicates: `shard`, `unit`, `key`, `documents` that have the unit, and `seen`: how many of the
    unit's rows this is about (n-grams; one for a whole unit)."""
    key, check = stated.column("key").to_numpy(), stated.column("check").to_numpy()
    unit, document = stated.column("unit").to_numpy(), stated.column("document").to_numpy()
    # Both are stable: rows of a group stay in order of documents.
    order = np.lexsort((check, key)) if config.match == "exact" else np.argsort(key, kind="stable")
    key, check, unit, document = key[order], check[order], unit[order], document[order]
    starts = np.ones(len(key), np.bool_)
    starts[1:] = (key[1:] != key[:-1]) | (check[1:] != check[:-1])
    new_document = starts.copy()
    new_document[1:] |= document[1:] != document[:-1]
    group = np.cumsum(starts) - 1
    num_documents = np.bincount(group[new_document], minlength=int(group[-1]) + 1 if len(group) else 0)
    of_enough = num_documents[group] >= config.min_documents
    gone = of_enough & ((document != document[starts][group]) if config.keep == "first" else True)
    shard = document[gone] >> DOCUMENT_SHIFT
    columns = {"shard": shard, "unit": unit[gone], "key": key[gone], "documents": num_documents[group][gone]}
    if config.match == "exact":
        return pa.table(columns).append_column("seen", pa.array(np.ones(len(shard), np.int64)))
    rows, seen = np.unique(np.stack([shard, unit[gone]], axis=1), axis=0, return_counts=True)
    nothing = np.zeros(len(rows), np.int64)
    columns = {
        "shard": rows[:, 0],
        "unit": rows[:, 1],
        "key": nothing.astype(np.uint64),
        "documents": nothing,
        "seen": seen.astype(np.int64),
    }
    return pa.table(columns)


def choose_removed(units: Units, judged: pa.Table, first_unit: int, config: DedupParagraphsConfig) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which units of a batch, whose first has number `first_unit` in its file, are removed by the verdicts over the file."""
    number = judged.column("unit").to_numpy() - first_unit
    mine = (number >= 0) & (number < len(units.spans))
    seen = np.bincount(number[mine], weights=judged.column("seen").to_numpy()[mine], minlength=len(units.spans))
    needed = np.ones(len(units.spans))
    if config.match == "ngrams":
        _, bounds = hash_unit_ngrams(units.column.data, units.spans, word_tables(), config.ngram_words)
        needed = config.min_ngram_fraction * np.diff(bounds)
    removed: np.ndarray[Any, np.dtype[np.bool_]] = (seen > 0) & (seen >= needed)
    return removed


def remove_units(text: str, units: Units, removed: np.ndarray[Any, np.dtype[np.int64]], number: int) -> CutText:
    """The text of this number in its batch without the units of these numbers."""
    start, end = units.column.offsets[number], units.column.offsets[number + 1]
    spans = [(first - start, last - start) for _, first, last in units.spans[removed].tolist()]
    return cut_passages(text, to_characters(units.column.data[start:end], spans))


def list_frequent(units: Units, judged: pa.Table, first_unit: int) -> Iterator[dict[str, Any]]:
    """The removed units of a batch that most documents have: their number of documents, a sample, and a key to merge by."""
    number = judged.column("unit").to_numpy() - first_unit
    mine = np.flatnonzero((number >= 0) & (number < len(units.spans)))
    keys, documents = judged.column("key").to_numpy(), judged.column("documents").to_numpy()
    _, firsts = np.unique(keys[mine], return_index=True)
    mine = mine[firsts]
    for row in mine[np.lexsort((keys[mine], -documents[mine]))][:NUM_FREQUENT].tolist():
        _, start, end = units.spans[number[row]]
        sample = units.column.data[start:end].tobytes().decode("utf-8", "replace")
        yield {"documents": int(documents[row]), "key": f"{keys[row]:016x}", "text": sample_text(sample)}


def merge_frequent(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The most frequent of units listed in parts, each once, most documents first."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in found:
        first.setdefault(row["key"], row)
    return [dict(row) for row in sorted(first.values(), key=lambda row: (-row["documents"], row["key"]))[:NUM_FREQUENT]]
