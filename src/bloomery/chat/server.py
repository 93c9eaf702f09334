"""A model behind OpenAI's HTTP API: `bloomery serve`.

    /v1/models  /v1/chat/completions  /v1/completions  /health

Every request passes the gate (token, origin, rate), has its body read and checked, becomes one job a choice for the worker's
Batcher, and takes the tokens from there. Whoever asks is watched meanwhile: when the connection goes, its jobs are cancelled
and their rows are free at the next step. What was said is never logged, and neither is the token.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any  # Any: fields of several types

from bloomery.chat import replies
from bloomery.chat.admission import Gate, ServerLimits
from bloomery.chat.answering import HEADERS, Answering, Ask
from bloomery.chat.refusal import Refusal
from bloomery.chat.replies import Json
from bloomery.chat.requests import (
    ChatRequest,
    CompletionRequest,
    NamedChoice,
    R,
    Sampling,
    check_messages,
    read_request,
    read_sampling,
)
from bloomery.chat.voice import Voice
from bloomery.chat.worker import Worker
from bloomery.core.errors import ConfigError, DataError
from bloomery.generate.batcher import MAX_SLOTS, Batcher
from bloomery.generate.engine import Engine

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ConfigError("a server needs Starlette and uvicorn: pip install 'bloomery[serve]'") from error

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, of /v1/completions."""

MAX_PROMPTS = 32
"""Of one request to /v1/completions."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model and how it is offered. `voice` must be the engine's tokenizer."""

    name: str
    engine: Engine
    voice: Voice
    limits: ServerLimits = field(default_factory=ServerLimits)
    token: str = field(default="", repr=False)
    max_rows: int = 64
    created: int = 0


class Service:
    """The state of a server: its worker, its gate, and what it answers."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.gate = Gate(token=served.token, limits=served.limits)
        context = served.engine.context_tokens
        self.worker = Worker(lambda: Batcher(served.engine, max_rows=served.max_rows, max_slots=max(MAX_SLOTS, context)))

    async def answer_chat(self, request: Request) -> Answering:
        """POST /v1/chat/completions."""
        return await self._answer(request, ChatRequest, self._read_chat)

    async def answer_completion(self, request: Request) -> Answering:
        """POST /v1/completions."""
        return await self._answer(request, CompletionRequest, self._read_completion)

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        self._admit(request)
        return JSONResponse({"object": "list", "data": [self._card()]}, headers=HEADERS)

    async def show_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._admit(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(self._card(), headers=HEADERS)

    async def refuse_embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        self._admit(request)
        raise Refusal(
            400, "this server has no embeddings: its model writes text. Use a server of an embedding model.", code="unsupported_endpoint"
        )

    async def _answer(self, request: Request, kind: type[R], read: Callable[[R], Ask]) -> Answering:
        self._admit(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A form of a foreign page can be sent here without asking, JSON cannot.
            raise Refusal(415, "Content-Type must be application/json", code="invalid_content_type")
        # In a thread: a prompt of megabytes takes a second to cut into tokens, and the streams of others must not stand still.
        ask = await asyncio.to_thread(self._read, kind, await self._read_body(request), read)
        num_open = self.worker.num_open
        if num_open + len(ask.prompts) * ask.n > self.served.limits.max_open_answers:
            raise Refusal(503, f"{num_open} answers are being made: try again", code="overloaded", headers={"Retry-After": "1"})
        served = self.served
        return Answering(ask, model=served.name, voice=served.voice, worker=self.worker, limits=served.limits)

    def _read(self, kind: type[R], body: bytes, read: Callable[[R], Ask]) -> Ask:
        asked = read_request(kind, body)
        self._check_model(asked.model)
        try:
            return read(asked)
        except DataError as error:
            raise Refusal(400, str(error), code="invalid_value", param="messages") from error

    def _admit(self, request: Request) -> None:
        self.gate.check(request.headers, client=request.client.host if request.client else "")

    async def _read_body(self, request: Request) -> bytes:
        limit, parts, size = self.served.limits.max_body_bytes, [], 0
        too_large = Refusal(413, f"a body has at most {limit:,} bytes here", code="body_too_large")
        if request.headers.get("content-length", "0").isdecimal() and int(request.headers.get("content-length", "0")) > limit:
            raise too_large
        try:
            async with asyncio.timeout(self.served.limits.body_seconds):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise too_large
        except TimeoutError as error:
            raise Refusal(408, f"the body did not arrive within {self.served.limits.body_seconds:g} s", code="timeout") from error
        return b"".join(parts)

    def _check_model(self, name: str) -> None:
        if name != self.served.name:
            raise Refusal(404, f"there is no model {name!r:.100} here, only {self.served.name!r}", code="model_not_found", param="model")

    def _card(self) -> Json:
        return replies.model_card(self.served.name, created=self.served.created, context_tokens=self.served.engine.context_tokens)

    def _read_chat(self, request: ChatRequest) -> Ask:
        check_messages(request)
        prompt = self.served.voice.render([message.plain() for message in request.messages], request.active_tools)
        beginning = "" if request.active_tools else None
        forced = request.tool_choice.function.name if isinstance(request.tool_choice, NamedChoice) else None
        if forced is not None or request.tool_choice == "required":
            beginning, ids = self.served.voice.begin_call(forced)
            prompt = [*prompt, *ids]
        sampling = self._sampling(request, [prompt], default_tokens=self.served.limits.max_answer_tokens)
        return Ask(prompts=[prompt], sampling=sampling, is_chat=True, beginning=beginning, forced_name=forced, **_shared(request))

    def _read_completion(self, request: CompletionRequest) -> Ask:
        prompts = _read_prompts(request.prompt, self.served.voice)
        sampling = self._sampling(request, prompts, default_tokens=DEFAULT_COMPLETION_TOKENS)
        return Ask(prompts=prompts, sampling=sampling, is_chat=False, **_shared(request))

    def _sampling(self, request: ChatRequest | CompletionRequest, prompts: Sequence[Sequence[int]], *, default_tokens: int) -> Sampling:
        context = self.served.engine.context_tokens
        longest = max(map(len, prompts))
        if longest >= context:
            message = f"the prompt has {longest} tokens; this model reads {context} at once, its answer included"
            raise Refusal(422, message, code="context_length_exceeded", param="messages" if isinstance(request, ChatRequest) else "prompt")
        return read_sampling(
            request,
            max_tokens=min(self.served.limits.max_answer_tokens, context),
            default_tokens=default_tokens,
            stop_tokens=self.served.voice.stop_tokens,
        )


def _shared(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    return {
        "n": request.n or 1,
        "seed": secrets.randbits(63) if request.seed is None else request.seed,
        "is_stream": bool(request.stream),
        "counts_usage": bool(request.stream_options and request.stream_options.include_usage),
        "token_ids": request.return_token_ids,
        "tokens_as_ids": request.return_tokens_as_token_ids,
    }


def _read_prompts(prompt: str | list[str] | list[int] | list[list[int]], voice: Voice) -> list[list[int]]:
    many = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    prompts = [voice.encode_text(item) if isinstance(item, str) else list(item) for item in many]  # type: ignore[arg-type]  # lists of one kind
    if not 1 <= len(prompts) <= MAX_PROMPTS or not all(prompts):
        raise Refusal(
            400, f"prompt: expected 1 to {MAX_PROMPTS} texts or lists of tokens, none empty", code="invalid_value", param="prompt"
        )
    if any(not 0 <= token < voice.vocab_size for ids in prompts for token in ids):
        raise Refusal(400, f"prompt: this model's tokens are 0 to {voice.vocab_size - 1}", code="invalid_value", param="prompt")
    return prompts


def _refuse(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers={**HEADERS, **refusal.headers})


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refuse(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method} is not a method of {path}"}
    return _refuse(Refusal(error.status_code, messages.get(error.status_code, error.detail)))


async def _on_crash(request: Request, error: Exception) -> Response:
    return _refuse(Refusal(500, "the server failed; its log says more", code="server_error"))


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers=HEADERS)


def make_app(service: Service) -> Starlette:
    """The ASGI application; its worker lives as long as it is served."""

    @contextlib.asynccontextmanager
    async def live(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.close()

    handlers: dict[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
        Refusal: _on_refusal,
        HTTPException: _on_http_error,
        ClientDisconnect: _on_gone,
        Exception: _on_crash,
    }
    routes = [
        Route("/v1/chat/completions", service.answer_chat, methods=["POST"]),
        Route("/v1/completions", service.answer_completion, methods=["POST"]),
        Route("/v1/embeddings", service.refuse_embeddings, methods=["POST"]),
        Route("/v1/models", service.list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", service.show_model, methods=["GET"]),
        Route("/health", _health, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=live)


def make_server(service: Service) -> uvicorn.Server:
    """A server for one process. Neither uvicorn's access log nor its debug log, which holds headers, is on."""
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)
