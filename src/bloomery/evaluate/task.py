"""What a task is: examples, how to ask one, and how to score the answer. Python, not YAML.

Every model is asked in each of two prompt formats and is measured in the one that suits it: a base model never saw a
chat template, and a chat model was taught nothing else. Comparing both in one of them would measure the format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from bloomery.tokens.tokenizer import Tokenizer

PromptFormat = Literal["chat", "plain"]


class Outcome(NamedTuple):
    """How one answer did. `stopped` = the model ended its turn by itself; an endless answer is not well-formed."""

    completion: str
    correct: bool
    well_formed: bool
    stopped: bool

    @property
    def rank(self) -> int:
        """2 for a right answer, 1 for a wrong one in the asked format, 0 for the rest: what win rates compare."""
        return 2 if self.correct else 1 if self.well_formed else 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """Examples and two functions: `prompt(example, tokenizer, format)` gives token ids, `score(example, text, ...)` an Outcome."""

    name: str
    examples: Sequence[Mapping[str, Any]]
    prompt: Callable[[Mapping[str, Any], Tokenizer, PromptFormat], list[int]]
    score: Callable[[Mapping[str, Any], str, bool, PromptFormat], Outcome]
