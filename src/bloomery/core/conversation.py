"""Conversations as TRL, axolotl and the OpenAI API write them: a list of messages, each a role and a content.

A conversation row has `messages` and may carry more columns (`tools`, `source`, `skill`, `answer`); a prompt row is a
conversation that ends before the assistant's turn, with the `answer` that a program will check. Files of other
formats (alpaca, ShareGPT, questions with answers) are read as such rows, too: conversation_rows.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict  # Any: a row of JSON

from bloomery.core.conversation_rows import Calculator, to_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import expand
from bloomery.core.rows import read_table

ROLES = ("system", "user", "assistant", "tool")
CONVERSATION_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class ToolFunction(TypedDict):
    """What is called: `arguments` by name, or the text of a JSON object as a model wrote it."""

    name: str
    arguments: dict[str, Any] | str


class ToolCall(TypedDict):
    """A call in OpenAI's shape."""

    type: NotRequired[str]
    id: NotRequired[str]
    function: ToolFunction


class Message(TypedDict):
    """One turn; `loss: false` keeps an assistant's turn out of training, `truncated: true` says that it was cut before its end."""

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    loss: NotRequired[bool]
    truncated: NotRequired[bool]


def read_conversations(paths: Path | Sequence[Path], *, calculator: Calculator = "turns") -> Iterator[dict[str, Any]]:
    """The rows of files of any known format (conversation_rows.py), each with a checked `messages` list.

    Files are JSONL, Parquet or, named one by one, JSON. Raises DataError naming file and line of a row that is no conversation.
    """
    # A folder may hold JSON of any other kind.
    for path in expand(paths, suffixes=(*CONVERSATION_SUFFIXES, ".parquet")):
        for line, row in read_table(path):
            try:
                found = to_conversations(row, calculator=calculator)
            except DataError as error:
                raise DataError(f"{path}:{line}: {error}") from error
            for made in found:
                if problem := find_problem(made["messages"]):
                    raise DataError(f"{path}:{line}: {problem}")
                yield made


def find_problem(messages: object) -> str | None:
    """What is wrong with a list of messages, as a clause for a message; None when it is sound."""
    if not isinstance(messages, list) or not messages:
        return f"`messages` must be a list of messages, found {messages!r:.80}"
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"message {i} needs a `role` and a `content` string, found {message!r:.80}"
        calls = message.get("tool_calls")
        if not isinstance(message.get("content"), str) and not (calls and message.get("content") is None):
            return f"message {i} needs a `role` and a `content` string, found {message!r:.80}"
        if message.get("role") not in ROLES:
            return f"message {i} has the role {message.get('role')!r}; expected one of {', '.join(ROLES)}"
        if message["role"] == "system" and i > 0:
            return f"message {i} is a system message; only the first may be one"
        if calls and (problem := _find_call_problem(message, calls)):
            return f"message {i} {problem}"
    return None


def _find_call_problem(message: dict[str, Any], calls: object) -> str | None:
    if message["role"] != "assistant":
        return f"has tool_calls, but is the {message['role']}'s; only an assistant calls"
    for call in calls if isinstance(calls, list) else [None]:
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f'has a tool call without a name: {call!r:.80}; expected {{"function": {{"name": ..., "arguments": {{...}}}}}}'
        if not isinstance(function.get("arguments"), dict | str):
            return f"calls {function['name']} with the arguments {function.get('arguments')!r:.80}; expected an object, or its JSON text"
    return None
