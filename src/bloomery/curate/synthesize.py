"""Documents by a model: which are asked for, and which answers are good enough to be documents.

Every request is a pure function of its number: seeds (topics, or extracts of documents) take turns, and each seed goes through
its styles and audiences in an order of its own before one comes again. An answer is dropped by the first rule that it
breaks, each with its value in the ledger: it is empty or a refusal, copies its prompt, breaks a rule of `curate/rules.py`, or is too
similar to a seed document or to an answer before it. No torch, and no engine: the stage asks.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: rows of JSON, and numpy's shapes

import numpy as np
import pyarrow as pa

from bloomery.core.documents import document_id, document_table
from bloomery.curate.dedup_exact import hash_texts, normalise
from bloomery.curate.language import identify_language
from bloomery.curate.ledger import ledger_row
from bloomery.curate.minhash import DedupConfig, document_keys, estimate_similarity, sign_texts
from bloomery.curate.rules import Rule, find_broken
from bloomery.curate.signals import add_signals
from bloomery.curate.synthetic_prompts import write_prompt

STAGE_NAME = "synthesize_documents"

COPY_WORDS = 8
"""Words of the runs by which a copy is known."""

BANDS = DedupConfig(num_hashes=112, bands=28)
"""28 bands of 4: of two texts with half of their 5-grams in common 84 % meet, with 0.7 all but one in 2,000."""

OPENING_CHARACTERS = 300
"""Where a refusal stands: later a text may speak of one."""

_REFUSAL = re.compile(
    r"\b(as an? (ai|artificial intelligence|large language model|language model)\b|i('m| am) (sorry|unable|not able)\b|i apologi[sz]e\b"
    r"|i (cannot|can't|can not|won't|will not) (help|assist|write|create|provide|fulfil|fulfill|comply|generate)\b)",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\s*(sure|certainly|of course|absolutely|okay|ok|here is|here's|here are)\b[^\n]{0,200}[:!.]\s*\n\s*\n?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*(?=\s|$)|[。！？]|\n\n")


class Seed(NamedTuple):
    """What a document is to be about: a topic, or an extract of a document (then `id` and `source` are that document's)."""

    id: str
    topic: str | None
    extract: str | None
    source: str | None = None


class Assignment(NamedTuple):
    """One request: its number, its seed, and the names of style and audience."""

    number: int
    seed: Seed
    style: str
    audience: str
    prompt: str

    @property
    def draw(self) -> int:
        """A number below 2**63 that the prompt and its number decide: the seed of the model's answer."""
        digest = hashlib.blake2b(f"{STAGE_NAME}/{self.number}/{self.prompt}".encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1


class Written(NamedTuple):
    """An answer to an assignment: what was said, and whether the limit of tokens cut it. `problem` is why nothing was said."""

    assignment: Assignment
    text: str
    was_cut: bool
    problem: str = ""


def assign(
    numbers: Iterable[int], seeds: Sequence[Seed], *, styles: Mapping[str, str], audiences: Mapping[str, str], seed: int
) -> Iterator[Assignment]:
    """The requests of these numbers. Request number n is about seed n modulo their count."""
    pairs = [(style, audience) for style in styles for audience in audiences]
    for number in numbers:
        about, turn = seeds[number % len(seeds)], number // len(seeds)
        style, audience = pairs[_permuted(turn % len(pairs), len(pairs), f"{seed}/{about.id}")]
        prompt = write_prompt(style=styles[style], audience=audiences[audience], topic=about.topic, extract=about.extract)
        yield Assignment(number, about, style, audience, prompt)


def topic_seed(topic: str) -> Seed:
    """A seed that is a topic."""
    return Seed(document_id("topic", topic), topic, None)


def extract_seed(row: Mapping[str, Any], *, characters: int) -> Seed:
    """A seed that is the beginning of a document, up to the last sentence that ends within so many characters."""
    return Seed(row["id"], None, trim_to_sentence(row["text"][:characters].strip()), row.get("source"))


def trim_to_sentence(text: str) -> str:
    """The text up to its last whole sentence; all of it where that would be less than half.

    >>> trim_to_sentence("Iron melts. It is then poured. And th")
    'Iron melts. It is then poured.'
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends and ends[-1] >= len(text) / 2 else text


def clean(text: str, *, trim: bool) -> str:
    """An answer without "Sure, here is ...:" before it and, with `trim`, without the half sentence at its end."""
    text = _PREAMBLE.sub("", text.strip(), count=1).strip()
    return trim_to_sentence(text) if trim else text


def written_table(written: Sequence[Written], *, model: str, trim: bool) -> pa.Table:
    """Answers as documents, with their signals and their provenance in `meta`."""
    rows = []
    for item in written:
        about = item.assignment.seed
        text = clean(item.text, trim=trim and item.was_cut)
        language = identify_language(text)
        meta = {
            "synthetic": True,
            "model": model,
            "style": item.assignment.style,
            "audience": item.assignment.audience,
            "topic": about.topic,
            "seed_id": about.id if about.extract is not None else None,
            "seed_source": about.source,
            "prompt_sha256": hashlib.sha256(item.assignment.prompt.encode("utf-8", "replace")).hexdigest(),
            "number": item.assignment.number,
            "was_cut": item.was_cut,
        }
        rows.append(
            {
                "id": synthetic_id(model, item.assignment),
                "text": text,
                "source": "synthetic",
                "language": language.code,
                "language_score": language.score,
                "meta": json.dumps({key: value for key, value in meta.items() if value is not None}, sort_keys=True, ensure_ascii=False),
                "signal_refusal": float(_REFUSAL.search(text[:OPENING_CHARACTERS]) is not None),
                "signal_copied_fraction": copied_fraction(text, item.assignment.prompt),
                "signal_was_cut": float(item.was_cut),
            }
        )
    return add_signals(document_table(rows))


def synthetic_id(model: str, assignment: Assignment) -> str:
    """The id of a document: of who was asked for what, not of what was answered."""
    return document_id(f"{STAGE_NAME}/{model}/{assignment.prompt}", assignment.number)


def copied_fraction(text: str, source: str) -> float:
    """The share of the text's runs of 8 words that stand in `source`, too; 0 for a shorter text.

    >>> copied_fraction("a b c d e f g h X", "0 a b c d e f g h 1")
    0.5
    """
    grams, known = _grams(text), set(_grams(source))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def generated_rules(*, max_copied_fraction: float, drop_cut: bool) -> list[Rule]:
    """The rules that only documents by a model need."""
    cut = [Rule(name="cut", signal="was_cut", drops="above", threshold=0.5, origin="cut = drop")] if drop_cut else []
    return [
        Rule(name="empty", signal="characters", drops="below", threshold=1, origin="nothing was said"),
        Rule(name="refusal", signal="refusal", drops="above", threshold=0.5, origin="what assistants say in place of a text"),
        *cut,
        Rule(name="copies_prompt", signal="copied_fraction", drops="above", threshold=max_copied_fraction, origin="max_copied_fraction"),
    ]


class Judge:
    """Drops what breaks a rule, or says what a seed document or an answer before it said. It remembers; answers come in order.

    A document that is remembered takes about 4 kB: a hundred thousand of them 400 MB. For more, `dedup` comes after.
    """

    def __init__(self, rules: Sequence[Rule], *, languages: Sequence[str], max_similarity: float) -> None:
        self._rules, self._languages, self._max_similarity = list(rules), list(languages), max_similarity
        self._signatures: list[np.ndarray[Any, Any]] = []
        self._ids: list[str] = []
        self._num_seeds = 0
        self._owners: dict[int, list[int]] = {}

    def add_seeds(self, table: pa.Table) -> None:
        """Documents that no answer may repeat; before the first answer."""
        signatures, keys = _sign(table)
        for id_, signature, row in zip(table.column("id").to_pylist(), signatures, keys, strict=True):
            self._remember(id_, signature, row)
        self._num_seeds = len(self._ids)

    def judge(self, table: pa.Table) -> tuple[list[bool], list[dict[str, Any]]]:
        """Which rows stay, and a row for the ledger for each other."""
        broken = find_broken(table, self._rules, languages=self._languages)
        by_name = {rule.name: rule for rule in self._rules}
        signatures, keys = _sign(table)
        ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
        keep: list[bool] = []
        dropped: list[dict[str, Any]] = []
        for i, (id_, text) in enumerate(zip(ids, texts, strict=True)):
            why = self._broken_rule(table, i, by_name[broken[i][0]]) if broken[i] else self._find_twin(signatures[i], keys[i])
            keep.append(why is None)
            if why is None:
                self._remember(id_, signatures[i], keys[i])
            else:
                dropped.append(ledger_row(stage=STAGE_NAME, id=id_, text=text, **why))
        return keep, dropped

    def _broken_rule(self, table: pa.Table, row: int, rule: Rule) -> dict[str, Any]:
        return {"rule": rule.name, "value": self._value(table, row, rule), "threshold": rule.threshold}

    def _value(self, table: pa.Table, row: int, rule: Rule) -> float | None:
        if rule.signal in ("language_listed", "language_score"):
            return float(table.column("language_score")[row].as_py() or 0.0)
        value: float | None = table.column(f"signal_{rule.signal}")[row].as_py()
        return value

    def _remember(self, id_: str, signature: np.ndarray[Any, Any], keys: np.ndarray[Any, Any]) -> None:
        for key in keys.tolist():
            self._owners.setdefault(key, []).append(len(self._ids))
        self._signatures.append(signature)
        self._ids.append(id_)

    def _find_twin(self, signature: np.ndarray[Any, Any], keys: np.ndarray[Any, Any]) -> dict[str, Any] | None:
        candidates = sorted({owner for key in keys.tolist() for owner in self._owners.get(key, ())})
        for other in candidates:
            similarity = float(estimate_similarity(signature[None], self._signatures[other][None])[0])
            if similarity > self._max_similarity:
                rule = "repeats_seed" if other < self._num_seeds else "repeats_document"
                return {"rule": rule, "value": similarity, "threshold": self._max_similarity, "kept_id": self._ids[other]}
        return None


def _sign(table: pa.Table) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    signatures = sign_texts(table.column("text"), BANDS)
    return signatures, document_keys(signatures, hash_texts(table.column("text")), BANDS)


def _grams(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", normalise(text))
    return [tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)]


def _permuted(index: int, count: int, name: str) -> int:
    """Place `index` of the permutation of `count` that belongs to `name`."""
    ranked = sorted(range(count), key=lambda i: hashlib.blake2b(f"{name}/{i}".encode(), digest_size=8).digest())
    return ranked[index]
