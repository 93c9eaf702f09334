"""Who may ask the web server, and what it lets out: ASGI middleware around every page.

- A random token, in the launch URL once, becomes a cookie that scripts cannot read and other sites cannot send. Programs send
  `Authorization: Bearer TOKEN`.
- Host must be a name of this server, so that a foreign name that leads to 127.0.0.1 (DNS rebinding) gets nothing, GETs included.
- What changes something (every method but GET and HEAD) must come from this server's own pages and be JSON.
- Bodies, open requests and requests a minute are limited, each with its own status; the server lives on.
- Every answer carries a content security policy without inline script and without other hosts: text of documents and models is
  hostile, and if some of it ever became markup, it could neither run nor send anything.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloomery.chat.admission import is_loopback
from bloomery.chat.refusal import Refusal
from bloomery.core.config import Config

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # not no-referrer: a form would then say that it comes from nowhere (Origin: null)
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE_METHODS = ("GET", "HEAD")
OPEN_PATHS = ("/static/", "/health", "/login")
MAX_CLIENTS = 10_000
"""Whose rate is remembered."""


class WebLimits(Config):
    """What the server takes on."""

    max_body_bytes: PositiveInt = 1 << 20
    """413 above."""
    body_seconds: PositiveFloat = 30.0
    """For a body to arrive; 408 after."""
    max_open_requests: PositiveInt = 256
    """Streams included; 503 with Retry-After above."""
    requests_per_minute: NonNegativeInt = 3000
    """Of one browser (its cookie) or, without one, of one address; 429 with Retry-After above. 0 = no limit."""
    logins_per_minute: PositiveInt = 30
    """Wrong tokens from one address; 429 above."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who gets in. Without a token only loopback names are answered."""

    token: str = field(default="", repr=False)
    hosts: Collection[str] = ()
    """Names besides loopback that may stand in Host. IP addresses may, once a token is asked for: no foreign page has one as its name."""
    limits: WebLimits = field(default_factory=WebLimits)


class Guard:
    """The middleware; `app` sees only what may pass."""

    def __init__(self, app: ASGIApp, access: Access, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._access = app, access
        self._rates = _Rates(access.limits.requests_per_minute, clock)
        self._logins = _Rates(access.limits.logins_per_minute, clock)
        self._open = 0
        # Browsers keep one jar for all ports of a host: two servers must not overwrite each other's cookie.
        self._cookie = f"bloomery-{hashlib.sha256(access.token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        try:
            answer = self._check(scope)
            if answer is None and scope["path"] == "/login":
                answer = await self._login(scope, receive)
            if answer is None:
                await self._pass_on(scope, receive, send)
                return
        except Refusal as refusal:
            answer = refuse(refusal, wants_page=_wants_page(scope))
        await answer(scope, receive, send)

    def _check(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        client = scope["client"][0] if scope.get("client") else ""
        self._check_host(headers)
        self._check_origin(scope, headers)
        if scope["path"] == "/login":
            return None
        session = self._session(scope, headers, client)
        if isinstance(session, Response):
            return session
        self._rates.count(session or client)
        return None

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _host_name(host)
        if is_loopback(name) or name.lower() in {known.lower() for known in self._access.hosts}:
            return
        if self._access.token and _is_address(name):
            return
        raise Refusal(403, f"Host {host!r:.100} is not a name of this server. If it should be: bloomery web --allow-host {name[:60]}")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and (urlsplit(origin).netloc != host or urlsplit(origin).scheme not in ("http", "https")):
            raise Refusal(403, f"Origin {origin!r:.100}: pages of other sites may not ask this server")
        if scope["method"] in SAFE_METHODS:
            if site not in (None, "same-origin", "none") and scope["path"].startswith("/api/"):
                raise Refusal(403, "pages of other sites may not read from this server")
            return
        if origin is None and site != "same-origin" and not headers.get("authorization"):
            raise Refusal(403, "a request that changes something must name its Origin, or carry Authorization: Bearer TOKEN")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = "application/x-www-form-urlencoded" if scope["path"] == "/login" else "application/json"
        if kind != wanted:
            # A form of a foreign page can be sent here without asking first, JSON cannot.
            raise Refusal(415, f"Content-Type must be {wanted}", code="invalid_content_type")

    def _session(self, scope: Scope, headers: Headers, client: str) -> str | Response:
        """Whose request this is: what its rate is counted by, or the answer that makes it somebody's."""
        token = self._access.token
        if not token:
            return ""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if not _same(value.strip(), token):
                self._logins.count(client)
                raise Refusal(401, "wrong token", code="invalid_token")
            return client
        session, _, signature = _cookie(headers, self._cookie).partition(".")
        if session and _same(signature, self._sign(session)):
            return session
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and scope["method"] == "GET" and not scope["path"].startswith("/api/"):
            return self._welcome(given, client, scope)
        if scope["path"].startswith(OPEN_PATHS):
            return client
        raise Refusal(401, "this server asks for a token: open the address that `bloomery web` printed", code="no_token")

    def _welcome(self, given: str, client: str, scope: Scope) -> Response:
        if not _same(given, self._access.token):
            self._logins.count(client)
            raise Refusal(401, "wrong token: open the address that `bloomery web` printed last", code="invalid_token")
        rest = {name: values for name, values in parse_qs(scope["query_string"].decode("latin-1")).items() if name != "token"}
        path = "/" + scope["path"].lstrip("/")  # //evil.example would be another site
        answer = RedirectResponse(path + ("?" + urlencode(rest, doseq=True) if rest else ""), status_code=303)
        session = secrets.token_hex(16)
        answer.set_cookie(self._cookie, f"{session}.{self._sign(session)}", httponly=True, samesite="strict", path="/")
        return answer

    async def _login(self, scope: Scope, receive: Receive) -> Response | None:
        if scope["method"] != "POST":
            return None
        client = scope["client"][0] if scope.get("client") else ""
        body = await _read_all(receive, limit=4096, seconds=self._access.limits.body_seconds)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
        return self._welcome(given, client, {**scope, "path": "/", "query_string": b""})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._access.limits
        if self._open >= limits.max_open_requests:
            raise Refusal(503, "too many requests are open at once: try again", code="overloaded", headers={"Retry-After": "1"})
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > limits.max_body_bytes:
            raise Refusal(413, f"a body has at most {limits.max_body_bytes:,} bytes here", code="body_too_large")
        self._open += 1
        try:
            if scope["method"] not in SAFE_METHODS:
                body = await _read_all(receive, limit=limits.max_body_bytes, seconds=limits.body_seconds)
                receive = _replay(body, receive)
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    def _sign(self, session: str) -> str:
        return hmac.new(self._access.token.encode(), session.encode("latin-1", "replace"), "sha256").hexdigest()


class _Rates:
    """Requests a minute of each client, as a bucket that fills evenly."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, client: str) -> None:
        """Raises Refusal (429) if this client has used up its share."""
        if not self._rate:
            return
        now = self._clock()
        left, counted = self._buckets.pop(client, (float(self._rate), now))
        left = min(float(self._rate), left + (now - counted) * self._rate / 60)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = str(max(1, round((1 - left) * 60 / self._rate)))
            message = f"more than {self._rate} requests a minute: wait {wait} s"
            raise Refusal(429, message, code="rate_limit_exceeded", headers={"Retry-After": wait})


def refuse(refusal: Refusal, *, wants_page: bool = False) -> Response:
    """An error as JSON, or as a page to people whose browser asked for one (for a missing token: one to type it into)."""
    if wants_page and refusal.status == 401:
        return Response(_LOGIN.replace("MESSAGE", str(refusal)), status_code=401, media_type="text/html")
    return JSONResponse(refusal.body(), status_code=refusal.status, headers={"cache-control": "no-store", **refusal.headers})


_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>bloomery: token</title><link rel="stylesheet" href="/static/app.css"></head>
<body><main class="login"><h1>bloomery</h1><p role="alert">MESSAGE</p>
<form method="post" action="/login"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus><button>Open</button></form></main></body></html>
"""


def _wants_page(scope: Scope) -> bool:
    return "text/html" in Headers(scope=scope).get("accept", "") and not scope["path"].startswith("/api/")


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return send_with_headers


async def _read_all(receive: Receive, *, limit: int, seconds: float) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "the connection ended before the body did", code="incomplete_body")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise Refusal(413, f"a body has at most {limit:,} bytes here", code="body_too_large")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {seconds:g} s", code="timeout") from error


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def _host_name(host: str) -> str:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(:\d{1,5})?", host)
    return found[1] if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
