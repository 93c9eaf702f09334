"""The chat page's routes: which models there are, an answer as a stream, a prompt as the model sees it."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any  # Any: JSON

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bloomery.tokens.tokenizer import Tokenizer
from bloomery.web.context import WebContext
from bloomery.web.http import events, in_thread, read_body, reply
from bloomery.web.models import ModelHost
from bloomery.web.sampling import MAX_ANSWER_TOKENS
from bloomery.web.talk.requests import MAX_CHARACTERS, MAX_MESSAGES, MAX_TOP, AnswerBody, Asked, PromptBody, read_prompt
from bloomery.web.tokenizer.pieces import describe_token, special_ids

MAX_SHOWN_TOKENS = 8192
"""Of a prompt, from its end."""


def routes(context: WebContext) -> list[Route]:
    """Everything under /api/chat."""
    host = context.models

    async def list_models(request: Request) -> Response:
        models = await in_thread(host.models)
        limits = {"tokens": MAX_ANSWER_TOKENS, "characters": MAX_CHARACTERS, "messages": MAX_MESSAGES, "top": MAX_TOP}
        shown = [entry.shown() | {"state": host.state(entry.id)} for entry in models]
        return reply({"models": shown, "open": host.num_open, "limits": limits})

    async def show_prompt(request: Request) -> Response:
        asked = await read_prompt(await read_body(request, PromptBody), host)
        return reply(await in_thread(_describe_prompt, asked))

    async def answer(request: Request) -> Response:
        body = await read_body(request, AnswerBody)
        asked = await read_prompt(body, host)
        host.check_room()
        return events(_answer(host, body, asked))

    return [
        Route("/api/chat/models", list_models, methods=["GET"]),
        Route("/api/chat/prompt", show_prompt, methods=["POST"]),
        Route("/api/chat/answer", answer, methods=["POST"]),
    ]


async def _answer(host: ModelHost, body: AnswerBody, asked: Asked) -> AsyncIterator[dict[str, Any]]:
    """loading, start, any number of pieces, end. Closed when the browser goes away, which stops the model."""
    if host.state(asked.entry.id) != "loaded":
        yield {"event": "loading", "data": {"name": asked.entry.name, "params": asked.entry.params}}
    async with host.use(asked.entry) as model:
        yield {"event": "start", "data": {"seed": body.seed, "prompt_tokens": len(asked.ids), "forgotten": asked.forgotten}}
        special = special_ids(asked.voice.tokenizer)
        started, first, num_tokens, logprob, finish = time.monotonic(), 0.0, 0, 0.0, ""
        stream = model.stream(asked.ids, body.sampling, seed=body.seed, top=body.top, forced=body.forced)
        async with contextlib.aclosing(stream) as pieces:
            async for piece in pieces:
                if piece.events and not num_tokens:
                    first = time.monotonic()
                num_tokens += len(piece.events)
                logprob += sum(event.logp for event in piece.events)
                finish = piece.finish or finish
                tokens = [_describe_event(asked.voice.tokenizer, event.token, event.logp, event.top, special) for event in piece.events]
                if not piece.events:
                    tokens = [describe_token(asked.voice.tokenizer, token, special=special) | {"forced": True} for token in body.forced]
                yield {"event": "piece", "data": {"text": piece.text, "tokens": tokens}}
        ended = time.monotonic()
    yield {
        "event": "end",
        "data": {
            "finish": finish,
            "prompt_tokens": len(asked.ids) + len(body.forced),
            "answer_tokens": num_tokens,
            "logprob": logprob,
            "first_token_seconds": first - started,
            "seconds": ended - started,
            # The first token waits for the prompt to be read: the speed is that of those after it.
            "tokens_per_second": (num_tokens - 1) / (ended - first) if num_tokens > 1 and ended > first else None,
        },
    }


def _describe_event(tokenizer: Tokenizer, token: int, logp: float, top: list[tuple[int, float]], special: frozenset[int]) -> dict[str, Any]:
    told = describe_token(tokenizer, token, special=special) | {"logprob": logp}
    if top:
        told["top"] = [describe_token(tokenizer, other, special=special) | {"logprob": p} for other, p in top]
    return told


def _describe_prompt(asked: Asked) -> dict[str, Any]:
    tokenizer, ids = asked.voice.tokenizer, asked.ids
    special = special_ids(tokenizer)
    shown = ids[-MAX_SHOWN_TOKENS:]
    return {
        "tokens": [describe_token(tokenizer, token, special=special) for token in shown],
        "num_tokens": len(ids),
        "left_out": len(ids) - len(shown),
        "forgotten": asked.forgotten,
        "context_tokens": asked.entry.context_tokens,
    }
