"""Prompts of a campaign: the held-out rows of an artifact, a file named on the command line, or a text from the page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any  # Any: a row of JSON

from bloomery.core.conversation import Message, find_problem, read_conversations
from bloomery.core.conversation_rows import to_conversations
from bloomery.core.errors import DataError

HELD_OUT = "test.jsonl.gz"
"""The rows that an artifact of conversations keeps for looking at its models."""


def held_out_prompts(artifact: Path, *, at_most: int) -> list[list[Message]]:
    """The first different prompts that an artifact keeps for tests."""
    return _first(read_conversations([artifact / HELD_OUT]), at_most)


def file_prompts(paths: Sequence[Path], *, at_most: int) -> list[list[Message]]:
    """The first different prompts of files in any known format of conversations."""
    return _first(read_conversations(list(paths)), at_most)


def text_prompts(text: str, *, at_most: int) -> list[list[Message]]:
    """Prompts of a text: JSON lines in any known format of conversations, else each line that is not empty is one.

    Raises DataError naming the line that is neither.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError("prompts: found none; write one a line, or JSON lines")
    if not lines[0][1].startswith("{"):
        return _first(({"messages": [{"role": "user", "content": line}]} for _, line in lines), at_most)
    rows = []
    for number, line in lines:
        try:
            row = json.loads(line)
            rows += to_conversations(row) if isinstance(row, dict) else [{"messages": row}]
        except (ValueError, RecursionError, DataError) as error:
            raise DataError(f"prompts: line {number}: {error}") from error
        if problem := find_problem(rows[-1]["messages"]):
            raise DataError(f"prompts: line {number}: {problem}")
    return _first(rows, at_most)


def to_prompt(messages: Sequence[Message]) -> list[Message]:
    """What was said up to the last answer: a conversation that ends with the assistant's loses that."""
    kept = list(messages)
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept


def _first(rows: Iterable[Mapping[str, Any]], at_most: int) -> list[list[Message]]:
    prompts = (to_prompt(row["messages"]) for row in rows)
    different: dict[str, list[Message]] = {}
    for prompt in prompts:
        if prompt and prompt[-1]["role"] == "user":
            different.setdefault(json.dumps(prompt, sort_keys=True), prompt)
        if len(different) == at_most:
            break
    return list(islice(different.values(), at_most))
