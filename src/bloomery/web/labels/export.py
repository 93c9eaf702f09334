"""Votes as files: for training one JSON line an item (core/votes.py), for a spreadsheet one CSV row a vote."""

import csv
import io
import json
from collections.abc import Iterable, Iterator

from bloomery.core.votes import ItemVotes

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula; such cells get a ' before them (OWASP, "CSV Injection")."""


def vote_lines(items: Iterable[ItemVotes]) -> Iterator[str]:
    """A JSON line an item."""
    for item in items:
        yield json.dumps(item.record(), ensure_ascii=False, sort_keys=True) + "\n"


def vote_table(items: Iterable[ItemVotes]) -> Iterator[str]:
    """CSV with a row a vote: item, annotator, choice, ranks, then prompt, models and answers as JSON lists."""
    yield _csv_line(["item", "annotator", "choice", "ranks", "models", "prompt", "completions"])
    for item in items:
        prompt = "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in item.prompt)
        texts = [json.dumps(item.models, ensure_ascii=False), prompt, json.dumps(item.completions, ensure_ascii=False)]
        for vote in item.votes:
            yield _csv_line([item.item, vote.annotator, vote.choice, " ".join(map(str, vote.ranks)), *texts])


def _csv_line(cells: Iterable[str]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow([f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell for cell in cells])
    return file.getvalue()
