"""Personal data in text: where it stands and of which kind (`curate/redact.py` replaces it).

Three steps, each only for what passed the one before: a set of RE2 patterns says in one pass which kinds a text may hold at
all (most hold none); the patterns of those find places; arithmetic and context (check digits, numbering plans, public
address ranges) decide. RE2 has no backtracking: no text, however built, makes this slow. Names and postal addresses
need a model and are not found here.
"""

import bisect
import functools
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args  # Any: what re2 makes of a pattern has no type

import re2

from bloomery.curate import national_ids, phones, secrets
from bloomery.curate.national_ids import luhn

Kind = Literal["secret", "email", "iban", "card", "national_id", "ip", "phone"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""In order of trust: where two overlap, the earlier kind has it."""

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24,
    "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23,
    "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
"""Characters of an account number by country (SWIFT's IBAN registry)."""

_FILE_ENDINGS = (
    "avif", "bmp", "bz2", "c", "cc", "cpp", "css", "csv", "dll", "doc", "docx", "eps", "exe", "gif", "gz", "h", "htm", "html",
    "ico", "ini", "jpeg", "jpg", "js", "json", "jsx", "log", "md", "mp3", "mp4", "pdf", "php", "png", "ppt", "psd", "py", "rb",
    "rs", "sh", "so", "svg", "tar", "tif", "tiff", "ts", "tsx", "ttf", "txt", "wav", "webm", "webp", "woff", "woff2", "xls",
    "xlsx", "xml", "yaml", "yml", "zip",
)  # fmt: skip
"""What stands behind the last dot of `icon@2x.png`. (.rs, .sh, .so, .md, .py, .ps are countries too, of few addresses.)"""
_RESERVED_DOMAINS = ("example.com", "example.org", "example.net", "example.edu", "domain.com", "email.com")
_RESERVED_ENDINGS = ("example", "test", "invalid", "localhost", "local", "localdomain")
_LOCAL_SIGNS = "._%+-'"
_MAX_LOCAL, _MAX_DOMAIN = 64, 255

_OBFUSCATED = r"[A-Za-z0-9._+-]+ ?[\[({] ?(?i:at) ?[\])}] ?[A-Za-z0-9-]+(?: ?(?:[\[({] ?(?i:dot) ?[\])}]|\.) ?[A-Za-z0-9-]+){1,4}"
_CARD = r"\b\d(?:[ -]?\d){11,18}\b"
_IBAN = r"(?i:\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30})"
_IPV4 = r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b"
_IPV6 = r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*"

_CARD_WORDS = r"(?i:card|credit|debit|visa|master ?card|amex|maestro|\bcc\b|karte|carte|tarjeta|cartão)"
_IP_WORDS = r"(?i:\bip\b|\bips\b|\bipv4|address|host|server|\bdns\b|gateway|\bping|\bfrom\b|client|remote|\bssh\b)"
_VERSION_WORDS = r"(?i:version|\bver\b|\bv=?|release|build|revision|\brev\b|firmware|driver|section|chapter|clause|§|\bsec)[ .:]{0,2}$"
_NEARBY_BYTES = 48

_CARD_LENGTHS = {
    "4": (16,),
    "5": (16,),
    "2": (16,),
    "34": (15,),
    "37": (15,),
    "36": (14,),
    "38": (14,),
    "30": (14,),
    "35": (16,),
    "6": (16,),
}
_OLD_CARD_STARTS = ("1800", "2131", "4", "50", "56", "57", "58", "6", "5", "2", "3")


class Span(NamedTuple):
    """Characters start:end of a text hold personal data of a kind; `label` says which (us_ssn, github_token, ...)."""

    kind: Kind
    start: int
    end: int
    label: str


def find_pii(text: str, kinds: Iterable[Kind] = KINDS, *, language: str | None = "en") -> list[Span]:
    """The personal data of a text, in order, without overlaps. `language` says where national telephone numbers belong.

    >>> find_pii("Write to jane@acme.io from 81.2.69.142, not from 999.999.999.999 or 10.0.0.1.")
    [Span(kind='email', start=9, end=21, label='email'), Span(kind='ip', start=27, end=38, label='ipv4')]
    """
    wanted = set(kinds)
    data = text.encode("utf-8", "replace")  # a lone surrogate becomes one "?": offsets hold
    gates = _open_gates(data)
    found = list(_find_emails(text)) if "email" in wanted and "@" in text else []
    in_bytes = [span for kind in KINDS if kind in wanted and gates.get(kind) for span in _FINDERS[kind](data, gates[kind], language)]
    found += in_bytes if len(data) == len(text) else _as_characters(data, in_bytes)
    return _without_overlaps(found)


def _open_gates(data: bytes) -> dict[str, set[int]]:
    gate = _gate()
    opened: dict[str, set[int]] = {}
    for number in gate.set.Match(data) or ():
        kind, index = gate.owners[number]
        opened.setdefault(kind, set()).add(index)
    return opened


def _find_emails(text: str) -> Iterator[Span]:
    at, done = text.find("@"), 0
    while at >= 0:
        start, end = _local_start(text, at, done), _domain_end(text, at + 1)
        if (
            start < at
            and end > at + 1
            and text[start - 1 : start] not in ("@", "/")
            and not _is_nobodys(text[start:at], text[at + 1 : end], text, end)
        ):
            done = end
            yield Span("email", start, end, "email")
        at = text.find("@", max(at + 1, done))


def _local_start(text: str, at: int, least: int) -> int:
    start = at
    while start > max(at - _MAX_LOCAL, least):
        letter = text[start - 1]
        if not _is_address_letter(letter, _LOCAL_SIGNS):
            break
        start -= 1
    while start < at and text[start] in _LOCAL_SIGNS:
        start += 1
    return at if text[at - 1] == "." else start


def _is_address_letter(letter: str, signs: str) -> bool:
    # Other alphabets with spaces between words may be part of an address; Chinese and the like run on before it.
    return letter in signs or (letter.isalnum() if letter.isascii() else "\xc0" <= letter < "\u0530" and letter.isalpha())


def _domain_end(text: str, start: int) -> int:
    end = start
    while end < min(start + _MAX_DOMAIN, len(text)):
        letter = text[end]
        if not _is_address_letter(letter, ".-"):
            break
        end += 1
    labels = text[start:end].split(".")
    good = 0
    while good < len(labels) and labels[good].strip("-") == labels[good] and 0 < len(labels[good]) <= 63:
        good += 1
    while good > 1 and not (labels[good - 1].isalpha() and 2 <= len(labels[good - 1]) <= 24):
        good -= 1
    return start + len(".".join(labels[:good])) if good > 1 else start


def _is_nobodys(local: str, domain: str, text: str, end: int) -> bool:
    domain = domain.lower()
    last = domain.rpartition(".")[2]
    is_reserved = last in _RESERVED_ENDINGS or domain.endswith(tuple(_RESERVED_DOMAINS))
    is_remote = local in ("git", "hg", "svn") and text[end : end + 1] in (":", "/")
    return is_reserved or is_remote or last in _FILE_ENDINGS


def _find_obfuscated(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    for match in _pattern(_OBFUSCATED).finditer(data):
        ending = match.group().lower().rpartition(b".")[2].rpartition(b" ")[2]
        if b"dot" in match.group().lower() or ending.isalpha():
            yield Span("email", match.start(), match.end(), "obfuscated")


def _find_secrets(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    return (Span("secret", found.start, found.end, found.label) for found in secrets.find_secrets(data, gates))


def _find_phones(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    regions = phones.REGIONS.get((language or "").split("-")[0].split("_")[0], ())
    return (Span("phone", found.start, found.end, found.label) for found in phones.find_phones(data, gates, regions=regions))


def _find_ibans(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    for match in _pattern(_IBAN).finditer(data):
        length = IBAN_LENGTHS.get(match.group()[:2].decode().upper(), 0)
        end, count = match.start(), 0
        while end < match.end() and count < length:  # the pattern may have run on into the next word
            count += data[end] != 32
            end += 1
        if length and count == length and not data[end : end + 1].isalnum() and is_iban(data[match.start() : end].decode()):
            yield Span("iban", match.start(), end, "iban")


def is_iban(written: str) -> bool:
    """Whether the check digits of an account number are right (ISO 7064 MOD 97-10).

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    plain = written.replace(" ", "").upper()
    digits = "".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])
    return 2 <= int(plain[2:4]) <= 98 and int(digits) % 97 == 1


def _find_cards(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    for match in _pattern(_CARD).finditer(data):
        start, end = match.span()
        written = match.group().decode()
        digits = written.replace(" ", "").replace("-", "")
        if not luhn(digits) or len(set(digits)) < 2 or _is_part_of_more(data, start, end):
            continue
        is_plain = _is_card_of_today(digits) and _is_grouped_as_card(written, len(digits)) and data[start - 1 : start] not in (b"=", b"/")
        if is_plain or (digits.startswith(_OLD_CARD_STARTS) and _has_before(data, start, _CARD_WORDS)):
            yield Span("card", start, end, "card")


def _is_card_of_today(digits: str) -> bool:
    if digits[0] == "2" and not "2221" <= digits[:4] <= "2720":
        return False
    if digits[0] == "5" and not "51" <= digits[:2] <= "55":
        return False
    if digits[0] == "6" and digits[:2] not in ("60", "62", "64", "65"):
        return False
    return any(digits.startswith(start) and len(digits) in lengths for start, lengths in _CARD_LENGTHS.items())


def _is_grouped_as_card(written: str, num_digits: int) -> bool:
    groups = [len(group) for group in written.replace("-", " ").split(" ")]
    return groups in ([num_digits], [4, 4, 4, 4], [4, 6, 5], [4, 6, 4])


def _find_ips(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    if 0 in gates:
        for match in _pattern(_IPV4).finditer(data):
            if not _is_part_of_more(data, *match.span()) and _is_public(match.group()) and not _is_version(data, *match.span()):
                yield Span("ip", match.start(), match.end(), "ipv4")
    if 1 in gates:
        for match in _pattern(_IPV6).finditer(data):
            start, end = match.span()
            while end > start and data[end - 1] in b".:" and data[end - 2 : end] != b"::":
                end -= 1
            before, after = data[start - 1 : start], data[end : end + 1]
            written = data[start:end]
            # abc::def is a name in C++ as well: the short form must be of the range that is given out, 2000::/3.
            is_sure = written.count(b":") == 7 or (
                b"::" in written and len(written) > 6 and written[:1] in b"23" and written.find(b":") == 4
            )
            if (
                is_sure
                and not (before.isalnum() or before in (b":", b"_") or after.isalnum() or after in (b":", b"_"))
                and _is_public(written)
            ):
                yield Span("ip", start, end, "ipv6")


def _is_public(written: bytes) -> bool:
    try:
        address = ipaddress.ip_address(written.decode())
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_version(data: bytes, start: int, end: int) -> bool:
    if _has_before(data, start, _VERSION_WORDS) or data[start - 1 : start] in (b"v", b"V", b"-", b"_"):
        return True
    # 2.5.1.304 is a version or a section far more often than a machine.
    is_small = max(map(int, data[start:end].split(b".")[:3])) < 32
    return is_small and data[start - 3 : start] != b"://" and not _has_before(data, start, _IP_WORDS)


def _find_national_ids(data: bytes, gates: set[int], language: str | None) -> Iterator[Span]:
    for i, rule in enumerate(national_ids.RULES):
        if 2 * i in gates:
            yield from _check_id(data, rule, rule.pattern, must_be_named=False)
        if 2 * i + 1 in gates:
            yield from _check_id(data, rule, rule.bare, must_be_named=True)


def _check_id(data: bytes, rule: national_ids.IdRule, pattern: str, *, must_be_named: bool) -> Iterator[Span]:
    for match in _pattern(rf"\b(?:{pattern})\b").finditer(data):
        plain = "".join(filter(str.isalnum, match.group().decode())).upper()
        if (
            rule.check(plain)
            and not _is_part_of_more(data, *match.span())
            and (not must_be_named or _has_before(data, match.start(), f"(?i:{rule.words})"))
        ):
            yield Span("national_id", match.start(), match.end(), rule.label)


def _is_part_of_more(data: bytes, start: int, end: int) -> bool:
    # Joined by a sign to more letters or digits, or in a row of numbers of the same look.
    before, after = data[max(start - 2, 0) : start], data[end : end + 2]
    if before[-1:].isalnum() or after[:1].isalnum() or before[-1:] in (b"_", b"#") or after[:1] == b"_":
        return True
    is_joined = len(before) == 2 and before[1:] in (b"-", b".", b",", b" ") and before[:1].isdigit()
    return is_joined or (len(after) == 2 and after[:1] in (b"-", b".", b",", b" ") and after[1:].isdigit())


def _has_before(data: bytes, start: int, words: str) -> bool:
    return _pattern(words).search(data[max(start - _NEARBY_BYTES, 0) : start]) is not None


def _as_characters(data: bytes, spans: Iterable[Span]) -> Iterator[Span]:
    at = characters = 0
    places: dict[int, int] = {}
    spans = list(spans)
    for place in sorted({edge for span in spans for edge in (span.start, span.end)}):
        characters += len(data[at:place].decode("utf-8", "replace"))
        at, places[place] = place, characters
    return (Span(span.kind, places[span.start], places[span.end], span.label) for span in spans)


def _without_overlaps(spans: Sequence[Span]) -> list[Span]:
    starts: list[int] = []
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (KINDS.index(span.kind), span.start, -span.end)):
        at = bisect.bisect_left(starts, span.end)  # those kept do not overlap: only the last that begins before the end can
        if not at or kept[at - 1].end <= span.start:
            starts.insert(at, span.start)
            kept.insert(at, span)
    return kept


_FINDERS = {
    "secret": _find_secrets,
    "email": _find_obfuscated,
    "iban": _find_ibans,
    "card": _find_cards,
    "national_id": _find_national_ids,
    "ip": _find_ips,
    "phone": _find_phones,
}


class _Gate(NamedTuple):
    set: Any
    owners: list[tuple[str, int]]


@functools.cache
def _gate() -> _Gate:
    ids = [
        gate for rule in national_ids.RULES for gate in (rule.pattern and rf"\b(?:{rule.pattern})\b", rule.words and f"(?i:{rule.words})")
    ]
    gates = {
        "secret": secrets.GATES,
        "email": (r"[\[({] ?(?i:at) ?[\])}]",),
        "iban": (r"(?i:\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11})",),
        "card": (r"\d(?:[ -]?\d){11}",),
        "national_id": ids,
        "ip": (_IPV4, r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]"),
        "phone": phones.GATES,
    }
    patterns, owners = re2.Set.SearchSet(), []
    for kind, alternatives in gates.items():
        for index, alternative in enumerate(alternatives):
            if alternative:
                patterns.Add(alternative.encode())
                owners.append((kind, index))
    patterns.Compile()
    return _Gate(patterns, owners)


@functools.cache
def _pattern(pattern: str) -> Any:
    return re2.compile(pattern.encode())
