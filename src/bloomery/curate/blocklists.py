"""Blocklists of addresses: domains, hosts, pages and words, in the layouts that people keep them in.

    hosts file       `0.0.0.0 ads.example.com`: this host and no other
    domain list      `example.com`, one a line: the domain and everything below it; `||example.com^` (Adblock) the same
    URL list         `example.com/path`: the page and everything below it; `https://example.com/`: this page alone
    word lists       `words` (whole words of the address), `subwords` (anywhere in its letters and digits), `soft_words`
                     (several of them), after RefinedWeb (arXiv:2306.01116, app. G.1)
    UT1              folders `<category>/domains` and `<category>/urls`, or JSONL rows {category, kind, value}

Lists may hold millions of entries. They are compiled once, into a table sorted by hash that every worker maps into its
memory; a hash that is found is compared with the entry itself, so that no page is blocked by a collision.
"""

import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: numpy's shapes

import numpy as np
import pyarrow as pa
import re2

from bloomery.core.config import suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import open_text, read_json, read_jsonl, write_atomically, write_json
from bloomery.core.remote import local_copy
from bloomery.curate.kernels import compiled, text_column
from bloomery.curate.urls import Url, parse_url

ListKind = Literal["domains", "hosts", "urls", "words", "subwords", "soft_words"]

KINDS_BY_NAME: tuple[tuple[str, ListKind], ...] = (
    ("soft_words", "soft_words"),
    ("soft_banned_words", "soft_words"),
    ("subwords", "subwords"),
    ("words", "words"),
    ("domains", "domains"),
    ("hosts", "hosts"),
    ("urls", "urls"),
)
"""What the end of a list's name says about its lines; the first that fits counts."""

KINDS_IN_ROWS: Mapping[str, ListKind] = {
    "domain": "domains", "host": "hosts", "url": "urls", "word": "words", "subword": "subwords", "soft_word": "soft_words",
}  # fmt: skip

LIST_SUFFIXES = (".txt", ".hosts", ".list", ".domains", ".urls", ".jsonl")
UT1_FILES = ("domains", "urls")

RULES = {
    "domain": "blocked_domain", "host": "blocked_host", "page": "blocked_url", "below": "blocked_url",
    "word": "blocked_word", "subword": "blocked_subword", "soft_word": "too_many_soft_words",
}  # fmt: skip
"""The rule that each kind of entry breaks."""

logger = logging.getLogger(__name__)

_HOSTS_LINE = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|255\.255\.255\.255|::1?|fe80::\S+)\s+(\S+)")
_ADBLOCK_LINE = re.compile(r"\|\|([^/^$*|]+)\^")
_PLAIN_DOMAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63}){0,6}\.[a-z]{2,63}")
_NOT_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]+")
_SCHEMA = pa.schema([("hash", pa.uint64()), ("list", pa.int64()), ("entry", pa.large_string())])
_RE2_MEMORY = 256 << 20


class Hit(NamedTuple):
    """Why an address is blocked: the rule, what its entry is and in which list, and for soft words how many there were."""

    rule: str
    list: str
    entry: str
    value: float | None = None


class Blocklists:
    """Compiled lists; one for a process. `table` is sorted by hash; `words` maps each kind of words to {word: list}."""

    def __init__(self, names: Sequence[str], table: pa.Table, words: Mapping[str, Mapping[str, str]]) -> None:
        self._names = names
        assert table.column("hash").num_chunks <= 1, "written as one batch, so that it is mapped and not copied"
        self._hashes = table.column("hash").chunk(0).to_numpy() if len(table) else np.zeros(0, np.uint64)
        self._table = table
        self._words, self._subwords, self._soft_words = (dict(words.get(kind, {})) for kind in ("words", "subwords", "soft_words"))
        options = re2.Options()
        options.max_mem = _RE2_MEMORY
        # Longest first: RE2 takes the first alternative that fits, and the longer word says more.
        pattern = "|".join(sorted(self._subwords, key=lambda word: (-len(word), word)))
        self._any_subword = re2.compile(pattern, options) if pattern else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be blocked."""
        return not (len(self._hashes) or self._words or self._subwords or self._soft_words)

    def find_hits(self, urls: Sequence[Url | None], *, min_soft_words: int) -> list[Hit | None]:
        """For each address the first entry that blocks it: domain or host, the most specific first, then page, then words."""
        hits: list[Hit | None] = [None] * len(urls)
        candidates: list[str] = []
        owners: list[int] = []
        if len(self._hashes):
            for number, url in enumerate(urls):
                if url is not None:
                    found = _candidates(url)
                    candidates.extend(found)
                    owners.extend([number] * len(found))
            for at, row in self._find_entries(candidates):
                if hits[owners[at]] is None:
                    kind, _, entry = candidates[at].partition(" ")
                    hits[owners[at]] = Hit(RULES[kind], self._names[self._table.column("list")[row].as_py()], entry)
        if self._words or self._subwords or self._soft_words:
            for number, url in enumerate(urls):
                if url is not None and hits[number] is None:
                    hits[number] = self._find_words(url.text.lower(), min_soft_words)
        return hits

    def _find_entries(self, candidates: list[str]) -> Iterator[tuple[int, int]]:
        hashes = _hash_strings(candidates)
        rows = np.searchsorted(self._hashes, hashes)
        found = np.flatnonzero(self._hashes[np.minimum(rows, len(self._hashes) - 1)] == hashes)
        for at in found.tolist():
            row = int(rows[at])
            while row < len(self._hashes) and self._hashes[row] == hashes[at]:
                if self._table.column("entry")[row].as_py() == candidates[at]:
                    yield at, row
                    break
                row += 1

    def _find_words(self, text: str, min_soft_words: int) -> Hit | None:
        words = _NOT_LETTER_OR_DIGIT.split(text)
        for word in words:
            if word in self._words:
                return Hit(RULES["word"], self._words[word], word)
        if self._any_subword is not None and (match := self._any_subword.search("".join(words))):
            return Hit(RULES["subword"], self._subwords[match.group(0)], match.group(0))
        soft = sorted(self._soft_words.keys() & set(words))
        if soft and len(soft) >= min_soft_words:
            return Hit(RULES["soft_word"], self._soft_words[soft[0]], " ".join(soft), float(len(soft)))
        return None


class _Line(NamedTuple):
    list: str
    kind: ListKind
    value: str


def compile_lists(
    paths: Sequence[Path],
    folder: Path,
    *,
    categories: Sequence[str],
    kinds: Mapping[str, ListKind],
    inline: Mapping[ListKind, Sequence[str]],
) -> None:
    """Reads every list that `paths` name and writes the compiled table and words to `folder`.

    `categories` are those to take of lists that are parted into categories; `kinds` says what a list holds, by its name;
    `inline` are words given in the recipe, by kind. Raises ConfigError and DataError naming list and line.
    """
    words: dict[ListKind, dict[str, str]] = {"words": {}, "subwords": {}, "soft_words": {}}
    entries: dict[str, str] = {}
    seen: set[str] = set()
    for line in itertools.chain(_inline_lines(inline), _read_lists(paths, categories=categories, kinds=kinds, seen=seen)):
        known = words.get(line.kind, entries)
        entry = _NOT_LETTER_OR_DIGIT.sub("", line.value.lower()) if line.kind in words else _entry(line)
        if entry:
            known[entry] = min(known.get(entry, line.list), line.list)  # in two lists: the order of the files must not count
    if seen:
        _check_categories(categories, seen)
    names = sorted(set(entries.values()))
    _write_table(folder / "entries.arrow", entries, {name: i for i, name in enumerate(names)})
    write_json(folder / "words.json", {"names": names, "words": words})


def load_lists(folder: Path) -> Blocklists:
    """The lists that `compile_lists` wrote; the table is mapped, not read."""
    facts = read_json(folder / "words.json")
    with pa.memory_map(str(folder / "entries.arrow")) as source:
        return Blocklists(facts["names"], pa.ipc.open_file(source).read_all(), facts["words"])


def list_files(paths: Sequence[Path]) -> list[Path]:
    """The list files that `paths` name: files as they are; in folders, UT1's files and those with a list's suffix."""
    found: list[Path] = []
    for path in paths:
        inside = [p for p in path.rglob("*") if p.is_file() and _is_list(p)] if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no list found there; expected {', '.join(UT1_FILES)} or names ending in {', '.join(LIST_SUFFIXES)}")
        found.extend(inside)
    return sorted(set(found))


def _is_list(path: Path) -> bool:
    return path.name in (*UT1_FILES, "hosts") or path.name.removesuffix(".gz").removesuffix(".zst").endswith(LIST_SUFFIXES)


def _inline_lines(inline: Mapping[ListKind, Sequence[str]]) -> Iterator[_Line]:
    for kind, words in inline.items():
        yield from (_Line("recipe", kind, word) for word in words)


def _read_lists(paths: Sequence[Path], *, categories: Sequence[str], kinds: Mapping[str, ListKind], seen: set[str]) -> Iterator[_Line]:
    for path in list_files(paths):
        with local_copy(path) as local:
            yield from _read_list(local, categories=categories, kinds=kinds, seen=seen)


def _read_list(path: Path, *, categories: Sequence[str], kinds: Mapping[str, ListKind], seen: set[str]) -> Iterator[_Line]:
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    if stem.endswith(".jsonl"):
        yield from _read_rows(path, stem.removesuffix(".jsonl"), categories=categories, seen=seen)
    elif path.name in UT1_FILES:
        category = path.parent.name
        seen.add(category)
        if category in categories or "*" in categories:
            kind: ListKind = "domains" if path.name == "domains" else "urls"
            yield from _read_lines(path, category, kinds.get(category, kind))
    else:
        name = next((stem.removesuffix(s) for s in LIST_SUFFIXES if stem.endswith(s)), stem)
        by_name = next((kind for ending, kind in KINDS_BY_NAME if name.lower().replace("-", "_").endswith(ending)), None)
        yield from _read_lines(path, name, kinds.get(name, by_name))


def _read_rows(path: Path, name: str, *, categories: Sequence[str], seen: set[str]) -> Iterator[_Line]:
    for number, row in enumerate(read_jsonl(path), start=1):
        kind, value, category = row.get("kind"), row.get("value"), row.get("category")
        if not isinstance(kind, str) or kind not in KINDS_IN_ROWS or not isinstance(value, str):
            expected = f'rows {{"category", "kind", "value"}} with a kind of {", ".join(KINDS_IN_ROWS)}'
            raise DataError(f"{path}:{number}: found {json.dumps(row)[:100]}; expected {expected}")
        if category is not None:
            seen.add(str(category))
        if category is None or str(category) in categories or "*" in categories:
            yield _Line(name if category is None else str(category), KINDS_IN_ROWS[kind], value.strip())


def _read_lines(path: Path, name: str, kind: ListKind | None) -> Iterator[_Line]:
    num_adblock, unread, is_adblock = 0, 0, False
    with open_text(path) as lines:
        for number, raw in enumerate(lines, start=1):
            line = raw.strip()
            is_adblock = is_adblock or line.startswith("[Adblock")
            if not line or line[0] in "#!" or line.startswith("[Adblock"):
                continue
            if kind in ("words", "subwords", "soft_words"):
                yield _Line(name, kind, line)
            elif match := _HOSTS_LINE.match(line):
                yield _Line(name, "hosts", match[1])
            elif match := _ADBLOCK_LINE.fullmatch(line):
                num_adblock += 1
                yield _Line(name, "domains", match[1])
            elif is_adblock or line.startswith(("|", "@@")) or "##" in line:
                unread += 1
            elif kind is not None:
                yield _Line(name, kind, line)
            elif "/" in line:
                yield _Line(name, "urls", line)
            elif "." in line and " " not in line:
                yield _Line(name, "domains", line)
            else:
                raise DataError(
                    f"{path}:{number}: {line[:80]!r} is neither a domain, an address nor a line of a hosts file. "
                    f'If the list is of words, say so: kinds = {{ "{name}" = "words" }} (or "subwords", "soft_words")'
                )
    if unread and not num_adblock:
        raise DataError(
            f"{path}: an Adblock list without a line `||domain^`: its {unread} rules hide parts of pages or block what pages load. "
            "Expected domains, hosts or addresses of pages; take the list's hosts or domains edition."
        )
    if unread:
        logger.info("%s: took %d lines `||domain^`; %d other Adblock rules are not about addresses of pages", path, num_adblock, unread)


def _entry(line: _Line) -> str | None:
    value = line.value.removeprefix("*.").lstrip(".")
    if line.kind == "domains" and _PLAIN_DOMAIN.fullmatch(value):
        return f"domain {value}"
    url = parse_url(value if "://" in value else f"http://{value}")
    if url is None or not url.host or ("." not in url.host and line.kind != "hosts" and not url.host.startswith("[")):
        return None  # localhost, a bare top-level domain, or no address at all
    if line.kind == "domains":
        return f"domain {url.host}"
    if line.kind == "hosts":
        return f"host {url.host}"
    return f"page {url.key}" if "://" in value else f"below {url.key}"


def _candidates(url: Url) -> list[str]:
    # Every entry that would block this address, the most specific first.
    found = []
    suffix = url.host
    while "." in suffix:
        found.append(f"domain {suffix}")
        suffix = suffix.partition(".")[2]
    found.append(f"host {url.host}")
    key = url.key
    found.append(f"page {key}")
    found.append(f"below {key}")
    if url.query:
        key = url.page
        found.append(f"below {key}")
    while (cut := key.rfind("/")) > 0:
        key = key[:cut]
        found.append(f"below {key}")
    return found


def _write_table(path: Path, entries: Mapping[str, str], numbers: Mapping[str, int]) -> None:
    names = list(entries)
    hashes = _hash_strings(names)
    order = np.argsort(hashes, kind="stable")
    lists = np.fromiter((numbers[name] for name in entries.values()), np.int64, len(entries))[order]
    table = pa.table([pa.array(hashes[order]), pa.array(lists), pa.array(names, pa.large_string()).take(pa.array(order))], schema=_SCHEMA)
    with write_atomically(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table)


def _check_categories(categories: Sequence[str], seen: set[str]) -> None:
    if not categories:
        raise ConfigError(
            f'categories: the lists have categories, and not all of them are harmful; choose some, or "*". Found: {", ".join(sorted(seen))}'
        )
    for category in categories:
        if category != "*" and category not in seen:
            raise ConfigError(f'categories: no list has the category "{category}"; {suggest(category, seen)}')


def _hash_strings(strings: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    column = text_column(pa.chunked_array([pa.array(strings, pa.large_string())]), lowercase=False)
    hashes: np.ndarray[Any, np.dtype[np.uint64]] = _hash_rows(column.data, column.offsets)
    return hashes


@compiled
def _hash_rows(data, offsets):  # type: ignore[no-untyped-def]  # compiled
    """FNV-1a of each row, its bits mixed (the finalizer of splitmix64)."""
    out = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(offsets) - 1):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[row] = value ^ (value >> np.uint64(31))
    return out
