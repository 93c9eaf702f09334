"""Campaigns: what is compared by which rules, the prompts and answers in them, and the items that are made of those."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from random import Random
from typing import Literal, NamedTuple

import sqlalchemy as sa
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bloomery.core.config import Config
from bloomery.core.conversation import Message
from bloomery.core.errors import ConfigError, DataError
from bloomery.web.labels import tables as t
from bloomery.web.labels.database import Database

MAX_ANSWERS_PER_ITEM = 9
"""InstructGPT had people rank 4 to 9 answers (arXiv:2203.02155, sec. 3.5)."""
MAX_RANKINGS_PER_PROMPT = 10
SAMPLING = ("max_tokens", "temperature", "top_p")
"""Settings of a campaign that say how answers are drawn."""
GUIDELINE = (
    "Prefer the answer that is right. Between two right ones, the one that does what was asked and no more. "
    "Style counts last. If both are useless, say so; if you cannot tell, skip."
)


class CampaignSettings(Config):
    """What is compared, and by which rules."""

    name: str = Field(min_length=1, max_length=80)
    kind: Literal["pair", "ranking"] = "pair"
    """"pair": which of two answers is better; "ranking": `answers_per_item` answers in order, ties allowed."""
    guideline: str = Field(default=GUIDELINE, max_length=20_000)
    """Shown beside every comparison."""
    answers_per_item: int = Field(default=2, ge=2, le=MAX_ANSWERS_PER_ITEM)
    """K; 2 for pairs."""
    samples: PositiveInt = 1
    """Answers that each model gives to each prompt. With one model, its own answers are compared with each other."""
    overlap: PositiveInt = 1
    """Annotators who are wanted for each item."""
    quota: NonNegativeInt = 0
    """Most votes of one annotator, skips not counted; 0 = no limit."""
    rule: Literal["uncertain", "uniform"] = "uncertain"
    """Which items come first: those of models whose comparison is least certain, or any alike."""
    seed: int = Field(default=0, ge=0, lt=2**62)
    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _check_kind(self) -> "CampaignSettings":
        if self.kind == "pair" and self.answers_per_item != 2:
            raise ValueError(f'a pair has 2 answers, found answers_per_item = {self.answers_per_item}; for more take kind = "ranking"')
        return self


class ModelName(NamedTuple):
    """A model as people call it, and the fingerprint of its weights."""

    name: str
    fingerprint: str


class Campaign(NamedTuple):
    """A campaign as it is in the database. `key` is its public name."""

    id: int
    key: str
    settings: CampaignSettings
    is_open: bool
    models: list[ModelName]
    created_at: str


class MissingAnswer(NamedTuple):
    """An answer that nobody has made yet."""

    prompt_id: int
    model: ModelName
    sample: int
    messages: list[Message]
    seed: int


class MadeAnswer(NamedTuple):
    """An answer that was made, and how it ended."""

    missing: MissingAnswer
    text: str
    ending: str


def now() -> str:
    """The time as the database keeps it: UTC, to the millisecond, in an order that text has too."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def clean_text(text: str) -> str:
    """A text that every database keeps: NUL, which PostgreSQL refuses, and lone surrogates become U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def create_campaign(
    database: Database, settings: CampaignSettings, *, models: Sequence[ModelName], prompts: Sequence[Sequence[Message]]
) -> Campaign:
    """A new campaign, without answers yet; equal prompts count once. Raises ConfigError if its name is taken or nothing can be compared."""
    answers = len(models) * settings.samples
    if len(set(models)) != len(models) or not models:
        raise ConfigError(f"a campaign needs its models, each once; found {', '.join(model.name for model in models) or 'none'}")
    if settings.kind == "pair" and answers < 2:
        raise ConfigError("one answer to a prompt cannot be compared: name two models or more, or samples = 2 of one")
    if settings.kind == "ranking" and answers < settings.answers_per_item:
        raise ConfigError(
            f"a ranking of {settings.answers_per_item} answers needs as many; "
            f"{len(models)} models x {settings.samples} samples are {answers}"
        )
    if not prompts:
        raise ConfigError("a campaign needs prompts, found none")
    texts = {hashlib.sha256((text := json.dumps(list(messages), sort_keys=True)).encode()).hexdigest(): text for messages in prompts}
    key = secrets.token_hex(8)
    plain = settings.model_dump()
    sampling = {name: plain.pop(name) for name in SAMPLING}
    plain["guideline"], plain["name"] = clean_text(plain["guideline"]), clean_text(plain["name"])
    row = {**plain, "key": key, "sampling": json.dumps(sampling, sort_keys=True), "is_open": True, "created_at": now()}
    try:
        with database.write() as connection:
            campaign_id = connection.execute(sa.insert(t.campaign).values(row).returning(t.campaign.c.id)).scalar_one()
            for position, model in enumerate(models):
                link = {"campaign_id": campaign_id, "model_id": _model_id(connection, model), "position": position}
                connection.execute(sa.insert(t.campaign_model).values(link))
            rows = [
                {"campaign_id": campaign_id, "position": i, "messages": text, "hash": hash_}
                for i, (hash_, text) in enumerate(texts.items())
            ]
            connection.execute(sa.insert(t.prompt), rows)
    except sa.exc.IntegrityError as error:
        raise ConfigError(f"there is a campaign of the name {settings.name!r} already; choose another") from error
    return find_campaign(database, key)


def list_campaigns(database: Database) -> list[Campaign]:
    """All campaigns, the newest first."""
    with database.read() as connection:
        rows = connection.execute(sa.select(t.campaign).order_by(t.campaign.c.id.desc())).mappings().all()
        return [_campaign(connection, row) for row in rows]


def find_campaign(database: Database, key: str) -> Campaign:
    """The campaign with this key or name. Raises DataError if there is none."""
    with database.read() as connection:
        return read_campaign(connection, key)


def read_campaign(connection: sa.Connection, key: str) -> Campaign:
    """The campaign with this key or name, in a transaction that has begun."""
    row = connection.execute(sa.select(t.campaign).where(sa.or_(t.campaign.c.key == key, t.campaign.c.name == key))).mappings().first()
    if row is None:
        raise DataError(f"there is no campaign {key!r:.100} in the labels database; `bloomery labels status` lists them")
    return _campaign(connection, row)


def set_open(database: Database, key: str, *, is_open: bool) -> None:
    """Opens a campaign for votes, or closes it."""
    campaign = find_campaign(database, key)
    with database.write() as connection:
        connection.execute(sa.update(t.campaign).where(t.campaign.c.id == campaign.id).values(is_open=is_open))


def missing_answers(database: Database, campaign: Campaign, model: ModelName, *, at_most: int) -> list[MissingAnswer]:
    """The first answers that this model has yet to give, in the order of the prompts."""
    settings = campaign.settings
    found: list[MissingAnswer] = []
    with database.read() as connection:
        query = (
            sa.select(t.generation.c.prompt_id, t.generation.c.sample)
            .join(t.prompt, t.prompt.c.id == t.generation.c.prompt_id)
            .join(t.model, t.model.c.id == t.generation.c.model_id)
            .where(t.prompt.c.campaign_id == campaign.id, t.model.c.name == model.name, t.model.c.fingerprint == model.fingerprint)
        )
        made = {(prompt_id, sample) for prompt_id, sample in connection.execute(query)}
        prompts = sa.select(t.prompt.c.id, t.prompt.c.position).where(t.prompt.c.campaign_id == campaign.id).order_by(t.prompt.c.position)
        for prompt_id, position in connection.execute(prompts).all():
            for sample in range(settings.samples):
                if (prompt_id, sample) not in made and len(found) < at_most:
                    text = connection.execute(sa.select(t.prompt.c.messages).where(t.prompt.c.id == prompt_id)).scalar_one()
                    drawn = Random(f"campaign/{settings.seed}/{position}/{sample}")
                    found.append(MissingAnswer(prompt_id, model, sample, json.loads(text), drawn.getrandbits(62)))
    return found


def add_answers(database: Database, campaign: Campaign, answers: Sequence[MadeAnswer]) -> None:
    """Keeps answers, and makes the items of prompts that have all of theirs. An answer that is there already stays as it is.

    One whose ending is "refused" is no answer, only known to be none: it is compared with nothing.
    """
    try:
        with database.write() as connection:
            _add_answers(connection, campaign, answers)
    except sa.exc.IntegrityError:  # another server makes the same ones
        with database.write() as connection:
            _add_answers(connection, campaign, answers)


def count_answers(database: Database, campaign: Campaign) -> tuple[int, int]:
    """How many answers there are, and how many there will be."""
    with database.read() as connection:
        query = sa.select(sa.func.count()).select_from(t.generation.join(t.prompt)).where(t.prompt.c.campaign_id == campaign.id)
        made = connection.execute(query).scalar_one()
        prompts = connection.execute(sa.select(sa.func.count()).where(t.prompt.c.campaign_id == campaign.id)).scalar_one()
    return made, prompts * len(campaign.models) * campaign.settings.samples


def _add_answers(connection: sa.Connection, campaign: Campaign, answers: Sequence[MadeAnswer]) -> None:
    sampling = json.dumps({name: getattr(campaign.settings, name) for name in SAMPLING}, sort_keys=True)
    for missing, text, ending in answers:
        model_id, kept = _model_id(connection, missing.model), clean_text(text)
        there = sa.select(t.generation.c.id).where(
            t.generation.c.prompt_id == missing.prompt_id, t.generation.c.model_id == model_id, t.generation.c.sample == missing.sample
        )
        if connection.execute(there).first() is None:
            row = {
                "prompt_id": missing.prompt_id,
                "model_id": model_id,
                "sample": missing.sample,
                "sampling": sampling,
                "seed": missing.seed,
                "text": kept,
                "text_hash": hashlib.sha256(kept.encode()).hexdigest(),
                "ending": ending,
                "created_at": now(),
            }
            connection.execute(sa.insert(t.generation).values(row))
    for prompt_id in sorted({answer.missing.prompt_id for answer in answers}):
        _make_items(connection, campaign, prompt_id)


def _make_items(connection: sa.Connection, campaign: Campaign, prompt_id: int) -> None:
    settings = campaign.settings
    query = sa.select(t.generation.c.id, t.generation.c.model_id, t.generation.c.text_hash, t.generation.c.ending).where(
        t.generation.c.prompt_id == prompt_id
    )
    answers = connection.execute(query.order_by(t.generation.c.id)).all()
    if len(answers) < len(campaign.models) * settings.samples:
        return
    answers = [answer for answer in answers if answer.ending != "refused"]
    groups = list(combinations(answers, settings.answers_per_item))
    if settings.kind == "pair" and len(campaign.models) > 1:
        groups = [group for group in groups if group[0].model_id != group[1].model_id]
    if settings.kind == "ranking" and len(groups) > MAX_RANKINGS_PER_PROMPT:
        drawn = Random(f"items/{settings.seed}/{prompt_id}")
        groups = drawn.sample(groups, MAX_RANKINGS_PER_PROMPT)
    there = set(connection.execute(sa.select(t.item.c.members).where(t.item.c.prompt_id == prompt_id)).scalars())
    for group in groups:
        members = join_numbers(answer.id for answer in group)
        if members not in there:
            row = {
                "campaign_id": campaign.id,
                "prompt_id": prompt_id,
                "members": members,
                "contest": join_numbers(answer.model_id for answer in group),
                "is_identical": len({answer.text_hash for answer in group}) == 1,
            }
            connection.execute(sa.insert(t.item).values(row))


def join_numbers(numbers: Iterable[int]) -> str:
    """Whole numbers as the database keeps a short list of them.

    >>> join_numbers([3, 12])
    '3,12'
    """
    return ",".join(map(str, numbers))


def split_numbers(text: str) -> list[int]:
    """The numbers of such a list.

    >>> split_numbers("3,12"), split_numbers("")
    ([3, 12], [])
    """
    return [int(part) for part in text.split(",") if part]


def _model_id(connection: sa.Connection, model: ModelName) -> int:
    there = sa.select(t.model.c.id).where(t.model.c.name == model.name, t.model.c.fingerprint == model.fingerprint)
    found = connection.execute(there).scalar()
    if found is None:
        found = connection.execute(sa.insert(t.model).values(**model._asdict()).returning(t.model.c.id)).scalar_one()
    return int(found)


def _campaign(connection: sa.Connection, row: sa.RowMapping) -> Campaign:
    query = (
        sa.select(t.model.c.name, t.model.c.fingerprint)
        .join(t.campaign_model, t.campaign_model.c.model_id == t.model.c.id)
        .where(t.campaign_model.c.campaign_id == row["id"])
        .order_by(t.campaign_model.c.position)
    )
    models = [ModelName(*found) for found in connection.execute(query)]
    kept = {name: row[name] for name in CampaignSettings.model_fields if name in row}
    settings = CampaignSettings(**kept, **json.loads(row["sampling"]))
    return Campaign(row["id"], row["key"], settings, row["is_open"], models, row["created_at"])
