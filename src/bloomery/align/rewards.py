"""What an answer is worth: the seam between those who sample answers and those who judge them.

A RewardSource sees a prompt row and the answers sampled for it, and returns one number each. The one here asks a
program: the gold answer and the format that the row carries. A reward model or a judge takes the same place later.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol  # Any: a row of JSON

from bloomery.generate.verify import verify

RIGHT = 1.0
"""Ended by itself, in the asked format, and right."""
WELL_FORMED = 0.3
"""Ended by itself and in the asked format, but wrong: worth more than a malformed answer, far less than a right one."""
MALFORMED = 0.1
"""Ended by itself, but not in the asked format, whatever it says."""
UNFINISHED = 0.0
"""Ran into the limit of tokens: nobody asked for that, even if it begins with the right answer."""


class Answer(NamedTuple):
    """A sampled answer: its text, and whether the model ended it by itself."""

    text: str
    stopped: bool


class RewardSource(Protocol):
    """Anything that can judge answers."""

    def __call__(self, row: Mapping[str, Any], answers: Sequence[Answer]) -> list[float]:
        """One reward for each answer to the prompt row; higher is better."""
        ...


def verifier_reward(row: Mapping[str, Any], answers: Sequence[Answer]) -> list[float]:
    """RIGHT, WELL_FORMED, MALFORMED or UNFINISHED for each answer, by the row's `answer` and `format`."""
    return [_judge(row, answer) for answer in answers]


def _judge(row: Mapping[str, Any], answer: Answer) -> float:
    if not answer.stopped:
        return UNFINISHED
    verdict = verify(row, answer.text)
    if not verdict.well_formed:
        return MALFORMED
    return RIGHT if verdict.correct else WELL_FORMED
