"""Keys and secrets in text: credentials with a shape of their own, private keys, and values assigned to a secret's name.

The shapes are those that the issuers publish for secret scanners. An assigned value is believed only if it looks drawn
at random: `password = "changeme"` and `token = os.environ["TOKEN"]` teach nobody anything secret. All patterns are
bounded and for RE2.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple  # Any: what re2 makes of a pattern has no type

import re2

SHAPES = {
    "aws_access_key": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    "github_token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}",
    "gitlab_token": r"glpat-[A-Za-z0-9_-]{20,}",
    "slack_token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}",
    "stripe_key": r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    "google_key": r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{30,}|GOCSPX-[A-Za-z0-9_-]{28}",
    "openai_key": r"sk-[A-Za-z0-9_-]{24,}",
    "huggingface_token": r"hf_[A-Za-z0-9]{30,}",
    "package_token": r"npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{40,}",
    "mail_service_key": r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{32,}|key-[0-9a-f]{32}",
    "jwt": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
}
"""Label: what the credential looks like; each begins with one of _STARTS."""

_STARTS = (
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|hooks\.slack\.com/|[rs]k_live_|[rs]k_test_|AIza|ya29\.|GOCSPX-|sk-"
    r"|hf_[A-Za-z0-9]|npm_[A-Za-z0-9]|pypi-AgE|SG\.[A-Za-z0-9_-]|key-[0-9a-f]|eyJ[A-Za-z0-9]"
)
_NAMES = (
    r"(?i:pass(?:word|wd|phrase)|pwd|secret(?:[_-]?key)?|(?:auth|access|api|refresh|bearer|bot)[_-]?token|token"
    r"|(?:api|access|secret|private|encryption|account)[_-]?key|credentials?)"
)
_ASSIGNMENT = _NAMES + r"""["']?[ \t]{0,3}(?:=>|:=|==?|:)[ \t]{0,3}"""
_HEADER = r"(?i:authorization)[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?(?i:bearer|basic|token)[ \t]{1,3}"
_SCHEME = r"[A-Za-z]://"

_VALUES = {
    1: ("assigned_secret", r"""["'`]([^\s"'`<>]{8,})["'`]|([^\s"'`<>,;(){}\[\]]{12,})"""),
    2: ("bearer_token", r"([A-Za-z0-9._~+/=-]{16,})"),
    3: ("address_password", r"[^\s/:@\"'<>]+:([^\s/:@\"'<>]{3,})@[A-Za-z0-9]"),
}

GATES = (_STARTS, _ASSIGNMENT, _HEADER, _SCHEME + r"[^\s/:@]+:", r"-----BEGIN [A-Z ]*PRIVATE KEY")
"""What a text must have for the finders below, in their order, to find anything."""

_MAX_SHAPE_BYTES, _MAX_VALUE_BYTES = 2048, 512
"""How far behind its start a secret is followed: what keeps the scan linear in the length of the text."""
_KEY_BEGIN, _KEY_END = b"-----BEGIN ", b"-----END "
_MAX_KEY_BYTES = 16_384
_MAX_HEADER_BYTES = 64
_PLAIN = (
    "example",
    "password",
    "changeme",
    "placeholder",
    "your",
    "xxxx",
    "****",
    "....",
    "dummy",
    "sample",
    "insert",
    "test",
    "fake_secret",
)


class Found(NamedTuple):
    """Bytes start:end hold a secret of this label."""

    label: str
    start: int
    end: int


def find_secrets(data: bytes, gates: set[int]) -> Iterator[Found]:
    """Every secret of a UTF-8 text; `gates` are the numbers of GATES that the text passed."""
    patterns, done = _patterns(), 0
    if 0 in gates:
        for start in patterns.starts[0].finditer(data):
            if start.start() >= done:
                found = _match_shape(data, start.start(), patterns)
                if found is not None:
                    done = found.end
                    if _stands_alone(data, found.start, found.end) and looks_random(data[found.start : found.end].decode()):
                        yield found
    for gate, (label, _) in _VALUES.items():
        for start in patterns.starts[gate].finditer(data) if gate in gates else ():
            match = patterns.values[gate].match(data, start.end(), min(start.end() + _MAX_VALUE_BYTES, len(data)))
            if match is not None:
                span = match.span(1) if match.start(1) >= 0 else match.span(2)
                value = data[slice(*span)].decode("utf-8", "replace")
                if looks_random(value) or (gate == 3 and not value.isdigit() and not set(value) & set("${}*")):
                    yield Found(label, *span)
    if 4 in gates:
        yield from _find_private_keys(data)


def looks_random(value: str) -> bool:
    """Whether a value is mixed enough to have been drawn: letters with digits or signs, many different ones, no plain words.

    >>> [looks_random(value) for value in ("hunter2_Zq9!x", "your-api-key-here", "os.environ['KEY']", "aaaaaaaaaaaa1")]
    [True, False, False, False]
    """
    lowered = value.lower()
    if any(word in lowered for word in _PLAIN) or any(mark in value for mark in ("${", "{{", "%(", "()", "['", "://", "<")):
        return False
    letters, digits = sum(map(str.isalpha, value)), sum(map(str.isdigit, value))
    if not letters or not digits:
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy > 2.5 and not _is_path(value)


def _is_path(value: str) -> bool:
    is_file = value.count("/") > 1 and value.startswith(("/", "./", "~"))
    return is_file or (value.count(".") > 1 and value.replace(".", "").isalpha())


def _stands_alone(data: bytes, start: int, end: int) -> bool:
    before, after = data[start - 1 : start], data[end : end + 1]
    return not (before.isalnum() or before in (b"_", b"-") or after.isalnum() or after == b"_")


def _find_private_keys(data: bytes) -> Iterator[Found]:
    at = data.find(_KEY_BEGIN)
    while at >= 0:
        head = data[at : at + _MAX_HEADER_BYTES]
        stop = at + len(_KEY_BEGIN)
        if b"PRIVATE KEY" in head:
            tail = data.find(_KEY_END, stop, at + _MAX_KEY_BYTES)
            if tail < 0:
                stop = min(at + _MAX_KEY_BYTES, len(data))  # cut off: what follows may be the key
                while stop < len(data) and data[stop] & 0xC0 == 0x80:
                    stop -= 1
            else:
                dashes = data.find(b"-----", tail + len(_KEY_END), tail + _MAX_HEADER_BYTES)
                stop = dashes + 5 if dashes >= 0 else tail + len(_KEY_END)
            yield Found("private_key", at, stop)
        at = data.find(_KEY_BEGIN, stop)


def _match_shape(data: bytes, start: int, patterns: "_Patterns") -> Found | None:
    end = min(start + _MAX_SHAPE_BYTES, len(data))
    for label, shape in patterns.shapes.items():
        match = shape.match(data, start, end)
        if match is not None:
            return Found(label, start, match.end())
    return None


class _Patterns(NamedTuple):
    shapes: dict[str, Any]
    starts: list[Any]
    values: dict[int, Any]


@functools.cache
def _patterns() -> _Patterns:
    starts = [re2.compile(start.encode()) for start in (_STARTS, _ASSIGNMENT, _HEADER, _SCHEME)]
    values = {gate: re2.compile(value.encode()) for gate, (_, value) in _VALUES.items()}
    return _Patterns({label: re2.compile(shape.encode()) for label, shape in SHAPES.items()}, starts, values)
