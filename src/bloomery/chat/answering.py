"""Making the answers of one request while they are sent, whole or as a stream of server-sent events.

Plain ASGI: whoever asks is watched meanwhile, and when the connection goes, the jobs are cancelled.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any  # Any: ASGI's messages

from bloomery.chat import replies
from bloomery.chat.admission import ServerLimits
from bloomery.chat.refusal import Refusal
from bloomery.chat.replies import Choice, Json, Reply
from bloomery.chat.requests import Sampling
from bloomery.chat.tool_calls import CallFinder
from bloomery.chat.voice import Voice
from bloomery.chat.worker import Failure, Job, Worker
from bloomery.generate.batcher import Event

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A checked request: one prompt or several, each answered `n` times."""

    prompts: Sequence[Sequence[int]]
    n: int
    sampling: Sampling
    seed: int
    is_chat: bool
    is_stream: bool
    counts_usage: bool
    token_ids: bool
    tokens_as_ids: bool
    beginning: str | None = None
    """What every answer begins with by force; None where no tool may be called."""
    forced_name: str | None = None


class Answering:
    """An ASGI response that makes the answers while it is sent. It ends early, and its jobs with it, when the client goes."""

    def __init__(self, ask: Ask, *, model: str, voice: Voice, worker: Worker, limits: ServerLimits) -> None:
        self._ask, self._voice, self._worker, self._limits = ask, voice, worker, limits
        self._reply = Reply(model, is_chat=ask.is_chat, created=int(time.time()))
        self._choices = [self._choice(i) for i in range(len(ask.prompts) * ask.n)]
        self._jobs: list[Job] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Sends the answers, or the error that came in place of them."""
        started = time.monotonic()
        self._jobs = self._submit()
        answer = asyncio.create_task(self._stream(send) if self._ask.is_stream else self._send_whole(send))
        watch = asyncio.create_task(_wait_until_gone(receive))
        try:
            await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
            whole = answer.done()
        finally:
            for task in (answer, watch):
                task.cancel()
            for job in self._jobs:
                self._worker.cancel(job)
            results = await asyncio.gather(answer, watch, return_exceptions=True)
        tokens = sum(choice.num_tokens for choice in self._choices)
        ending = "" if whole else ", the client went away"
        log.info("%s: %d tokens in %.2f s%s", scope["path"], tokens, time.monotonic() - started, ending)
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    def _submit(self) -> list[Job]:
        ask = self._ask
        pairs = [(prompt, _choice_seed(ask.seed, i)) for prompt in ask.prompts for i in range(ask.n)]
        return [self._worker.submit(prompt, ask.sampling.params, seed=seed) for prompt, seed in pairs]

    def _choice(self, index: int) -> Choice:
        ask = self._ask
        return Choice(
            index,
            self._voice,
            params=ask.sampling.params,
            is_chat=ask.is_chat,
            logprobs=ask.sampling.wants_logprobs,
            finder=CallFinder(beginning=ask.beginning, name=ask.forced_name) if ask.beginning is not None else None,
            token_ids=ask.token_ids,
            tokens_as_ids=ask.tokens_as_ids,
        )

    async def _send_whole(self, send: Send) -> None:
        headers: dict[str, str] = {}
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                for job, choice in zip(self._jobs, self._choices, strict=True):
                    while choice.finish is None:
                        choice.add(_token(await job.events.get()))
            status, body = 200, self._reply.whole([choice.whole() for choice in self._choices], self._usage())
        except TimeoutError:
            status, body = 504, self._timeout().body()
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body(), refusal.headers
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        await send(_start(status, {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}))
        await send({"type": "http.response.body", "body": content, "more_body": False})

    async def _stream(self, send: Send) -> None:
        await send(_start(200, {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}))
        last = replies.DONE
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                async for line in self._lines():
                    await send({"type": "http.response.body", "body": line, "more_body": True})
        except TimeoutError:
            last = replies.sse(self._timeout().body())
        except Refusal as refusal:
            last = replies.sse(refusal.body())
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _lines(self) -> AsyncIterator[bytes]:
        counts = self._ask.counts_usage
        if self._ask.is_chat:
            for choice in self._choices:
                yield self._reply.chunk(choice.opening(), counts_usage=counts)
        async for choice, event in _merge(self._jobs, self._choices, self._limits.heartbeat_seconds):
            if event is None:
                yield replies.HEARTBEAT
            else:
                for row in choice.add(_token(event)):
                    yield self._reply.chunk(row, counts_usage=counts)
        if counts:
            yield self._reply.usage_chunk(self._usage())

    def _usage(self) -> Json:
        return replies.usage(sum(map(len, self._ask.prompts)), sum(choice.num_tokens for choice in self._choices))

    def _timeout(self) -> Refusal:
        return Refusal(504, f"the answer took longer than {self._limits.answer_seconds:g} s", code="timeout")


async def _merge(
    jobs: Sequence[Job], choices: Sequence[Choice], heartbeat_seconds: float
) -> AsyncIterator[tuple[Choice, Event | Failure | None]]:
    # Events of all jobs as they come; None when for a while there was none.
    waiting = {asyncio.ensure_future(job.events.get()): (job, choice) for job, choice in zip(jobs, choices, strict=True)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield choices[0], None
            for future in sorted(done, key=lambda future: waiting[future][1].index):
                job, choice = waiting.pop(future)
                yield choice, future.result()
                if choice.finish is None:
                    waiting[asyncio.ensure_future(job.events.get())] = (job, choice)
    finally:
        for future in waiting:
            future.cancel()


def _token(event: Event | Failure) -> Event:
    if isinstance(event, Failure):
        raise Refusal(422 if event.refused else 500, event.message, code="refused_prompt" if event.refused else "server_error")
    return event


def _choice_seed(seed: int, index: int) -> int:
    # The first choice draws what an Engine draws with this seed.
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"choice/{seed}/{index}".encode(), digest_size=8).digest(), "big") >> 1


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}
