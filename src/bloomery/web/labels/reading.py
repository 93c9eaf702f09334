"""What was voted: for ratings and agreement without a text, for export with all of them, and how far everybody has come."""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa

from bloomery.core.votes import ItemVotes, Vote
from bloomery.web.labels import tables as t
from bloomery.web.labels.campaigns import Campaign, split_numbers
from bloomery.web.labels.database import Database


class Judgement(NamedTuple):
    """A vote that counts, skips left out: of whose answers, how long they are, and what rank each got."""

    item: int
    prompt: int
    annotator: str
    models: list[str]
    lengths: list[int]
    """Characters of each answer."""
    choice: str
    ranks: list[int]


class AnnotatorProgress(NamedTuple):
    """How far an annotator has come in a campaign."""

    name: str
    quota: int | None
    votes: int
    skips: int
    undone: int
    median_seconds: float | None


class Progress(NamedTuple):
    """How far a campaign has come. `finished` items have as many votes as are wanted; identical answers are never asked about."""

    prompts: int
    items: int
    identical: int
    begun: int
    finished: int
    votes: int
    skips: int
    annotators: list[AnnotatorProgress]


def read_judgements(database: Database, campaign: Campaign) -> list[Judgement]:
    """Every blind vote that counts, by item and annotator; identical answers are a tie of nobody's ("")."""
    with database.read() as connection:
        names = dict(connection.execute(sa.select(t.model.c.id, t.model.c.name)).all())
        lengths_query = (
            sa.select(t.generation.c.id, sa.func.length(t.generation.c.text))
            .join(t.prompt, t.prompt.c.id == t.generation.c.prompt_id)
            .where(t.prompt.c.campaign_id == campaign.id)
        )
        lengths = dict(connection.execute(lengths_query).all())
        found = []
        columns = (t.item.c.id, t.item.c.members, t.item.c.contest, t.prompt.c.position)
        query = (
            sa.select(*columns, t.annotator.c.name, t.live_vote.c.choice, t.live_vote.c.ranks)
            .join(t.prompt, t.prompt.c.id == t.item.c.prompt_id)
            .join(t.comparison, t.comparison.c.item_id == t.item.c.id)
            .join(t.annotator, t.annotator.c.id == t.comparison.c.annotator_id)
            .join(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
            .where(t.item.c.campaign_id == campaign.id, t.live_vote.c.choice != "skip", t.live_vote.c.is_blind.is_(True))
            .order_by(t.item.c.id, t.annotator.c.id)
        )
        for row in connection.execute(query):
            models = [names[model] for model in split_numbers(row.contest)]
            sizes = [lengths[member] for member in split_numbers(row.members)]
            found.append(Judgement(row.id, row.position, row.name, models, sizes, row.choice, split_numbers(row.ranks)))
        same = (
            sa.select(*columns)
            .join(t.prompt, t.prompt.c.id == t.item.c.prompt_id)
            .where(t.item.c.campaign_id == campaign.id, t.item.c.is_identical.is_(True))
            .order_by(t.item.c.id)
        )
        for item, members, contest, position in connection.execute(same):
            models = [names[model] for model in split_numbers(contest)]
            sizes = [lengths[member] for member in split_numbers(members)]
            found.append(Judgement(item, position, "", models, sizes, "tie", [1] * len(models)))
    return found


def export_items(database: Database, campaign: Campaign) -> Iterator[ItemVotes]:
    """Every item that has a vote which counts, in the order of the prompts, with the votes by annotators' names.

    Votes that were undone, skips, and votes after the names were shown are not in it.
    """
    with database.read() as connection:
        names = dict(connection.execute(sa.select(t.model.c.id, t.model.c.name)).all())
        query = (
            sa.select(t.item.c.id, t.item.c.members, t.item.c.contest, t.prompt.c.messages)
            .join(t.prompt, t.prompt.c.id == t.item.c.prompt_id)
            .where(t.item.c.campaign_id == campaign.id)
            .order_by(t.prompt.c.position, t.item.c.id)
        )
        votes = _votes_of_items(connection, campaign)
        for row in connection.execute(query):
            if row.id in votes:
                members = split_numbers(row.members)
                said = sa.select(t.generation.c.id, t.generation.c.text).where(t.generation.c.id.in_(members))
                texts = dict(connection.execute(said).all())
                completions = [texts[member] for member in members]
                models = [names[model] for model in split_numbers(row.contest)]
                key = hashlib.sha256(json.dumps([row.messages, completions, models]).encode()).hexdigest()[:16]
                yield ItemVotes(key, json.loads(row.messages), completions, models, votes[row.id])


def read_progress(database: Database, campaign: Campaign) -> Progress:
    """Counts of items and votes, and of each annotator's."""
    with database.read() as connection:
        prompts = connection.execute(sa.select(sa.func.count()).where(t.prompt.c.campaign_id == campaign.id)).scalar_one()
        identical = connection.execute(
            sa.select(sa.func.count()).where(t.item.c.campaign_id == campaign.id, t.item.c.is_identical.is_(True))
        ).scalar_one()
        items = connection.execute(sa.select(sa.func.count()).where(t.item.c.campaign_id == campaign.id)).scalar_one()
        counted = (
            sa.select(t.item.c.id, sa.func.count())
            .join(t.comparison, t.comparison.c.item_id == t.item.c.id)
            .join(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
            .where(t.item.c.campaign_id == campaign.id, t.live_vote.c.choice != "skip")
            .group_by(t.item.c.id)
        )
        counts = [count for _, count in connection.execute(counted)]
        annotators = _progress_of_annotators(connection, campaign)
    return Progress(
        prompts=prompts,
        items=items - identical,
        identical=identical,
        begun=len(counts),
        finished=sum(count >= campaign.settings.overlap for count in counts),
        votes=sum(counts),
        skips=sum(one.skips for one in annotators),
        annotators=annotators,
    )


def _votes_of_items(connection: sa.Connection, campaign: Campaign) -> dict[int, list[Vote]]:
    query = (
        sa.select(t.item.c.id, t.annotator.c.name, t.live_vote.c.choice, t.live_vote.c.ranks)
        .join(t.comparison, t.comparison.c.item_id == t.item.c.id)
        .join(t.annotator, t.annotator.c.id == t.comparison.c.annotator_id)
        .join(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
        .where(t.item.c.campaign_id == campaign.id, t.live_vote.c.choice != "skip", t.live_vote.c.is_blind.is_(True))
    )
    found: dict[int, list[Vote]] = {}
    for item, name, choice, ranks in connection.execute(query):
        found.setdefault(item, []).append(Vote(name, choice, split_numbers(ranks)))
    # Sorted here: databases order names by rules of their own.
    return {item: sorted(votes) for item, votes in found.items()}


def _progress_of_annotators(connection: sa.Connection, campaign: Campaign) -> list[AnnotatorProgress]:
    query = (
        sa.select(t.annotator.c.name, t.annotator.c.quota, t.vote.c.choice, t.vote.c.milliseconds, t.undo.c.id.label("undone"))
        .join(t.comparison, t.comparison.c.annotator_id == t.annotator.c.id)
        .join(t.item, t.item.c.id == t.comparison.c.item_id)
        .join(t.vote, t.vote.c.comparison_id == t.comparison.c.id)
        .outerjoin(t.undo, t.undo.c.vote_id == t.vote.c.id)
        .where(t.item.c.campaign_id == campaign.id)
        .order_by(t.annotator.c.id)
    )
    rows: dict[tuple[str, int | None], list[tuple[str, int, bool]]] = {}
    for name, quota, choice, milliseconds, undone in connection.execute(query):
        rows.setdefault((name, quota), []).append((choice, milliseconds, undone is not None))
    found = []
    for (name, quota), of_one in rows.items():
        live = [(choice, took) for choice, took, is_undone in of_one if not is_undone]
        times = sorted(took for choice, took in live if choice != "skip")
        found.append(
            AnnotatorProgress(
                name=name,
                quota=quota,
                votes=len(times),
                skips=len(live) - len(times),
                undone=len(of_one) - len(live),
                median_seconds=times[len(times) // 2] / 1000 if times else None,
            )
        )
    return found
