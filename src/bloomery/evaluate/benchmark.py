"""What a benchmark is: rows of a public file read as examples of one of four kinds, how they are asked, and how they are scored.

`Choice`, `Schema` and `Completion` are scored by the log-likelihood of given text (see packed.py), `Question` by what a
model generates. A benchmark is data and three plain functions (parse, render, score); the catalog of all of them is
`tasks/catalog.py`. `Task` in task.py is the narrower thing that the comparison of chat models asks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

Row = Mapping[str, Any]


class RowError(Exception):
    """What is wrong with a row; the reader says it again with file and line."""


class Choice(NamedTuple):
    """One question with several answers to choose from; `gold` counts from 0."""

    query: str
    choices: tuple[str, ...]
    gold: int
    group: str = ""
    """A part of the benchmark with a score of its own (a subject of MMLU); few-shot examples come from the same one."""


class Schema(NamedTuple):
    """One continuation after several contexts (Winograd schemas): which of them makes it likeliest?"""

    contexts: tuple[str, ...]
    continuation: str
    gold: int
    group: str = ""


class Completion(NamedTuple):
    """A text and how it goes on: right if the likeliest tokens are those of the continuation."""

    context: str
    continuation: str
    group: str = ""


class Question(NamedTuple):
    """A question that is answered by generating; `worked` is the answer as few-shot examples show it."""

    prompt: str
    answers: tuple[str, ...]
    worked: str = ""
    group: str = ""
    row: Row = MappingProxyType({})
    """The whole row, for scores that need more of it: tests to run, instructions to check."""


Example = Choice | Schema | Completion | Question


class Located(NamedTuple):
    """An example and where it stands; line 1 is the first row of a file."""

    example: Example
    file: str
    line: int


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a data set on the Hugging Face hub (or a mirror, HF_ENDPOINT)."""

    repo: str
    path: str
    revision: str = "main"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from: `files` are names to look for under the data folders, without suffixes; `hub` where to fetch them."""

    files: tuple[str, ...]
    hub: tuple[HubFile, ...] = ()
    built_in: Callable[[], Sequence[Row]] | None = None
    """Rows that come with bloomery, for where no file is found."""
    keep: Callable[[Row], bool] | None = None
    """Which rows belong to the benchmark, where a file holds several."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How answers of a `Question` are drawn and scored.

    `score(question, completions)` gives numbers from 0 to 1 by name for one example, of all its completions; the
    benchmark's `metric` must be among them.
    """

    score: Callable[[Question, Sequence[str]], Mapping[str, float]]
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """An answer ends before any of these; a chat's also where the model ends its turn."""
    num_samples: int = 1
    temperature: float = 0.0
    at_once: Callable[[Sequence[Question], Sequence[Sequence[str]]], Sequence[Mapping[str, float]]] | None = None
    """Scores all examples together where that is cheaper (programs run side by side); None: one by one with `score`."""
    check: Callable[[], None] | None = None
    """Raises ConfigError where answers could not be scored, before a model is asked for any."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark of the catalog."""

    name: str
    title: str
    kind: Literal["choice", "schema", "completion", "question"]
    source: Source
    parse: Callable[[Row], Example]
    """A row as an example. Raises RowError (or KeyError for a missing column) for a row that cannot be one."""
    metric: str
    """The figure that stands for it, one of those that `scores.py` makes of its kind (or that its `generation` gives)."""
    num_shots: int = 0
    shots: Source | None = None
    """Where examples to show come from; None: the rows themselves, but the one that is asked."""
    shot_choice: Literal["drawn", "drawn_in_group", "first"] = "drawn"
    """`drawn`: others for each row, as CORE does; `first`: the same for all rows of a group, as MMLU does."""
    delimiter: str = " "
    """Between question and answer."""
    introduction: Callable[[str], str] | None = None
    """What a prompt begins with, by group."""
    chance: float = 0.0
    """The metric's value for guessing."""
    generation: Generation | None = None
    chat: bool = False
    """Asked through the chat template, examples to show as earlier turns."""
    groups: tuple[str, ...] = field(default=())
    """Names of collections that it belongs to: `--tasks NAME` takes them all."""
    version: int = 1
    """Raised when the same rows would be asked or scored in another way than before."""


def require_text(row: Row, key: str) -> str:
    """row[key], which must be a text that is not empty. Raises RowError."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = f"{value!r}"[:80] if key in row else f"only {', '.join(row) or 'nothing'}"
        raise RowError(f'expected a text in "{key}", found {found}')
    return value


def check_choices(choices: Any, gold: Any) -> tuple[tuple[str, ...], int]:
    """Choices as texts and the index of the right one. Raises RowError for none, empty ones, or a gold outside them."""
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise RowError(f"expected a list of at least two choices, found {choices!r}"[:200])
    if empty := [i for i, choice in enumerate(choices) if not isinstance(choice, str) or not choice.strip()]:
        raise RowError(f"choice {empty[0]} is {choices[empty[0]]!r}; expected a text")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise RowError(f"gold is {gold!r}; expected a number from 0 to {len(choices) - 1}")
    return tuple(choices), gold
