"""Titles, authors and days of publication that pages state in one way or another."""

import gzip
import json
from pathlib import Path

import pytest

from bloomery.curate.blocks import NO_WORDS, cut_page
from bloomery.curate.extract import encode_bytes
from bloomery.curate.metadata import Metadata, parse_day, read_metadata
from bloomery.curate.warc import Capture, read_captures

SHARED = Path(__file__).parents[3] / "shared" / "data"


def read(html: str | bytes, *, url: str = "") -> Metadata:
    utf8 = html.encode() if isinstance(html, str) else html
    return read_metadata(cut_page(utf8, NO_WORDS).facts, encoded=utf8, url=url)


@pytest.mark.parametrize(
    ("html", "url", "expected"),
    [
        ('<meta property="article:published_time" content="2021-03-05T10:00:00Z">', "", "2021-03-05"),
        ('<script type="application/ld+json">{"datePublished": "2020-12-01"}</script>', "", "2020-12-01"),
        ("<body><time datetime='2019-07-08'>8 July</time>", "", "2019-07-08"),
        ("<p>nothing", "https://a.example/2018/06/30/iron.html", "2018-06-30"),
        ('<meta name="date" content="2018-13-45">', "https://a.example/9999/99/99/", ""),
    ],
)
def test_the_day_of_publication_is_found_where_pages_put_it(html, url, expected):
    assert read(html, url=url).published == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5 March 2021", "2021-03-05"), ("March 5th, 2021", "2021-03-05"), ("20210305T1000", "2021-03-05"), ("31.02.2021", ""), ("", "")],
)
def test_days_are_read_in_several_spellings(text, expected):
    assert parse_day(text) == expected


def test_the_title_is_the_pageʼs_own_heading_where_the_declared_one_adds_the_site():
    html = "<title>How iron was made | The Forge</title><h1>How iron <i>was</i> made</h1>"
    assert read(html).title == "How iron was made"
    assert read("<title>A &amp; B</title>").title == "A & B"


@pytest.mark.parametrize(
    "html",
    [
        '<meta name="author" content="Ada Smith">',
        '<script type="application/ld+json">{"author": [{"@type": "Person", "name": "Ada Smith"}]}</script>',
        '<span class="byline">By <a href=x>Ada Smith</a></span>',
        '<a rel="author" href="/ada">Ada Smith</a>',
    ],
)
def test_the_author_is_found_where_pages_put_it(html):
    assert read(html).author == "Ada Smith"


def test_hostile_heads_are_read_in_linear_time():
    for part in (
        "<h1>",
        '<a class="author" ',
        "<meta ",
        '"author":',
        "<time ",
        "<title",
        'application/ld+json">',
        "<a class=class='author ",
    ):
        found = read(part * 100_000, url="http://a.example/" + "2020/" * 1000)
        assert not found.published and len(found.author or "") < 200


def test_days_of_real_pages_are_mostly_right_and_seldom_wrong():
    path = SHARED / "extraction" / "wcxb_dev.truth.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is missing: real pages are not part of the repository")
    with gzip.open(SHARED / "extraction" / "htmldate.truth.jsonl.gz", "rt") as file:
        truth = {row["url"]: row["publish_date"] for row in map(json.loads, file)}
    found = right = stated = 0
    for number in (0, 1):
        for item in read_captures(SHARED / "web" / f"pages-0000{number}.warc.gz", max_record_bytes=8 << 20):
            if isinstance(item, Capture) and item.url in truth:
                day = read(encode_bytes(item.body, charset=item.charset).utf8, url=item.url).published
                stated += 1
                found += bool(day)
                right += day == truth.pop(item.url)
    assert stated > 100 and right / found > 0.7 and found / stated > 0.5, (stated, found, right)
