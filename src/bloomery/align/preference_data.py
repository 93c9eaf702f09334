"""From rows of preferences to what a preference loss trains on: rendered answers, some of them held out, in the order of steps.

All of it is a pure function of the rows, the checkpoint's way to render conversations and the seed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from bloomery.align.preference_formats import LabelledRow, PairRow
from bloomery.core.conversation import Message
from bloomery.tokens.chat import Rendered
from bloomery.tokens.loader import shuffled_rows
from bloomery.tokens.renderer import Renderer


class RenderedPair(NamedTuple):
    """A rendered prompt with the answer that was preferred and the one that was not; only the answers' tokens are masked in.

    `probability` is the chance that it is so, if a row says one.
    """

    chosen: Rendered
    rejected: Rendered
    probability: float | None = None

    @property
    def answers(self) -> tuple[Rendered, Rendered]:
        """Both, the chosen one first."""
        return self.chosen, self.rejected


class RenderedLabel(NamedTuple):
    """A rendered prompt with its answer, whether that is desirable, and what tells the prompt from others."""

    answer: Rendered
    label: bool
    prompt: bytes


E = TypeVar("E", RenderedPair, RenderedLabel)
R = TypeVar("R", PairRow, LabelledRow)


class Examples(NamedTuple, Generic[E]):
    """What is trained on, what is held out, and how many were left out because they are longer than the model reads."""

    train: list[E]
    held_out: list[E]
    num_too_long: int


def render_answer(render: Renderer, prompt: Sequence[Message], answer: Sequence[Message]) -> Rendered:
    """A prompt and its answer as ids; only the answer is masked in, whatever the assistant said before."""
    context: list[Message] = [{**message, "loss": False} for message in prompt]
    return render([*context, *answer])


def render_pairs(rows: Iterable[PairRow], render: Renderer, *, max_tokens: int, held_out_fraction: float) -> Examples[RenderedPair]:
    """Pairs as ids, split by a hash of the prompt."""

    def to_pair(row: PairRow) -> RenderedPair | None:
        chosen, rejected = (render_answer(render, row.prompt, answer) for answer in (row.chosen, row.rejected))
        return RenderedPair(chosen, rejected, row.probability) if max(map(num_places, (chosen, rejected))) <= max_tokens else None

    return _split(list(rows), to_pair, held_out_fraction)


def render_labels(rows: Iterable[LabelledRow], render: Renderer, *, max_tokens: int, held_out_fraction: float) -> Examples[RenderedLabel]:
    """Labelled answers as ids, split by a hash of the prompt."""

    def to_label(row: LabelledRow) -> RenderedLabel | None:
        answer = render_answer(render, row.prompt, row.completion)
        return RenderedLabel(answer, row.label, _digest(row.prompt)) if num_places(answer) <= max_tokens else None

    return _split(list(rows), to_label, held_out_fraction)


def num_places(answer: Rendered) -> int:
    """Places that a prompt with its answer takes in a row: the last token is only ever a target."""
    return len(answer.ids) - 1


def thin_out(labels: Sequence[RenderedLabel], *, desirable_per_undesirable: float) -> list[RenderedLabel]:
    """As many of the labels as there can be in this proportion, at least one of each kind; which ones a hash of each decides.

    Their order stays. 0 keeps all.
    """
    count = {label: sum(example.label is label for example in labels) for label in (True, False)}
    if desirable_per_undesirable == 0 or 0 in count.values():
        return list(labels)
    undesirable = max(1, min(count[False], round(count[True] / desirable_per_undesirable)))
    wanted = {False: undesirable, True: max(1, min(count[True], round(undesirable * desirable_per_undesirable)))}
    kept: set[int] = set()
    for label, number in wanted.items():
        mine = [i for i, example in enumerate(labels) if example.label is label]
        kept.update(sorted(mine, key=lambda i: (_hash(str(labels[i].answer.ids)), i))[:number])
    return [example for i, example in enumerate(labels) if i in kept]


def mixed_rows_of_step(step: int, labels: np.ndarray, *, batch_rows: int, seed: int) -> np.ndarray:
    """The answers of step `step` (from 0), int64 [batch_rows], both labels in the proportion of the whole, to within one.

    `labels` (bool [N]) says which are desirable. Each is read once an epoch, each epoch in its own order. With p the share
    of a label, a batch holds at least floor(p * batch_rows) of it.
    """
    count = len(labels)
    parts = {True: np.flatnonzero(labels), False: np.flatnonzero(~labels)}
    place = np.arange(step * batch_rows, (step + 1) * batch_rows, dtype=np.int64)
    desirable_before = place * len(parts[True]) // count
    is_desirable = (place + 1) * len(parts[True]) // count > desirable_before
    rows = np.empty(batch_rows, np.int64)
    for label, own_place in ((True, desirable_before), (False, place - desirable_before)):
        mine = is_desirable == label
        if mine.any():
            rows[mine] = parts[label][shuffled_rows(own_place[mine], num_rows=len(parts[label]), seed=seed)]
    return rows


def _split(rows: Sequence[R], render_row: Callable[[R], E | None], held_out_fraction: float) -> Examples[E]:
    train: list[E] = []
    held_out: list[E] = []
    num_too_long = 0
    # By prompt, so that none is on both sides; by the whole row where all answer the same one.
    one_prompt = len({_digest(row.prompt) for row in rows}) == 1
    for row in rows:
        example = render_row(row)
        if example is None:
            num_too_long += 1
            continue
        digest = _hash(repr(row)) if one_prompt else _digest(row.prompt)
        (held_out if int.from_bytes(digest, "big") < held_out_fraction * 2**64 else train).append(example)
    return Examples(train, held_out, num_too_long)


def _digest(messages: Sequence[Message]) -> bytes:
    return _hash(json.dumps(messages, sort_keys=True))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
