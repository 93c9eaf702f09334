"""Personal data: what is found and, as important, what only looks like it; checks against numbers that issuers publish."""

import ast
import functools
import gzip
import json
import random
from pathlib import Path

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.documents import document_table
from bloomery.curate import national_ids, phones, pii, secrets
from bloomery.curate.national_ids import luhn, verhoeff
from bloomery.curate.pii import IBAN_LENGTHS, KINDS, find_pii, is_iban
from bloomery.curate.redact import RedactConfig, redact, redact_table, redact_text

SHARED = Path(__file__).parents[3] / "shared" / "data" / "filters" / "pii_presidio_synth_v2.jsonl.gz"
FAKES = RedactConfig(mode="fake")

PRIVATE_KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq8Zk\n-----END RSA PRIVATE KEY-----"

FOUND = {
    "email": [
        "jane.doe+lists@mail.acme.co.uk",
        "o'neill@acme.io",
        "josé.garcía@müller.de",
        "иван@почта.рф",
        "jane [at] acme [dot] com",
        "a_b-c%d@x1.museum",
    ],
    "phone": [
        "+44 20 7946 0958",
        "+49 (0)30 901820",
        "(212) 736-5000",
        "212-736-5000",
        "1-800-999-3355",
        "0041 31 370 70 00",
        "212.736.5000 x12",
    ],
    "ip": ["81.2.69.142", "2a00:1450:4009:80b::200e", "2001:4860:4860:0:0:0:0:8888"],
    "card": ["4111 1111 1111 1111", "5555555555554444", "378282246310005", "3782 822463 10005", "6011-1111-1111-1117", "30569309025904"],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "fr1420041010050500013m02606", "NO93 8601 1117 947"],
    "national_id": [
        "536-90-4399",
        "AB 12 34 56 C",
        "86 095 742 719",
        "2 55 08 14 168 025 38",
        "12345678Z",
        "X1234567L",
        "RSSMRA85T10A562S",
        "2234 5678 9018",
        "529.982.247-25",
        "11010519491231002X",
        "811228-9874",
    ],
    "secret": [
        "AKIAIOSFODNN7EXAMPL2".replace("EXAMPL", "QRSTUV"),
        "ghp_" + "aB3dE6gH9j" * 4,
        "xoxb-2151-aB3dE6gH9jKl",
        "AIza" + "SyD3aB7_x-Q" * 3 + "k2",
        "sk-proj-aB3dE6gH9jKlMn0pQrStUv",
        "hf_" + "aB3dE6gH9j" * 3 + "KlMn",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K",
        PRIVATE_KEY,
    ],
}

HARD_NEGATIVES = [
    "order 4983217765 was shipped",
    "at 1600000000 in Unix time",
    "1600000000000 ms",
    "snowflake 1234567890123456789",
    "version 1.2.3.4",
    "v10.20.30.40",
    "foo-1.2.3.4.tar.gz",
    "section 2.5.1.3 of the norm",
    "999.999.999.999",
    "256.1.1.1",
    "10.0.0.1",
    "192.168.1.254",
    "127.0.0.1 localhost",
    "multicast 224.0.0.5 host",
    "169.254.1.1",
    "fe80::1",
    "::1",
    "std::vector<int>",
    "abc::def",
    "12:34:56",
    "00:1B:44:11:3A:B7",
    "1999-2000",
    "2010-2015",
    "in 1984 1985 1986",
    "on 12.05.2020 and 2020-05-12",
    "3 500 000 people",
    "4111 1111 1111 1112",
    "ISBN 978-3-16-148410-0",
    "1234567812345678",
    "0000 0000 0000 0000",
    "GB82 WEST 1234 5698 7654 33",
    "DE00370400440532013000",
    "666-12-3456",
    "000-12-3456",
    "900-12-3456",
    "078-05-1120",
    "123-45-6789",
    "12345678A",
    "RSSMRA85T10A562T",
    "529.982.247-26",
    "111.111.111-11",
    "icon@2x.png",
    "me@example.com",
    "root@localhost",
    "git@github.com:a/b.git",
    "react@16.8.0",
    "a @ b . com",
    "@jane",
    "user@@acme.com",
    "password: <SECRET>",
    'password = "changeme"',
    "token = os.environ['TOKEN']",
    'api_key: "your-api-key-here"',
    "the password is easy",
    "sk-this-is-a-css-class-name-of-some-length",
    "0.1234567890123",
    "1,234,567,890",
    "$1234567890",
    "#5551234567",
    "5e4b1c7a-9f3d-4b7e-8a21-0123456789ab",
    "3.14159265358979",
    "100-200-300",
    "https://x.org/photo/4111111111111111",
    "-----BEGIN PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "555-0143 is in every film",
    "call it 20 200 2000",
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_each_kind_is_found_whole_between_words(kind, value):
    text = f"Zażółć, see {value}, thanks."
    assert [(span.kind, text[span.start : span.end]) for span in find_pii(text)] == [(kind, value)]


@pytest.mark.parametrize("text", HARD_NEGATIVES)
def test_what_only_looks_like_personal_data_stays(text):
    assert find_pii(f"So {text} it was.") == []


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("My SSN is 536904399.", "us_ssn"),
        ("National Insurance: AB123456C", "uk_nino"),
        ("Steuer-ID 86095742719", "de_tax_id"),
        ("PESEL: 44051401359", "pl_pesel"),
        ("BSN 111222333", "nl_bsn"),
        ("SIN: 130 692 544", "ca_sin"),
        ("CPF 52998224725", "br_cpf"),
    ],
)
def test_a_number_with_a_weak_check_counts_only_where_it_is_named(text, label):
    assert [span.label for span in find_pii(text)] == [label]
    assert find_pii("Part " + text.split()[-1].rstrip(".") + " is here", ["national_id"]) == [] or label == "ca_sin"


def test_ten_digits_are_a_telephone_number_where_a_word_says_so():
    assert [span.kind for span in find_pii("Phone: 4983217765")] == ["phone"]
    assert find_pii("Order: 4983217765") == []


def test_a_national_number_is_read_by_the_language_of_the_document():
    text = "Rufen Sie an unter 030 901820 oder kommen Sie."
    assert find_pii("Zentrale 01 84 17 61 18.", language="fr") and not find_pii("Zentrale 01 84 17 61 18.", language=None)
    assert not find_pii(text, language="ja")


def test_kinds_that_are_not_asked_for_are_not_found():
    assert [span.kind for span in find_pii("jane@acme.io 81.2.69.142", ["ip"])] == ["ip"]


def test_checks_agree_with_numbers_that_issuers_publish():
    assert luhn("79927398713") and not luhn("79927398710")  # ISO/IEC 7812-1, annex B
    assert verhoeff("2363") and not verhoeff("2364")
    assert national_ids.is_german_tax_id("86095742719") and national_ids.is_french_nir("255081416802538")
    assert national_ids.is_chinese_id("11010519491231002X")  # GB 11643-1999
    assert national_ids.is_bsn("111222333") and national_ids.is_pesel("44051401359")


def test_verhoeff_catches_every_wrong_digit_and_every_swap_of_neighbours():
    good = "234567890124"
    assert sum(verhoeff(good[:-1] + str(digit)) for digit in range(10)) == 1
    good = next(good[:-1] + str(digit) for digit in range(10) if verhoeff(good[:-1] + str(digit)))
    for i in range(len(good)):
        assert not any(verhoeff(good[:i] + str(digit) + good[i + 1 :]) for digit in range(10) if str(digit) != good[i])
    for i in range(len(good) - 1):
        assert good[i] == good[i + 1] or not verhoeff(good[:i] + good[i + 1] + good[i] + good[i + 2 :])


def test_an_account_number_has_its_countrys_length_and_check_digits():
    assert is_iban("NL91ABNA0417164300") and not is_iban("NL91ABNA0417164301")
    assert all(15 <= length <= 33 for length in IBAN_LENGTHS.values())
    assert [span.kind for span in find_pii("GB82 WEST 1234 5698 7654 32 and more")] == ["iban"]


def test_spans_are_of_characters_also_behind_other_alphabets():
    text = "Ящик 😀 №5: jane@acme.io, 81.2.69.142"
    assert [text[span.start : span.end] for span in find_pii(text)] == ["jane@acme.io", "81.2.69.142"]


def test_a_lone_surrogate_does_not_shift_or_stop_anything():
    text = "\ud800 81.2.69.142"
    assert [text[span.start : span.end] for span in find_pii(text)] == ["81.2.69.142"]


def test_a_key_without_an_end_is_taken_as_far_as_keys_go():
    spans = find_pii("x\n-----BEGIN PRIVATE KEY-----\n" + "A" * 50)
    assert [(span.kind, span.start) for span in spans] == [("secret", 2)]


pieces = st.one_of(
    st.sampled_from([value for values in FOUND.values() for value in values] + HARD_NEGATIVES),
    st.text(alphabet="0123456789 .-+()@:/aGB\n", max_size=24),
    st.sampled_from([" ", ", ", "\n", "tel. ", "SSN ", "card ", "password=", "", "-", ".", ":"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=8).map("".join), st.sampled_from(["placeholder", "fake"]))
def test_redacting_a_redacted_text_changes_nothing(text, mode):
    config = RedactConfig(mode=mode)
    once = redact_text(text, config)
    assert redact_text(once, config) == once


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=8).map("".join))
def test_spans_are_in_order_inside_the_text_and_do_not_overlap(text):
    edges = [edge for span in find_pii(text) for edge in (span.start, span.end)]
    assert edges == sorted(edges) and all(0 <= edge <= len(text) for edge in edges)
    assert all(span.end > span.start for span in find_pii(text))


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_a_fake_is_nobodys_and_the_same_for_the_same_value(kind, value):
    first, second = f"one {value} two", f"zażółć {value}, three"
    fakes = {redact(text, find_pii(text), mode="fake", seed=1).split()[1] for text in (first, second)}
    assert len({fake.rstrip(",") for fake in fakes}) == 1
    assert redact_text(first, FAKES) != redact_text(first, RedactConfig(mode="fake", seed=5)) and value not in redact_text(first, FAKES)
    assert find_pii(redact_text(first, FAKES)) == []


def test_a_table_keeps_its_rows_and_gets_counts_and_on_demand_places_without_values():
    rows = [
        {"id": "a", "text": "Write to jane@acme.io or joe@acme.io", "language": "en"},
        {"id": "b", "text": "Nothing.", "meta": {"title": "t"}},
    ]
    table, counts = redact_table(document_table(rows), RedactConfig(spans="meta"))
    assert table.column("text").to_pylist() == ["Write to <EMAIL> or <EMAIL>", "Nothing."]
    assert table.column("signal_pii_email").to_pylist() == [2.0, 0.0]
    assert counts["replaced/email"] == 2 and counts["replaced/phone"] == 0
    meta = table.column("meta").to_pylist()
    assert json.loads(meta[0])["pii"][0] == {"kind": "email", "label": "email", "start": 9, "end": 21} and "jane" not in meta[0]
    assert json.loads(meta[1]) == {"title": "t"}


def test_counting_changes_no_text():
    table, counts = redact_table(document_table([{"id": "a", "text": "jane@acme.io"}]), RedactConfig(mode="count", kinds=["email"]))
    assert table.column("text").to_pylist() == ["jane@acme.io"] and counts == {"found/email": 1}


HOSTILE = {
    "addresses": "a@" * 50_000,
    "dots": "1.1." * 25_000,
    "digits": "4" * 100_000,
    "dashes": "1-" * 50_000,
    "spaces": "1 " * 50_000,
    "colons": "a:" * 50_000,
    "ibans": "GB82" * 25_000,
    "keys": "eyJ" * 33_000,
    "assignments": "password=" * 11_000,
    "plus": "+1" * 50_000,
    "schemes": "a://b:" * 16_000,
    "phones": "tel 212 7 " * 10_000,
    "begins": "-----BEGIN PRIVATE KEY" * 4_500,
    "at": "@" * 100_000,
    "domains": "a@" + "b." * 50_000,
    "obfuscated": "a [at] " * 14_000,
    "nul": "\0" * 100_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_of_100_000_characters_is_scanned(name):
    spans = find_pii(HOSTILE[name])
    bounds = [0, *(place for span in spans for place in (span.start, span.end)), len(HOSTILE[name])]
    assert bounds == sorted(bounds), "spans lie in the text, one after another"


def test_only_re2_searches_text():
    for module in (pii, phones, secrets, national_ids):
        names = {
            alias.name
            for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not names & {"re", "regex"}, module.__name__


def test_the_gate_opens_for_everything_that_is_found():
    # The finders must find nothing that the gate would have kept them from: with all gates open the same spans come out.
    gate = pii._gate()
    every: dict[str, set[int]] = {}
    for kind, index in gate.owners:
        every.setdefault(kind, set()).add(index)
    draw = random.Random(3)
    values = [value for kinds in FOUND.values() for value in kinds] + HARD_NEGATIVES
    for _ in range(300):
        data = " ".join(draw.sample(values, 4)).encode()
        opened = pii._open_gates(data)
        for kind, finder in pii._FINDERS.items():
            assert set(finder(data, every[kind], "en")) == (set(finder(data, opened[kind], "en")) if kind in opened else set()), data


@functools.cache
def presidio_rows() -> list[dict]:
    if not SHARED.exists():
        pytest.skip("the labelled sentences of presidio-research are not here")
    with gzip.open(SHARED, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(
    ("kind", "theirs", "recall"),
    [
        ("email", "EMAIL_ADDRESS", 1.0),
        ("iban", "IBAN_CODE", 1.0),
        ("card", "CREDIT_CARD", 0.99),
        ("ip", "IP_ADDRESS", 1.0),
        ("national_id", "US_SSN", 1.0),
        ("phone", "PHONE_NUMBER", 0.6),
    ],
)
def test_labelled_sentences_of_presidio_are_found_with_no_false_alarm(kind, theirs, recall):
    hits = total = wrong = 0
    for row in presidio_rows():
        labelled = [(span["start_position"], span["end_position"]) for span in row["spans"] if span["entity_type"] == theirs]
        found = [(span.start, span.end) for span in find_pii(row["full_text"]) if span.kind == kind]
        hits += sum(any(a < y and x < b for x, y in found) for a, b in labelled)
        wrong += sum(not any(a < y and x < b for a, b in labelled) for x, y in found)
        total += len(labelled)
    assert total and hits / total >= recall and wrong <= 1


def test_every_pattern_compiles_without_running_out_of_memory(capfd):
    for pattern in [*phones.GATES, *secrets.GATES, *phones.SHAPES.values(), *secrets.SHAPES.values()]:
        for _ in re2.compile(pattern.encode()).finditer(b"4 " * 5000 + b"a@b.c eyJ" * 500):
            pass
    assert "out of memory" not in capfd.readouterr().err
    assert set(KINDS) == set(FOUND)
