"""A page's title, author and day of publication, from its head, its JSON-LD, its <time> and its address.

Only bounded stretches of the page are searched, with patterns that cannot backtrack far, so the time is linear in the
page and small against its parsing. Each fact has one order of trust; what does not look like a title, a person's name
or a date is passed over.
"""

import html as markup
import re
from datetime import date
from typing import NamedTuple

import numpy as np

from bloomery.curate.html_kernels import find_bylines

MAX_HEAD = 300_000
MAX_BYLINE = 150_000
BYLINE_BYTES = 8000
"""More than a byline can have by its pattern."""
MAX_JSON = 120_000
MAX_SCRIPTS = 12
EARLIEST_YEAR, LATEST_YEAR = 1993, 2099

_META = re.compile(r"<meta\b([^<>]{1,3000})>", re.I)
_ATTRIBUTE = re.compile(r"""([a-zA-Z:_-]{1,40})\s{0,5}=\s{0,5}(?:"([^"]{0,2000})"|'([^']{0,2000})'|([^\s"'>]{1,500}))""")
_TITLE = re.compile(r"<title\b[^<>]{0,200}>([^<]{1,2000})", re.I)
_TAG = re.compile(r"<[^<>]{0,3000}>")
_JSON_DATE = re.compile(r'"(datePublished|dateCreated|uploadDate)"\s{0,5}:\s{0,5}"([^"]{4,60})"')
_JSON_AUTHOR = re.compile(r'"author"\s{0,9}:\s{0,9}(.{1,1500})', re.S)
_JSON_NAME = re.compile(r'"name"\s{0,9}:\s{0,9}\[?\s{0,9}"((?:[^"\\]|\\.){1,200})"')
_TIME = re.compile(r"<time\b([^<>]{1,1000})>", re.I)
_BYLINE = re.compile(
    r"""<(?:a|span|div|p|address)\b[^<>]{0,500}(?:rel\s?=\s?["']author["']|class\s?=\s?["'][^"'<>]{0,200}\b(?:author-name|author__name|byline-name|byline__name|post-author|entry-author|byline|author)\b[^"'<>]{0,200}["'])[^<>]{0,500}>(.{1,400}?)</(?:a|span|div|p|address)>""",
    re.I | re.S,
)
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


def read_metadata(html: str, *, url: str, encoded: bytes | None = None) -> Metadata:
    """The metadata of a page; `encoded` is its UTF-8, if one has it.

    >>> read_metadata('<meta property="og:title" content="Iron"><meta name="author" content="A. Smith">', url="http://a.example/2024/03/01/iron")
    Metadata(title='Iron', author='A. Smith', published='2024-03-01')
    """
    encoded = html.encode("utf-8", "replace") if encoded is None else encoded
    head = html[:MAX_HEAD]
    end = head.find("</head")
    facts = _read_meta(head[: end if end > 0 else MAX_HEAD])
    scripts = _json_scripts(html) if b"application/ld+json" in encoded else []
    title = _find_title(head, facts)
    return Metadata(title, _find_author(encoded, facts, scripts), _find_date(head, facts, scripts, url))


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


def _read_meta(head: str) -> dict[str, str]:
    facts: dict[str, str] = {}
    for tag in _META.finditer(head):
        attributes = {m[1].lower(): m[2] or m[3] or m[4] or "" for m in _ATTRIBUTE.finditer(tag[1])}
        name = (attributes.get("property") or attributes.get("name") or attributes.get("itemprop") or "").lower().strip()
        if name in WANTED_NAMES and attributes.get("content", "").strip():
            facts.setdefault(name, _plain(attributes["content"]))
    return facts


def _json_scripts(html: str) -> list[str]:
    scripts: list[str] = []
    at = html.find("application/ld+json")
    while at >= 0 and len(scripts) < MAX_SCRIPTS:
        start = html.find(">", at, at + 500)
        end = html.find("</script", start, start + MAX_JSON) if start >= 0 else -1
        if end >= 0:
            scripts.append(html[start + 1 : end])
        at = html.find("application/ld+json", max(end, at + 1))
    return scripts


def _find_title(head: str, facts: dict[str, str]) -> str:
    declared = next((facts[name] for name in TITLE_NAMES if facts.get(name)), "")
    tag = _TITLE.search(head)
    title = _plain(tag[1]) if tag else ""
    start = head.find("<h1")
    end = head.find("</h1", start, start + 4000) if start >= 0 else -1
    heading = _plain(_TAG.sub(" ", head[start:end])) if end >= 0 else ""
    # What stands in the page's own heading and begins its title is the title without the site's name.
    for candidate in (declared, title):
        if heading and len(heading) >= 8 and heading.lower() in candidate.lower():
            return heading
    return declared or title or heading


def _find_author(encoded: bytes, facts: dict[str, str], scripts: list[str]) -> str:
    candidates = [facts[name] for name in AUTHOR_NAMES if name in facts]
    for script in scripts:
        for found in _JSON_AUTHOR.finditer(script):
            if found[1].startswith('"'):
                candidates.append(_plain(found[1][1:].split('"')[0]))
            elif name := _JSON_NAME.search(found[1][: found[1].find("}") + 1 or 400]):
                candidates.append(_unescape_json(name[1]))
    if author := next((name for name in candidates if _is_name(name)), ""):
        return author
    byline = _find_byline(encoded)
    signed = _BY.sub("", _plain(_TAG.sub(" ", byline[1]))) if byline else ""
    return signed if _is_name(signed) and len(signed.split()) <= 6 else ""


def _find_byline(encoded: bytes) -> re.Match[str] | None:
    # As _BYLINE.search over the first MAX_BYLINE characters, which is tried only at tags with one of the words that it needs.
    for start in find_bylines(np.frombuffer(encoded, np.uint8, min(len(encoded), 4 * MAX_BYLINE))):
        place = start if start + BYLINE_BYTES <= MAX_BYLINE else len(encoded[:start].decode("utf-8"))
        tag = encoded[start : start + BYLINE_BYTES].decode("utf-8", "ignore")
        if found := _BYLINE.match(tag, 0, max(MAX_BYLINE - place, 0)):
            return found
    return None


def _find_date(head: str, facts: dict[str, str], scripts: list[str], url: str) -> str:
    for name in FIRST_DATE_NAMES:
        if day := parse_day(facts.get(name, "")):
            return day
    for script in scripts:
        for found in _JSON_DATE.finditer(script):
            if day := parse_day(found[2]):
                return day
    for name in LATER_DATE_NAMES:
        if day := parse_day(facts.get(name, "")):
            return day
    in_url = _URL_DAY.search(url)
    if in_url and (day := _make_day(in_url[1], in_url[2], in_url[3])):
        return day
    for found in _TIME.finditer(head):
        if day := parse_day(found[1]):
            return day
    return ""


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
