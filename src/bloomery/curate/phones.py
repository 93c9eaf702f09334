"""Telephone numbers: candidates by shape (RE2), truth by the numbering plans of `phonenumbers`, doubts by what stands around.

A number in international form (+44 ...) must be valid. A national one must be valid in a country of the document's
language and written in that country's usual groups; or a word for "telephone" stands before it, and then its length
is enough. Ten digits in a row with neither are an order number, a Unix time, anything: they stay.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple  # Any: what re2 makes of a pattern has no type

import phonenumbers
import re2

REGIONS = {
    "ar": ("EG", "SA", "AE", "MA"), "bn": ("BD", "IN"), "cs": ("CZ",), "da": ("DK",), "de": ("DE", "AT", "CH"), "el": ("GR",),
    "en": ("US", "GB", "AU", "IN", "NZ", "IE", "ZA"), "es": ("ES", "MX", "AR", "CO", "CL", "PE"), "et": ("EE",), "fa": ("IR",),
    "fi": ("FI",), "fr": ("FR", "BE", "CH"), "he": ("IL",), "hi": ("IN",), "hu": ("HU",), "id": ("ID",), "it": ("IT", "CH"),
    "ja": ("JP",), "ko": ("KR",), "nl": ("NL", "BE"), "no": ("NO",), "nb": ("NO",), "pl": ("PL",), "pt": ("BR", "PT"), "ro": ("RO",),
    "ru": ("RU", "BY", "KZ"), "sk": ("SK",), "sv": ("SE", "FI"), "th": ("TH",), "tr": ("TR",), "uk": ("UA",), "vi": ("VN",),
    "zh": ("CN", "TW", "HK"),
}  # fmt: skip
"""Where a national number of a document in this language may belong; an unknown language has none."""

WORDS = (
    r"(?i:t[ée]l[ée]?(?:ph|f)[oó]n|\bphone|\btel\b|\btel[.:]|t[ée]l\.|\bfax\b|mobile|\bmobil\b|\bmóvil|celular|\bcell\b|\bhandy\b|hotline"
    r"|whats ?app|\bsms\b|\bcall (?:me|us|at|on|now)\b|\bdial\b|\bring (?:me|us)\b"
    r"|телефон|\bтел\b|факс|电话|電話|手机|传真|전화|โทร|هاتف|फ़?ोन)"
)
"""Words after which a row of digits is a telephone number."""

_NEARBY_BYTES = 36
_MIN_DIGITS, _MAX_DIGITS = 7, 15
_EXTENSION = r"(?i:[ ,]{0,2}(?:x|ext\.?|extension) ?\d{1,6})?"

SHAPES = {
    "international": r"(?:\+|\b00)[1-9]\d{0,3}(?:[ .\-/]{0,2}(?:\(0?\d{0,5}\)[ .\-/]?)?\d{1,9}){1,7}" + _EXTENSION,
    "north_american": r"(?:\b1[-. ])?(?:\([2-9]\d{2}\)[-. ]?|\b[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}" + _EXTENSION,
    "trunk_zero": r"(?:\(0\d{1,5}\)|\b0\d{1,5})(?:[ .\-/]{1,2}\d{2,8}){1,5}" + _EXTENSION,
    "no_trunk": r"\b[2-9]\d{1,3}(?:[ .-]\d{2,4}){2,4}",
    "named": r"\(?\+?\b\d(?:[ .\-()/]{0,2}\d){6,14}" + _EXTENSION,
}
"""How a number may be written; "named" counts only where one of WORDS stands before it."""

GATES = (SHAPES["international"], SHAPES["north_american"], SHAPES["trunk_zero"], SHAPES["no_trunk"], WORDS)
"""What a text must have for each of SHAPES to be looked for."""

_NO_TRUNK_REGIONS = ("ES", "PT", "PL", "DK", "NO", "GR", "CZ", "HK", "CL", "EE", "FR", "IT")
"""National numbers there begin with no 0 (or need none)."""


class Phone(NamedTuple):
    """Bytes start:end hold a telephone number; `label` says by which shape it was found."""

    label: str
    start: int
    end: int


def find_phones(data: bytes, gates: set[int], *, regions: Sequence[str]) -> Iterator[Phone]:
    """Every telephone number of a UTF-8 text; `gates` are the numbers of GATES that the text passed."""
    patterns = _patterns()
    for gate, label in enumerate(SHAPES):
        for match in patterns[label].finditer(data) if gate in gates else ():
            start, end = match.span()
            if _is_inside_other(data, start, end):
                continue
            named = patterns["words"].search(data, max(start - _NEARBY_BYTES, 0), start) is not None if WORDS_GATE in gates else False
            if named or label != "named":
                length = _accepted_length(data[start:end].decode(), label, regions, named=named)
                if length:
                    yield Phone(label, start, start + length)


def is_reserved(national: str) -> bool:
    """Whether a number is of those kept free for fiction in North America: 555-0100 to 555-0199.

    >>> is_reserved("2025550143"), is_reserved("2025551143")
    (True, False)
    """
    return len(national) == 10 and national[3:8] == "55501"


WORDS_GATE = len(GATES) - 1


def _accepted_length(written: str, label: str, regions: Sequence[str], *, named: bool) -> int:
    # The candidate may have swallowed the beginning of a next number: groups are taken off its end until it is one.
    groups = [(m.start(), m.end()) for m in _patterns()["digits"].finditer(written)]
    for count in range(len(groups), max(len(groups) - 4, 0), -1):
        part = written[: groups[count - 1][1]]
        digits = sum(end - start for start, end in groups[:count])
        if digits < _MIN_DIGITS:
            return 0
        if digits <= _MAX_DIGITS + 6 and _is_phone(part, label, regions, named=named):
            return len(part)
    return 0


def _is_phone(part: str, label: str, regions: Sequence[str], *, named: bool) -> bool:
    if label == "international":
        return any(map(_is_valid, _parse("+" + part[2:] if part.startswith("00") else part, ("ZZ",))))
    if named and label != "international":
        digits = "".join(filter(str.isdigit, part))
        if _MIN_DIGITS <= len(digits) <= _MAX_DIGITS + 6 and not _is_date(part) and not is_reserved(digits.removeprefix("1")[:10]):
            return True
    if label == "north_american":
        return any(map(_is_valid, _parse(part, ("US",))))
    if label == "no_trunk":
        regions = [region for region in regions if region in _NO_TRUNK_REGIONS]
    return any(_is_valid(number) and _is_grouped_as_usual(part, number) for number in _parse(part, regions))


def _parse(part: str, regions: Sequence[str]) -> Iterator[Any]:
    for region in regions:
        try:
            yield phonenumbers.parse(part, region)
        except phonenumbers.NumberParseException:
            continue


def _is_valid(number: Any) -> bool:
    return phonenumbers.is_valid_number(number) and not (number.country_code == 1 and is_reserved(str(number.national_number)))


def _is_grouped_as_usual(part: str, number: Any) -> bool:
    usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    digits = _patterns()["digits"]
    return bool(digits.findall(usual) == digits.findall(part))


def _is_date(part: str) -> bool:
    return _patterns()["date"].fullmatch(part) is not None


def _is_inside_other(data: bytes, start: int, end: int) -> bool:
    # Part of a longer number, an identifier, a path, a price: "$", "#", "=" and letters before; letters, "%" and more digits behind.
    before, after = data[max(start - 2, 0) : start], data[end : end + 2]
    last = before[-1:]
    if last.isalnum() or last in (b"_", b"#", b"$", b"=", b"/", b"%", b"&", b"@", b"\\", b"+"):
        return True
    if last in (b"-", b".", b",", b":") and before[:1].isalnum() and len(before) == 2 and (last != b":" or before[:1].isdigit()):
        return True
    return (
        after[:1].isalnum()
        or after[:1] in (b"_", b"%", b"@")
        or (len(after) == 2 and after[:1] in (b"-", b".", b",", b"/", b":") and after[1:].isalnum())
    )


@functools.cache
def _patterns() -> dict[str, Any]:
    return {label: re2.compile(shape.encode()) for label, shape in SHAPES.items()} | {
        "words": re2.compile(WORDS.encode()),
        "date": re2.compile(r"\d{1,2}[-./ ]\d{1,2}[-./ ](?:\d{2}|\d{4})|(?:18|19|20)\d{2}[-./ ](?:\d{1,2}[-./ ]\d{1,2}|(?:18|19|20)\d{2})"),
        "digits": re2.compile(r"\d+"),
    }
