"""What everything that judges answers sees and gives: prompt rows, sampled answers, one number for each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol  # Any: a row of JSON

from bloomery.core.conversation import Message, find_problem
from bloomery.core.errors import DataError

Row = Mapping[str, Any]
"""A prompt: `messages` (a closing answer, if there is one, is not part of it), and columns that say what is right."""


class Answer(NamedTuple):
    """A sampled answer: its text, and whether the model ended it by itself. `num_tokens` with the end, 0 where nobody counted."""

    text: str
    stopped: bool
    num_tokens: int = 0


class RewardSource(Protocol):
    """Anything that can judge answers."""

    def __call__(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        """One reward for each answer, higher is better; rows[i] is the prompt row of answers[i]. None: this source cannot say."""
        ...


def prompt_messages(row: Row) -> list[Message]:
    """A row's messages, or those of its `prompt` (a string is what the user says), without the answer at their end, calls of
    tools on its way included.

    Raises DataError for a row without either.
    """
    messages: Any = row["messages"] if "messages" in row else row.get("prompt")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if problem := find_problem(messages):
        raise DataError(f"a prompt row needs `messages` or a `prompt`: {problem}; found the columns {', '.join(row)}")
    found: list[Message] = list(messages)
    if found[-1]["role"] != "assistant":
        return found
    asked = [i for i, message in enumerate(found) if message["role"] == "user"]
    return found[: asked[-1] + 1] if asked else found[:-1]
