"""Which language a text is in: py3langid, whose model (97 languages, BSD licence) comes inside its package.

Its two loops, over a text's bytes and over the features met, are compiled here: the same answer several times as fast,
and the same bits on every machine, as no library for matrices adds in an order of its own. `load_identifier` gives
that, CLD2 (faster still, less sure) or a fastText model file (FineWeb's lid.176 or GlotLID) as one kind of function.
"""

import functools
import hashlib
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: arrays of numpy, and modules loaded by name

import numpy as np
import pyarrow as pa
from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier
from py3langid.modelio import load_model

from bloomery.core.cached_arrays import Arrays, cached_arrays
from bloomery.core.errors import ConfigError
from bloomery.curate.kernels import compiled

EXAMINED_CHARACTERS = 2000
"""As much of a text as its language is read from: more costs time and changes almost nothing."""
MIN_PARAGRAPH_LETTERS = 20
"""A shorter paragraph (a heading, a name) has no language of its own."""

_LARGE_TABLES = ("moves", "rows", "outputs", "weights")
_TABLES = (*_LARGE_TABLES, "prior", "classes")

_CHUNK = 200
"""A text of one piece is examined for letters so many characters at a time."""


class Language(NamedTuple):
    """An ISO 639-1 code and its probability; "und" with 0 for a text without letters."""

    code: str
    score: float


class ParagraphLanguage(NamedTuple):
    """Characters start:end of a text are a paragraph (a line) in language `code`."""

    start: int
    end: int
    code: str
    score: float


UNDETERMINED = Language("und", 0.0)

Identifier = Callable[[str], Language]
"""What says the language of a text that has letters."""

IdentifierName = Literal["py3langid", "cld2", "fasttext"]

_OPTIONAL = {"cld2": ("bloomery.curate.cld2_language", "pycld2"), "fasttext": ("bloomery.curate.fasttext_language", "fasttext")}


def load_identifier(name: IdentifierName = "py3langid", model: Path | None = None) -> Identifier:
    """The identifier of this name. "fasttext" needs `model`, a .bin or .ftz file; the others come with theirs.

    Raises ConfigError if a package or the model is missing.
    """
    if name == "py3langid":
        return classify
    if name not in _OPTIONAL:
        raise ConfigError(f'there is no language identifier "{name}"; known: py3langid, {", ".join(_OPTIONAL)}')
    if name == "fasttext" and model is None:
        raise ConfigError('the language identifier "fasttext" needs a model file (lid.176.bin, GlotLID): give it as an input')
    module, package = _OPTIONAL[name]
    try:
        loaded: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the language identifier \"{name}\" needs the package {package}, which is not installed: pip install 'bloomery[langid]'"
        ) from error
    identifier: Identifier = loaded.load(model) if name == "fasttext" else loaded.classify
    return identifier


def identify_language(text: str, *, identifier: Identifier | None = None) -> Language:
    """The language of a text, from up to 2,000 characters of its middle; by py3langid if no other identifier is given.

    The middle, because pages begin and end with menus, often in another language than the page's own.
    """
    start = max((len(text) - EXAMINED_CHARACTERS) // 2, 0)
    examined = text[start : start + EXAMINED_CHARACTERS]
    if not _has_letters(examined):
        return UNDETERMINED
    return (identifier or classify)(examined)


def identify_paragraphs(text: str, *, identifier: Identifier | None = None) -> list[ParagraphLanguage]:
    """The language of every paragraph (line) that has at least 20 letters; the others are left out.

    >>> [(p.start, p.code) for p in identify_paragraphs("Menu\\nThe iron is blown for half a day.\\nDas Eisen wird geblasen.")]
    [(5, 'en'), (39, 'de')]
    """
    found, start = [], 0
    for line in text.split("\n"):
        if len(line) >= MIN_PARAGRAPH_LETTERS and sum(map(str.isalpha, line)) >= MIN_PARAGRAPH_LETTERS:
            found.append(ParagraphLanguage(start, start + len(line), *identify_language(line, identifier=identifier)))
        start += len(line) + 1
    return found


def language_share(text: str, code: str, *, identifier: Identifier | None = None) -> float:
    """Share of the characters of the paragraphs with a language that are in language `code`; 1 if none has one."""
    paragraphs = identify_paragraphs(text, identifier=identifier)
    total = sum(p.end - p.start for p in paragraphs)
    return sum(p.end - p.start for p in paragraphs if p.code == code) / total if total else 1.0


def add_language_share(table: pa.Table, *, identifier: Identifier | None = None) -> pa.Table:
    """The table with `signal_language_share`: how much of a document is in the language that it is said to be in."""
    rows = zip(table.column("text").to_pylist(), table.column("language").to_pylist(), strict=True)
    shares = [language_share(text or "", code or "und", identifier=identifier) for text, code in rows]
    if "signal_language_share" in table.column_names:
        table = table.drop_columns(["signal_language_share"])
    return table.append_column(pa.field("signal_language_share", pa.float64()), pa.array(shares, pa.float64()))


def classify(text: str) -> Language:
    """py3langid's answer for the whole of a text."""
    code, score = _identifier().classify(text)
    return Language(str(code), float(score))


def _has_letters(text: str) -> bool:
    return any(any(map(str.isalpha, text[at : at + _CHUNK])) for at in range(0, len(text), _CHUNK))


class _CompiledIdentifier(LanguageIdentifier):  # type: ignore[misc]  # py3langid has no types
    """py3langid with its two slow steps compiled: counting features, and summing their rows of the table."""

    __slots__ = ("_tables",)

    def __init__(self, arrays: Arrays) -> None:
        # Its own tables are lists, which take half a second to make and are for the two steps that are compiled here.
        super().__init__(None, arrays["prior"], arrays["classes"].tolist(), None, None, norm_probs=True, tk_row=())
        logs = np.array([math.log1p(count) for count in range(4 * EXAMINED_CHARACTERS + 1)], np.float32)
        self._tables = *(arrays[name] for name in _LARGE_TABLES), logs

    def _raw_score(self, text: bytes) -> Any:
        scores = np.zeros(len(self.nb_pc), np.float32)
        if score_features(np.frombuffer(text, np.uint8), *self._tables, scores):
            scores += self.nb_pc
        return scores  # without any feature all are 0: every language is as likely


@compiled
def score_features(text, moves, rows, outputs, weights, logs, scores):  # type: ignore[no-untyped-def]  # compiled
    """Adds to `scores` log(1 + count) times the weights of every feature that the automaton meets; how many it met.

    In the order in which they are first met. `logs` holds log(1 + n) for n = 0, 1, ...; a greater count counts as its last.
    """
    size = 64
    while size < 2 * len(text):
        size *= 2
    slots = np.full(size, -1, np.int32)
    features, counts = np.empty(len(text), np.int32), np.zeros(len(text), np.int32)
    found, state = 0, np.int64(0)
    for byte in text:
        state = np.int64(moves[(np.int64(rows[state]) << 8) + byte])
        feature = outputs[state]
        if feature >= 0:
            at = (np.int64(feature) * 40503) & (size - 1)
            while slots[at] >= 0 and features[slots[at]] != feature:
                at = (at + 1) & (size - 1)
            if slots[at] < 0:
                slots[at], features[found] = found, feature
                found += 1
            counts[slots[at]] += 1
    for i in range(found):
        log, row = logs[min(counts[i], len(logs) - 1)], weights[features[i]]
        for k in range(len(scores)):
            scores[k] += log * row[k]
    return found


@functools.cache
def _identifier() -> LanguageIdentifier:
    path = MODEL_DIR / MODEL_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return _CompiledIdentifier(cached_arrays(f"py3langid-{digest}", _TABLES, functools.partial(_read_model, path)))


def _read_model(path: Path) -> Arrays:
    weights, prior, classes, moves, rows, outputs = load_model(path)
    return {
        "weights": weights.astype(np.float32),
        "prior": prior,
        "classes": np.array(classes),
        "moves": np.frombuffer(moves, f"u{moves.itemsize}").astype(np.uint32),
        "rows": np.array(rows, np.uint32),
        "outputs": np.array(outputs, np.int32),
    }
