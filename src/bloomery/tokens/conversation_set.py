"""A set of conversations as what is trained on: rendered, fitted to the length of a row, a part held out.

What happens to a conversation is one of a few named things, and each is counted: none is lost unseen.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: rows of JSON

from bloomery.core.conversation import Message
from bloomery.tokens.chat import Rendered
from bloomery.tokens.renderer import Renderer

TooLong = Literal["cut_end", "drop_turns", "drop"]
"""What becomes of a conversation that is longer than a row.

cut_end: its beginning is kept, and nothing of an end is learnt where it was cut. drop_turns: its oldest exchanges go (never
the system message) until it fits; a last one that is still too long is cut. drop: it goes.
"""
LossOn = Literal["assistant", "all"]

COUNTS = ("unanswered", "cut", "shortened", "dropped")
"""Of conversations: passed over because nothing in them is an answer to learn; ended early; without their first exchanges; left out
because they are too long, or because nothing to learn was left of them."""


class ConversationSet(NamedTuple):
    """Conversations to train on and to hold out, and how many had which of COUNTS happen to them."""

    train: list[Rendered]
    held_out: list[Rendered]
    counts: Mapping[str, int]


def render_set(
    rows: Iterable[Mapping[str, Any]],
    render: Renderer,
    *,
    row_tokens: int,
    too_long: TooLong = "cut_end",
    loss_on: LossOn = "assistant",
    held_out_fraction: float = 0.0,
) -> ConversationSet:
    """The conversations of `rows`, split by a hash of what comes before the first answer: one prompt is never on both sides.

    With `loss_on` "all" every token is trained, whoever said it.
    """
    train: list[Rendered] = []
    held_out: list[Rendered] = []
    counts: Counter[str] = Counter()
    for row in rows:
        found, what = fit_to_row(row["messages"], row.get("tools") or (), render, row_tokens=row_tokens, too_long=too_long)
        if what:
            counts[what] += 1
        if found is None:
            continue
        if loss_on == "all":
            found = Rendered(found.ids, [True] * len(found.ids))
        (held_out if prompt_fraction(row["messages"]) < held_out_fraction else train).append(found)
    return ConversationSet(train, held_out, {name: counts[name] for name in COUNTS})


def fit_to_row(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], render: Renderer, *, row_tokens: int, too_long: TooLong
) -> tuple[Rendered | None, str]:
    """A conversation in at most `row_tokens` tokens, or None, and which of COUNTS happened to it ("" for none)."""
    whole = render(messages, tools=tools)
    if not any(whole.loss_mask):
        return None, "unanswered"
    if len(whole.ids) <= row_tokens:
        return whole, ""
    if too_long == "drop":
        return None, "dropped"
    if too_long == "drop_turns":
        head = [message for message in messages[:1] if message["role"] == "system"]
        begins = [i for i, message in enumerate(messages) if message["role"] == "user"]
        for begin in begins[1:]:
            whole = render([*head, *messages[begin:]], tools=tools)
            if len(whole.ids) <= row_tokens and any(whole.loss_mask):
                return whole, "shortened"
    cut = Rendered(whole.ids[:row_tokens], whole.loss_mask[:row_tokens])
    return (cut, "cut") if any(cut.loss_mask) else (None, "dropped")


def prompt_fraction(messages: Sequence[Message]) -> float:
    """A number in [0, 1) that the prompt decides."""
    answered = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    prompt = "\x00".join(message["content"] for message in messages[:answered])
    return int.from_bytes(hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest(), "big") / 2**64
