"""Normalised text: what goes, what must stay, and that a second time changes nothing."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.curate.normalize import NormalizeConfig, normalize_text

EVERYTHING = NormalizeConfig(form="NFKC", entities="unescape", quotes="straight", dashes="hyphen", case="lower", homoglyphs="latin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("a\xa0b", "a b"),
        ("a\u202fb", "a b"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a \t\nb", "a\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("\n\na\n", "a"),
        ("a\x00b\x07c\x7f", "abc"),
        ("a\u200bb\u2060c\ufeff", "abc"),
        ("soft\xadhyphen", "softhyphen"),
        ("x\u2028y\u2029z\x85w", "x\ny\nz\nw"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("pass\u200cword \u200d", "password"),
        ("\ud800x", "\ufffdx"),
        (" \t\t cell", "cell"),
        ("hid\U000e0041\U000e0042den", "hidden"),
        ("  indent", "  indent"),
        ("e\u200b\u0301", "é"),
        ("\u3000全角", "\u3000全角"),
    ],
)
def test_what_nobody_sees_goes_and_spaces_are_spaces(text, expected):
    assert normalize_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "می‌خواهم",
        "क्‍ष",
        "ശ്രീ ന്‍",
        "👨‍👩‍👧‍👦",
        "👩🏽‍🚀",
        "🏳️‍🌈",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "“curly” – dash — … ½ ﬁ Ａ",
        "NÃO É MUITO ÂNGULO",
        "Â Ã å-Ω",
        "naïve café Übergröße",
        "Đặng Thị",
        "文字化け",
    ],
)
def test_what_writing_needs_stays(text):
    assert normalize_text(text) == text


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("donâ€™t", "don’t"),
        ("Ã¼ber GrÃ¶ÃŸe", "über Größe"),
        ("one line\nschÃ¶n\nthird", "one line\nschön\nthird"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
    ],
)
def test_mojibake_is_repaired_where_it_is_certain(broken, text):
    assert normalize_text(broken) == text
    assert normalize_text(broken, NormalizeConfig(mojibake="keep")) == broken


def test_what_loses_something_is_off_until_it_is_asked_for():
    text = "“Ａ” – &amp;amp; раypal ΑB"
    assert normalize_text(text) == text
    assert normalize_text(text, NormalizeConfig(quotes="straight")) == '"Ａ" – &amp;amp; раypal ΑB'
    assert normalize_text(text, NormalizeConfig(homoglyphs="latin")) == "“Ａ” – &amp;amp; paypal AB"
    assert normalize_text(text, EVERYTHING) == '"a" - & paypal ab'
    assert normalize_text("рука", EVERYTHING) == "рука"


letters = st.one_of(
    st.characters(),
    st.characters(codec="utf-8"),
    st.sampled_from(list(" \t\n\r\xa0\u200b\u200c\u200d\u2028ÃÂâ€™©\u0301\u0651کی👩🏴\U000e007f&;")),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(letters, max_size=30).map("".join))
def test_a_second_time_changes_nothing(text):
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_ascii_without_space_at_line_ends_is_left_alone(text):
    assert normalize_text(text.rstrip()) == text.rstrip()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [" ", "\t", "\n", " \t", "\u200d", "Ã", "Ã©", "\xa0", "&amp;", "\x00", "\U000e0041", "\u0301"])
def test_a_long_run_of_anything_is_normalised(piece):
    for config in (NormalizeConfig(), EVERYTHING):
        text = normalize_text("a" + piece * 100_000 + "b", config)
        assert text[0].lower() in "aáà" and text.endswith("b")
