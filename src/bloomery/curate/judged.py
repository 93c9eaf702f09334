"""What a filter judged its documents on, in about 15 bytes a document, so that other thresholds are tried in milliseconds.

A filter writes which rules each document breaks (`signals/`, column `broken`). With another threshold only the rules whose
threshold moved are looked at again, on the stored values of their signals; the first rule broken, in order, drops a
document. The answer is exactly what the filter would do: values are kept as they are stored, in 4 bytes where these hold
them without loss, else in 8.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.parquet_rows import Place, read_column, unreadable
from bloomery.curate.rules import Rule
from bloomery.curate.signal_names import MOSTLY_UNSPACED, STOP_WORDS

SIGNALS = "signals"
WORD = 64
"""Rules in one word of `broken`."""

Array = np.ndarray[Any, Any]
Limits = Mapping[str, Mapping[str, float]]
"""Other thresholds, by language and rule."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The documents that a filter saw, in the order of its files; `starts[i]` is the number of the first of file i.

    `broken[w, n]` has bit b if document n breaks rule 64 w + b of `rules`. `codes` are places in `languages`, -1 for none.
    `unspaced` is 1 for scripts without spaces, 0 for others, -1 where nobody measured. `characters` of each text, or none.
    """

    paths: Sequence[Path]
    starts: Array
    rules: tuple[str, ...]
    broken: Array
    languages: tuple[str, ...]
    codes: Array
    unspaced: Array
    characters: Array

    @property
    def num_documents(self) -> int:
        """Kept and dropped."""
        return int(self.starts[-1])

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return int(sum(array.nbytes for array in (self.broken, self.codes, self.unspaced, self.characters)))

    def count_broken(self, rule: str) -> int:
        """Documents that break a rule, whatever else they break."""
        number = self.rules.index(rule)
        return int(np.count_nonzero(self.broken[number // WORD] & np.uint64(1 << number % WORD)))

    def places(self, documents: Array) -> list[Place]:
        """Where in the files of signals documents stand."""
        files = np.searchsorted(self.starts, documents, side="right") - 1
        return [Place(self.paths[f], int(n - self.starts[f])) for f, n in zip(files.tolist(), documents.tolist(), strict=True)]


def read_judged(folder: Path, rules: Sequence[Rule]) -> Judged:
    """The verdicts in the artifact of a filter that had these rules.

    Raises DataError if it has none, or of other rules: only `filter` writes them.
    """
    paths = sorted((folder / SIGNALS).glob("*.parquet"))
    if not paths:
        raise DataError(f"{folder}: no {SIGNALS}/ there; look into the artifact of a filter stage")
    names = tuple(rule.name for rule in rules)
    numbers: dict[str, int] = {}
    parts = [_read_file(path, names, numbers) for path in paths]
    starts = np.cumsum([0, *(len(part.codes) for part in parts)])
    return Judged(
        paths=paths,
        starts=starts,
        rules=names,
        broken=np.concatenate([part.broken for part in parts], axis=1),
        languages=tuple(numbers),
        codes=np.concatenate([part.codes for part in parts]),
        unspaced=np.concatenate([part.unspaced for part in parts]),
        characters=narrow(np.concatenate([part.characters for part in parts])),
    )


def read_values(judged: Judged, signal: str, *, languages: Sequence[str]) -> Array:
    """The values that rules on a signal look at, one for each document; NaN for none. Raises DataError if it was not measured."""
    if signal == "language_listed":
        listed = np.array([language in languages for language in judged.languages] + [False]) if languages else None
        return np.ones(judged.num_documents, np.float32) if listed is None else listed[judged.codes].astype(np.float32)
    column = signal if signal == "language_score" else f"signal_{signal}"
    for path in judged.paths[:1]:
        known = pq.read_schema(path).names
        if column not in known:
            signals = [name.removeprefix("signal_") for name in known if name.startswith("signal_")]
            raise ConfigError(f'no signal is named "{signal}"; {suggest(signal, signals)}')
    values = np.concatenate([_numbers(read_column(path, column)) for path in judged.paths])
    if signal == "language_score":
        values[_nulls(judged.paths, column)] = 0.0
    return narrow(values)


def narrow(values: Array) -> Array:
    """The same numbers as float32 if none of them changes by that."""
    small = values.astype(np.float32)
    return small if np.array_equal(small, values, equal_nan=True) else values


def thresholds_of(judged: Judged, rule: Rule, limits: Limits) -> Array:
    """The threshold of a rule for each language of `judged`, and at the end for documents without one."""
    own = [limits.get(language, {}).get(rule.name, rule.threshold) for language in judged.languages]
    return np.array([*own, rule.threshold], np.float64)


def breaks(judged: Judged, rule: Rule, values: Array, limits: Limits) -> Array:
    """Which documents break a rule: what `rules.find_broken` says of the stored signals."""
    by_language = thresholds_of(judged, rule, limits)
    margins = 1e-6 * np.maximum(1.0, np.abs(by_language))
    edges = by_language - margins if rule.drops == "below" else by_language + margins
    # NaN compares as False. One number where all languages have the same: no array of a million thresholds.
    edge = edges[-1] if (edges == edges[-1]).all() else edges[judged.codes]
    compare = np.less if rule.drops == "below" else np.greater
    broken: Array = compare(values, edge, signature="dd->?")  # in 8 bytes, also if the values are kept in 4
    return broken if rule.scope == "all" else broken & in_scope(judged, rule)


def in_scope(judged: Judged, rule: Rule) -> Array:
    """Which documents a rule is for."""
    if rule.scope == "stop_words":
        known: Array = np.array([*(language in STOP_WORDS for language in judged.languages), False])[judged.codes]
        return known
    if rule.scope == "all":
        return np.ones(judged.num_documents, np.bool_)
    among: Array = judged.unspaced == (rule.scope == "unspaced")
    return among


def first_broken(broken: Array, num_rules: int) -> Array:
    """The number of the first rule that each document breaks, `num_rules` if it breaks none."""
    first = np.full(broken.shape[1], num_rules, np.uint16)
    for w in reversed(range(len(broken))):
        # The lowest bit as a float is a power of two: its exponent says which bit it is. -1023 where there is none.
        lowest = (broken[w] & (~broken[w] + np.uint64(1))).astype(np.float64)
        bit = (lowest.view(np.int64) >> 52) - 1023
        np.copyto(first, (bit + w * WORD).astype(np.uint16), where=bit >= 0)
    return first


def judge_again(judged: Judged, moved: Sequence[Rule], *, limits: Limits, values_of: Callable[[str], Array]) -> Array:
    """`first_broken` of what a filter would do with the thresholds of `moved`, which are among its rules, in place of those that
    it had."""
    broken = judged.broken.copy()
    for rule in moved:
        number = judged.rules.index(rule.name)
        word, bit = broken[number // WORD], np.uint64(1 << number % WORD)
        word &= ~bit
        word |= breaks(judged, rule, values_of(rule.signal), limits) * bit
    return first_broken(broken, len(judged.rules))


def count_first(judged: Judged, first: Array) -> dict[str, int]:
    """Documents by the rule that drops them, the most frequent first."""
    counts = np.bincount(first, minlength=len(judged.rules) + 1).tolist()
    dropped = [(name, count) for name, count in zip(judged.rules, counts[:-1], strict=True) if count]
    return dict(sorted(dropped, key=lambda item: (-item[1], item[0])))


def nearest(values: Array, thresholds: Array | float, among: Array, count: int) -> Array:
    """The documents of a mask whose values are nearest to their thresholds, nearest first; of equal ones the first."""
    documents = np.flatnonzero(among)
    distance = np.abs(values[documents] - (thresholds if np.ndim(thresholds) == 0 else np.asarray(thresholds)[documents]))
    if len(documents) > count:
        limit = np.partition(distance, count - 1)[count - 1] if count else -1.0
        close = distance <= limit
        documents, distance = documents[close], distance[close]
    order: Array = np.argsort(distance, kind="stable")[:count]
    return documents[order]


class _Part(NamedTuple):
    broken: Array
    codes: Array
    unspaced: Array
    characters: Array


def _read_file(path: Path, rules: tuple[str, ...], numbers: dict[str, int]) -> _Part:
    columns = ["language", "broken", "signal_unspaced_fraction", "signal_length"]
    try:
        with pq.ParquetFile(path) as file:
            missing = {"language", "broken"} - set(file.schema_arrow.names)
            if missing:
                raise DataError(
                    f"{path}: no column {', '.join(sorted(missing))}; make the artifact again: bloomery run ... --rebuild filter"
                )
            table = file.read(columns=[name for name in columns if name in file.schema_arrow.names])
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    absent = np.full(len(table), np.nan)
    fraction, length = (_numbers(table.column(n)) if n in table.column_names else absent for n in columns[2:])
    with np.errstate(invalid="ignore"):
        unspaced = np.where(np.isnan(fraction), -1, fraction > MOSTLY_UNSPACED).astype(np.int8)
    return _Part(_bits(table.column("broken"), rules, path), _codes(table.column("language"), numbers), unspaced, length)


def _bits(column: pa.ChunkedArray, rules: tuple[str, ...], path: Path) -> Array:
    lists = column.combine_chunks()
    broken = np.zeros((max(1, -(-len(rules) // WORD)), len(lists)), np.uint64)
    rows = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    named = lists.flatten().dictionary_encode()
    places = named.indices.to_numpy()
    for place, name in enumerate(named.dictionary.to_pylist()):
        if name not in rules:
            raise DataError(f'{path}: names the rule "{name}", which the artifact\'s config does not; was it made by another version?')
        number = rules.index(name)
        broken[number // WORD, rows[places == place]] |= np.uint64(1 << number % WORD)
    return broken


def _codes(column: pa.ChunkedArray, numbers: dict[str, int]) -> Array:
    named = column.combine_chunks().dictionary_encode()
    codes = [numbers.setdefault(name, len(numbers)) for name in named.dictionary.to_pylist()]
    codes_of_rows: Array = np.array([*codes, -1], np.int32)[named.indices.fill_null(len(codes)).to_numpy()]
    return codes_of_rows


def _numbers(column: pa.ChunkedArray) -> Array:
    return np.array(column.cast(pa.float64()).to_numpy(), np.float64)


def _nulls(paths: Sequence[Path], column: str) -> Array:
    return np.concatenate([read_column(path, column).is_null().to_numpy() for path in paths])
