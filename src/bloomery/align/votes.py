"""From votes of people to what preference losses train on: pairs, rankings and labelled answers.

Several annotators of one item become one row. By majority what more than half of them say is taken, and where no such half is there, a
tie; softly a pair keeps the share of them who say so as its `probability`, a tie and "both bad" being half a vote for each. Rankings of
several are joined by the mean of their ranks (Borda), softly by the share for every two answers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Literal

from bloomery.align.preference_formats import LabelledRow, PairRow, RankedRow
from bloomery.align.preference_rows import labels_of, pairs_of_ranking
from bloomery.core.conversation import Message
from bloomery.core.votes import ItemVotes

Votes = Literal["majority", "soft"]
VoteTies = Literal["left_out", "even"]
BothBad = Literal["undesirable", "left_out"]


def rankings_of_votes(items: Iterable[ItemVotes], *, votes: Votes) -> Iterator[RankedRow]:
    """A ranking for every item; softly, of one that several judged differently, a pair with its probability for every two answers."""
    for item in items:
        if votes == "soft" and len({tuple(vote.ranks) for vote in item.votes}) > 1:
            for i, j in combinations(range(len(item.completions)), 2):
                share, answers = _share_for(item, i, j), [_said(item.completions[i]), _said(item.completions[j])]
                if share == 0.5:
                    yield RankedRow(item.prompt, answers, [1, 1])
                else:
                    better = answers if share > 0.5 else answers[::-1]
                    yield RankedRow(item.prompt, better, [1, 2], probability=max(share, 1.0 - share))
        else:
            yield RankedRow(item.prompt, [_said(text) for text in item.completions], _joined_ranks(item))


def pairs_of_votes(items: Iterable[ItemVotes], *, votes: Votes, ties: VoteTies) -> Iterator[PairRow]:
    """Pairs of the answers of every item. Ties are left out, or ("even") pairs of probability one half."""
    for row in rankings_of_votes(items, votes=votes):
        if row.probability is not None:
            yield PairRow(row.prompt, row.completions[0], row.completions[1], probability=row.probability)
            continue
        yield from pairs_of_ranking(row)
        if ties == "even":
            for i, j in combinations(range(len(row.ranks)), 2):
                if row.ranks[i] == row.ranks[j]:
                    yield PairRow(row.prompt, row.completions[i], row.completions[j], probability=0.5)


def labels_of_votes(items: Iterable[ItemVotes], *, both_bad: BothBad) -> Iterator[LabelledRow]:
    """Labelled answers: the better one of a pair is desirable, the other is not; both are undesirable where most say "both bad"; of a
    ranking the best and the worst. A tie says nothing."""
    for item in items:
        if _majority(item) == "both_bad":
            if both_bad == "undesirable":
                yield from (LabelledRow(item.prompt, _said(text), False) for text in item.completions)
        else:
            yield from labels_of(RankedRow(item.prompt, [_said(text) for text in item.completions], _joined_ranks(item)))


def _majority(item: ItemVotes) -> str:
    # What more than half say; "" if they say different things.
    choice, count = Counter(vote.choice for vote in item.votes).most_common(1)[0]
    return choice if 2 * count > len(item.votes) else ""


def _joined_ranks(item: ItemVotes) -> list[int]:
    if len(item.completions) == 2 and all(vote.choice != "ranking" for vote in item.votes):
        return {"a": [1, 2], "b": [2, 1]}.get(_majority(item), [1, 1])
    totals = [sum(vote.ranks[i] for vote in item.votes) for i in range(len(item.completions))]
    places = {total: place for place, total in enumerate(sorted(set(totals)), start=1)}
    return [places[total] for total in totals]


def _share_for(item: ItemVotes, i: int, j: int) -> float:
    points = sum(0.5 if vote.ranks[i] == vote.ranks[j] else float(vote.ranks[i] < vote.ranks[j]) for vote in item.votes)
    return points / len(item.votes)


def _said(text: str) -> list[Message]:
    return [Message(role="assistant", content=text)]
