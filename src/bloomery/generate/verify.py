"""Whether an answer is right, by program: the row says what the answer is and what any answer must look like.

Both checks are of the whole text as it stands. A model that says the right number and then goes on, or puts a blank
before it, has not done what was asked, and a grader that forgives it would reward it.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple  # Any: a row of JSON

from bloomery.core.errors import DataError


class Verdict(NamedTuple):
    """Well-formed: has the asked format. Correct: is the answer; a correct answer is well-formed."""

    well_formed: bool
    correct: bool


def verify(row: Mapping[str, Any], text: str) -> Verdict:
    """Judges `text` by the row's `answer` (equal) and `format` (a regular expression that matches the whole text).

    A row without a format takes any text that is not blank. Raises DataError for a row without an answer, or with a
    format that is no regular expression.

    >>> verify({"answer": "12", "format": "-?[0-9]+"}, "13")
    Verdict(well_formed=True, correct=False)
    """
    answer = row.get("answer")
    if not isinstance(answer, str):
        raise DataError(f"a row to verify needs an `answer` that is a string, found {answer!r:.80} in {dict(row)!r:.200}")
    well_formed = has_format(text, row["format"]) if row.get("format") else bool(text.strip())
    return Verdict(well_formed, well_formed and text == answer)


def has_format(text: str, pattern: str) -> bool:
    """Whether a regular expression matches the whole text. Raises DataError for what is no regular expression."""
    return _format(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=1024)
def _format(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError(f"the format {pattern!r} of a row is not a regular expression: {error}") from error
