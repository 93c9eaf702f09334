"""Decontamination: finds what documents share with the rows of evaluation sets, and where.

The rule, after GPT-3 (arXiv:2005.14165, app. C): a document is contaminated if it shares a run of 13 words with a row's
prompt (or with its answer, if that is so long). A prompt of fewer words must occur whole, or eight of its words must
stand near its answer; one of fewer than five words is not searched for, because it says nothing ("What is 3 + 4?" is in
every text on adding). Words are compared without case, width, diacritics, punctuation and white space; each prompt is
searched for with its punctuation between words, gone from words ("dont"), and words hyphenated over lines are joined
(`curate/run_kernels.py`). Runs are 64-bit hashes in a sorted table behind a bitmap, not a Bloom filter alone: no false
alarms to speak of.
"""

import ast
import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import NonNegativeInt, PositiveInt

from bloomery.core.config import Config
from bloomery.core.conversation import CONVERSATION_SUFFIXES
from bloomery.core.documents import read_document_batches
from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_jsonl, write_atomically
from bloomery.curate.kernels import POLYNOMIAL, text_column
from bloomery.curate.ledger import sample_text
from bloomery.curate.passages import cut_passages, to_characters, to_paragraphs, to_sentences, widen_by_words
from bloomery.curate.run_kernels import (
    GLUE_ALL_BUT_UNDERSCORES,
    GLUE_APOSTROPHES,
    GLUE_PUNCTUATION,
    SEPARATE,
    RunTable,
    list_runs,
    locate_words,
    search_runs,
    word_tables,
)

PROMPT_COLUMNS = ("messages", "prompt", "query", "question", "problem", "context", "context_options", "input", "instruction", "sentence")
"""Where benchmarks keep what is asked; the first that a row has is read."""

ANSWER_COLUMNS = ("answer", "continuation", "canonical_solution", "chain_of_thought", "solution", "target", "answers", "aliases", "output")

HELD_OUT = ("test.jsonl", "test.jsonl.gz", "test.jsonl.zst")
"""In a folder of conversations with one of these, only this is held out."""

TELLS_NOTHING = frozenset({"yes", "no", "true", "false", "none", "both", "neither", "all of the above", "none of the above"})
"""Answers that stand near everything."""

MIN_ANSWER_CHARACTERS = 3
MAX_OWNERS = 8
"""Rows named for one run of words that many rows share (a task's instructions)."""

MAX_HITS_IN_DETAIL = 20

_TEMPLATE = re.compile(
    r"^[ \t]*(?:Question|Q|Passage|Context|Sentence|Problem)[ \t]*:[ \t]*|\n[ \t]*(?:Answer|A)[ \t]*:[ \t]*$", re.IGNORECASE | re.MULTILINE
)
_CATEGORY = re.compile(r"\A[A-Z][A-Z0-9 &',\"./-]{2,40}:\s+")
_JOINED_WORDS = re.compile(r"\w[^\w\s]+\w|_")
_NUMBER_AT_END = re.compile(r"####\s*(\S+)\s*\Z")

HITS = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("row", pa.int64()),
        ("part", pa.string()),
        ("match", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("action", pa.string()),
    ]
)
"""One row for each passage of a document and each row of a task that it shares words with; `start` and `end` are characters
of the document as it came in."""


class DecontaminateConfig(Config):
    """How much of an evaluation's rows a document may share, and what becomes of one that shares more."""

    mode: Literal["document", "passage"] = "document"
    """`document`: it is dropped. `passage`: what it shares is cut out of it."""
    ngram_words: PositiveInt = 13
    """Words in a row that a document must not share with a prompt, or with a held-out document."""
    min_prompt_words: PositiveInt = 5
    """Prompts of fewer words are not searched for."""
    parts: tuple[Literal["prompt", "answer"], ...] = ("prompt", "answer")
    """What of a row is searched for. Answers are where they have at least `ngram_words` words: worked solutions, code."""
    answer_ngram_words: NonNegativeInt = 8
    """For prompts of fewer than `ngram_words` words: so many of them in a row, near the answer, are a hit too; 0: they are not."""
    answer_window_words: PositiveInt = 20
    """How many words may stand between these words and the answer."""
    cut_to: Literal["words", "sentence", "paragraph"] = "sentence"
    """How far a cut reaches in mode `passage`: just the shared words, or to the ends of their sentences or paragraphs."""
    margin_words: NonNegativeInt = 0
    """So many words more on each side of a cut, before it is widened to sentences or paragraphs."""
    max_cuts: PositiveInt = 10
    """A document that would need more cuts is dropped (GPT-3's limit)."""
    min_words_left: PositiveInt = 20
    """A document that cuts leave fewer words is dropped."""


class Prompt(NamedTuple):
    """One text to search for: what a row asks, or its long answer; and the short answers that tell that it was leaked."""

    task: str
    row: int
    part: str
    text: str
    answers: tuple[str, ...] = ()


class PromptIndex(NamedTuple):
    """What documents are searched for: runs of words, and the prompts that own them (by number)."""

    runs: RunTable
    tasks: list[str]
    owner_tasks: np.ndarray[Any, np.dtype[np.int64]]
    owner_rows: np.ndarray[Any, np.dtype[np.int64]]
    owner_parts: list[str]
    searched: np.ndarray[Any, np.dtype[np.bool_]]


class Hit(NamedTuple):
    """A passage (characters start:end) that a text shares with a row of a task. `match` is "words", or "answer" for fewer
    words of a short prompt near its answer."""

    start: int
    end: int
    task: str
    row: int
    part: str
    match: str


class Cleaned(NamedTuple):
    """What is left of a contaminated document: its new text, or None; how many passages went, and words are left."""

    text: str | None
    num_cuts: int
    words_left: int


def list_prompt_files(paths: Sequence[Path]) -> list[Path]:
    """The files of held-out prompts: of a folder its test.jsonl(.gz/.zst), or else every JSONL file in it."""
    chosen: list[Path] = []
    for path in paths:
        held_out = [path / name for name in HELD_OUT if (path / name).is_file()]
        chosen.extend(held_out or [path])
    return expand(chosen, suffixes=CONVERSATION_SUFFIXES)


def name_tasks(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own without suffixes; with its folder's before it where two files share theirs.

    >>> name_tasks([Path("gsm8k/test.jsonl.gz"), Path("mmlu/test.jsonl.gz"), Path("core/copa.jsonl")])
    ['gsm8k/test', 'mmlu/test', 'copa']
    """
    names = [path.name.split(".")[0] for path in paths]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{path.parent.name}/{name}" for name, path in zip(names, paths, strict=True)]


def read_prompts(path: Path, task: str) -> Iterator[Prompt]:
    """What is to be searched for of every row of a JSONL file. Raises DataError naming the row that asks nothing."""
    for number, row in enumerate(read_jsonl(path), start=1):
        asked = prompt_texts(row)
        if not asked:
            raise DataError(f"{path}, row {number}: no prompt among {', '.join(row)}; expected one of {', '.join(PROMPT_COLUMNS)}")
        answers = answer_texts(row)
        for text in asked:
            yield Prompt(task, number, "prompt", text, tuple(answers))
        for text in answers:
            yield Prompt(task, number, "answer", text)


def read_held_out(path: Path, task: str) -> Iterator[Prompt]:
    """The documents of one file, each to be searched for as a whole; rows count from 1."""
    number = 0
    for table in read_document_batches(path):
        for text in table.column("text").to_pylist():
            number += 1
            yield Prompt(task, number, "prompt", text or "")


def prompt_texts(row: Mapping[str, Any]) -> list[str]:
    """What a row asks: its text, or the contents of its messages up to the first answer, without "Question:" and the like.

    A sentence with options in it (Winograd schemas) is asked with each of them. Empty for a row that asks nothing.
    >>> prompt_texts({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]})
    ['Why?']
    >>> prompt_texts({"query": "Question: Why?\\nAnswer:", "choices": ["a"]})
    ['Why?']
    """
    for name in PROMPT_COLUMNS:
        value = _as_list(row.get(name))
        if isinstance(value, str):
            return [_without_template(value)]
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return [f"{_without_template(option)} {row.get('continuation') or ''}".strip() for option in value]
        if isinstance(value, list) and value:
            asked = []
            for message in value:
                if not isinstance(message, dict) or message.get("role") == "assistant":
                    break
                asked.append(str(message.get("content", "")))
            return ["\n".join(asked)]
    return []


def answer_texts(row: Mapping[str, Any]) -> list[str]:
    """The right answers of a row, as far as it says them: texts, numbers, the chosen option, what the assistant says.

    >>> answer_texts({"question": "...", "choices": ["Rome", "Paris"], "answer": 1})
    ['Paris']
    >>> answer_texts({"question": "...", "answer": "3 + 4 = 7\\n#### 7"})
    ['3 + 4 = 7\\n#### 7', '7']
    """
    choices = _as_list(row.get("choices"))
    chosen = row.get("gold", row.get("answer"))
    if isinstance(choices, list) and choices and str(chosen).isdigit() and int(str(chosen)) < len(choices):
        return [str(choices[int(str(chosen))])]
    found: list[str] = []
    for name in ANSWER_COLUMNS:
        value = _as_list(row.get(name))
        found.extend(str(item) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str | int | float))
    messages = row.get("messages")
    if isinstance(messages, list):
        found.extend(str(m.get("content", "")) for m in messages if isinstance(m, dict) and m.get("role") == "assistant")
    found.extend(match.group(1) for text in list(found) if (match := _NUMBER_AT_END.search(text)))
    return list(dict.fromkeys(text for text in found if text.strip()))


def index_prompts(prompts: Iterable[Prompt], config: DecontaminateConfig) -> PromptIndex:
    """The index that documents are searched with."""
    wanted = [prompt for prompt in prompts if prompt.part in config.parts]
    tasks = list(dict.fromkeys(prompt.task for prompt in wanted))
    keys, owners, partial = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
    anchors: dict[int, list[Any]] = {}
    answers_of, answer_words = np.zeros(len(wanted) + 1, np.int64), [np.zeros(0, np.uint64)]
    answer_sizes: list[int] = []
    for i, prompt in enumerate(wanted):
        for words in _readings(prompt.text):
            length = min(len(words), config.ngram_words)
            if length < (config.ngram_words if prompt.part == "answer" else min(config.min_prompt_words, config.ngram_words)):
                continue
            near = config.answer_ngram_words
            tells = (
                [hashes for hashes in map(_words_of_answer, prompt.answers) if len(hashes)]
                if 0 < near < length < config.ngram_words
                else []
            )
            for size in [length, near] if tells else [length]:
                runs = list_runs(words, size, POLYNOMIAL)
                keys.append(runs)
                owners.append(np.full(len(runs), i, np.int64))
                partial.append(np.full(len(runs), size != length, np.uint8))
                anchors.setdefault(size, []).append(words)
            if tells and answers_of[i + 1] == 0:
                answer_words.extend(tells)
                answer_sizes.extend(map(len, tells))
                answers_of[i + 1] = len(tells)
    table = _run_table(np.concatenate(keys), np.concatenate(owners), np.concatenate(partial), anchors, config)
    all_owners = np.concatenate(owners)
    searched = np.zeros(len(wanted), np.bool_)
    searched[all_owners] = True
    task_numbers = {task: number for number, task in enumerate(tasks)}
    return PromptIndex(
        table._replace(
            answers_of=np.cumsum(answers_of),
            answer_bounds=np.concatenate([[0], np.cumsum(answer_sizes, dtype=np.int64)]).astype(np.int64),
            answer_words=np.concatenate(answer_words),
        ),
        tasks,
        np.array([task_numbers[prompt.task] for prompt in wanted], np.int64),
        np.array([prompt.row for prompt in wanted], np.int64),
        [prompt.part for prompt in wanted],
        searched,
    )


def write_index(path: Path, index: PromptIndex) -> None:
    """Writes an index where worker processes can read it."""
    arrays: dict[str, Any] = {  # Any: numpy's own type for these keywords takes them for its flags
        "tasks": np.array(index.tasks, np.str_),
        "owner_parts": np.array(index.owner_parts, np.str_),
        "owner_tasks": index.owner_tasks,
        "owner_rows": index.owner_rows,
        "searched": index.searched,
        **index.runs._asdict(),
    }
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_index(path: Path) -> PromptIndex:
    """An index that `write_index` wrote, read once in a process."""
    return _read_index(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read_index(path: Path, changed: int) -> PromptIndex:
    with np.load(path) as file:
        runs = RunTable(**{name: file[name] for name in RunTable._fields})
        tasks, parts = file["tasks"].tolist(), file["owner_parts"].tolist()
        return PromptIndex(runs, tasks, file["owner_tasks"], file["owner_rows"], parts, file["searched"])


def find_contaminated(texts: pa.ChunkedArray, index: PromptIndex) -> list[list[Hit]]:
    """For each text the passages that it shares with rows of the tasks, in order of their starts."""
    column = text_column(texts, lowercase=False)
    found = search_runs(column.data, column.offsets, word_tables(), index.runs, MAX_OWNERS)
    hits: list[list[Hit]] = [[] for _ in range(len(texts))]
    if not len(found):
        return hits
    order = np.lexsort((found[:, 2], found[:, 1], found[:, 3], found[:, 0]))
    merged: list[list[int]] = []
    for text, start, end, owner, partial in found[order].tolist():
        last = merged[-1] if merged else None
        if last and last[0] == text and last[3] == owner and start <= last[2]:
            last[2], last[4] = max(last[2], end), last[4] & partial
        else:
            merged.append([text, start, end, owner, partial])
    by_text: dict[int, list[list[int]]] = {}
    for row in merged:
        by_text.setdefault(row[0], []).append(row)
    for text, rows in by_text.items():
        raw = column.data[column.offsets[text] : column.offsets[text + 1]]
        spans = to_characters(raw, [(row[1], row[2]) for row in rows])
        hits[text] = sorted(_hit(index, span, owner, partial) for span, (*_, owner, partial) in zip(spans, rows, strict=True))
    return hits


def cut_hits(text: str, hits: Sequence[Hit], config: DecontaminateConfig) -> Cleaned:
    """The text without the passages of `hits`; None if that takes too many cuts or leaves too little."""
    passages: list[tuple[int, int]] = []
    for hit in sorted(hits, key=lambda hit: hit.start):
        start, end = widen_by_words(text, hit.start, hit.end, config.margin_words)
        if config.cut_to == "sentence":
            start, end = to_sentences(text, start, end)
        elif config.cut_to == "paragraph":
            start, end = to_paragraphs(text, start, end)
        if passages and start <= passages[-1][1]:
            passages[-1] = (min(start, passages[-1][0]), max(end, passages[-1][1]))
        else:
            passages.append((start, end))
    if len(passages) > config.max_cuts:
        return Cleaned(None, len(passages), 0)
    cut = cut_passages(text, passages)
    words_left = len(cut.text.split())
    return Cleaned(cut.text if words_left >= config.min_words_left else None, len(cut.passages), words_left)


def describe_hits(text: str, hits: Sequence[Hit]) -> str:
    """The hits of one document as JSON, for the ledger: the first twenty with what they share, and how many there are."""
    shown = [{**hit._asdict(), "text": sample_text(text[hit.start : hit.end])} for hit in hits[:MAX_HITS_IN_DETAIL]]
    return json.dumps({"hits": shown, "num_hits": len(hits)}, ensure_ascii=False)


def hits_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of hits: the fields of a Hit with the document's `id` and what became of the passage (`action`)."""
    return pa.Table.from_pylist(list(rows), schema=HITS)


def summarise_hits(index: PromptIndex, hits: pa.Table) -> dict[str, dict[str, Any]]:
    """For each task: its rows, those searched for, those found in documents and their numbers, and the documents they are in."""
    summary = {}
    for number, task in enumerate(index.tasks):
        mine = index.owner_tasks == number
        of_task = hits.filter(pc.equal(hits.column("task"), task))
        rows_hit = sorted(set(of_task.column("row").to_pylist()))
        summary[task] = {
            "rows": len(np.unique(index.owner_rows[mine])),
            "rows_searched": len(np.unique(index.owner_rows[mine & index.searched])),
            "rows_hit": len(rows_hit),
            "documents_hit": len(set(of_task.column("id").to_pylist())),
            "hit_rows": rows_hit,
        }
    return summary


def _hit(index: PromptIndex, span: tuple[int, int], owner: int, partial: int) -> Hit:
    task = index.tasks[index.owner_tasks[owner]]
    return Hit(*span, task, int(index.owner_rows[owner]), index.owner_parts[owner], "answer" if partial else "words")


def _readings(text: str) -> list[np.ndarray[Any, np.dtype[np.uint64]]]:
    # The words of a prompt; and as they are in a copy whose punctuation was deleted, where that makes other words.
    modes = [SEPARATE]
    if _JOINED_WORDS.search(text):
        modes += [GLUE_APOSTROPHES, GLUE_PUNCTUATION]
    if "_" in text:
        modes.append(GLUE_ALL_BUT_UNDERSCORES)
    readings = {words.tobytes(): words for words in (_words(text, mode) for mode in modes)}
    return list(readings.values())


def _words(text: str, mode: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    hashes, starts, ends = np.empty(len(data) + 1, np.uint64), np.empty(len(data) + 1, np.int64), np.empty(len(data) + 1, np.int64)
    count, _ = locate_words(data, 0, len(data), word_tables(), mode, hashes, starts, ends)
    return hashes[:count].copy()


def _words_of_answer(answer: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    plain = "".join(c for c in answer if c.isalnum())
    tells = len(plain) >= MIN_ANSWER_CHARACTERS and answer.strip(" .").lower() not in TELLS_NOTHING
    return _words(answer, SEPARATE) if tells else np.zeros(0, np.uint64)


def _without_template(text: str) -> str:
    return _CATEGORY.sub("", _TEMPLATE.sub("", text).strip()).strip()


def _as_list(value: Any) -> Any:
    # Some benchmarks come with their lists written as text.
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return parsed if isinstance(parsed, list) else value
    return value


def _run_table(
    keys: np.ndarray[Any, np.dtype[np.uint64]],
    owners: np.ndarray[Any, np.dtype[np.int64]],
    partial: np.ndarray[Any, np.dtype[np.uint8]],
    words_by_size: Mapping[int, Sequence[np.ndarray[Any, np.dtype[np.uint64]]]],
    config: DecontaminateConfig,
) -> RunTable:
    # Full runs before partial ones, of prompts that share a run the first one first; each prompt's once.
    order = np.lexsort((owners, partial, keys))
    keys, owners, partial = keys[order], owners[order], partial[order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1]) | (partial[1:] != partial[:-1])
    keys, owners, partial = keys[new], owners[new], partial[new]
    lengths = np.array(sorted(words_by_size), np.int64)
    # The first lengths[0] words of every run.
    firsts = [np.zeros(0, np.uint64)]
    for size, readings in words_by_size.items():
        for words in readings:
            runs = list_runs(words, int(lengths[0]), POLYNOMIAL)
            firsts.append(runs[: len(words) - size + 1])
    anchors = np.unique(np.concatenate(firsts))
    bits = max(10, len(anchors).bit_length() + 4)
    bitmap = np.zeros(1 << (bits - 6), np.uint64)
    places = anchors >> np.uint64(64 - bits)
    np.bitwise_or.at(bitmap, (places >> np.uint64(6)).astype(np.int64), np.uint64(1) << (places & np.uint64(63)))
    bucket_bits = max(1, len(keys).bit_length() - 1)
    bounds = np.arange(1 << bucket_bits, dtype=np.uint64) << np.uint64(64 - bucket_bits)
    buckets = np.append(np.searchsorted(keys, bounds), len(keys)).astype(np.int64)
    none = np.zeros(1, np.int64)
    window = np.array([config.answer_window_words], np.int64)
    return RunTable(keys, owners, partial, lengths, bitmap, buckets, none, none, np.zeros(0, np.uint64), window)
