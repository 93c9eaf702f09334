"""Text made plain: one form of every character, nothing invisible, ordinary spaces and line ends; mojibake repaired.

By default only what a reader cannot see is changed, or what was certainly broken on the way. What loses something (case,
curly quotes, compatibility forms) is off until it is asked for. Applying it twice changes nothing more.
"""

import functools
import html
import re
import unicodedata
from typing import Any, Literal  # Any: what re2 makes of a pattern has no type

import ftfy
import re2

from bloomery.core.config import Config


class NormalizeConfig(Config):
    """What is done to every text. Unseen characters, line ends and spaces are always put in order."""

    form: Literal["NFC", "NFKC"] = "NFC"
    """NFKC also makes one of a letter and its styled, circled or full-width forms."""
    mojibake: Literal["repair", "keep"] = "repair"
    """repair: lines of UTF-8 that were read in another encoding (Ã©) are read again, where that is certain (ftfy)."""
    entities: Literal["keep", "unescape"] = "keep"
    """unescape: &amp;amp; and the like that were left in the text."""
    quotes: Literal["keep", "straight"] = "keep"
    dashes: Literal["keep", "hyphen"] = "keep"
    case: Literal["keep", "lower"] = "keep"
    homoglyphs: Literal["keep", "latin"] = "keep"
    """latin: Cyrillic and Greek letters that look Latin become so inside words that have Latin letters too."""


DEFAULT = NormalizeConfig()

_ASCII_CONTROLS = bytes(code for code in range(32) if code not in (9, 10, 13)) + b"\x7f"

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
_LINE_ENDS = "\x85\u2028\u2029"
_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f"
_UNSEEN = f"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb{_BIDI}"
_TAGS = "\U000e0000-\U000e007f"
_SURROGATES = "\ud800-\udfff"
_UNSEEN_RUN = re.compile(f"[{_UNSEEN}]+")
_SPECIAL = re.compile(f"[{_LINE_ENDS}]|[{_SPACES}]|[{_SURROGATES}]|[{_TAGS}]+")
_JOINERS = "\u200c\u200d"
# Persian and the scripts of India spell with joiners; emoji are built with them. Between other letters they only hide.
_SPELT_WITH_JOINERS = "\u0600-\u109f\u1780-\u18af\ua840-\uabff\ufb50-\ufefc"
_PICTURES = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_IDLE_JOINER = re.compile(f"(?<![{_SPELT_WITH_JOINERS}])(?:\u200c|\u200d(?![{_PICTURES}])|(?<![{_PICTURES}])\u200d)")

_LAYOUT_CELLS = re.compile(r"^[ \t]*\t\t[ \t]*", re.M)
_MANY_BREAKS = re.compile(r"\n{3,}")
_MIXED_WORD = re.compile(r"[A-Za-z\u0370-\u04ff]+")

_MOJIBAKE = (
    "[\xc2-\xf4\u0413\u0420\u0421\u0432][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
"""The first byte of a character of UTF-8, read as Latin-1, Windows-1252 (or 1251), before a byte that continues it."""

_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛′", "'") | dict.fromkeys("“”„‟″", '"'))
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹣－", "-"))
_HOMOGLYPHS = str.maketrans("АВЕКМНОРСТУХІЈЅаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXIJSaeopcyxijsABEZHIKMNOPTYXo")
_MAX_UNESCAPES = 8
_MAX_REPAIRS = 4


def normalize_text(text: str, config: NormalizeConfig = DEFAULT) -> str:
    """The text, normalised.

    >>> normalize_text("a\\xa0b\\u200b  \\r\\n\\n\\n\\ncafÃ©")
    'a b\\n\\ncafé'
    """
    if config.entities == "unescape" and "&" in text:
        text = _unescape(text)
    if text.isascii():
        return _tidy(_fold(_drop_ascii_controls(text), config))
    if config.form == "NFKC":
        text = unicodedata.normalize("NFKC", text)
    special, mojibake = _searchers()
    for _ in range(_MAX_REPAIRS):
        data = _encode(text)
        if config.mojibake == "repair" and mojibake.search(data) is not None:
            text = _repair_mojibake(text)
            data = _encode(text)
        if special.search(data) is None:
            break
        text = text.replace("\xa0", " ")
        if special.search(_encode(text)) is not None:  # of most texts that was all
            # Unseen characters first and without a function called for each: a page can be made of them.
            text = _IDLE_JOINER.sub("", _UNSEEN_RUN.sub("", text))
            text = _SPECIAL.sub(_replacement, text)
        # And once more: what was parted may be mojibake now.
    return _tidy(unicodedata.normalize(config.form, _fold(text, config)))


def _tidy(text: str) -> str:
    # Line ends, the tabs that layout tables leave, space at line ends, more than one empty line.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\t\t" in text:
        text = _LAYOUT_CELLS.sub("", text)
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])  # no pattern: those take squared time over long spaces
    if "\n\n\n" in text:
        text = _MANY_BREAKS.sub("\n\n", text)
    return text.strip("\n")


def _drop_ascii_controls(text: str) -> str:
    data = text.encode("ascii")
    plain = data.translate(None, _ASCII_CONTROLS)
    return text if len(plain) == len(data) else plain.decode("ascii")


def _replacement(match: re.Match[str]) -> str:
    found = match.group()
    if found in _LINE_ENDS:
        return "\n"
    if "\ud800" <= found <= "\udfff":
        return "\ufffd"
    if "\U000e0000" <= found[0] <= "\U000e007f":  # tags: the flags of England, Scotland and Wales; elsewhere hidden text
        return found if match.string[match.start() - 1 : match.start()] == "\U0001f3f4" and found[-1] == "\U000e007f" else ""
    return " "


def _repair_mojibake(text: str) -> str:
    lines = text.split("\n")
    return "\n".join([ftfy.fix_encoding(line) if not line.isascii() and _has_mojibake(line) else line for line in lines])


def _fold(text: str, config: NormalizeConfig) -> str:
    if config.quotes == "straight":
        text = text.translate(_QUOTES)
    if config.dashes == "hyphen":
        text = text.translate(_DASHES)
    if config.homoglyphs == "latin" and not text.isascii():
        text = _MIXED_WORD.sub(lambda m: m[0].translate(_HOMOGLYPHS) if not m[0].isascii() and _has_latin(m[0]) else m[0], text)
    return text.lower() if config.case == "lower" else text


def _has_latin(word: str) -> bool:
    return any(map(str.isascii, word))


def _unescape(text: str) -> str:
    for _ in range(_MAX_UNESCAPES):
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def _encode(text: str) -> bytes:
    # A lone surrogate becomes one of the characters that _SPECIAL looks for.
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace") + b"\x00"


def _has_mojibake(text: str) -> bool:
    return _searchers()[1].search(text.encode("utf-8", "replace")) is not None


@functools.cache
def _searchers() -> tuple[Any, Any]:
    special = f"[{_UNSEEN}{_LINE_ENDS}{_SPACES}{_JOINERS}{_TAGS}]"
    return re2.compile(special.encode()), re2.compile(_MOJIBAKE.encode())
