"""Personal data replaced: by typed placeholders, or by fakes that are the same for the same value in every shard.

Fakes lie in ranges that belong to nobody (example.com, 192.0.2.0/24, 555-01xx, check digits that are never right), so
that they read like text, teach nobody anything, and are not found again: redacting a redacted text changes nothing.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from bloomery.core.config import Config
from bloomery.curate.pii import KINDS, Kind, Span, find_pii

Mode = Literal["placeholder", "fake"]

MAX_PASSES = 4
"""A replacement may make a number beside it stand alone; texts are looked through until nothing is found."""


class RedactConfig(Config):
    """Which personal data is replaced, and by what. Names and postal addresses are not found (see docs/pii.md)."""

    kinds: list[Kind] = Field(default=list(KINDS), min_length=1)
    """Of secret, email, iban, card, national_id, ip, phone."""
    mode: Literal["placeholder", "fake", "count"] = "placeholder"
    """placeholder: `<EMAIL>`; fake: another value of that kind, the same for the same value everywhere; count: nothing is replaced."""
    seed: int = Field(default=0, ge=0)
    """Of the fakes: who does not know it cannot tell by trying values which one a fake stands for."""
    spans: Literal["none", "meta"] = "none"
    """meta: what was found where (kind and place in the ORIGINAL text, never the value) goes into `meta` as `pii`."""


class Redacted(NamedTuple):
    """The documents with nothing found in them any more, and how many values of each kind there were."""

    table: pa.Table
    counts: Mapping[str, int]


def redact_table(table: pa.Table, config: RedactConfig) -> Redacted:
    """Replaces personal data in `text`; adds `signal_pii_<kind>`, the number of values of each kind that was looked for."""
    texts: list[str] = []
    numbers: dict[Kind, list[float]] = {kind: [] for kind in KINDS if kind in config.kinds}
    metas = table.column("meta").to_pylist()
    for i, (text, language) in enumerate(zip(table.column("text").to_pylist(), table.column("language").to_pylist(), strict=True)):
        spans = find_pii(text or "", config.kinds, language=language)
        counts = Counter(span.kind for span in spans)
        for kind, values in numbers.items():
            values.append(counts[kind])
        if config.spans == "meta" and spans:
            metas[i] = _with_spans(metas[i], spans)
        texts.append(text if config.mode == "count" or not spans else redact_text(text, config, language=language))
    table = _set(table, "text", pa.array(texts, pa.large_string()))
    if config.spans == "meta":
        table = _set(table, "meta", pa.array(metas, pa.string()))
    for kind, values in numbers.items():
        table = _set(table, f"signal_pii_{kind}", pa.array(values, pa.float64()))
    what = "found" if config.mode == "count" else "replaced"
    return Redacted(table, {f"{what}/{kind}": int(sum(values)) for kind, values in numbers.items()})


def redact_text(text: str, config: RedactConfig, *, language: str | None = "en") -> str:
    """The text with everything replaced that `find_pii` finds in it."""
    for _ in range(MAX_PASSES):
        spans = find_pii(text, config.kinds, language=language)
        if not spans:
            break
        text = redact(text, spans, mode="fake" if config.mode == "fake" else "placeholder", seed=config.seed)
    return text


def redact(text: str, spans: Sequence[Span], *, mode: Mode, seed: int = 0) -> str:
    """The text with every span replaced: by `<EMAIL>`, or by a fake that is the same for the same value everywhere.

    >>> text = "Write to jane@acme.io."
    >>> redact(text, find_pii(text), mode="placeholder")
    'Write to <EMAIL>.'
    """
    pieces, at = [], 0
    for span in spans:
        value = text[span.start : span.end]
        pieces += [text[at : span.start], f"<{span.kind.upper()}>" if mode == "placeholder" else fake(span, value, seed=seed)]
        at = span.end
    return "".join([*pieces, text[at:]])


def fake(span: Span, value: str, *, seed: int) -> str:
    """Another value of the same kind that is nobody's; equal values (but for case and separators) give equal fakes."""
    plain = "".join(filter(str.isalnum, value)).lower()
    number = int.from_bytes(hashlib.blake2b(f"{seed}\x00{span.kind}\x00{plain}".encode("utf-8", "replace"), digest_size=16).digest(), "big")
    letters = "".join("bcdfghjklmnpqrstvwxz"[number // 20**i % 20] for i in range(12))
    match span.kind:
        case "email":
            return f"{letters}@example.com"
        case "phone":
            return f"+1-{_AREAS[number // 100 % len(_AREAS)]}-555-01{number % 100:02d}"
        case "ip" if span.label == "ipv6":
            return f"2001:db8::{number % 65535 + 1:x}:{number // 65536 % 65535 + 1:x}"
        case "ip":
            return f"{('192.0.2', '198.51.100', '203.0.113')[number // 256 % 3]}.{number % 256}"
        case "card":
            return f"9999{number % 10**12:012d}"  # 9 is for national use: no payment card begins so
        case "iban":
            return f"GB00FAKE{number % 10**14:014d}"  # check digits are 02 to 98
        case "national_id" if span.label == "us_ssn":
            return f"900-00-{number % 10**4:04d}"
        case "national_id":
            return f"FAKE-ID-{letters}"
        case "secret":
            return f"FAKE_SECRET_{letters}"


def find_replacements(text: str, mode: Literal["placeholder", "fake", "count"], *, language: str | None = "en") -> list[Span]:
    """Where a text that was redacted holds what stands for something: placeholders, fakes, or with "count" what was left in it.

    A text that had `<EMAIL>` in it before it was redacted has that found, too.
    >>> find_replacements("Write to <EMAIL>.", "placeholder")
    [Span(kind='email', start=9, end=16, label='replaced')]
    """
    if mode == "count":
        return find_pii(text, language=language)
    patterns = _FAKES if mode == "fake" else {kind: re.escape(f"<{kind.upper()}>") for kind in KINDS}
    matches = ((kind, match) for kind, pattern in patterns.items() for match in re.finditer(pattern, text))
    return sorted((Span(kind, *match.span(), "replaced") for kind, match in matches), key=lambda span: span.start)


_LETTERS = "[bcdfghjklmnpqrstvwxz]{12}"
_FAKES: Mapping[Kind, str] = {
    "secret": rf"\bFAKE_SECRET_{_LETTERS}",
    "email": rf"\b{_LETTERS}@example\.com\b",
    "iban": r"\bGB00FAKE\d{14}\b",
    "card": r"\b9999\d{12}\b",
    "national_id": rf"\b900-00-\d{{4}}\b|\bFAKE-ID-{_LETTERS}\b",
    "ip": r"\b2001:db8::[0-9a-f]{1,4}:[0-9a-f]{1,4}\b|\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d{1,3}\b",
    "phone": r"\+1-\d{3}-555-01\d{2}\b",
}
"""What `fake` makes, as it is found again."""


def _with_spans(meta: str | None, spans: Sequence[Span]) -> str:
    found = [{"kind": span.kind, "label": span.label, "start": span.start, "end": span.end} for span in spans]
    return json.dumps({**json.loads(meta or "{}"), "pii": found}, sort_keys=True, ensure_ascii=False)


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(name)
    field = pa.field(name, values.type)
    return table.append_column(field, values) if at < 0 else table.set_column(at, field, values)


_AREAS = (201, 202, 205, 206, 212, 213, 214, 215, 216, 217, 301, 302, 303, 304, 305, 312, 313, 314, 315, 316, 401, 402, 404, 405, 406)
