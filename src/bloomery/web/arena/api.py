"""The arena's part of the API: thin handlers over `web/labels` and this folder's logic; all of them work in threads.

Nothing that a voting browser asks for before its vote (campaigns, next, progress) names a model; results do.
"""

import functools
import importlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Literal  # Any: JSON

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bloomery.chat.refusal import Refusal
from bloomery.core.config import check_config
from bloomery.core.errors import ConfigError
from bloomery.web.arena.prompts import HELD_OUT, held_out_prompts, text_prompts
from bloomery.web.arena.room import ArenaRoom
from bloomery.web.context import WebContext
from bloomery.web.http import Body, in_thread, query, read_body, reply
from bloomery.web.labels.campaigns import (
    Campaign,
    CampaignSettings,
    ModelName,
    count_answers,
    create_campaign,
    find_campaign,
    list_campaigns,
    set_open,
)
from bloomery.web.labels.database import Unreachable
from bloomery.web.labels.export import vote_lines, vote_table
from bloomery.web.labels.reading import export_items, read_judgements, read_progress
from bloomery.web.labels.voting import Conflict, cast_vote, join_annotator, next_turn, reveal, undo_vote

MAX_PROMPTS = 10_000
DAY_MILLISECONDS = 86_400_000
Key = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


class NewCampaign(Body):
    """A campaign as the page's form sends it."""

    settings: dict[str, Any]
    models: list[Key] = Field(max_length=50)
    prompts_of: Key | None = None
    """An artifact whose held-out prompts are taken, else `prompts` is the text."""
    prompts: str = ""
    num_prompts: PositiveInt = Field(default=100, le=MAX_PROMPTS)


class Joining(Body):
    """Who is there."""

    name: str = Field(max_length=400)


class Asking(Body):
    """An annotator who wants the next comparison."""

    annotator: Key


class Voting(Body):
    """A click. `client_id` is the browser's own name for it, the same for every retry."""

    annotator: Key
    comparison: Key
    client_id: Key
    choice: Literal["left", "right", "tie", "both_bad", "skip", "ranking"]
    ranks: list[int] = Field(default=[], max_length=20)
    milliseconds: NonNegativeInt = Field(le=DAY_MILLISECONDS)


class Undoing(Body):
    """The vote that is taken back, by its client_id."""

    annotator: Key
    vote: Key
    client_id: Key


class Revealing(Body):
    """The comparison whose names are wanted."""

    annotator: Key
    comparison: Key


class Opening(Body):
    """Whether a campaign takes votes."""

    is_open: bool


Handler = Callable[[Request], Awaitable[Response]]


def routes(context: WebContext) -> list[Route]:
    """Everything under /api/arena/."""
    room = ArenaRoom(context.directory, context.labels_url)

    async def close() -> None:
        await in_thread(room.close)

    context.closing.append(close)
    table: list[tuple[str, str, Callable[[ArenaRoom, Request], Awaitable[Response]]]] = [
        ("GET", "/campaigns", _list),
        ("POST", "/campaigns", _create),
        ("GET", "/sources", _sources),
        ("POST", "/annotators", _join),
        ("GET", "/campaigns/{key}", _show),
        ("POST", "/campaigns/{key}/answers", _answer),
        ("POST", "/campaigns/{key}/open", _open),
        ("POST", "/campaigns/{key}/next", _next),
        ("GET", "/campaigns/{key}/results", _results),
        ("GET", "/campaigns/{key}/export", _export),
        ("POST", "/votes", _vote),
        ("POST", "/undo", _undo),
        ("POST", "/reveal", _reveal),
    ]
    return [Route(f"/api/arena{path}", _explained(functools.partial(handle, room)), methods=[method]) for method, path, handle in table]


def _explained(handle: Handler) -> Handler:
    # A class with __call__ would be taken for an ASGI application by Starlette; a function is a handler.
    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except Conflict as error:
            raise Refusal(409, str(error), code="conflict") from error
        except Unreachable as error:
            raise Refusal(503, str(error), code="database_unreachable", headers={"Retry-After": "2"}) from error

    return answer


async def _list(room: ArenaRoom, request: Request) -> Response:
    def read() -> list[dict[str, Any]]:
        return [_campaign_record(room, campaign) for campaign in list_campaigns(room.database())] if room.exists() else []

    return reply({"campaigns": await in_thread(read)})


async def _show(room: ArenaRoom, request: Request) -> Response:
    def read() -> dict[str, Any]:
        campaign = _find(room, request)
        progress = read_progress(room.database(), campaign)
        annotators = [one._asdict() for one in progress.annotators]
        return {**_campaign_record(room, campaign), "progress": {**progress._asdict(), "annotators": annotators}}

    return reply(await in_thread(read))


async def _sources(room: ArenaRoom, request: Request) -> Response:
    def read() -> dict[str, Any]:
        models = [{"id": entry.id, "name": entry.name, "stage": entry.stage} for entry in room.directory.artifacts("checkpoint")]
        sets = [entry for entry in room.directory.artifacts("conversations") if (entry.path / HELD_OUT).is_file()]
        defaults = {name: field.default for name, field in CampaignSettings.model_fields.items() if name != "name"}
        return {"models": models, "prompts": [{"id": entry.id, "name": entry.name} for entry in sets], "defaults": defaults}

    return reply(await in_thread(read))


async def _create(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, NewCampaign)

    def make() -> dict[str, Any]:
        settings, mistakes = check_config(CampaignSettings, body.settings)
        if settings is None:
            raise ConfigError("; ".join(mistakes))
        entries = [room.directory.artifact(model, "checkpoint") for model in body.models]
        if body.prompts_of is not None:
            prompts = held_out_prompts(room.directory.artifact(body.prompts_of, "conversations").path, at_most=body.num_prompts)
        else:
            prompts = text_prompts(body.prompts, at_most=body.num_prompts)
        models = [ModelName(entry.name, entry.fingerprint) for entry in entries]
        campaign = create_campaign(room.database(), settings, models=models, prompts=prompts)
        room.answer(campaign.key)
        return _campaign_record(room, campaign)

    return reply(await in_thread(make), status=201)


async def _answer(room: ArenaRoom, request: Request) -> Response:
    def begin() -> dict[str, Any]:
        campaign = _find(room, request)
        room.answer(campaign.key)
        return _campaign_record(room, campaign)

    return reply(await in_thread(begin), status=202)


async def _open(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Opening)

    def change() -> dict[str, Any]:
        set_open(room.database(), _find(room, request).key, is_open=body.is_open)
        return _campaign_record(room, _find(room, request))

    return reply(await in_thread(change))


async def _join(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Joining)
    annotator = await in_thread(lambda: join_annotator(room.database(), body.name))
    return reply({"key": annotator.key, "name": annotator.name})


async def _next(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Asking)
    turn = await in_thread(lambda: next_turn(room.database(), request.path_params["key"], body.annotator))
    return reply({**turn._asdict(), "shown": None if turn.shown is None else turn.shown._asdict()})


async def _vote(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Voting)
    recorded = await in_thread(lambda: cast_vote(room.database(), **body.model_dump()))
    return reply(recorded._asdict(), status=201 if recorded.is_new else 200)


async def _undo(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Undoing)
    is_new = await in_thread(lambda: undo_vote(room.database(), **body.model_dump()))
    return reply({"is_new": is_new})


async def _reveal(room: ArenaRoom, request: Request) -> Response:
    body = await read_body(request, Revealing)
    return reply({"models": await in_thread(lambda: reveal(room.database(), **body.model_dump()))})


async def _results(room: ArenaRoom, request: Request) -> Response:
    def read() -> dict[str, Any]:
        results: Any = importlib.import_module("bloomery.web.arena.results")  # late: with scipy, 22 MB
        judgements = read_judgements(room.database(), _find(room, request))
        return {**results.ratings_record(judgements), "agreement": results.agreement_record(judgements)}

    return reply(await in_thread(read))


async def _export(room: ArenaRoom, request: Request) -> Response:
    kind = query(request, "format", str, "votes")
    forms: dict[str, tuple[Callable[[Any], Iterator[str]], str, str]] = {
        "votes": (vote_lines, "application/x-ndjson", "jsonl"),
        "csv": (vote_table, "text/csv", "csv"),
    }
    if kind not in forms:
        raise Refusal(400, f"format: {kind!r:.40} is no format; known: {', '.join(forms)}", code="invalid_query")
    write, media_type, suffix = forms[kind]
    text = await in_thread(lambda: "".join(write(export_items(room.database(), _find(room, request)))))
    headers = {
        "content-disposition": f'attachment; filename="votes-{request.path_params["key"][:32]}.{suffix}"',
        "cache-control": "no-store",
    }
    return Response(text.encode("utf-8", "replace"), media_type=media_type, headers=headers)


def _find(room: ArenaRoom, request: Request) -> Campaign:
    return find_campaign(room.database(), request.path_params["key"])


def _campaign_record(room: ArenaRoom, campaign: Campaign) -> dict[str, Any]:
    # Without the models' names: a page that votes reads this, too.
    made, wanted = count_answers(room.database(), campaign)
    settings = campaign.settings
    return {
        "key": campaign.key,
        "name": settings.name,
        "kind": settings.kind,
        "guideline": settings.guideline,
        "answers_per_item": settings.answers_per_item,
        "num_models": len(campaign.models),
        "overlap": settings.overlap,
        "quota": settings.quota,
        "rule": settings.rule,
        "is_open": campaign.is_open,
        "created_at": campaign.created_at,
        "answers": {"made": made, "wanted": wanted, "state": room.state(campaign.key)},
    }
