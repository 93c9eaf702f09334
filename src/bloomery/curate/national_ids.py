"""National identity, tax and insurance numbers: their shapes, and the arithmetic that tells them from other numbers.

A number that carries a strong check is believed where it stands; one with a weak check (or none) only in its usual
grouping or next to a word that names it. Every pattern is for RE2 and bounded, so that no text is slow to scan.
"""

import datetime
from collections.abc import Callable
from typing import NamedTuple

_VERHOEFF_PRODUCT = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_PERMUTATION = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_FISCAL_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NEVER_ISSUED_NINO = ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
_ADVERTISED_SSN = ("078051120", "219099999", "123456789")
"""Printed on sample cards and in forms; 123-45-6789 is everybody's example."""


class IdRule(NamedTuple):
    """One kind of number: where it may stand (RE2), what its characters must satisfy, and words that name it.

    `pattern` finds it written as it is usually grouped; `bare` (may be "") finds it ungrouped, which is believed only
    where one of `words` (an RE2 alternative) stands shortly before it. `check` is given letters and digits only, upper case.
    """

    label: str
    pattern: str
    bare: str
    words: str
    check: Callable[[str], bool]


def luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812: payment cards, Swedish and Canadian personal numbers.

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    total = 0
    for i, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + i % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def verhoeff(digits: str) -> bool:
    """Verhoeff's check over the dihedral group D5, its digit last (Aadhaar)."""
    state = 0
    for i, digit in enumerate(reversed(digits)):
        state = int(_VERHOEFF_PRODUCT[state][int(_VERHOEFF_PERMUTATION[i % 8][int(digit)])])
    return state == 0


def is_us_ssn(value: str) -> bool:
    """Area 001..899 but 666, group and serial not zero: all that can be checked since 2011."""
    return (
        value[:3] not in ("000", "666") and value[0] != "9" and value[3:5] != "00" and value[5:] != "0000" and value not in _ADVERTISED_SSN
    )


def is_uk_nino(value: str) -> bool:
    """A prefix that is issued; the letters that never occur are left out by the pattern."""
    return value[:2] not in _NEVER_ISSUED_NINO


def is_german_tax_id(value: str) -> bool:
    """ISO 7064 MOD 11,10; and of the first ten digits exactly one occurs twice or three times (BZSt)."""
    counts = [value[:10].count(digit) for digit in "0123456789"]
    if value[0] == "0" or sorted(counts)[-2] > 1 or max(counts) not in (2, 3):
        return False
    product = 10
    for digit in value[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(value[10])


def is_french_nir(value: str) -> bool:
    """Numéro de sécurité sociale: its key is 97 less the number modulo 97; Corsica counts as 19 and 18."""
    number = value[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(value[13:])


def is_spanish_dni(value: str) -> bool:
    """DNI or NIE: the letter is the number modulo 23."""
    number = str("XYZ".index(value[0])) + value[1:8] if value[0] in "XYZ" else value[:8]
    return _DNI_LETTERS[int(number) % 23] == value[8]


def is_codice_fiscale(value: str) -> bool:
    """Italy: the sixteenth letter is a weighted sum of the fifteen before it, modulo 26."""
    total = 0
    for i, letter in enumerate(value[:15]):
        number = int(letter) if letter.isdigit() else ord(letter) - ord("A")
        total += _FISCAL_ODD[number] if i % 2 == 0 else number
    return chr(ord("A") + total % 26) == value[15]


def is_aadhaar(value: str) -> bool:
    """India: twelve digits, not beginning with 0 or 1, Verhoeff."""
    return value[0] not in "01" and verhoeff(value)


def is_cpf(value: str) -> bool:
    """Brazil: two check digits modulo 11; eleven equal digits satisfy it and are nobody's."""
    if value == value[0] * 11:
        return False
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - i) for i, digit in enumerate(value[:length]))
        if total * 10 % 11 % 10 != int(value[length]):
            return False
    return True


def is_chinese_id(value: str) -> bool:
    """Resident identity card: a date of birth, and ISO 7064 MOD 11-2."""
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(value[:17]))
    return _is_date(value[6:10], value[10:12], value[12:14]) and "10X98765432"[total % 11] == value[17]


def is_pesel(value: str) -> bool:
    """Poland: a date of birth whose month tells the century, and a weighted sum."""
    century, month = divmod(int(value[2:4]), 20)
    total = sum(int(digit) * (1, 3, 7, 9)[i % 4] for i, digit in enumerate(value[:10]))
    return _is_date(f"{(19, 20, 21, 22, 18)[century]}{value[:2]}", f"{month:02d}", value[4:6]) and (10 - total % 10) % 10 == int(value[10])


def is_personnummer(value: str) -> bool:
    """Sweden: a date of birth, and Luhn over all ten digits."""
    return any(_is_date(f"{century}{value[:2]}", value[2:4], value[4:6]) for century in (19, 20)) and luhn(value)


def is_bsn(value: str) -> bool:
    """The Netherlands: the eleven-test."""
    return value != "0" * 9 and (sum(int(digit) * (9 - i) for i, digit in enumerate(value[:8])) - int(value[8])) % 11 == 0


def is_canadian_sin(value: str) -> bool:
    """Luhn, and a first digit that is issued."""
    return value[0] not in "08" and luhn(value)


def _is_date(year: str, month: str, day: str) -> bool:
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True


_NINO = r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"

RULES = (
    IdRule("us_ssn", r"\d{3}-\d{2}-\d{4}", r"\d{3} ?\d{2} ?\d{4}", r"ssn|social security|tax ?payer", is_us_ssn),
    IdRule("uk_nino", _NINO + r" \d{2} \d{2} \d{2} [A-D]", _NINO + r"\d{6}[A-D]", r"national insurance|nino\b|\bni (?:no|num)", is_uk_nino),
    IdRule("de_tax_id", r"[1-9]\d \d{3} \d{3} \d{3}", r"[1-9]\d{10}", r"steuer|idnr|tax", is_german_tax_id),
    IdRule(
        "fr_nir",
        r"[12] \d{2} \d{2} (?:\d{2}|2[AB]) \d{3} \d{3} \d{2}",
        r"[12]\d{4}(?:\d{2}|2[AB])\d{8}",
        r"s[ée]curit[ée] sociale|\bnir\b|insee|\bss\b",
        is_french_nir,
    ),
    IdRule("es_dni", r"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", "", "", is_spanish_dni),
    IdRule("it_codice_fiscale", r"(?i:[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z])", "", "", is_codice_fiscale),
    IdRule("in_aadhaar", r"[2-9]\d{3} \d{4} \d{4}", r"[2-9]\d{3}-?\d{4}-?\d{4}", r"aadha?ar|\buid(?:ai)?\b|आधार", is_aadhaar),
    IdRule("br_cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", r"\d{11}", r"\bcpf\b", is_cpf),
    IdRule("cn_resident_id", r"[1-9]\d{5}(?:18|19|20)\d{9}[\dXx]", "", "", is_chinese_id),
    IdRule("pl_pesel", "", r"\d{11}", r"pesel", is_pesel),
    IdRule("se_personnummer", r"\d{6}[-+]\d{4}", "", "", is_personnummer),
    IdRule("nl_bsn", "", r"\d{9}|\d{4}\.\d{2}\.\d{3}", r"\bbsn\b|burgerservice|sofi", is_bsn),
    IdRule("ca_sin", "", r"\d{3}[- ]?\d{3}[- ]?\d{3}", r"\bsin\b|social insurance|assurance sociale", is_canadian_sin),
)
"""Every kind that is known; the first that fits a place wins."""
