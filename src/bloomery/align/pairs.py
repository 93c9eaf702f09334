"""What several sampled answers to one prompt teach: pairs, rankings, or single answers with a label.

All of it is on-policy: the answers are the model's, so that the preference loss moves weight between things that it
really says (the setting of DPO, arXiv:2305.18290, sec. 4, where pairs are sampled from the reference model).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, cycle
from typing import Any, Literal, NamedTuple  # Any: a row of JSON

from bloomery.align.reward_source import Answer, Row, prompt_messages

Case = Literal["paired", "all_good", "none_good", "gold_chosen"]


class Pair(NamedTuple):
    """Two answers to one prompt, the first one better, and how much higher its reward is (0 where nobody asked)."""

    chosen: str
    rejected: str
    margin: float = 0.0


class Ranked(NamedTuple):
    """Different answers to one prompt and their ranks: 1 is the best, equal ranks are a tie."""

    texts: list[str]
    ranks: list[int]


class Labelled(NamedTuple):
    """One answer, and whether it is desirable."""

    text: str
    label: bool


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


def mean_rewards(answers: Sequence[Answer], rewards: Sequence[float]) -> list[tuple[str, float]]:
    """The different texts in the order in which they were first sampled, each with its mean reward.

    One text can have two rewards: ended by itself in one sample, cut off in the other.
    """
    found: dict[str, list[float]] = {}
    for answer, reward in zip(answers, rewards, strict=True):
        found.setdefault(answer.text, []).append(reward)
    return [(text, sum(values) / len(values)) for text, values in found.items()]


def all_pairs(scored: Sequence[tuple[str, float]], *, min_margin: float, max_pairs: int, key: str) -> list[Pair]:
    """Pairs of two different answers whose rewards lie `min_margin` (and more than nothing) apart.

    Of more than `max_pairs` a random choice that `key` decides: which pairs a human would be shown is not up to their rewards.
    """
    found = []
    for (first, a), (second, b) in combinations(scored, 2):
        if abs(a - b) > 0 and abs(a - b) >= min_margin:
            found.append(Pair(first, second, a - b) if a > b else Pair(second, first, b - a))
    return sorted(found, key=lambda pair: _draw(f"{key}/{pair.chosen}\x00{pair.rejected}"))[:max_pairs]


def best_and_worst(scored: Sequence[tuple[str, float]], *, min_margin: float) -> list[Pair]:
    """The first of the highest reward against the first of the lowest, if they lie `min_margin` (and more than nothing) apart."""
    if not scored:
        return []
    best, worst = max(scored, key=lambda one: one[1]), min(scored, key=lambda one: one[1])
    margin = best[1] - worst[1]
    return [Pair(best[0], worst[0], margin)] if margin > 0 and margin >= min_margin else []


def rank_answers(scored: Sequence[tuple[str, float]], *, max_answers: int, tie_margin: float) -> Ranked | None:
    """At most `max_answers` answers in the order in which they were sampled, with ranks; None if all of them share one.

    The best one is always among them. An answer shares the rank of the best answer at most `tie_margin` above it that begins a rank.
    """
    if not scored:
        return None
    best = max(range(len(scored)), key=lambda i: scored[i][1])
    others = [i for i in range(len(scored)) if i != best]
    kept = sorted([best, *others[: max_answers - 1]])
    ranks: dict[int, int] = {}
    first_of_rank, rank = scored[best][1], 1
    for i in sorted(kept, key=lambda i: -scored[i][1]):
        if first_of_rank - scored[i][1] > tie_margin:
            first_of_rank, rank = scored[i][1], rank + 1
        ranks[i] = rank
    return Ranked([scored[i][0] for i in kept], [ranks[i] for i in kept]) if rank > 1 else None


def label_answers(scored: Sequence[tuple[str, float]], *, min_chosen_reward: float, min_margin: float) -> list[Labelled]:
    """Answers of at least `min_chosen_reward` are desirable, those `min_margin` or more below that are not; the rest is left out."""
    labelled = []
    for text, reward in scored:
        if reward >= min_chosen_reward:
            labelled.append(Labelled(text, True))
        elif reward <= min_chosen_reward - min_margin:
            labelled.append(Labelled(text, False))
    return labelled


def is_flipped(key: str, share: float) -> bool:
    """Whether the label that `key` names is one of the share that is turned round, as human ones are."""
    return _draw(f"noise/{key}") < share * 2**64


def balance(keys: Sequence[str], labels: Sequence[bool], *, desirable_per_undesirable: float, max_rows: int) -> list[int]:
    """Indices, in order, of a random choice (by `keys`) of at most `max_rows` with this ratio of labels; 0 of either asks for nothing.

    The rarer label is kept whole and the other one cut, so that a ratio of 0.1 is the imbalance KTO's authors test
    (arXiv:2402.01306, sec. 4.3).
    """
    order = sorted(range(len(keys)), key=lambda i: _draw(f"balance/{keys[i]}"))
    if desirable_per_undesirable == 0:
        return sorted(order[:max_rows] if max_rows else order)
    good, bad = ([i for i in order if labels[i] is wanted] for wanted in (True, False))
    num_bad = min(len(bad), int(len(good) / desirable_per_undesirable))
    if max_rows:
        num_bad = min(num_bad, round(max_rows / (1 + desirable_per_undesirable)))
    num_good = min(len(good), round(num_bad * desirable_per_undesirable))
    return sorted([*good[:num_good], *bad[:num_bad]])


def pair_row(row: Row, pair: Pair, *, with_margin: bool = False) -> dict[str, Any]:
    """The pair with TRL's columns: prompt, chosen and rejected are lists of messages; margin is a number."""
    margin = {"margin": pair.margin} if with_margin else {}
    return {
        "prompt": prompt_messages(row),
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "skill": row.get("skill", ""),
        **margin,
    }


def ranking_row(row: Row, ranked: Ranked) -> dict[str, Any]:
    """A ranking: prompt, completions (each a list of messages) and ranks."""
    completions = [[{"role": "assistant", "content": text}] for text in ranked.texts]
    return {"prompt": prompt_messages(row), "completions": completions, "ranks": ranked.ranks, "skill": row.get("skill", "")}


def label_row(row: Row, labelled: Labelled) -> dict[str, Any]:
    """A single answer with TRL's columns for KTO: prompt, completion and label."""
    completion = [{"role": "assistant", "content": labelled.text}]
    return {"prompt": prompt_messages(row), "completion": completion, "label": labelled.label, "skill": row.get("skill", "")}


def _draw(key: str) -> int:
    """64 bits that follow from the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _by_frequency(texts: Iterable[str]) -> list[str]:
    # Counter keeps the order of first sight among equally frequent texts.
    return [text for text, _ in Counter(texts).most_common()]
