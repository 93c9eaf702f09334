"""Preferences from files: pairs, labels and rankings, each made of the others where that loses nothing but order.

`read_preferences` gives what the files say; `read_pairs`, `read_labelled` and `read_rankings` give one kind of row, whatever the
files hold. Formats are told by their columns, file by file (align/preference_formats.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any  # Any: a row of JSON

from bloomery.align.preference_formats import FORMATS, Format, LabelledRow, PairRow, PreferenceRow, RankedRow, RowError, find_format
from bloomery.core.config import suggest
from bloomery.core.conversation import Message
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import expand
from bloomery.core.rows import read_table

PREFERENCE_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")


def preference_files(paths: Path | Sequence[Path]) -> list[Path]:
    """The files of `paths`; of an artifact's folder only its train.jsonl.gz, because what else is in it must stay unseen."""
    files = [path / "train.jsonl.gz" for path in ([paths] if isinstance(paths, Path) else paths)]
    return expand([file if file.is_file() else file.parent for file in files], suffixes=PREFERENCE_SUFFIXES)


def read_preferences(paths: Path | Sequence[Path], *, format: str = "auto") -> Iterator[PreferenceRow]:
    """The rows of all files in order, as what they are. `format` names one of FORMATS; "auto" tells it by each file's columns.

    Raises DataError naming file and line of a row that does not fit, ConfigError for a format of no known name.
    """
    named = {known.name: known for known in FORMATS}
    if format != "auto" and format not in named:
        raise ConfigError(f"format: {format!r} is no format of preferences; {suggest(format, ['auto', *named])}")
    for path in preference_files(paths):
        chosen = named.get(format)
        for line, row in read_table(path):
            chosen = chosen or _detect(path, line, row)
            yield from _parse(chosen, path, line, row)


def read_pairs(paths: Path | Sequence[Path], *, format: str = "auto") -> Iterator[PairRow]:
    """Pairs. A ranking gives one for every two answers of different rank; of labelled answers to one prompt the i-th
    desirable one is paired with the i-th undesirable one, within a file; ties give none.
    """
    for path in preference_files(paths):
        labelled: dict[tuple[tuple[str, str], ...], list[LabelledRow]] = {}
        for row in read_preferences(path, format=format):
            if isinstance(row, PairRow):
                yield row
            elif isinstance(row, RankedRow):
                yield from pairs_of_ranking(row)
            else:
                labelled.setdefault(_key(row.prompt), []).append(row)
        for rows in labelled.values():
            good, bad = ([row for row in rows if row.label is label] for label in (True, False))
            yield from (PairRow(a.prompt, a.completion, b.completion) for a, b in zip(good, bad, strict=False))


def read_labelled(paths: Path | Sequence[Path], *, format: str = "auto") -> Iterator[LabelledRow]:
    """Labelled answers. A pair gives two; a ranking its best answers as desirable and its worst as undesirable, what lies
    between and ties of all give none.
    """
    for row in read_preferences(paths, format=format):
        yield from labels_of(row)


def read_rankings(paths: Path | Sequence[Path], *, format: str = "auto") -> Iterator[RankedRow]:
    """Rankings. A pair is one of two answers; labelled answers to one prompt are one of two ranks, within a file."""
    for path in preference_files(paths):
        labelled: dict[tuple[tuple[str, str], ...], list[LabelledRow]] = {}
        for row in read_preferences(path, format=format):
            if isinstance(row, RankedRow):
                yield row
            elif isinstance(row, PairRow):
                yield RankedRow(row.prompt, [row.chosen, row.rejected], [1, 2], row.margin, row.probability)
            else:
                labelled.setdefault(_key(row.prompt), []).append(row)
        for rows in labelled.values():
            if len(rows) > 1:
                best = min(1 if row.label else 2 for row in rows)
                yield RankedRow(rows[0].prompt, [row.completion for row in rows], [(1 if row.label else 2) - best + 1 for row in rows])


def pairs_of_ranking(row: RankedRow) -> Iterator[PairRow]:
    """The pairs of a ranking, one for every two answers of different rank: C(K, 2) of K without ties."""
    for i, j in combinations(range(len(row.ranks)), 2):
        if row.ranks[i] != row.ranks[j]:
            better, worse = (i, j) if row.ranks[i] < row.ranks[j] else (j, i)
            yield PairRow(row.prompt, row.completions[better], row.completions[worse])


def labels_of(row: PreferenceRow) -> Iterator[LabelledRow]:
    """The labelled answers that a row amounts to."""
    if isinstance(row, LabelledRow):
        yield row
    elif isinstance(row, PairRow):
        yield LabelledRow(row.prompt, row.chosen, True)
        yield LabelledRow(row.prompt, row.rejected, False)
    elif (best := min(row.ranks)) != (worst := max(row.ranks)):
        for completion, rank in zip(row.completions, row.ranks, strict=True):
            if rank in (best, worst):
                yield LabelledRow(row.prompt, completion, rank == best)


def as_columns(row: PreferenceRow) -> dict[str, Any]:
    """The row with TRL's columns, for a JSONL file; a pair without a margin has no such column."""
    return {name: value for name, value in row._asdict().items() if value is not None}


def _detect(path: Path, line: int, row: Mapping[str, Any]) -> Format:
    found = find_format(row)
    if found is None:
        known = "; ".join(f"{known.name} ({', '.join(sorted(known.columns))})" for known in FORMATS)
        raise DataError(f"{path}:{line}: found the columns {', '.join(row)}, which are no known format of preferences. Known: {known}")
    return found


def _parse(known: Format, path: Path, line: int, row: Mapping[str, Any]) -> Iterable[PreferenceRow]:
    missing = sorted(known.columns - row.keys())
    if missing:
        raise DataError(f"{path}:{line}: has no {', '.join(f'`{name}`' for name in missing)}; expected a row of the format {known.name}")
    try:
        return known.parse(row)
    except RowError as error:
        raise DataError(f"{path}:{line}: {error} (format {known.name})") from error


def _key(prompt: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in prompt)
