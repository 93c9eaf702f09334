"""An annotator's way through a campaign: an item in an order of its own, a vote, an undo, the names behind it.

What goes to the browser before a vote are texts, in an order drawn for this annotator and this item from a seed that the database keeps;
no id, name or length of a model's is in it. What comes back is said of places (left, right) and kept of answers (a, b).
"""

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, NamedTuple  # Any: a row of a query

import sqlalchemy as sa

from bloomery.core.conversation import Message
from bloomery.core.errors import BloomeryError, DataError
from bloomery.evaluate.active import contest_weights
from bloomery.web.labels import tables as t
from bloomery.web.labels.campaigns import Campaign, clean_text, join_numbers, now, read_campaign, split_numbers
from bloomery.web.labels.database import Database

ABANDONED_MINUTES = 30
"""A comparison that was shown so long ago without a vote is taken for abandoned: somebody else may have its item."""

ShownChoice = Literal["left", "right", "tie", "both_bad", "skip", "ranking"]
SWAPPED = {"left": "right", "right": "left"}


class Conflict(BloomeryError):
    """A vote that cannot be kept because of what was said before."""


class Annotator(NamedTuple):
    """Who votes. `key` is what the browser keeps."""

    id: int
    key: str
    name: str
    quota: int | None


class Shown(NamedTuple):
    """A comparison as the browser may see it before the vote."""

    key: str
    messages: list[Message]
    answers: list[str]


class Turn(NamedTuple):
    """What an annotator sees now: a comparison, or the reason why there is none ("quota", "finished", "closed", "no_answers")."""

    shown: Shown | None
    reason: str
    voted: int
    quota: int
    last_vote: str
    """client_id of the annotator's last vote that counts, which can be undone; "" if there is none."""


class Recorded(NamedTuple):
    """A vote as it was kept, in the annotator's places; `is_new` is False if it was there already."""

    client_id: str
    choice: str
    ranks: list[int]
    is_new: bool


def join_annotator(database: Database, name: str) -> Annotator:
    """The annotator of this name, who begins today if it is new. Raises DataError for a name that is empty or too long."""
    name = " ".join(clean_text(name).split())
    if not 1 <= len(name) <= 80:
        raise DataError(f"name: expected 1 to 80 characters, found {len(name)}")
    query = sa.select(t.annotator.c.id, t.annotator.c.key, t.annotator.c.name, t.annotator.c.quota).where(t.annotator.c.name == name)
    try:
        with database.write() as connection:
            if (row := connection.execute(query).first()) is None:
                connection.execute(sa.insert(t.annotator).values(key=secrets.token_hex(16), name=name, created_at=now()))
                row = connection.execute(query).one()
    except sa.exc.IntegrityError:  # two of the name at once
        with database.read() as connection:
            row = connection.execute(query).one()
    return Annotator(*row)


def set_quota(database: Database, name: str, quota: int | None) -> None:
    """Most votes of this annotator in any campaign; None: what each campaign says. Raises DataError if nobody has the name."""
    with database.write() as connection:
        if connection.execute(sa.update(t.annotator).where(t.annotator.c.name == name).values(quota=quota)).rowcount == 0:
            raise DataError(f"there is no annotator {name!r:.100}; `bloomery labels status` lists them")


def next_turn(database: Database, campaign_key: str, annotator_key: str) -> Turn:
    """The comparison that this annotator sees now: the one that is open, else a new one, drawn by the campaign's rule."""
    with database.write() as connection:
        campaign, annotator = read_campaign(connection, campaign_key), _annotator(connection, annotator_key)
        database.lock_assignments(connection, campaign.id)
        voted, last = _voted(connection, campaign, annotator)
        quota = campaign.settings.quota if annotator.quota is None else annotator.quota
        if not campaign.is_open:
            return Turn(None, "closed", voted, quota, last)
        found, reason = _open_comparison(connection, campaign, annotator), ""
        if found is None and quota and voted >= quota:
            reason = "quota"
        elif found is None:
            item_id, reason = _draw_item(connection, campaign, annotator)
            found = None if item_id is None else _show(connection, campaign, annotator, item_id)
        return Turn(None if found is None else _read_shown(connection, found), reason, voted, quota, last)


def cast_vote(
    database: Database,
    *,
    comparison: str,
    annotator: str,
    client_id: str,
    choice: ShownChoice,
    ranks: Sequence[int] = (),
    milliseconds: int,
) -> Recorded:
    """Keeps a vote; when this returns, it is on the disk. `ranks` of the shown answers for the choice "ranking", 1 is best.

    The same client_id again gives the vote that is there. Raises Conflict if the comparison has another vote, or the campaign is closed.
    """
    try:
        with database.write() as connection:
            return _cast(connection, comparison, annotator, client_id, choice, ranks, milliseconds)
    except sa.exc.IntegrityError:
        # Somebody was faster: the same click over another connection, or another tab.
        with database.write() as connection:
            return _cast(connection, comparison, annotator, client_id, choice, ranks, milliseconds)


def undo_vote(database: Database, *, annotator: str, vote: str, client_id: str) -> bool:
    """Takes back the vote with the client_id `vote`, whose comparison is open again; False if that was done before.

    Raises DataError if there is no such vote of this annotator.
    """
    query = (
        sa.select(t.vote.c.id, t.undo.c.id.label("undone"))
        .join(t.comparison, t.comparison.c.id == t.vote.c.comparison_id)
        .join(t.annotator, t.annotator.c.id == t.comparison.c.annotator_id)
        .outerjoin(t.undo, t.undo.c.vote_id == t.vote.c.id)
        .where(t.vote.c.client_id == vote, t.annotator.c.key == annotator)
    )
    try:
        with database.write() as connection:
            if (row := connection.execute(query).first()) is None:
                raise DataError("there is no such vote of this annotator")
            if row.undone is None:
                connection.execute(sa.insert(t.undo).values(vote_id=row.id, client_id=client_id, created_at=now()))
            return row.undone is None
    except sa.exc.IntegrityError:
        return False


def reveal(database: Database, *, comparison: str, annotator: str) -> list[str]:
    """The models' names in the annotator's order, once there is a vote; a vote after an undo is then no longer blind."""
    with database.write() as connection:
        row = _comparison(connection, comparison, annotator)
        if _live(connection, row.id) is None:
            raise Conflict("the names are shown after the vote, not before")
        connection.execute(
            sa.update(t.comparison).where(t.comparison.c.id == row.id, t.comparison.c.revealed_at.is_(None)).values(revealed_at=now())
        )
        models = split_numbers(row.contest)
        names = dict(connection.execute(sa.select(t.model.c.id, t.model.c.name).where(t.model.c.id.in_(models))).all())
        return [names[models[place]] for place in split_numbers(row.shown)]


def _cast(
    connection: sa.Connection, comparison: str, annotator: str, client_id: str, choice: str, ranks: Sequence[int], milliseconds: int
) -> Recorded:
    row = _comparison(connection, comparison, annotator)
    shown = split_numbers(row.shown)
    before = connection.execute(sa.select(t.vote).where(t.vote.c.client_id == client_id)).mappings().first()
    if before is not None:
        if before["comparison_id"] != row.id:
            raise Conflict("this client_id belongs to a vote on another comparison")
        return _as_seen(before, shown)
    if (live := _live(connection, row.id)) is not None:
        if live["client_id"] == client_id:  # this click over another connection, a moment ago
            return _as_seen(live, shown)
        told = _as_seen(live, shown)
        raise Conflict(f"this comparison has a vote of yours already ({told.choice.replace('_', ' ')}); undo it to vote again")
    if not row.is_open:
        raise Conflict("the campaign is closed: it takes no votes any more")
    kept_choice, kept_ranks = _of_answers(row.kind, shown, choice, ranks)
    # Not the number of votes: one that another connection adds just now must meet ours in the unique (comparison, round).
    undone = sa.select(sa.func.count()).select_from(t.undo.join(t.vote)).where(t.vote.c.comparison_id == row.id)
    round_ = connection.execute(undone).scalar_one()
    values = {
        "comparison_id": row.id,
        "round": round_,
        "client_id": client_id,
        "choice": kept_choice,
        "ranks": join_numbers(kept_ranks),
        "milliseconds": milliseconds,
        "is_blind": row.revealed_at is None,
        "created_at": now(),
    }
    connection.execute(sa.insert(t.vote).values(values))
    return Recorded(client_id, choice, list(ranks), True)


def _of_answers(kind: str, shown: Sequence[int], choice: str, ranks: Sequence[int]) -> tuple[str, list[int]]:
    # What was said of places, said of answers: shown[place] is the answer that stands there.
    if choice == "skip":
        return choice, []
    if (choice == "ranking") != (kind == "ranking"):
        raise DataError(f"choice: {choice!r} is not how a {kind} is judged")
    if choice == "ranking":
        if len(ranks) != len(shown) or any(not 1 <= rank <= len(shown) for rank in ranks) or min(ranks) != 1:
            raise DataError(
                f"ranks: expected a rank from 1 (the best) to {len(shown)} for each of {len(shown)} answers, found {list(ranks)!r:.80}"
            )
        dense = {rank: i for i, rank in enumerate(sorted(set(ranks)), start=1)}
        of_answer = {answer: dense[rank] for answer, rank in zip(shown, ranks, strict=True)}
        return choice, [of_answer[answer] for answer in range(len(shown))]
    if choice in ("tie", "both_bad"):
        return choice, [1, 1]
    better = shown[0] if choice == "left" else shown[1]
    return ("a", [1, 2]) if better == 0 else ("b", [2, 1])


def _as_seen(vote: Any, shown: Sequence[int]) -> Recorded:
    ranks, choice = split_numbers(vote["ranks"]), vote["choice"]
    if choice in ("a", "b"):
        choice = "left" if shown[0] == "ab".index(choice) else "right"
    return Recorded(vote["client_id"], choice, [ranks[place] for place in shown] if choice == "ranking" else [], False)


def _annotator(connection: sa.Connection, key: str) -> Annotator:
    query = sa.select(t.annotator.c.id, t.annotator.c.key, t.annotator.c.name, t.annotator.c.quota).where(t.annotator.c.key == key)
    if (row := connection.execute(query).first()) is None:
        raise DataError("this annotator is not known here: type your name again")
    return Annotator(*row)


def _comparison(connection: sa.Connection, key: str, annotator: str) -> Any:
    query = (
        sa.select(
            t.comparison.c.id, t.comparison.c.shown, t.comparison.c.revealed_at, t.item.c.contest, t.campaign.c.kind, t.campaign.c.is_open
        )
        .join(t.item, t.item.c.id == t.comparison.c.item_id)
        .join(t.campaign, t.campaign.c.id == t.item.c.campaign_id)
        .join(t.annotator, t.annotator.c.id == t.comparison.c.annotator_id)
        .where(t.comparison.c.key == key, t.annotator.c.key == annotator)
    )
    if (row := connection.execute(query).first()) is None:
        raise DataError("there is no such comparison of this annotator")
    return row


def _live(connection: sa.Connection, comparison_id: int) -> Any:
    return connection.execute(sa.select(t.live_vote).where(t.live_vote.c.comparison_id == comparison_id)).mappings().first()


def _voted(connection: sa.Connection, campaign: Campaign, annotator: Annotator) -> tuple[int, str]:
    # How many votes of this annotator count against the quota, and the last vote of all.
    query = (
        sa.select(t.live_vote.c.id, t.live_vote.c.client_id, t.live_vote.c.choice)
        .join(t.comparison, t.comparison.c.id == t.live_vote.c.comparison_id)
        .join(t.item, t.item.c.id == t.comparison.c.item_id)
        .where(t.comparison.c.annotator_id == annotator.id, t.item.c.campaign_id == campaign.id)
        .order_by(t.live_vote.c.id.desc())
    )
    rows = connection.execute(query).all()
    return sum(row.choice != "skip" for row in rows), rows[0].client_id if rows else ""


def _open_comparison(connection: sa.Connection, campaign: Campaign, annotator: Annotator) -> int | None:
    # What was undone last comes before what was shown last: whoever takes a vote back wants to cast it again.
    undone = (
        sa.select(sa.func.max(t.undo.c.id))
        .join(t.vote, t.vote.c.id == t.undo.c.vote_id)
        .where(t.vote.c.comparison_id == t.comparison.c.id)
        .scalar_subquery()
    )
    query = (
        sa.select(t.comparison.c.id)
        .join(t.item, t.item.c.id == t.comparison.c.item_id)
        .outerjoin(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
        .where(t.comparison.c.annotator_id == annotator.id, t.item.c.campaign_id == campaign.id, t.live_vote.c.id.is_(None))
        .order_by(sa.func.coalesce(undone, 0).desc(), t.comparison.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).scalar()


def _draw_item(connection: sa.Connection, campaign: Campaign, annotator: Annotator) -> tuple[int | None, str]:
    fresh = (datetime.now(UTC) - timedelta(minutes=ABANDONED_MINUTES)).isoformat(timespec="milliseconds")
    is_voted = sa.and_(t.live_vote.c.id.is_not(None), t.live_vote.c.choice != "skip")
    is_waited_for = sa.and_(t.live_vote.c.id.is_(None), t.comparison.c.created_at > fresh)
    taken = sa.func.sum(sa.case((sa.or_(is_voted, is_waited_for), 1), else_=0))
    mine = sa.func.sum(sa.case((t.comparison.c.annotator_id == annotator.id, 1), else_=0))
    query = (
        sa.select(t.item.c.id, t.item.c.contest, taken.label("taken"))
        .outerjoin(t.comparison, t.comparison.c.item_id == t.item.c.id)
        .outerjoin(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
        .where(t.item.c.campaign_id == campaign.id, t.item.c.is_identical.is_(False))
        .group_by(t.item.c.id, t.item.c.contest)
        .having(sa.and_(taken < campaign.settings.overlap, mine == 0))
        .order_by(t.item.c.id)
    )
    rows = connection.execute(query).all()
    if not rows:
        any_item = connection.execute(sa.select(t.item.c.id).where(t.item.c.campaign_id == campaign.id).limit(1)).first()
        return None, "no_answers" if any_item is None else "finished"
    # Items that others have begun come first: agreement is known of items with all their votes only.
    begun = [row for row in rows if row.taken > 0]
    rows = begun or rows
    number = connection.execute(sa.select(sa.func.count()).where(t.comparison.c.annotator_id == annotator.id)).scalar_one()
    draw = Random(f"assign/{campaign.settings.seed}/{annotator.key}/{number}")
    if campaign.settings.rule == "uniform":
        return int(draw.choice(rows).id), ""
    contests = sorted({row.contest for row in rows})
    weights = contest_weights(_contest_votes(connection, campaign), [split_numbers(contest) for contest in contests])
    contest = draw.choices(contests, weights=weights)[0]
    return int(draw.choice([row for row in rows if row.contest == contest]).id), ""


def _contest_votes(connection: sa.Connection, campaign: Campaign) -> list[tuple[list[int], list[int], int]]:
    query = (
        sa.select(t.item.c.contest, t.live_vote.c.ranks, sa.func.count())
        .join(t.comparison, t.comparison.c.item_id == t.item.c.id)
        .join(t.live_vote, t.live_vote.c.comparison_id == t.comparison.c.id)
        .where(t.item.c.campaign_id == campaign.id, t.live_vote.c.choice != "skip")
        .group_by(t.item.c.contest, t.live_vote.c.ranks)
    )
    return [(split_numbers(contest), split_numbers(ranks), count) for contest, ranks, count in connection.execute(query)]


def _show(connection: sa.Connection, campaign: Campaign, annotator: Annotator, item_id: int) -> int:
    seed_draw = Random(f"order/{campaign.settings.seed}/{campaign.key}/{annotator.key}/{item_id}")
    seed = seed_draw.getrandbits(62)
    order = list(range(campaign.settings.answers_per_item))
    drawn = Random(seed)
    drawn.shuffle(order)
    values = {
        "key": secrets.token_hex(16),
        "item_id": item_id,
        "annotator_id": annotator.id,
        "seed": seed,
        "shown": join_numbers(order),
        "created_at": now(),
    }
    return int(connection.execute(sa.insert(t.comparison).values(values).returning(t.comparison.c.id)).scalar_one())


def _read_shown(connection: sa.Connection, comparison_id: int) -> Shown:
    query = (
        sa.select(t.comparison.c.key, t.comparison.c.shown, t.item.c.members, t.prompt.c.messages)
        .join(t.item, t.item.c.id == t.comparison.c.item_id)
        .join(t.prompt, t.prompt.c.id == t.item.c.prompt_id)
        .where(t.comparison.c.id == comparison_id)
    )
    row = connection.execute(query).one()
    members = split_numbers(row.members)
    texts = dict(connection.execute(sa.select(t.generation.c.id, t.generation.c.text).where(t.generation.c.id.in_(members))).all())
    return Shown(row.key, json.loads(row.messages), [texts[members[place]] for place in split_numbers(row.shown)])
