"""Conversations as TRL, axolotl and the OpenAI API write them: a list of messages, each a role and a content.

A conversation row has `messages` and may carry more columns (`source`, `skill`, `answer`); a prompt row is a
conversation that ends before the assistant's turn, with the `answer` that a program will check.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict  # Any: a row of JSON

from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_jsonl

ROLES = ("system", "user", "assistant")
CONVERSATION_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Message(TypedDict):
    """One turn; `loss: false` keeps an assistant turn out of training."""

    role: str
    content: str
    loss: NotRequired[bool]


def read_conversations(paths: Path | Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows of conversation files, each with a checked `messages` list. Raises DataError naming file and row."""
    for path in expand(paths, suffixes=CONVERSATION_SUFFIXES):
        for number, row in enumerate(read_jsonl(path), start=1):
            problem = find_problem(row.get("messages"))
            if problem:
                raise DataError(f"{path}, row {number}: {problem}")
            yield row


def find_problem(messages: object) -> str | None:
    """What is wrong with a list of messages, as a clause for a message; None when it is sound."""
    if not isinstance(messages, list) or not messages:
        return f"`messages` must be a list of messages, found {messages!r:.80}"
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {i} needs a `role` and a `content` string, found {message!r:.80}"
        if message.get("role") not in ROLES:
            return f"message {i} has the role {message.get('role')!r}; expected one of {', '.join(ROLES)}"
        if message["role"] == "system" and i > 0:
            return f"message {i} is a system message; only the first may be one"
    return None
