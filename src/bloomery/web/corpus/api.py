"""The addresses of the corpus page. What reads tables is imported with the first question: a server that shows none stays small."""

import asyncio
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast  # Any: JSON, and modules whose import would bring much

import pyarrow as pa
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bloomery.chat.refusal import Refusal
from bloomery.web.context import WebContext
from bloomery.web.corpus.funnel import Shelf, list_runs, make_funnel
from bloomery.web.corpus.memory import Memory
from bloomery.web.http import Body, in_thread, query, read_body, reply

MAX_READERS = 2
"""Questions that read tables at a time."""
MAX_SAMPLES = 50
MAX_THRESHOLDS = 200
MAX_SEED = 2**53
MAX_TEXT = 4096
"""Characters of an id or URL that is asked for."""
MAX_ROWS = 200
MAX_CLUSTERS = 50
KINDS = ("random", "near", "rule")
COLUMNS = ("language", "domain", "source")

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class WhatIfBody(Body):
    """Other thresholds for rules of a filter, by their names."""

    artifact: Id
    thresholds: Annotated[dict[Annotated[str, StringConstraints(max_length=200)], float], Field(max_length=MAX_THRESHOLDS)]


def routes(context: WebContext) -> list[Route]:
    """Everything under /api/corpus, over one memory of what was asked for last."""
    page = _Corpus(context)
    return [
        Route("/api/corpus/runs", page.show_runs, methods=["GET"]),
        Route("/api/corpus/funnel", page.show_funnel, methods=["GET"]),
        Route("/api/corpus/samples", page.show_samples, methods=["GET"]),
        Route("/api/corpus/rules", page.show_rules, methods=["GET"]),
        Route("/api/corpus/histogram", page.show_histogram, methods=["GET"]),
        Route("/api/corpus/what-if", page.try_thresholds, methods=["POST"]),
        Route("/api/corpus/breakdown", page.show_breakdown, methods=["GET"]),
        Route("/api/corpus/clusters", page.show_clusters, methods=["GET"]),
        Route("/api/corpus/cluster", page.show_cluster, methods=["GET"]),
        Route("/api/corpus/pii", page.show_replacements, methods=["GET"]),
        Route("/api/corpus/story", page.show_story, methods=["GET"]),
    ]


class _Corpus:
    def __init__(self, context: WebContext) -> None:
        self.directory = context.directory
        self.shelf = Shelf(context.directory, Memory())
        # A dragged threshold waits for nobody; whoever reads tables takes turns, which bounds the memory of all together.
        self.turns = asyncio.Semaphore(MAX_READERS)

    async def _answer(self, module: str, function: str, *arguments: Any, **named: Any) -> Response:
        async with self.turns:
            return reply(await in_thread(_call, module, function, *arguments, **named))

    async def show_runs(self, request: Request) -> Response:
        """GET /api/corpus/runs"""
        return reply({"runs": await in_thread(list_runs, self.shelf)})

    async def show_funnel(self, request: Request) -> Response:
        """GET /api/corpus/funnel?run="""
        run = await in_thread(self.directory.run, _required(request, "run"))
        return reply(await in_thread(make_funnel, self.shelf, run))

    async def show_samples(self, request: Request) -> Response:
        """GET /api/corpus/samples?artifact=&kind=random|near|rule&rule=&seed=&count="""
        kind = _choice(request, "kind", KINDS)
        return await self._answer(
            "samples",
            "draw_samples",
            self.shelf,
            _required(request, "artifact"),
            kind=kind,
            rule=query(request, "rule", str, "") or None,
            seed=_number(request, "seed", 0, most=MAX_SEED),
            count=_number(request, "count", 5, most=MAX_SAMPLES),
        )

    async def show_rules(self, request: Request) -> Response:
        """GET /api/corpus/rules?artifact="""
        return await self._answer("thresholds", "list_rules", self.shelf, _required(request, "artifact"))

    async def show_histogram(self, request: Request) -> Response:
        """GET /api/corpus/histogram?artifact=&rule="""
        return await self._answer("thresholds", "make_histogram", self.shelf, _required(request, "artifact"), _required(request, "rule"))

    async def try_thresholds(self, request: Request) -> Response:
        """POST /api/corpus/what-if {artifact, thresholds: {rule: number}}"""
        body = await read_body(request, WhatIfBody)
        return reply(await in_thread(_call, "thresholds", "try_thresholds", self.shelf, body.artifact, body.thresholds))

    async def show_breakdown(self, request: Request) -> Response:
        """GET /api/corpus/breakdown?artifact=&by=language|domain|source&limit="""
        by, limit = _choice(request, "by", COLUMNS), _number(request, "limit", 20, most=MAX_ROWS)
        return await self._answer("breakdown", "break_down", self.shelf, _required(request, "artifact"), by=by, limit=limit)

    async def show_clusters(self, request: Request) -> Response:
        """GET /api/corpus/clusters?artifact=&offset=&limit="""
        offset, limit = _number(request, "offset", 0, most=1 << 40), _number(request, "limit", 20, most=MAX_CLUSTERS)
        return await self._answer("clusters", "list_clusters", self.shelf, _required(request, "artifact"), offset=offset, limit=limit)

    async def show_cluster(self, request: Request) -> Response:
        """GET /api/corpus/cluster?artifact=&cluster="""
        return await self._answer("clusters", "show_cluster", self.shelf, _required(request, "artifact"), _required(request, "cluster"))

    async def show_replacements(self, request: Request) -> Response:
        """GET /api/corpus/pii?artifact=&seed=&count="""
        seed, count = _number(request, "seed", 0, most=MAX_SEED), _number(request, "count", 5, most=MAX_SAMPLES)
        return await self._answer("privacy", "show_replacements", self.shelf, _required(request, "artifact"), seed=seed, count=count)

    async def show_story(self, request: Request) -> Response:
        """GET /api/corpus/story?run=&document="""
        return await self._answer("story", "show_story", self.shelf, _required(request, "run"), _required(request, "document").strip())


def _call(module: str, function: str, *arguments: Any, **named: Any) -> Any:
    try:
        return _load(module, function)(*arguments, **named)
    finally:
        # Columns of a million rows were read: what the allocator keeps of them goes back to the system.
        pa.default_memory_pool().release_unused()


@functools.cache
def _load(module: str, function: str) -> Callable[..., Any]:
    loaded: Any = importlib.import_module(f"bloomery.web.corpus.{module}")
    return cast(Callable[..., Any], getattr(loaded, function))  # a name from this file, never from a request


def _required(request: Request, name: str) -> str:
    value = query(request, name, str, "")
    if not 0 < len(value) <= MAX_TEXT:
        said = "missing" if not value else f"longer than {MAX_TEXT} characters"
        raise Refusal(400, f"{name}: {said}", code="invalid_query", param=name)
    return value


def _choice(request: Request, name: str, choices: Sequence[str]) -> str:
    value = query(request, name, str, choices[0])
    if value not in choices:
        raise Refusal(400, f"{name}: {value!r:.100} is not one of {', '.join(choices)}", code="invalid_query", param=name)
    return value


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    value = query(request, name, int, default)
    if not 0 <= value <= most:
        raise Refusal(400, f"{name}: {value} is not between 0 and {most}", code="invalid_query", param=name)
    return value
