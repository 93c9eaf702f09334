"""Cutting passages out of a text so that what is left still reads: whole words go, and the joint is one break."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*(?=\s)|[。！？]")
OPENING = "\"'“‘«(["
"""Punctuation that goes with the word after it."""

REACH = 2000
"""Characters in which the end of a sentence is looked for, so that a text of one endless line costs no more than another."""


class CutText(NamedTuple):
    """What is left of a text, and the passages that went (characters of the old text, apart and in order)."""

    text: str
    passages: list[tuple[int, int]]


def cut_passages(text: str, passages: Iterable[tuple[int, int]]) -> CutText:
    """The text without `passages` (from the first character of a word to the end of one, in order), which are widened by the
    punctuation that hangs on their words. At each joint stands the strongest break that stood there: an empty line, a line
    break, or a space.

    >>> cut_passages("One. (Two three), four.\\nFive.", [(6, 15)]).text
    'One. four.\\nFive.'
    """
    widened: list[tuple[int, int]] = []
    for start, end in passages:
        start, end = _widen(text, start, end)
        if widened and start <= widened[-1][1]:
            widened[-1] = (widened[-1][0], max(end, widened[-1][1]))
        else:
            widened.append((start, end))
    pieces, at = [], 0
    for start, end in widened:
        pieces.append(text[at:start])
        at = end
    return CutText(_join([*pieces, text[at:]]), widened)


def to_characters(raw: np.ndarray[Any, np.dtype[np.uint8]], spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of bytes of a UTF-8 text as spans of its characters."""
    # A character's first byte is no continuation.
    before = np.concatenate([[0], np.cumsum((raw & 0xC0) != 0x80)])
    return [(int(before[start]), int(before[end])) for start, end in spans]


def to_sentences(text: str, start: int, end: int) -> tuple[int, int]:
    """The passage widened to whole sentences, at most to the ends of its lines or by REACH. Ends are guessed from punctuation."""
    line_start = max(text.rfind("\n", 0, start) + 1, start - REACH)
    stop = text.find("\n", end, end + REACH)
    line_end = stop if stop >= 0 else min(len(text), end + REACH)
    before = [match.end() for match in _SENTENCE_END.finditer(text, line_start, start)]
    after = _SENTENCE_END.search(text, max(end - 1, start), line_end)
    return (before[-1] if before else line_start), (after.end() if after else line_end)


def to_paragraphs(text: str, start: int, end: int) -> tuple[int, int]:
    """The passage widened to the empty lines around it, at most by ten times REACH."""
    first, last = max(0, start - 10 * REACH), min(len(text), end + 10 * REACH)
    before = [match.end() for match in _BLANK_LINE.finditer(text, first, start)]
    after = _BLANK_LINE.search(text, end, last)
    return (before[-1] if before else first), (after.start() if after else last)


def widen_by_words(text: str, start: int, end: int, words: int) -> tuple[int, int]:
    """The passage with `words` more white-space-separated words on each side."""
    if not words:
        return start, end
    reach = re.compile(rf"\S*(?:\s+\S+){{0,{words}}}")
    before = reach.match(text[max(0, start - 200 * words) : start][::-1])
    after = reach.match(text[end : end + 200 * words])
    return start - (before.end() if before else 0), end + (after.end() if after else 0)


def _widen(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1] in OPENING:
        start -= 1
    while end < len(text) and not text[end].isspace() and not text[end].isalnum() and text[end] not in OPENING[2:]:
        end += 1
    return start, end


def _join(pieces: list[str]) -> str:
    joined: list[str] = []
    gaps: list[str] = []
    for number, piece in enumerate(pieces):
        inner = piece.lstrip() if number else piece
        lead = piece[: len(piece) - len(inner)]
        trimmed = inner.rstrip() if number < len(pieces) - 1 else inner
        if not trimmed:
            gaps += [lead, inner]
            continue
        if joined:
            joined.append(_break([*gaps, lead], lead))
        joined.append(trimmed)
        gaps = [inner[len(trimmed) :]]
    return "".join(joined)


def _break(gaps: list[str], lead: str) -> str:
    # The line that follows keeps its indentation.
    indent = lead.rpartition("\n")[2] if "\n" in lead else ""
    if any(_BLANK_LINE.search(gap) for gap in gaps):
        return f"\n\n{indent}"
    if any("\n" in gap for gap in gaps):
        return f"\n{indent}"
    return " " if any(gaps) else ""
