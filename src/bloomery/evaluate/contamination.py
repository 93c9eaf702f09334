"""Which rows of the benchmarks stand in the training documents: the 13-gram rule of curate/decontaminate.py, turned round.

Decontamination drops documents; here the documents stay, and a score says beside itself how many of its rows a model may
have read, and what the score is without them.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: a row of JSON

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.pool import Pool
from bloomery.curate.decontaminate import (
    DecontaminateConfig,
    Prompt,
    answer_texts,
    find_contaminated,
    index_prompts,
    prompt_texts,
    read_index,
    write_index,
)
from bloomery.evaluate.asking import question_and_answer
from bloomery.evaluate.benchmark import Choice, Example, Located, Schema

Place = tuple[str, int]
"""File and line of a row."""


def find_shared_rows(
    benchmarks: Mapping[str, Sequence[Located]], documents: Sequence[Path], *, index_path: Path, pool: Pool
) -> dict[str, set[Place]]:
    """For each benchmark the rows whose question (or long answer) a document shares 13 words in a row with.

    `index_path` is where the index is written for the workers; one that is there is used.
    """
    names = {name: list(rows) for name, rows in benchmarks.items()}
    if not index_path.exists():
        write_index(index_path, index_prompts(_prompts(names), DecontaminateConfig()))
    found: dict[str, set[Place]] = {name: set() for name in names}
    for hits in pool.map(functools.partial(rows_in_file, index_path), list_document_files(list(documents))):
        for name, number in hits:
            row = names[name][number]
            found[name].add((row.file, row.line))
    return found


def rows_in_file(index_path: Path, path: Path) -> list[tuple[str, int]]:
    """(benchmark, number of the row from 0) of all rows that some document of a file shares."""
    index = read_index(index_path)
    hits: set[tuple[str, int]] = set()
    for table in read_document_batches(path):
        hits.update((hit.task, hit.row) for of_text in find_contaminated(table.column("text"), index) for hit in of_text)
    return sorted(hits)


def _prompts(benchmarks: Mapping[str, Sequence[Located]]) -> Iterator[Prompt]:
    for name, rows in benchmarks.items():
        for number, located in enumerate(rows):
            row = _as_row(located.example)
            answers = answer_texts(row)
            yield from (Prompt(name, number, "prompt", text, tuple(answers)) for text in prompt_texts(row))
            yield from (Prompt(name, number, "answer", text) for text in answers)


def _as_row(example: Example) -> dict[str, Any]:
    question, answer = question_and_answer(example)
    if isinstance(example, Schema):
        return {"context_options": list(example.contexts), "continuation": example.continuation}
    if isinstance(example, Choice) and not question:  # pairs of sentences: each is a question of its own
        return {"context_options": list(example.choices)}
    return {"query": question, "answer": answer}


def mark(samples: Iterable[dict[str, Any]], shared: set[Place]) -> None:
    """Adds `contaminated` to every sample."""
    for sample in samples:
        sample["contaminated"] = (sample["file"], sample["line"]) in shared
