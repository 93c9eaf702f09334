"""The tokenizer page's routes: which tokenizers there are, a text in tokens, why a token, the vocabulary, bytes per token."""

from collections import OrderedDict
from typing import Annotated, Any  # Any: JSON

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bloomery.chat.refusal import Refusal
from bloomery.web.context import WebContext
from bloomery.web.http import Body, in_thread, query, read_body, reply
from bloomery.web.tokenizer.measure import measure, read_report, text_sources
from bloomery.web.tokenizer.merges import Step
from bloomery.web.tokenizer.pieces import describe_token
from bloomery.web.tokenizer.shelf import LoadedTokenizer, TokenizerShelf

MAX_CHARACTERS = 100_000
"""Of a text to cut."""
MAX_EXPLAINED_CHARACTERS = 20_000
"""Of the text around a token whose merges are followed."""
MAX_FOUND = 200
"""Entries of the vocabulary in one answer."""
MAX_MEASURED = 64
"""Measurements that are kept."""

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class EncodeBody(Body):
    """A text to cut into tokens."""

    tokenizer: Id
    text: Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
    specials: bool = False
    """Whether what looks like a special token is one; else it is text."""


class WhyBody(Body):
    """A token of a text, by its number."""

    tokenizer: Id
    text: Annotated[str, StringConstraints(max_length=MAX_EXPLAINED_CHARACTERS)]
    place: int = Field(ge=0)


def routes(context: WebContext) -> list[Route]:
    """Everything under /api/tokenizer."""
    shelf = TokenizerShelf(context.directory)
    measured: OrderedDict[tuple[str, ...], dict[str, Any]] = OrderedDict()

    async def list_tokenizers(request: Request) -> Response:
        entries = await in_thread(shelf.entries)
        sources = await in_thread(text_sources, context.directory)
        shown = [{"id": entry.id, "name": entry.name, "stage": entry.stage, "kind": entry.kind} for entry in entries]
        return reply({"tokenizers": shown, "documents": sources, "limits": {"characters": MAX_CHARACTERS}})

    async def cut(request: Request) -> Response:
        body = await read_body(request, EncodeBody)
        loaded = await in_thread(shelf.get, body.tokenizer)
        return reply(await in_thread(encode, loaded, body.text, specials=body.specials))

    async def tell_why(request: Request) -> Response:
        body = await read_body(request, WhyBody)
        loaded = await in_thread(shelf.get, body.tokenizer)
        return reply(await in_thread(explain, loaded, body.text, body.place))

    async def search(request: Request) -> Response:
        loaded = await in_thread(shelf.get, query(request, "tokenizer", str, ""))
        text, how = query(request, "text", str, ""), query(request, "how", str, "contains")
        offset, limit = query(request, "offset", int, 0), query(request, "limit", int, 100)
        if how not in ("contains", "begins", "id"):
            raise Refusal(400, f"how: {how!r:.50} is none of contains, begins, id", param="how")
        if offset < 0 or not 1 <= limit <= MAX_FOUND or len(text) > 200:
            raise Refusal(400, f"offset: 0 or more; limit: 1 to {MAX_FOUND}; text: at most 200 characters", param="limit")
        return reply(await in_thread(_search, loaded, text, how, offset=offset, limit=limit))

    async def usage(request: Request) -> Response:
        loaded = await in_thread(shelf.get, query(request, "tokenizer", str, ""))
        documents = query(request, "documents", str, "")
        if not documents:
            report = await in_thread(read_report, loaded)
            if report is None:
                raise Refusal(404, "no report lies beside this tokenizer: choose documents to measure it on", code="no_report")
            return reply(report)
        entry = await in_thread(context.directory.artifact, documents, "documents")
        key = (loaded.tokenizer.sha256, entry.fingerprint)
        if key not in measured:
            measured[key] = await in_thread(measure, loaded, entry)
            while len(measured) > MAX_MEASURED:
                measured.popitem(last=False)
        return reply(measured[key])

    return [
        Route("/api/tokenizer/list", list_tokenizers, methods=["GET"]),
        Route("/api/tokenizer/encode", cut, methods=["POST"]),
        Route("/api/tokenizer/why", tell_why, methods=["POST"]),
        Route("/api/tokenizer/vocabulary", search, methods=["GET"]),
        Route("/api/tokenizer/usage", usage, methods=["GET"]),
    ]


def encode(loaded: LoadedTokenizer, text: str, *, specials: bool) -> dict[str, Any]:
    """A text in tokens: the ids in their order, each token once, and what is counted."""
    tokenizer = loaded.tokenizer
    ids = list(loaded.library.encode(text, add_special_tokens=False).ids) if specials else tokenizer.encode(text)
    num_bytes = len(text.encode())
    return {
        "ids": ids,
        # Each token once: of a long text most come again.
        "tokens": {i: describe_token(tokenizer, i, special=loaded.special) for i in set(ids)},
        "num_tokens": len(ids),
        "num_bytes": num_bytes,
        "num_characters": len(text),
        "bytes_per_token": num_bytes / len(ids) if ids else None,
        "vocab_size": tokenizer.vocab_size,
        # A normaliser may have changed the text before it was cut.
        "is_exact": tokenizer.decode_bytes(ids, skip_special=False) == text.encode(),
    }


def explain(loaded: LoadedTokenizer, text: str, place: int) -> dict[str, Any]:
    """Why token number `place` of a text is what it is. Raises Refusal (400) if there are not so many, DataError as MergeTable does."""
    merges = loaded.merges
    if not text or place >= len(loaded.tokenizer.encode(text)):
        raise Refusal(400, f"place: {place}, but the text has fewer tokens", code="invalid_value", param="place")
    why = merges.explain(text, place)

    def told(token: str) -> dict[str, Any]:
        return describe_token(loaded.tokenizer, merges.id_of(token), special=loaded.special)

    def step(one: Step) -> dict[str, Any]:
        return {"rank": one.rank, "left": told(one.left), "right": told(one.right), "result": told(one.left + one.right)}

    return {
        "piece": [told(token) for token in why.tokens],
        "place": why.place,
        "first": why.first,
        "is_whole": why.is_whole,
        "steps": [step(one) for one in why.steps],
        "num_merges": merges.num_merges,
    }


def _search(loaded: LoadedTokenizer, text: str, how: str, *, offset: int, limit: int) -> dict[str, Any]:
    if how == "id":
        found = [i for i in range(len(loaded.vocabulary)) if str(i).startswith(text)] if text.isdecimal() or not text else []
    else:
        wanted = text.encode("utf-8", "replace")
        match = bytes.startswith if how == "begins" else bytes.__contains__
        found = [i for i, content in enumerate(loaded.vocabulary) if match(content, wanted)]
    shown = found[offset : offset + limit]
    rows = [
        describe_token(loaded.tokenizer, i, special=loaded.special) | {"num_bytes": 0 if i in loaded.special else len(loaded.vocabulary[i])}
        for i in shown
    ]
    return {"num_found": len(found), "vocab_size": len(loaded.vocabulary), "offset": offset, "rows": rows}
