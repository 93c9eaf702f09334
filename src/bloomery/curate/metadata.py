"""A page's title, author and day of publication, from its head, its JSON-LD, its <time> and its address.

Only bounded pieces of the page are searched (`page_facts.py`), with patterns that cannot backtrack far, and a bounded
number of bylines, so the time is linear in the page and small. Each fact has one order of trust; what does not look like
a title, a person's name or a date is passed over.
"""

import html as markup
import re
from datetime import date
from typing import NamedTuple

import numpy as np

from bloomery.curate.html_kernels import find_bylines
from bloomery.curate.page_facts import PageFacts

MAX_BYLINE_BYTES, MAX_BYLINE_TAG, MAX_BYLINE_TEXT, MAX_BYLINES = 300_000, 1200, 400, 40
"""Bytes of a page that bylines are looked for in, and of the tag and the text of one; how many tags are tried."""
EARLIEST_YEAR, LATEST_YEAR = 1993, 2099

_TAG = re.compile(r"<[^<>]{0,3000}>")
_JSON_DATE = re.compile(r'"(datePublished|dateCreated|uploadDate)"\s{0,5}:\s{0,5}"([^"]{4,60})"')
_JSON_AUTHOR = re.compile(r'"author"\s{0,9}:\s{0,9}(.{1,1500})', re.S)
_JSON_NAME = re.compile(r'"name"\s{0,9}:\s{0,9}\[?\s{0,9}"((?:[^"\\]|\\.){1,200})"')
_BYLINE_REL = re.compile(rb"""rel\s?=\s?["']author["']""", re.I)
_BYLINE_CLASS = re.compile(rb"""class\s?=\s?["']([^"'<>]{0,400})""", re.I)
_BYLINE_WORD = re.compile(rb"\b(?:author-name|author__name|byline-name|byline__name|post-author|entry-author|byline|author)\b", re.I)
_BYLINE_END = re.compile(rb"</(?:a|span|div|p|address)>", re.I)
_DAY = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_COMPACT_DAY = re.compile(r"(?<!\d)(\d{4})(\d{2})(\d{2})(?:T|$)")
_WORD_DAY = re.compile(r"(?:(\d{1,2})(?:st|nd|rd|th)?\.?\s{1,3})?([A-Za-z]{3,9})\.?\s{1,3}(?:(\d{1,2})(?:st|nd|rd|th)?,?\s{1,3})?(\d{4})")
_URL_DAY = re.compile(r"/(\d{4})[/-](\d{1,2})[/-](\d{1,2})(?=[/\-_.]|$)")
_BY = re.compile(r"^(?:written\s+|posted\s+|published\s+)?(?:by|von|par|por|di)\b[\s:]*", re.I)

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
TITLE_NAMES = ("og:title", "twitter:title", "dc.title", "citation_title", "headline")
AUTHOR_NAMES = ("author", "article:author", "dc.creator", "citation_author", "parsely-author", "sailthru.author", "byl")
FIRST_DATE_NAMES = ("article:published_time", "og:article:published_time", "datepublished")
LATER_DATE_NAMES = (
    "citation_publication_date", "parsely-pub-date",
    "publishdate", "pubdate", "publish-date", "date", "dc.date", "dc.date.issued", "dcterms.created", "sailthru.date",
    "article.published", "cxenseparse:recs:publishtime", "og:published_time", "release_date", "datecreated",
)  # fmt: skip
WANTED_NAMES = frozenset((*TITLE_NAMES, *AUTHOR_NAMES, *FIRST_DATE_NAMES, *LATER_DATE_NAMES))


class Metadata(NamedTuple):
    """What a page says of itself; "" where it says nothing. `published` is YYYY-MM-DD."""

    title: str
    author: str
    published: str


def read_metadata(facts: PageFacts, *, encoded: bytes, url: str) -> Metadata:
    """The metadata of a page from its pieces, its UTF-8 and its address."""
    stated = {name: text for name in WANTED_NAMES if name in facts.metas and (text := _plain(_text(facts.metas[name])))}
    scripts = [_text(script) for script in facts.scripts]
    return Metadata(_find_title(facts, stated), _find_author(encoded, stated, scripts), _find_date(facts, stated, scripts, url))


def parse_day(text: str) -> str:
    """The first day that a text names, as YYYY-MM-DD; "" if there is none that can be.

    >>> parse_day("Published on March 5th, 2021"), parse_day("2021-03-05T10:00:00Z"), parse_day("soon")
    ('2021-03-05', '2021-03-05', '')
    """
    if not text:
        return ""
    for pattern in (_DAY, _COMPACT_DAY):
        found = pattern.search(text)
        if found and (day := _make_day(found[1], found[2], found[3])):
            return day
    for found in _WORD_DAY.finditer(text[:300]):
        month = found[2][:3].lower()
        day_number = found[1] or found[3]
        if month in MONTHS and day_number and (day := _make_day(found[4], str(MONTHS.index(month) + 1), day_number)):
            return day
    return ""


def _find_title(facts: PageFacts, stated: dict[str, str]) -> str:
    declared = next((stated[name] for name in TITLE_NAMES if name in stated), "")
    title = _plain(_text(facts.title))
    heading = _plain(_TAG.sub(" ", _text(facts.heading)))
    # What stands in the page's own heading and begins its title is the title without the site's name.
    for candidate in (declared, title):
        if heading and len(heading) >= 8 and heading.lower() in candidate.lower():
            return heading
    return declared or title or heading


def _find_author(encoded: bytes, stated: dict[str, str], scripts: list[str]) -> str:
    candidates = [stated[name] for name in AUTHOR_NAMES if name in stated]
    for script in scripts:
        for found in _JSON_AUTHOR.finditer(script):
            if found[1].startswith('"'):
                candidates.append(_plain(found[1][1:].split('"')[0]))
            elif name := _JSON_NAME.search(found[1][: found[1].find("}") + 1 or 400]):
                candidates.append(_unescape_json(name[1]))
    if author := next((name for name in candidates if _is_name(name)), ""):
        return author
    signed = _BY.sub("", _find_byline(encoded))
    return signed if _is_name(signed) and len(signed.split()) <= 6 else ""


def _find_byline(encoded: bytes) -> str:
    """The text of the first element that says by its rel or class that it names an author."""
    for start in find_bylines(np.frombuffer(encoded, np.uint8, min(len(encoded), MAX_BYLINE_BYTES)), MAX_BYLINES):
        behind = encoded.find(b">", start, start + MAX_BYLINE_TAG)
        tag = encoded[start:behind]
        classes = _BYLINE_CLASS.search(tag)
        if behind < 0 or not (_BYLINE_REL.search(tag) or (classes and _BYLINE_WORD.search(classes[1]))):
            continue
        end = _BYLINE_END.search(encoded, behind + 2, behind + 2 + MAX_BYLINE_TEXT + 10)
        if end:
            return _plain(_TAG.sub(" ", _text(encoded[behind + 1 : end.start()])))
    return ""


def _find_date(facts: PageFacts, stated: dict[str, str], scripts: list[str], url: str) -> str:
    for name in FIRST_DATE_NAMES:
        if day := parse_day(stated.get(name, "")):
            return day
    for script in scripts:
        for found in _JSON_DATE.finditer(script):
            if day := parse_day(found[2]):
                return day
    for name in LATER_DATE_NAMES:
        if day := parse_day(stated.get(name, "")):
            return day
    in_url = _URL_DAY.search(url)
    if in_url and (day := _make_day(in_url[1], in_url[2], in_url[3])):
        return day
    for attributes in facts.times:
        if day := parse_day(_text(attributes)):
            return day
    return ""


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "ignore")


def _make_day(year: str, month: str, day: str) -> str:
    try:
        made = date(int(year), int(month), int(day))
    except ValueError:
        return ""
    return made.isoformat() if EARLIEST_YEAR <= made.year <= LATEST_YEAR else ""


def _plain(text: str) -> str:
    return " ".join(markup.unescape(text).split())


def _unescape_json(text: str) -> str:
    return _plain(re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text).replace('\\"', '"').replace("\\/", "/"))


def _is_name(text: str) -> bool:
    return 2 <= len(text) <= 100 and "://" not in text and "{" not in text and any(c.isalpha() for c in text) and not text.startswith("@")
