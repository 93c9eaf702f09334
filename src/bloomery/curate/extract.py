"""From the bytes of a page to its text: charset, refusal of hostile markup, main content, tidy lines, what it says of itself.

Resiliparse parses; the block classifier (`blocks.py`) says which blocks are content. A page passes three gates: a linear
pre-scan refuses nesting, attributes and sizes that no page has; a page that could still cost a parser much, by the same
scan, is parsed in a helper process with a deadline (`deadline.py`); all others in this process.
"""

import codecs
import functools
import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from bloomery.core.config import Config
from bloomery.core.errors import ConfigError
from bloomery.curate.blocks import SHIPPED_MODEL, block_model, cut_page, find_content, render_blocks
from bloomery.curate.deadline import HelperDied, OutOfTime, helper_for
from bloomery.curate.html_kernels import RAW_TEXT_TAGS, VOID_TAGS, measure_html, pack_tags
from bloomery.curate.metadata import read_metadata
from bloomery.curate.normalize import NormalizeConfig, normalize_text
from bloomery.curate.warc import Capture

HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xhtml")
UNTOLD_TYPES = ("", "application/octet-stream", "unknown/unknown", "no-type")

TINY_MAIN_CHARACTERS = 250
TINY_MAIN_FRACTION = 0.1

MAX_EFFORT = 1_500_000
"""Steps of the pre-scan's estimate above which a page is parsed in the helper process; an ordinary page has 100,000."""

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)|<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)", re.I
)


class ExtractConfig(Config):
    """What is taken of a page, how it is written, and limits on what is read; they refuse only what no ordinary page comes near."""

    extractor: Literal["blocks", "resiliparse", "trafilatura"] = "blocks"
    """blocks: the block classifier. resiliparse: its main content, or the whole text where that is tiny; a little faster,
    several points of F1 less. trafilatura: an optional package, an order of magnitude slower."""
    format: Literal["text", "markdown"] = "text"
    """markdown: headings, quotations and code blocks are marked; links and emphasis are dropped."""
    title: Literal["meta", "heading"] = "meta"
    """heading: the title is also the first line of the text, unless the text begins with it."""
    normalize: NormalizeConfig = NormalizeConfig()
    max_record_bytes: PositiveInt = 64 << 20
    """A record of an archive larger than this is passed over unread."""
    max_html_bytes: PositiveInt = 8 << 20
    max_nesting: PositiveInt = 1000
    """Open elements inside one another."""
    max_attributes: PositiveInt = 1000
    """Attributes of one tag."""
    max_seconds: PositiveFloat = 2.0
    """A page that takes longer to extract is dropped as `deadline`: the last resort, as it depends on the machine."""
    min_characters: PositiveInt = 1
    """A page with less text than this is dropped as `no_text`."""


class Extracted(NamedTuple):
    """The text of a page, the encoding that it was in, and what it says of itself ("" where it says nothing)."""

    text: str
    title: str
    encoding: str
    author: str = ""
    published: str = ""
    """YYYY-MM-DD."""


class Refused(NamedTuple):
    """Why a page gives no document: the rule, and the value that broke the threshold."""

    rule: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


def extract_page(capture: Capture, config: ExtractConfig, *, model: Path = SHIPPED_MODEL) -> Extracted | Refused:
    """The main text of a capture, or why it has none. `model` is the block classifier's file or folder."""
    started = time.monotonic()
    if capture.is_text:
        return _finish(Extracted(decode_bytes(capture.body, charset="utf-8").text, "", "utf-8"), config)
    if not capture.body:
        return Refused("empty_body")
    if not _is_page(capture):
        return Refused("not_html", detail=capture.media_type)
    if len(capture.body) > config.max_html_bytes:
        return Refused("html_too_large", len(capture.body), config.max_html_bytes)
    decoded = decode_bytes(capture.body, charset=capture.charset)
    if capture.media_type == "text/plain":
        return _finish(Extracted(decoded.text, "", decoded.encoding), config)
    encoded = decoded.text.encode("utf-8", "replace")
    shape = measure_markup(encoded)
    refused = refuse_hostile_markup(shape, config)
    if refused is not None:
        return refused
    arguments = (decoded.text, config.extractor, config.format, model)
    if shape.effort <= MAX_EFFORT and config.extractor != "trafilatura":
        text: str | Refused = extract_markup(*arguments)
    else:
        text = run_within(config.max_seconds, extract_markup, *arguments, started=started)
    if isinstance(text, Refused):
        return text
    facts = read_metadata(decoded.text, url=capture.url, encoded=encoded)
    return _finish(Extracted(text, facts.title, decoded.encoding, facts.author, facts.published), config)


def extract_markup(html: str, extractor: str, format: Literal["text", "markdown"], model: Path) -> str:
    """The text of a page's content, before it is normalised."""
    if extractor == "trafilatura":
        return str(load_trafilatura()(html, format=format))
    tree = HTMLTree.parse(html)
    return extract_plain(tree) if extractor == "resiliparse" else extract_blocks(str(tree), format=format, model=model)


def extract_blocks(html: str, *, format: Literal["text", "markdown"] = "text", model: Path = SHIPPED_MODEL) -> str:
    """The content of serialised HTML by the block classifier."""
    trained = block_model(model)
    page = cut_page(html, trained.words)
    return render_blocks(page, find_content(page, trained), format=format)


def extract_plain(tree: HTMLTree) -> str:
    """Resiliparse's main content; all of the text where the main content is tiny against it."""
    main = extract_plain_text(tree, main_content=True, preserve_formatting=True, list_bullets=True, comments=False)
    if len(main) >= TINY_MAIN_CHARACTERS:
        return str(main)
    whole = extract_plain_text(tree, main_content=False, preserve_formatting=True, list_bullets=True)
    return str(whole if len(main) < TINY_MAIN_FRACTION * len(whole) else main)


def load_trafilatura() -> Callable[..., str]:
    """trafilatura's extractor. Raises ConfigError if the package is missing."""
    try:
        module = importlib.import_module("bloomery.curate.trafilatura_extractor")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "extractor = \"trafilatura\" needs a package that is not installed: pip install 'bloomery[trafilatura]', or "
            'choose extractor = "blocks"'
        ) from error
    extract: Callable[..., str] = module.extract_with_trafilatura
    return extract


def run_within(seconds: float, function: Callable[..., str], html: str, *arguments: object, started: float | None = None) -> str | Refused:
    """`function(html, *arguments)` in the helper process, or that it did not end `seconds` after `started` (monotonic; now)."""
    spent = 0.0 if started is None else time.monotonic() - started
    helper = helper_for(function, "<p>rehearsal</p>", *arguments)
    try:
        return str(helper.call(html, *arguments, seconds=seconds - spent))
    except OutOfTime:
        return Refused("deadline", None, seconds, f"not extracted within {seconds:g} s")
    except HelperDied:
        return Refused("parser_died", detail="the parser's process ended, out of memory or by a fault of its own")


class Shape(NamedTuple):
    """What the pre-scan found: deepest nesting of open elements, most attributes of one tag, an estimate of parsing steps."""

    nesting: int
    attributes: int
    effort: int


def measure_markup(html: str | bytes) -> Shape:
    """The shape of a page (its text or that in UTF-8), in one pass over its bytes before anything parses it."""
    encoded = html.encode("utf-8", "replace") if isinstance(html, str) else html
    return Shape(*measure_html(np.frombuffer(encoded, np.uint8), *_packed_tags()))


def refuse_hostile_markup(shape: Shape, config: ExtractConfig) -> Refused | None:
    """Whether a page is nested or attributed beyond all reason, to exhaust a parser."""
    if shape.nesting > config.max_nesting:
        return Refused("nested_too_deeply", float(shape.nesting), config.max_nesting)
    if shape.attributes > config.max_attributes:
        return Refused("too_many_attributes", float(shape.attributes), config.max_attributes)
    return None


class Decoded(NamedTuple):
    """Text, and the name of the encoding it was in."""

    text: str
    encoding: str


def decode_bytes(body: bytes, *, charset: str | None) -> Decoded:
    """The text of a page's bytes: byte order mark, then HTTP's charset, then the page's own, then detection.

    A declaration under which the bytes do not decode is passed over; and bytes that are valid UTF-8 with other than
    ASCII in them are UTF-8, whatever single-byte encoding is declared: no other encoding looks like that by chance.
    """
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if body.startswith(mark):
            return Decoded(body[len(mark) :].decode(name, "replace"), name)
    utf8 = _decode_strictly(body, "utf-8")
    if utf8 is not None and not body.isascii():
        return Decoded(utf8, "utf-8")
    meta = _META_CHARSET.search(body, 0, 4096)
    declared = [charset or "", (meta[1] or meta[2]).decode("ascii") if meta else ""]
    for name in filter(None, declared):
        standard = map_encoding_to_html5(name, fallback_utf8=False)
        text = _decode_strictly(body, standard) if standard and not standard.startswith("utf-16") else None
        if standard and text is not None:
            return Decoded(text, standard)
    if utf8 is not None:
        return Decoded(utf8, "utf-8")
    guess = detect_encoding(body) or "utf-8"
    return Decoded(_decode_leniently(body, guess), guess)


@functools.cache
def _packed_tags() -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], ...]:
    return pack_tags(VOID_TAGS), pack_tags(RAW_TEXT_TAGS)


def _finish(extracted: Extracted, config: ExtractConfig) -> Extracted | Refused:
    text = normalize_text(extracted.text, config.normalize)
    title = " ".join(normalize_text(extracted.title, config.normalize).split())
    if config.title == "heading" and title and text and not text.lstrip("# ").startswith(title):
        text = f"# {title}\n\n{text}" if config.format == "markdown" else f"{title}\n\n{text}"
    if len(text) < config.min_characters:
        return Refused("no_text", len(text), config.min_characters)
    return extracted._replace(text=text, title=title)


def _is_page(capture: Capture) -> bool:
    if capture.media_type in HTML_TYPES:
        return True
    if capture.media_type == "text/plain":
        return capture.url.startswith(("http://", "https://"))  # wget keeps its logs as resource records
    start = capture.body[:1024].lower()
    return capture.media_type in UNTOLD_TYPES and (b"<html" in start or b"<!doctype html" in start)


def _decode_strictly(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _decode_leniently(body: bytes, encoding: str) -> str:
    try:
        return body.decode(encoding, "replace")
    except LookupError:  # an encoding of the HTML standard that Python does not have
        return body.decode("utf-8", "replace")
