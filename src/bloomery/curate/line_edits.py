"""Taking lines out of documents, as C4 and RefinedWeb do: the one thing of theirs that rules, which never edit, cannot do.

C4 (arXiv:1910.10683, section 2.2) keeps lines of at least three words that end a sentence and speak of no JavaScript,
cookies or terms of use, and takes citations like [12] out; RefinedWeb (arXiv:2306.01116, section G.2) takes out lines of
capitals, of numbers, of a count and of one word.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import polars as pl
import pyarrow as pa

from bloomery.curate.kernels import text_column
from bloomery.curate.line_kernels import C4_VERDICTS, REFINEDWEB_VERDICTS, c4_verdicts, refinedweb_verdicts
from bloomery.curate.signals import CITATION, split_batches
from bloomery.curate.word_kernels import cut_words, decode

LineEdit = Literal["c4", "refinedweb"]


class Edited(NamedTuple):
    """Documents after editing, and how many lines went, as counts for metrics: {"edited/c4_few_words": 12, ...}."""

    table: pa.Table
    counts: Mapping[str, int]


def edit_lines(table: pa.Table, edits: Sequence[LineEdit]) -> Edited:
    """The documents without the lines that each of `edits`, in order, takes out; `id` and all other columns stay."""
    counts: Counter[str] = Counter()
    for edit in edits:
        texts: list[str] = []
        for part in split_batches(table):
            column = pl.Series(values=part.column("text")).cast(pl.String).fill_null("")
            texts += _edit_texts(column, edit, counts)
        at = table.schema.get_field_index("text")
        table = table.set_column(at, table.schema.field(at), pa.array(texts, table.schema.field(at).type))
    return Edited(table, dict(sorted(counts.items())))


def _edit_texts(column: pl.Series, edit: LineEdit, counts: Counter[str]) -> list[str]:
    originals = column.to_list()
    if edit == "c4":
        originals = [re.sub(CITATION, "", text) if "[" in text else text for text in originals]
    texts = decode(*text_column(pa.chunked_array([pa.array(originals, pa.large_string())]), lowercase=False))
    names = C4_VERDICTS if edit == "c4" else REFINEDWEB_VERDICTS
    verdicts = (c4_verdicts(texts, cut_words(texts)) if edit == "c4" else refinedweb_verdicts(texts)).tolist()
    edited, at = [], 0
    for text in originals:
        lines = text.split("\n")
        mine = verdicts[at : at + len(lines)]
        at += len(lines)
        counts.update(f"edited/{edit}_{names[v]}" for v in mine if names[v] not in ("kept", "blank"))
        kept = [line for line, verdict in zip(lines, mine, strict=True) if verdict == 0]
        edited.append("\n".join(line.strip() for line in kept) if edit == "c4" else "\n".join(kept).strip("\n"))
    assert at == len(verdicts), "one verdict for every line"
    return edited
