"""From bytes to text: charsets, hostile markup, main content, tidy lines."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from bloomery.curate.deadline import Helper
from bloomery.curate.extract import (
    MAX_EFFORT,
    ExtractConfig,
    Extracted,
    Refused,
    decode_bytes,
    encode_bytes,
    extract_page,
    extract_plain,
    measure_markup,
    refuse_hostile_markup,
    run_within,
)
from bloomery.curate.pydoc_pages import Page, render_pages
from bloomery.curate.warc import Capture

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5


def page(body: bytes, *, media_type: str = "text/html", charset: str | None = None, url: str = "http://a.example/") -> Capture:
    return Capture(0, url, "2024-01-01T00:00:00Z", media_type, charset, body, False)


@pytest.mark.parametrize("encoding", ["koi8-r", "windows-1251", "iso-8859-5", "utf-8", "utf-16-le"])
def test_text_is_decoded_by_httpʼs_charset_the_pageʼs_own_or_its_byte_order_mark(encoding):
    if encoding == "utf-16-le":
        assert decode_bytes(b"\xff\xfe" + RUSSIAN.encode(encoding), charset=None).text == RUSSIAN
        return
    assert decode_bytes(RUSSIAN.encode(encoding), charset=encoding).text == RUSSIAN
    meta = f'<html><head><meta charset="{encoding}"></head>{RUSSIAN}'
    assert decode_bytes(meta.encode(encoding), charset=None).text == meta


def test_an_undeclared_encoding_is_detected():
    assert decode_bytes(RUSSIAN.encode("windows-1251"), charset=None).text == RUSSIAN


def test_valid_utf8_is_utf8_whatever_is_declared():
    assert decode_bytes("naïve café".encode(), charset="iso-8859-1").text == "naïve café"


def test_a_declaration_that_cannot_be_true_is_passed_over():
    assert decode_bytes(RUSSIAN.encode("koi8-r"), charset="ascii-but-misspelt").text == RUSSIAN
    assert decode_bytes("こんにちは、世界。".encode("shift_jis") * 20, charset="utf-8").text == "こんにちは、世界。" * 20


@given(st.binary(max_size=300), st.sampled_from([None, "utf-8", "gb2312", "nonsense", "x-user-defined", "utf-16"]))
def test_any_bytes_decode_to_something(body, charset):
    assert decode_bytes(body, charset=charset).text.encode("utf-8", "surrogatepass") is not None


def test_navigation_goes_and_the_article_stays():
    article = "<p>The furnace is filled with charcoal and ore in layers, and blown for half a day.</p>" * 8
    nav = "<nav><ul><li><a href=/>Home</a><li><a href=/x>Products</a></ul></nav>"
    html = f"<html><body>{nav}<main>{article}</main><footer>Imprint</footer></body></html>"
    text = extract_plain(HTMLTree.parse(html))
    assert text.count("The furnace") == 8 and "Products" not in text and "Imprint" not in text


def test_signatures_and_docstrings_of_a_pydoc_page_stay_on_lines_of_their_own():
    (item,) = render_pages(["shutil"], seconds_per_module=20)
    assert isinstance(item, Page)
    result = extract_page(page(item.html.encode(), charset="utf-8"), ExtractConfig())
    assert isinstance(result, Extracted)
    lines = result.text.split("\n")
    at = lines.index("copyfile(src, dst, *, follow_symlinks=True)")
    assert lines[at + 1] == "Copy data from src to dst in the most efficient way possible."
    assert lines[at + 2 : at + 4] == ["", "If follow_symlinks is not set and src is a symbolic link, a new"]
    assert result.title == "Python: module shutil" and "\xa0" not in result.text


def test_hostile_pages_are_refused_before_they_are_parsed():
    config, parsing = ExtractConfig(max_html_bytes=1 << 20), ExtractConfig(extractor="resiliparse")
    deep = extract_page(page(b"<div>" * 5000 + b"hello"), config)
    assert isinstance(deep, Refused) and (deep.rule, deep.value) == ("nested_too_deeply", 5000.0)
    wide = extract_page(page(b"<p " + b"".join(b"a%d=1 " % i for i in range(3000)) + b">hello"), parsing)
    assert isinstance(wide, Refused) and (wide.rule, wide.value) == ("too_many_attributes", 3000.0)
    large = extract_page(page(b"<p>" + b"hello " * 200_000), config)
    assert isinstance(large, Refused) and large.rule == "html_too_large"


def hostility(html: str, config: ExtractConfig) -> Refused | None:
    return refuse_hostile_markup(measure_markup(html), config)


def test_a_long_page_of_open_paragraphs_and_table_cells_is_not_hostile():
    assert hostility("<table>" + "<tr><td>a<td>b<p>c<br>" * 3000 + "</table>", ExtractConfig()) is None
    assert hostility("<div><span>a</span></div>" * 3000, ExtractConfig()) is None
    assert hostility("1 < 2 << 3 <4 a b c d" * 3000, ExtractConfig()) is None
    script = "<script>if (a<b && c) { " + "var x " * 3000 + "}</script>"
    assert hostility(script + "<!-- <div> " + "<div>" * 3000 + "-->", ExtractConfig()) is None
    assert hostility(script + "<i>" * 3000, ExtractConfig()) == Refused("nested_too_deeply", 3000.0, 1000)


def test_a_quote_that_never_ends_is_read_in_one_pass():
    # Quadratic time would take hours here.
    for html in ("<script>" * 300_000, "<!--" * 300_000, "<" * 1_000_000):
        assert hostility(html, ExtractConfig()) is None
    for html in ('<a b="' * 300_000, "</a " * 300_000):
        assert hostility(html, ExtractConfig()).rule == "too_many_attributes"


def sleep_over(html: str, seconds: float) -> str:
    """A parser that a page keeps busy; the rehearsal is quick."""
    time.sleep(seconds if html == "slow" else 0)
    return "done"


def test_an_extractor_that_does_not_end_is_a_ledger_row_and_the_next_page_is_read():
    helper = Helper(sleep_over, ("rehearsal", 0.0))
    assert run_within(0.2, helper, "slow", 1000.0) == Refused("deadline", None, 0.2, "not extracted within 0.2 s")
    assert run_within(60, helper, "quick", 1000.0) == "done"
    helper.close()


def test_formatting_that_every_paragraph_opens_again_ends_at_the_deadline():
    # 900 open elements times 2,000 paragraphs, out of 30 kB; no cap on nesting sees it, as a paragraph closes the last.
    bomb = b"".join(b"<p><b id=%d>" % i for i in range(900)) + b"<p>x" * 2000
    assert measure_markup(bomb.decode()).effort > MAX_EFFORT
    result = extract_page(page(bomb * 4), ExtractConfig(extractor="resiliparse", max_seconds=0.5, max_nesting=10_000))
    assert isinstance(result, Refused) and (result.rule, result.threshold) == ("deadline", 0.5)


def test_a_suspicious_page_that_is_quick_comes_out_of_the_helper_as_it_would_here():
    html = f"<p>{RUSSIAN}</p>" * 4000 + ("<div>" * 900 + "</div>" * 900) * 2
    assert measure_markup(html).effort > MAX_EFFORT
    result = extract_page(page(html.encode()), ExtractConfig(extractor="resiliparse", max_seconds=100))
    assert isinstance(result, Extracted) and result.text.count("Съешь") == 20_000


def test_title_author_and_day_are_kept_and_the_title_may_head_the_text():
    html = '<title>Iron</title><meta name="author" content="Ada Smith"><meta property="article:published_time" content="2021-03-05">'
    body = page(f"{html}<body><p>{'The bloom is hammered while it is hot. ' * 20}".encode())
    result = extract_page(body, ExtractConfig())
    assert isinstance(result, Extracted) and (result.title, result.author, result.published) == ("Iron", "Ada Smith", "2021-03-05")
    assert not result.text.startswith("Iron")
    headed = extract_page(body, ExtractConfig(title="heading", format="markdown"))
    assert isinstance(headed, Extracted) and headed.text == f"# Iron\n\n{result.text}"


def test_trafilatura_is_an_extractor_too():
    pytest.importorskip("trafilatura")
    text = "The furnace is filled with charcoal and ore in layers, and blown for half a day."
    html = f"<html><body><nav><a href=/>Home</a></nav><article>{f'<p>{text}</p>' * 9}</article></body></html>"
    result = extract_page(page(html.encode()), ExtractConfig(extractor="trafilatura", max_seconds=100))
    assert isinstance(result, Extracted) and text in result.text and "Home" not in result.text


@pytest.mark.parametrize(
    ("capture", "rule"),
    [
        (page(b""), "empty_body"),
        (page(b"\x89PNG....", media_type="image/png"), "not_html"),
        (page(b"wget log", media_type="text/plain", url="metadata://gnu.org/software/wget"), "not_html"),
        (page(b"<html><body><img src=x></body></html>"), "no_text"),
    ],
)
def test_what_is_not_a_page_of_text_is_named(capture, rule):
    result = extract_page(capture, ExtractConfig())
    assert isinstance(result, Refused) and result.rule == rule


def test_the_real_pages_give_text():
    shared = Path(__file__).parents[3] / "shared" / "data" / "web"
    if not shared.is_dir():
        pytest.skip(f"{shared} is missing: real web pages are not part of the repository")
    from bloomery.curate.warc import read_captures

    results = []
    for number, item in enumerate(read_captures(shared / "pages-00000.warc.gz", max_record_bytes=8 << 20)):
        assert isinstance(item, Capture)
        if number % 8 == 0:
            results.append(extract_page(item, ExtractConfig()))
    texts = [result.text for result in results if isinstance(result, Extracted)]
    assert len(texts) >= 0.97 * len(results) and sum(map(len, texts)) > 200_000


@given(st.lists(st.one_of(st.binary(max_size=4), st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")))))
def test_bytes_are_taken_as_utf8_where_python_reads_them_as_utf8(pieces: list[bytes]):
    body = b"<p>" + b"".join(pieces)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is not None and not text.isascii():
        assert encode_bytes(body, charset="latin-1") == (body, "utf-8")
    encode_bytes(body, charset=None).utf8.decode("utf-8")  # whatever came in, this is UTF-8
