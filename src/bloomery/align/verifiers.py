"""Whether an answer is right, by program: numbers in any usual spelling, words, formats, tests that a program must pass.

All are strict: what a model can write to be called right without being it, it will find. A number must be the number that was
asked for, exactly; an answer that names two different ones names none; what does not parse is wrong, never an error. What the
row of the prompt says is trusted, and a row that does not say it is an error.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple  # Any: a column of JSON

from bloomery.core.errors import DataError

Where = Literal["final", "whole", "last"]
Compare = Literal["as_written", "ignore_case"]

MAX_NUMBER_CHARACTERS = 200
MAX_EXPONENT = 300
"""1e999999999 would be a number of a billion digits."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_EXPONENT = r"(?:[eE]([+-]?\d{1,3}))?"
_NUMBER = re.compile(rf"([+-]?)\s?(?:({_PLAIN}){_EXPONENT}|\\[dt]?frac\{{([+-]?\d+)\}}\{{(\d+)\}})(?:\s?/\s?(\d+))?", re.ASCII)
_UNIT = re.compile(r"\\?%|°[CF]?|(?![eE]\d)[^\W\d_]+(?:/[^\W\d_]+)?(?:\^?\d)?")
_CURRENCY = "$€£¥"
_MARKED = re.compile(r"^\s*####[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_SAID = re.compile(r"\banswer(?:\s+is\b|\s*[:=])\s*:?[ \t]*([^\n]*?)(?=\.(?:\s|\Z)|\n|\Z)", re.IGNORECASE)
"""Up to a full stop that a blank or the end follows."""
_ANYWHERE = re.compile(rf"(?<![\w.,/])[+-]?(?:{_PLAIN})(?:[eE][+-]?\d{{1,3}})?(?:/\d+)?%?(?![\w/])", re.ASCII)


class Quantity(NamedTuple):
    """A number, exactly, and its unit ("" if it has none; a percentage is a hundredth and has none)."""

    value: Fraction
    unit: str


def read_quantity(text: str) -> Quantity | None:
    """The number that the whole of `text` spells, or None.

    Signs, thousands separators in their places, decimals, exponents, fractions (3/4, \\frac{3}{4}), percentages, a currency
    before it or a unit after it, $...$ or \\(...\\) around it, a full stop at its end.

    >>> [str(found.value) for text in ("1,234.50", "-3/4", "50%", "1e3 km") if (found := read_quantity(text))]
    ['2469/2', '-3/4', '1/2', '1000']
    >>> read_quantity("12,34"), read_quantity("4 2"), read_quantity("42 or 43"), read_quantity("1/0")
    (None, None, None, None)
    """
    text = _bare(text)
    if not text or len(text) > MAX_NUMBER_CHARACTERS:
        return None
    currency, sign = "", ""
    if text[0] in "+-" and len(text) > 1 and text[1] in _CURRENCY:
        sign, text = text[0], text[1:]
    if text[0] in _CURRENCY:
        currency, text = text[0], text[1:].lstrip()
        if sign and text[:1] in ("+", "-"):
            return None
    match = _NUMBER.match(sign + text)
    if match is None:
        return None
    value = _value(match)
    rest = (sign + text)[match.end() :].strip()
    if value is None or (rest and (currency or not _UNIT.fullmatch(rest))):
        return None
    if rest in ("%", "\\%"):
        return Quantity(value / 100, "")
    return Quantity(value, currency or rest)


def final_claims(text: str) -> list[str]:
    """What an answer gives as its result, the firmest way of saying it first.

    Every \\boxed{...}, every `#### ...` line, everything after "answer is" or "answer:". Without any, the whole text.

    >>> final_claims("So 2 + 2 = 4.\\n#### 4"), final_claims("4")
    (['4'], ['4'])
    """
    boxed = boxes(text)
    said = [claim.strip() for claim in _SAID.findall(text)]
    # A box in a sentence is one claim and not two.
    claims = [*boxed, *(found for found in [*_MARKED.findall(text), *said] if found and "\\boxed{" not in found)]
    return claims or [text]


def boxes(text: str) -> list[str]:
    """What stands in every \\boxed{...}, outermost, its braces balanced.

    >>> boxes(r"\\boxed{\\frac{1}{2}} and \\boxed{3}")
    ['\\\\frac{1}{2}', '3']
    """
    found, at = [], 0
    while (start := text.find("\\boxed{", at)) >= 0:
        begin = end = start + len("\\boxed{")
        depth = 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:
            break  # it was cut off
        found.append(text[begin : end - 1])
        at = end
    return found


def is_number(text: str, right: Quantity, *, where: Where, units: Literal["match", "ignore"], tolerance: float = 0.0) -> bool:
    """Whether an answer gives the number `right`.

    "final": its first claim is, and no other claim is another number. "whole": the text is nothing else. "last": the
    last number in the text is, whatever stands around it, which forgives guessing.
    """
    if where == "last":
        found = _ANYWHERE.findall(text.replace("−", "-"))
        claims = [read_quantity(found[-1])] if found else []
    else:
        claims = [read_quantity(claim) for claim in ([text] if where == "whole" else final_claims(text))]
    if not claims or claims[0] is None:
        return False
    first = claims[0]
    # Two ways of saying one number may name its unit in one of them only.
    if any(other is not None and other.value != first.value for other in claims[1:]):
        return False
    same_unit = units == "ignore" or where == "last" or first.unit.casefold() == right.unit.casefold()
    return same_unit and abs(first.value - right.value) <= Fraction(tolerance) * abs(right.value)


def is_text(text: str, right: Sequence[str], *, where: Where, compare: Compare) -> bool:
    """Whether an answer is one of the right ones, letter by letter ("ignore_case": but for their case).

    "final": all its claims are (as `final_claims` finds them, blanks around them left out). "whole": the text is, as it stands.
    """
    claims = [text] if where == "whole" else [claim.strip() for claim in final_claims(text)]
    if compare == "ignore_case":
        claims, right = [claim.casefold() for claim in claims], [one.casefold() for one in right]
    return all(claim in right for claim in claims)


def right_number(row: Mapping[str, Any], column: str) -> Quantity:
    """The number in a row's column: a number, a text that spells one, or a solution that ends in `#### 18` or a box.

    Raises DataError for a column that holds none.
    """
    value = row.get(column)
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    found = read_quantity(repr(value)) if is_plain else read_quantity(final_claims(value)[0]) if isinstance(value, str) else None
    if found is None:
        raise DataError(f"a row to verify needs a number in `{column}`, found {value!r:.80} in {dict(row)!r:.200}")
    return found


def right_texts(row: Mapping[str, Any], column: str) -> list[str]:
    """The text in a row's column, or the texts of a list, any of which is right. Raises DataError for a column that holds neither."""
    value = row.get(column)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DataError(f"a row to verify needs a text or a list of texts in `{column}`, found {value!r:.80} in {dict(row)!r:.200}")
    return found


def _value(match: re.Match[str]) -> Fraction | None:
    sign, plain, exponent, above, below, divisor = match.groups()
    if plain is not None:
        if exponent and abs(int(exponent)) > MAX_EXPONENT:
            return None
        value = Fraction(plain.replace(",", "")) * Fraction(10) ** int(exponent or 0)
    elif int(below) == 0 or divisor:
        return None
    else:
        value = Fraction(int(above), int(below))
    if divisor is not None:
        if int(divisor) == 0 or exponent or "." in plain:
            return None
        value /= int(divisor)
    return -value if sign == "-" else value


def _bare(text: str) -> str:
    """Without the marks of mathematics around it, and with one spelling for each sign."""
    text = text.strip().replace("−", "-")
    for start, end in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**")):
        if text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end):
            text = text[len(start) : -len(end)].strip()
    text = text.removesuffix(".").rstrip() if not text.endswith("..") else text
    text = re.sub(r"\s*\\(?:text|mathrm)\{\s*([^{}]*?)\s*\}$", r" \1", text)
    text = text.replace("\\$", "$")
    if re.search(r"\d(?:\{,\}|\\,)\d", text):
        text = text.replace("{,}", ",").replace("\\,", ",")
    found = boxes(text)
    return found[0].strip() if len(found) == 1 and text == f"\\boxed{{{found[0]}}}" else text
