"""What every page's handlers use: replies, bodies, typed query parameters, streams of events.

Whatever takes longer than a moment goes through `in_thread`: one event loop serves all pages and all answers.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ParamSpec, TypeVar  # Any: JSON

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bloomery.chat.refusal import Refusal

HEARTBEAT_SECONDS = 10.0
MAX_PROBLEMS_TOLD = 5

P = ParamSpec("P")
T = TypeVar("T")


class Body(BaseModel):
    """Base of what a page may send: nothing unknown, nothing converted silently, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=BaseModel)


def reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. NaN and infinities, which JSON does not have, become null; lone surrogates become question marks."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_without_nan(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return Response(text.encode("utf-8", "replace"), status_code=status, media_type="application/json", headers=dict(headers or {}))


async def read_body(request: Request, kind: type[B]) -> B:
    """The JSON body of a request, checked. Raises Refusal (400) that names each wrong field."""
    raw = await request.body()
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as error:
        told = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()[:MAX_PROBLEMS_TOLD]]
        raise Refusal(400, "; ".join(told), code="invalid_body") from error
    except RecursionError as error:
        raise Refusal(400, "body: nested too deeply", code="invalid_body") from error


def query(request: Request, name: str, convert: Callable[[str], T], default: T) -> T:
    """A parameter of the query string. Raises Refusal (400) if it is not what `convert` takes."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = convert(text)
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"{name}: {text!r:.100} is not a {getattr(convert, '__name__', 'value')}", code="invalid_query") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise Refusal(400, f"{name}: {text!r:.100} is not a finite number", code="invalid_query")
    return value


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls what blocks, while the event loop goes on."""
    return await asyncio.to_thread(function, *args, **kwargs)


def events(source: AsyncIterator[Mapping[str, Any]]) -> Response:
    """A stream of server-sent events from {"event": name, "data": JSON, "id": text}, all but `data` optional.

    A comment goes out when there was nothing to say for a while, so that proxies keep the connection. `source` is closed when the
    browser goes away. A Refusal raised by `source` is the last event, named "problem".
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(source), media_type="text/event-stream", headers=headers)


async def _lines(source: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    waiting: asyncio.Future[Mapping[str, Any]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT_SECONDS)
            if not done:
                yield b": still here\n\n"
                continue
            ended, waiting = waiting, None
            try:
                yield encode_event(ended.result())
            except StopAsyncIteration:
                return
            except Refusal as refusal:
                yield encode_event({"event": "problem", "data": refusal.body()["error"]})
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


def encode_event(event: Mapping[str, Any]) -> bytes:
    """One server-sent event as it goes over the wire."""
    lines = [f"{name}: {event[name]}" for name in ("id", "event") if name in event]
    # Escaped to ASCII: some clients take U+2028 for the end of a line.
    lines.append("data: " + json.dumps(_without_nan(event.get("data")), separators=(",", ":"), default=str))
    return ("\n".join(lines) + "\n\n").encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
