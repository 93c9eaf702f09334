"""What a page states in the places where pages state things: <meta>, <title>, the first <h1>, <time>, JSON-LD.

`cut_blocks` notes where these are; here they are read, once, for the metadata (`metadata.py`) and for the hints at the
kind of the page that its blocks are judged by. Every piece is cut to a length, and there are only so many of each
(`html_tags.MOST_MARKS`), so whatever a page holds, this takes milliseconds.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from bloomery.curate.html_kernels import find_software
from bloomery.curate.html_tags import (
    M_KIND,
    MARK_HEAD_END,
    MARK_HEADING,
    MARK_JSON,
    MARK_META,
    MARK_TIME,
    MARK_TITLE,
)

MAX_HEAD = 300_000
MAX_SOFTWARE_HEAD = 100_000
MAX_META, MAX_TITLE, MAX_HEADING, MAX_TIME, MAX_JSON = 3000, 2000, 4000, 1000, 120_000
MAX_JSON_TOTAL = 200_000

_ATTRIBUTE = re.compile(rb"""([a-zA-Z:_-]{1,40})\s{0,5}=\s{0,5}(?:"([^"]{0,2000})"|'([^']{0,2000})'|([^\s"'>]{1,500}))""")
_JSON_TYPE = re.compile(rb'"@type"\s{0,3}:\s{0,3}\[?"(\w{3,40})"')
_BOARD = (b"discourse", b"vbulletin", b"phpbb", b"xenforo", b"mybb", b"invision", b"flarum", b"nodebb")

HINTS = [
    "og_article", "og_product", "og_other", "published", "article", "product", "forum", "collection", "questions", "shop", "board", "json"
]  # fmt: skip
"""What a page says of its own kind in its head and its JSON-LD, see `read_hints`."""

Hints = np.ndarray[Any, np.dtype[np.float32]]


class PageFacts(NamedTuple):
    """The pieces, as they stand in the page: bytes of HTML, UTF-8."""

    metas: dict[str, bytes]
    """The first content of each property, name or itemprop (lower-case) that a <meta> of the head gives."""
    title: bytes
    heading: bytes
    """From the tag of the first <h1> to its end."""
    times: list[bytes]
    """The attributes of each <time>."""
    scripts: list[bytes]
    """JSON-LD."""
    head: bytes


def read_facts(encoded: bytes, marks: np.ndarray[Any, np.dtype[np.int64]]) -> PageFacts:
    """The pieces of a page in UTF-8 at the places that `cut_blocks` has noted."""
    metas: dict[str, bytes] = {}
    times: list[bytes] = []
    scripts: list[bytes] = []
    title = heading = b""
    rows = marks.tolist()
    head_end = next((row[1] for row in rows if row[M_KIND] == MARK_HEAD_END), MAX_HEAD)
    left = MAX_JSON_TOTAL
    for kind, start, stop in rows:
        if kind == MARK_META and start < head_end:
            _read_meta(encoded[start : min(stop, start + MAX_META)], metas)
        elif kind == MARK_TITLE and start < MAX_HEAD:
            title = encoded[start : min(stop, start + MAX_TITLE)]
        elif kind == MARK_HEADING and start < MAX_HEAD:
            end = encoded.find(b"</h", stop, start + MAX_HEADING)
            heading = encoded[start:end] if end >= 0 else b""
        elif kind == MARK_TIME and start < MAX_HEAD:
            times.append(encoded[start : min(stop, start + MAX_TIME)])
        elif kind == MARK_JSON and stop - start <= min(left, MAX_JSON):
            scripts.append(encoded[start:stop])
            left -= stop - start
    return PageFacts(metas, title, heading, times, scripts, encoded[: min(head_end, MAX_SOFTWARE_HEAD)])


def read_hints(facts: PageFacts) -> Hints:
    """HINTS of a page: og:type, JSON-LD types, marks of shops and boards."""
    og = facts.metas.get("og:type", b"").lower()
    kinds = {kind.decode() for script in facts.scripts for kind in _JSON_TYPE.findall(script)}
    generator = facts.metas.get("generator", b"").lower()
    names_shop, names_board = find_software(np.frombuffer(facts.head, np.uint8))
    hints = (
        b"article" in og,
        b"product" in og,
        bool(og) and b"article" not in og and b"product" not in og,
        "article:published_time" in facts.metas,
        bool(kinds & {"Article", "NewsArticle", "BlogPosting", "ReportageNewsArticle", "TechArticle"}),
        bool(kinds & {"Product", "ProductGroup"}),
        bool(kinds & {"DiscussionForumPosting", "QAPage", "Question"}),
        bool(kinds & {"CollectionPage", "ItemList", "OfferCatalog"}),
        "FAQPage" in kinds,
        names_shop,
        generator.startswith(_BOARD) or names_board,
        bool(kinds),
    )
    return np.array(hints, np.float32)


def _read_meta(tag: bytes, metas: dict[str, bytes]) -> None:
    if b"ontent" not in tag and b"ONTENT" not in tag:
        return
    attributes = {name.lower(): double or single or bare for name, double, single, bare in _ATTRIBUTE.findall(tag)}
    name = attributes.get(b"property") or attributes.get(b"name") or attributes.get(b"itemprop") or b""
    content = attributes.get(b"content", b"").strip()
    if name and content:
        metas.setdefault(name.decode("utf-8", "replace").lower().strip(), content)
