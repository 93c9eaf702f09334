"""Votes of people on answers, as files: one JSON line for each item, with everything that was said of it.

    {"item": "...", "prompt": [messages], "completions": ["...", "..."], "models": ["sft", "dpo"],
     "votes": [{"annotator": "ann", "choice": "a", "ranks": [1, 2]}, ...]}

`choice` is "a" or "b" (the first or the second completion is better), "tie", "both_bad", or "ranking" of any number of completions;
`ranks` says the same as numbers, 1 is best, equal ranks are ties. The labels database writes such files, training reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple  # Any: a row of JSON

from bloomery.core.conversation import Message, find_problem
from bloomery.core.errors import DataError
from bloomery.core.files import expand, read_numbered_jsonl

VOTE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
CHOICES = {"a": [1, 2], "b": [2, 1], "tie": [1, 1], "both_bad": [1, 1]}


class Vote(NamedTuple):
    """What one annotator said of an item."""

    annotator: str
    choice: str
    ranks: list[int]


class ItemVotes(NamedTuple):
    """Answers to one prompt that were compared, whose they are, and the votes on them."""

    item: str
    prompt: list[Message]
    completions: list[str]
    models: list[str]
    votes: list[Vote]

    def record(self) -> dict[str, Any]:
        """The item as a line of a file holds it."""
        return {**self._asdict(), "votes": [vote._asdict() for vote in self.votes]}


def read_votes(paths: Path | Sequence[Path]) -> Iterator[ItemVotes]:
    """The items of all files in order. Raises DataError naming file and line of a row that is none."""
    for path in expand(paths, suffixes=VOTE_SUFFIXES):
        for line, row in read_numbered_jsonl(path):
            try:
                yield parse_item(row)
            except DataError as error:
                raise DataError(f"{path}:{line}: {error}. `bloomery labels export` writes such files") from error


def parse_item(row: Mapping[str, Any]) -> ItemVotes:
    """An item of a line's row. Raises DataError saying what is wrong with it."""
    missing = [name for name in ("item", "prompt", "completions", "votes") if name not in row]
    if missing:
        raise DataError(f"has no {', '.join(f'`{name}`' for name in missing)}; expected an item with its votes, found {', '.join(row)}")
    if problem := find_problem(row["prompt"]):
        raise DataError(f"`prompt`: {problem}")
    completions = row["completions"]
    if not isinstance(completions, list) or len(completions) < 2 or not all(isinstance(text, str) for text in completions):
        raise DataError(f"`completions` must be a list of two texts or more, found {completions!r:.80}")
    models, votes = row.get("models", [""] * len(completions)), row["votes"]
    if not isinstance(models, list) or len(models) != len(completions):
        raise DataError(f"`models` must name one for each of {len(completions)} completions, found {models!r:.80}")
    if not isinstance(votes, list) or not votes:
        raise DataError(f"`votes` must be a list with a vote in it, found {votes!r:.80}")
    return ItemVotes(
        str(row["item"]), row["prompt"], completions, [str(name) for name in models], [_parse_vote(v, len(completions)) for v in votes]
    )


def _parse_vote(vote: object, count: int) -> Vote:
    if not isinstance(vote, Mapping) or not isinstance(vote.get("annotator"), str) or not isinstance(vote.get("choice"), str):
        raise DataError(f"a vote needs an `annotator`, a `choice` and `ranks`, found {vote!r:.80}")
    choice, ranks = vote["choice"], vote.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != count or not all(type(rank) is int and rank >= 1 for rank in ranks):
        raise DataError(f"a vote's `ranks` must hold a whole number from 1 on for each of {count} completions, found {ranks!r:.80}")
    if choice != "ranking" and (choice not in CHOICES or ranks != CHOICES[choice]):
        known = ", ".join(f"{name} {said}" for name, said in CHOICES.items())
        raise DataError(f"a vote's `choice` and `ranks` must be one of {known}, or a ranking; found {choice!r:.40} {ranks}")
    return Vote(vote["annotator"], choice, ranks)
