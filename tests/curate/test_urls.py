"""Addresses: RFC 3986's own examples, what browsers do, and laws that hold for every string."""

from pathlib import Path
from urllib.parse import urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.files import read_jsonl
from bloomery.curate.urls import canonical_url, parse_url

META = Path(__file__).parents[3] / "shared" / "data" / "web" / "pages.meta.jsonl.gz"


def key(text: str) -> str:
    url = parse_url(text)
    assert url is not None
    return url.key


def test_the_equivalent_addresses_of_rfc_3986_become_one():
    # RFC 3986 §6.2.2 and §6.2.3
    assert canonical_url("eXAMPLE://a/./b/../b/%63/%7bfoo%7d".replace("eXAMPLE", "HTTP")) == canonical_url("http://a/b/c/%7Bfoo%7D")
    same = ["http://example.com", "http://example.com/", "http://example.com:/", "http://example.com:80/"]
    assert {canonical_url(text) for text in same} == {"http://example.com/"}


@pytest.mark.parametrize("path", ["./g/.", "g/./h", "g/../h", "../../../g", "g.", "..g", "../..", "../", "./../g", "g;x=1/./y"])
def test_dot_segments_are_removed_as_the_standard_library_resolves_them(path):
    # The reference-resolution examples of RFC 3986 §5.4.
    assert canonical_url(f"http://a/b/c/{path}") == urljoin("http://a/b/c/d", path)


@pytest.mark.parametrize(
    ("found", "canonical"),
    [
        ("  https://Example.COM:443/a#part\n", "https://example.com/a"),
        ("http://user:secret@example.com/", "http://example.com/"),
        ("http://b\u00fccher.example/stra\u00dfe", "http://xn--bcher-kva.example/stra%C3%9Fe"),
        ("http://fa\u00df.de/", "http://xn--fa-hia.de/"),
        ("http://example.com/%e4%b8%ad%41", "http://example.com/%E4%B8%ADA"),
        ("http://example.com/100%?q=a b", "http://example.com/100%25?q=a%20b"),
        ("http://example.com/a?utm_source=x&id=7&fbclid=y&UTM_medium=z", "http://example.com/a?id=7"),
        ("http://example.com/a;jsessionid=0F?PHPSESSID=1", "http://example.com/a"),
        ("http://example.com/a?b=2&a=1", "http://example.com/a?b=2&a=1"),
        ("example.com/a", "http://example.com/a"),
        ("//example.com:8080/a", "http://example.com:8080/a"),
        ("http:\\\\example.com\\a", "http://example.com/a"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[2001:DB8::0:1]/", "http://[2001:db8::1]/"),
        ("http://example.com./", "http://example.com/"),
        ("file:///C:/a b.html#x", "file:///C:/a%20b.html"),
    ],
)
def test_the_canonical_form_is_what_a_browser_would_ask_for(found, canonical):
    assert canonical_url(found) == canonical


@pytest.mark.parametrize(
    "text",
    ["", " ", "http://", "http:///",
     "http://a b.com/", "http://example..com/", "http://x.com:99999/", "http://[::g]/", "http://999.1.1.1/",
     "some-id-17", "/relative/path",
     "http://" + "a" * 64 + ".com/", "http://" + "a." * 127 + "com/", "http://%00.com/", "mailto:", "\ud800"],
)  # fmt: skip
def test_what_names_no_host_that_could_exist_is_no_address(text):
    assert canonical_url(text) is None


def test_one_page_has_one_key_and_two_pages_have_two():
    same = ["http://www.example.com/a/", "https://example.com/a", "example.com/a/#top", "https://example.com:443/a?utm_id=1"]
    assert {key(text) for text in same} == {"example.com/a"}
    assert key("http://example.com/?b=1&a=2") == key("http://example.com?a=2&b=1")
    assert key("http://example.com/?a=1&a=2") != key("http://example.com/?a=2&a=1")
    assert key("http://example.com/A") != key("http://example.com/a")
    assert key("http://example.com/a?b") != key("http://example.com/a/b")
    assert key("http://example.com:8080/") != key("http://example.com/")
    assert key("http://www.com/") != key("http://com.com/") and key("http://www.com/") == "www.com"


ADDRESS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "HTTPS://", "", "//", "ftp:", "urn:", "http:\\"]),
    st.sampled_from(["a.b", "EXAMPLE.com:80", "u@b\u00fccher.de", "[::1]", "1.2.3", "xn--a.com", "%41.com", "-.com", "a..b"]),
    st.text(st.sampled_from("/.;%4aF\\ \u00e9") | st.characters(), max_size=12).map("/{}".format),
    st.sampled_from(["", "?"]),
    st.text(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.text() | ADDRESS)
def test_no_text_raises_and_the_canonical_form_is_its_own_canonical_form(text):
    url = parse_url(text)
    if url is not None:
        assert url.text.isascii() and url.text.isprintable() and " " not in url.text
        again = parse_url(url.text)
        assert again is not None and (again.text, again.key) == (url.text, url.key)


def test_every_real_address_is_one_and_no_two_of_them_become_one():
    if not META.is_file():
        pytest.skip(f"{META} is missing: real addresses are not part of the repository")
    urls = {row["url"] for row in read_jsonl(META)}
    assert len(urls) == len({key(url) for url in urls}) == 1346
