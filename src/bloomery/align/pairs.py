"""Preference pairs from several sampled answers to one prompt: the best against the model's own likeliest mistakes.

Pairs are on-policy: both answers are the model's, so that the preference loss moves weight between things that it
really says (the setting of DPO, arXiv:2305.18290, sec. 4, where pairs are sampled from the reference model).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from bloomery.align.rewards import Answer
from bloomery.core.conversation import Message

Case = Literal["paired", "all_good", "none_good", "gold_chosen"]


class Pair(NamedTuple):
    """Two answers to one prompt, the first one better."""

    chosen: str
    rejected: str


class PromptPairs(NamedTuple):
    """The pairs of one prompt, and why there are some or none."""

    pairs: list[Pair]
    case: Case


def make_pairs(
    answers: Sequence[Answer],
    rewards: Sequence[float],
    *,
    min_chosen_reward: float,
    min_margin: float,
    max_pairs: int,
    gold: str | None = None,
) -> PromptPairs:
    """At most `max_pairs` pairs with different rejected texts, the most often sampled mistakes first.

    Chosen are the answers of the highest reward, if that is at least `min_chosen_reward`; rejected are those that lie
    `min_margin` or more below. Without a good answer there are no pairs, unless `gold` is given: then it is chosen and
    everything sampled may be rejected.
    """
    texts = [answer.text for answer in answers]
    best = max(rewards, default=float("-inf"))
    case: Case = "paired"
    if best >= min_chosen_reward:
        chosen = _by_frequency(text for text, reward in zip(texts, rewards, strict=True) if reward == best)
        rejected = _by_frequency(text for text, reward in zip(texts, rewards, strict=True) if reward <= best - min_margin)
    elif gold is not None:
        case, chosen, rejected = "gold_chosen", [gold], _by_frequency(texts)
    else:
        return PromptPairs([], "none_good")
    # The same text can be good and bad: ended by itself in one sample, cut off in the other. That is no preference.
    rejected = [text for text in rejected if text not in chosen]
    pairs = [Pair(good, bad) for good, bad in zip(cycle(chosen), rejected[:max_pairs], strict=False)]
    return PromptPairs(pairs, case if pairs else "all_good")


def pair_row(row: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """The pair with TRL's columns: prompt, chosen and rejected are lists of messages."""
    return {
        "prompt": prompt_messages(row),
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "skill": row.get("skill", ""),
    }


def prompt_messages(row: Mapping[str, Any]) -> list[Message]:
    """A row's messages without the assistant's answer at their end, if there is one."""
    messages: list[Message] = list(row["messages"])
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _by_frequency(texts: Iterable[str]) -> list[str]:
    # Counter keeps the order of first sight among equally frequent texts.
    return [text for text, _ in Counter(texts).most_common()]
