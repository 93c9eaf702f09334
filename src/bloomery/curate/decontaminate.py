"""Decontamination: finds documents that contain prompts a model will be tested on.

The rule, after GPT-3 (arXiv:2005.14165, app. C): a document is contaminated if it shares a run of 13 words with a
prompt. A prompt of fewer words must occur whole, as a run of words of the document; one of fewer than five words is
not searched for, because it says nothing ("What is 3 + 4?" is in every text on adding). Words are lower-cased runs of
letters and digits (see `curate/kernels.py`), so that spacing and punctuation hide nothing; runs are 64-bit hashes in a
sorted table, not a Bloom filter: no false alarms to speak of.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

import numpy as np
import pyarrow as pa
from pydantic import PositiveInt

from bloomery.core.config import Config
from bloomery.core.conversation import CONVERSATION_SUFFIXES
from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_jsonl
from bloomery.curate.kernels import find_ngrams, hash_words, list_ngrams, text_column

PROMPT_COLUMNS = ("messages", "prompt", "query", "question", "problem", "context")
"""Where benchmarks keep what is asked; the first that a row has is read."""

HELD_OUT = ("test.jsonl", "test.jsonl.gz", "test.jsonl.zst")
"""In a folder of conversations with one of these, only this is held out."""


class DecontaminateConfig(Config):
    """How much of a prompt a document may share."""

    ngram_words: PositiveInt = 13
    """Words in a row that a document must not share with a prompt."""
    min_prompt_words: PositiveInt = 5
    """Prompts of fewer words are not searched for."""


class PromptIndex(NamedTuple):
    """Hashes of all runs to search for, sorted; whose each is; which lengths occur; and the prompts."""

    table: np.ndarray[Any, np.dtype[np.uint64]]
    owners: np.ndarray[Any, np.dtype[np.int64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    prompts: list[str]


class Hit(NamedTuple):
    """What a document shares with the prompts: how many of its runs, and the first prompt that one of them is from."""

    num_runs: int
    prompt: str


def list_prompt_files(paths: Sequence[Path]) -> list[Path]:
    """The files of held-out prompts: of a folder its test.jsonl(.gz/.zst), or else every JSONL file in it."""
    chosen: list[Path] = []
    for path in paths:
        held_out = [path / name for name in HELD_OUT if (path / name).is_file()]
        chosen.extend(held_out or [path])
    return expand(chosen, suffixes=CONVERSATION_SUFFIXES)


def read_prompts(path: Path) -> Iterator[str]:
    """The text of every prompt in a JSONL file. Raises DataError naming the row that has none."""
    for number, row in enumerate(read_jsonl(path), start=1):
        text = prompt_text(row)
        if text is None:
            raise DataError(f"{path}, row {number}: no prompt among {', '.join(row)}; expected one of {', '.join(PROMPT_COLUMNS)}")
        yield text


def prompt_text(row: Mapping[str, Any]) -> str | None:
    """What a row asks: its text, or the contents of its messages up to the first answer; None if it asks nothing.

    >>> prompt_text({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]})
    'Why?'
    """
    for name in PROMPT_COLUMNS:
        value = row.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            asked = []
            for message in value:
                if not isinstance(message, dict) or message.get("role") == "assistant":
                    break
                asked.append(str(message.get("content", "")))
            return "\n".join(asked)
    return None


def index_prompts(prompts: Iterable[str], config: DecontaminateConfig) -> PromptIndex:
    """The index that documents are searched with."""
    unique = list(dict.fromkeys(prompts))
    column = text_column(pa.chunked_array([pa.array(unique, pa.large_string())]), lowercase=True)
    keys, owners, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], set()
    for i in range(len(unique)):
        start, end = column.offsets[i], column.offsets[i + 1]
        words = np.empty(end - start + 1, np.uint64)
        words = words[: hash_words(column.data, start, end, words)]
        length = min(len(words), config.ngram_words)
        if length < min(config.min_prompt_words, config.ngram_words):
            continue
        lengths.add(length)
        runs = list_ngrams(words, length)
        keys.append(runs)
        owners.append(np.full(len(runs), i, np.int64))
    table, owner = np.concatenate(keys), np.concatenate(owners)
    # Stable: of prompts that share a run, the first one owns it.
    order = np.argsort(table, kind="stable")
    return PromptIndex(table[order], owner[order], np.array(sorted(lengths, reverse=True), np.int64), unique)


def find_contaminated(texts: pa.ChunkedArray, index: PromptIndex) -> list[Hit | None]:
    """For each text what it shares with the prompts, or None."""
    column = text_column(texts, lowercase=True)
    found = find_ngrams(column.data, column.offsets, index.lengths, index.table, index.owners)
    return [Hit(int(count), index.prompts[owner]) if count else None for count, owner in found]
