"""From the bytes of a page to its text: charset, refusal of hostile markup, main content, tidy lines, what it says of itself.

The block classifier (`blocks.py`) reads the bytes themselves, in time linear in them, whatever they are. The other two
extractors are parsers that a page can hold for ever: for them a linear pre-scan refuses nesting and attributes that no page
has, and what could still cost much, by the same scan, is parsed in a helper process with a deadline (`deadline.py`).
"""

import codecs
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import PositiveFloat, PositiveInt
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from bloomery.core.config import Config
from bloomery.core.errors import ConfigError
from bloomery.curate.blocks import NO_WORDS, SHIPPED_MODEL, block_model, cut_page, find_content, render_blocks
from bloomery.curate.deadline import Helper, HelperDied, OutOfTime, helper_for
from bloomery.curate.html_kernels import measure_html
from bloomery.curate.html_tags import shape_tags
from bloomery.curate.metadata import read_metadata
from bloomery.curate.normalize import NormalizeConfig, normalize_text
from bloomery.curate.warc import Capture

HTML_TYPES = ("text/html", "application/xhtml+xml", "application/xhtml")
UNTOLD_TYPES = ("", "application/octet-stream", "unknown/unknown", "no-type")

TINY_MAIN_CHARACTERS = 250
TINY_MAIN_FRACTION = 0.1

MAX_EFFORT = 1_500_000
"""Steps of the pre-scan's estimate above which a page is parsed in the helper process; an ordinary page has 100,000."""

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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


def prepare_extractor(config: ExtractConfig, *, model: Path = SHIPPED_MODEL) -> None:
    """Loads what `extract_page` needs, and waits for its helper process, so that no page is charged with that.

    Raises ConfigError or DataError if a package is missing or the model is none.
    """
    if config.extractor == "blocks":
        block_model(model)
        return
    if config.extractor == "trafilatura":
        load_trafilatura()
    _parser(config).start()


def extract_page(capture: Capture, config: ExtractConfig, *, model: Path = SHIPPED_MODEL) -> Extracted | Refused:
    """The main text of a capture, or why it has none. `model` is the block classifier's file or folder."""
    if capture.is_text:
        return _finish(Extracted(decode_bytes(capture.body, charset="utf-8").text, "", "utf-8"), config)
    if not capture.body:
        return Refused("empty_body")
    if not _is_page(capture):
        return Refused("not_html", detail=capture.media_type)
    if len(capture.body) > config.max_html_bytes:
        return Refused("html_too_large", len(capture.body), config.max_html_bytes)
    page = encode_bytes(capture.body, charset=capture.charset)
    if capture.media_type == "text/plain":
        return _finish(Extracted(page.utf8.decode("utf-8"), "", page.encoding), config)
    trained = block_model(model) if config.extractor == "blocks" else None
    cut = cut_page(page.utf8, trained.words if trained else NO_WORDS, max_nesting=config.max_nesting)
    if cut.nesting > config.max_nesting:
        return Refused("nested_too_deeply", float(cut.nesting), config.max_nesting)
    text = render_blocks(cut, find_content(cut, trained), format=config.format) if trained else parse_page(page.utf8, config)
    if isinstance(text, Refused):
        return text
    facts = read_metadata(cut.facts, encoded=page.utf8, url=capture.url)
    return _finish(Extracted(text, facts.title, page.encoding, facts.author, facts.published), config)


def extract_blocks(encoded: bytes, *, format: Literal["text", "markdown"] = "text", model: Path = SHIPPED_MODEL) -> str:
    """The content of a page in UTF-8 by the block classifier, before it is normalised."""
    trained = block_model(model)
    page = cut_page(encoded, trained.words)
    return render_blocks(page, find_content(page, trained), format=format)


def parse_page(encoded: bytes, config: ExtractConfig) -> str | Refused:
    """The content of a page in UTF-8 by an extractor with a parser, in the helper process if it could take long."""
    shape = measure_markup(encoded)
    refused = refuse_hostile_markup(shape, config)
    if refused is not None:
        return refused
    html = encoded.decode("utf-8")
    if shape.effort <= MAX_EFFORT and config.extractor == "resiliparse":
        return extract_markup(html, config.extractor, config.format)
    return run_within(config.max_seconds, _parser(config), html, config.extractor, config.format)


def extract_markup(html: str, extractor: str, format: Literal["text", "markdown"]) -> str:
    """The text of a page's content by Resiliparse or trafilatura, before it is normalised."""
    if extractor == "trafilatura":
        return str(load_trafilatura()(html, format=format))
    return extract_plain(HTMLTree.parse(html))


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


def run_within(seconds: float, helper: Helper, *arguments: object) -> str | Refused:
    """The helper's answer, or that it took longer than `seconds`."""
    try:
        return str(helper.call(*arguments, seconds=seconds))
    except OutOfTime:
        return Refused("deadline", None, seconds, f"not extracted within {seconds:g} s")
    except HelperDied:
        return Refused("parser_died", detail="the parser's process ended, out of memory or by a fault of its own")


def _parser(config: ExtractConfig) -> Helper:
    return helper_for(extract_markup, "<p>rehearsal</p>", config.extractor, config.format)


class Shape(NamedTuple):
    """What the pre-scan found: deepest nesting of open elements, most attributes of one tag, an estimate of parsing steps."""

    nesting: int
    attributes: int
    effort: int


def measure_markup(html: str | bytes) -> Shape:
    """The shape of a page (its text or that in UTF-8), in one pass over its bytes before anything parses it."""
    encoded = html.encode("utf-8", "replace") if isinstance(html, str) else html
    return Shape(*measure_html(np.frombuffer(encoded, np.uint8), *shape_tags()))


def refuse_hostile_markup(shape: Shape, config: ExtractConfig) -> Refused | None:
    """Whether a page is nested or attributed beyond all reason, to exhaust a parser."""
    if shape.nesting > config.max_nesting:
        return Refused("nested_too_deeply", float(shape.nesting), config.max_nesting)
    if shape.attributes > config.max_attributes:
        return Refused("too_many_attributes", float(shape.attributes), config.max_attributes)
    return None


class Encoded(NamedTuple):
    """A page's UTF-8, and the name of the encoding it was in."""

    utf8: bytes
    encoding: str


def encode_bytes(body: bytes, *, charset: str | None) -> Encoded:
    """The UTF-8 of a page's bytes, decoded as `decode_bytes` does."""
    if not body.isascii() and not body.startswith(_MARKS) and _is_utf8(body):
        return Encoded(body, "utf-8")
    decoded = decode_bytes(body, charset=charset)
    return Encoded(decoded.text.encode("utf-8", "replace"), decoded.encoding)


class Decoded(NamedTuple):
    """Text, and the name of the encoding it was in."""

    text: str
    encoding: str


def decode_bytes(body: bytes, *, charset: str | None) -> Decoded:
    """The text of a page's bytes: byte order mark, then HTTP's charset, then the page's own, then detection.

    A declaration under which the bytes do not decode is passed over; and bytes that are valid UTF-8 with other than
    ASCII in them are UTF-8, whatever single-byte encoding is declared: no other encoding looks like that by chance.
    """
    for mark, name in zip(_MARKS, ("utf-8", "utf-16-le", "utf-16-be"), strict=True):
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


def _is_utf8(body: bytes) -> bool:
    # Arrow looks at them four times as fast as Python decodes them.
    try:
        pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(body)], np.int32)), pa.py_buffer(body)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


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
