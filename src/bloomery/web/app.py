"""The web application: every page's routes, the shell they are drawn in, static files, all behind the guard."""

import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files

from bloomery.chat.refusal import Refusal
from bloomery.core.errors import BloomeryError, ConfigError
from bloomery.web.context import WebContext

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute, Route

    from bloomery.web.arena import api as arena
    from bloomery.web.corpus import api as corpus
    from bloomery.web.guard import Access, Guard, refuse
    from bloomery.web.http import reply
    from bloomery.web.runs import api as runs
    from bloomery.web.talk import api as talk
    from bloomery.web.tokenizer import api as tokenizer
except ImportError as error:
    raise ConfigError("the web pages need more packages: pip install 'bloomery[web]'") from error

log = logging.getLogger(__name__)

PAGES = ("runs", "corpus", "tokenizer", "chat", "arena")
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


def make_web_app(context: WebContext, access: Access) -> Guard:
    """The ASGI application; what `context` opened is closed when it stops."""

    @contextlib.asynccontextmanager
    async def live(app: Starlette) -> AsyncIterator[None]:
        yield
        await context.close()

    handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
        Refusal: _on_refusal,
        BloomeryError: _on_mistake,
        HTTPException: _on_http_error,
        ClientDisconnect: _on_gone,
        Exception: _on_crash,
    }
    routes: list[BaseRoute] = [
        *_shell_routes(),
        *_static_routes(),
        *talk.routes(context),
        *tokenizer.routes(context),
        *runs.routes(context),
        *arena.routes(context),
        *corpus.routes(context),
        Route("/health", _health, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=live), access)


def _shell_routes() -> list[Route]:
    # One page of HTML for all addresses of the application; what is drawn in it is the browser's business.
    shell = (files("bloomery.web") / "static" / "index.html").read_bytes()

    async def show(request: Request) -> Response:
        return Response(shell, media_type="text/html", headers={"cache-control": "no-cache"})

    return [
        Route(path, show, methods=["GET"]) for path in ("/", *(f"/{page}" for page in PAGES), *(f"/{page}/{{rest:path}}" for page in PAGES))
    ]


def _static_routes() -> list[Route]:
    # A route a file: no name that a browser sends is ever looked up on the disk.
    routes = []
    for file in sorted((files("bloomery.web") / "static").iterdir(), key=lambda file: file.name):
        suffix = file.name[file.name.rfind(".") :]
        if suffix in TYPES and file.name != "index.html":
            routes.append(Route(f"/static/{file.name}", _static_file(file.read_bytes(), TYPES[suffix]), methods=["GET"]))
    return routes


def _static_file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    # no-cache: the browser asks each time whether the file has changed, and is mostly told that it has not.
    headers = {"cache-control": "no-cache", "etag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return send


async def _health(request: Request) -> Response:
    return reply({"status": "ok"})


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refuse(error)


async def _on_mistake(request: Request, error: Exception) -> Response:
    return refuse(Refusal(400, str(error), code=type(error).__name__))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method} is not a method of {path}"}
    return refuse(Refusal(error.status_code, messages.get(error.status_code, error.detail)))


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refuse(Refusal(500, "the server failed; its log says more", code="server_error"))


def make_web_server(app: Guard) -> uvicorn.Server:
    """A server for one process. Its access log, which would hold the token of the launch URL, is off."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=2,  # open streams would be waited for
    )
    return uvicorn.Server(config)
