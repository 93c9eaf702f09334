"""Blocklists: each layout is read, each kind of entry blocks what it should and nothing beside it, and the list is named."""

import gzip
import json
import re
from pathlib import Path

import pytest

from bloomery.core.errors import ConfigError, DataError
from bloomery.core.files import read_jsonl
from bloomery.curate.blocklists import Hit, compile_lists, load_lists
from bloomery.curate.urls import parse_url

SHARED = Path(__file__).parents[3] / "shared" / "data"


def compile_here(folder: Path, *paths: Path, categories=(), kinds=None, **inline):
    compile_lists(paths, folder / "compiled", categories=categories, kinds=kinds or {}, inline=inline)
    return load_lists(folder / "compiled")


def hits(lists, *urls: str) -> list[Hit | None]:
    return lists.find_hits([parse_url(url) for url in urls], min_soft_words=2)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_domain_blocks_everything_below_it_at_label_boundaries(tmp_path):
    lists = compile_here(tmp_path, write(tmp_path / "bad.txt.gz", "# ours\nbad.com\n*.worse.org\n.b\u00fccher.example\n"))
    blocked = hits(lists, "http://bad.com/", "https://WWW.bad.com/x", "http://a.b.worse.org", "http://b\u00fccher.example/a")
    assert blocked == [
        Hit("blocked_domain", "bad", "bad.com"),
        Hit("blocked_domain", "bad", "bad.com"),
        Hit("blocked_domain", "bad", "worse.org"),
        Hit("blocked_domain", "bad", "xn--bcher-kva.example"),
    ]
    assert hits(lists, "http://notbad.com/", "http://bad.com.org/", "http://com/", "http://example.org/?u=bad.com") == [None] * 4


def test_a_hosts_file_blocks_its_hosts_and_no_others(tmp_path):
    text = "127.0.0.1 localhost\n::1 localhost\n0.0.0.0 ads.example.com  # banner\n0.0.0.0\ttracker.net\n"
    lists = compile_here(tmp_path, write(tmp_path / "hosts", text))
    assert hits(lists, "http://ads.example.com/a", "http://www.ads.example.com/", "http://example.com/", "http://tracker.net:8080/") == [
        Hit("blocked_host", "hosts", "ads.example.com"),
        None,
        None,
        Hit("blocked_host", "hosts", "tracker.net"),
    ]


def test_an_address_without_a_scheme_blocks_what_is_below_it_and_one_with_a_scheme_blocks_itself(tmp_path):
    lists = compile_here(tmp_path, write(tmp_path / "spam.urls", "example.com/~spam/\nhttps://example.org/\nexample.net/a?b=1\n"))
    below = hits(
        lists, "https://www.example.com/~spam", "http://example.com/~spam/x/y?z", "http://example.com/~spammer", "http://example.com/"
    )
    assert below == [Hit("blocked_url", "spam", "example.com/~spam")] * 2 + [None] * 2
    alone = hits(lists, "http://www.example.org", "http://example.org/a", "http://example.net/a?b=1&utm_source=c", "http://example.net/a")
    assert alone == [Hit("blocked_url", "spam", "example.org"), None, Hit("blocked_url", "spam", "example.net/a?b=1"), None]


def test_whole_words_subwords_and_soft_words_follow_refinedweb(tmp_path):
    folder = [write(tmp_path / f"{kind}.txt", text) for kind, text in
              [("banned_words", "casino\n"), ("banned_subwords", "hot pocket\n"), ("soft_banned_words", "cams\nlive\n")]]  # fmt: skip
    lists = compile_here(tmp_path, *folder)
    found = hits(
        lists, "http://x.com/Casino-online", "http://x.com/casinos", "http://my-hotpockets.com/", "http://x.com/live",
        "http://x.com/live/cams", "http://x.com/live/live",
    )  # fmt: skip
    assert found == [
        Hit("blocked_word", "banned_words", "casino"),
        None,
        Hit("blocked_subword", "banned_subwords", "hotpocket"),
        None,
        Hit("too_many_soft_words", "soft_banned_words", "cams live", 2.0),
        None,
    ]


def test_ut1_folders_and_rows_give_the_same_and_only_the_chosen_categories(tmp_path):
    write(tmp_path / "ut1" / "adult" / "domains", "adult.com\n1.2.3.4\n")
    write(tmp_path / "ut1" / "adult" / "urls", "free.fr/adult\n")
    write(tmp_path / "ut1" / "adult" / "usage", "black\n")
    write(tmp_path / "ut1" / "press" / "domains", "news.com\n")
    rows = [
        ("adult", "domain", "adult.com"),
        ("adult", "domain", "1.2.3.4"),
        ("adult", "url", "free.fr/adult"),
        ("press", "domain", "news.com"),
    ]
    text = "".join(json.dumps(dict(zip(("category", "kind", "value"), row, strict=True))) + "\n" for row in rows)
    urls = ["http://adult.com/", "http://1.2.3.4/a", "http://free.fr/adult/b", "http://news.com/"]
    for source in (tmp_path / "ut1", write(tmp_path / "ut1.jsonl.gz", text)):
        lists = compile_here(tmp_path, source, categories=["adult"])
        assert [hit and hit.rule for hit in hits(lists, *urls)] == ["blocked_domain", "blocked_domain", "blocked_url", None]
        assert {hit.list for hit in hits(lists, *urls) if hit} == {"adult"}
        with pytest.raises(ConfigError, match=r"not all of them are harmful.*adult, press"):
            compile_here(tmp_path, source)
        with pytest.raises(ConfigError, match=r'no list has the category "adlut"; did you mean "adult"'):
            compile_here(tmp_path, source, categories=["adlut"])


def test_of_an_adblock_list_the_domains_are_taken_and_one_without_domains_is_refused(tmp_path):
    text = "[Adblock Plus 2.0]\n! title\n||ads.com^\n||cdn.com^$third-party\n/banner/*\n-ad-300.\nexample.com##.ad\n"
    lists = compile_here(tmp_path, write(tmp_path / "easy.txt", text))
    assert [hit and hit.entry for hit in hits(lists, "http://x.ads.com/", "http://cdn.com/", "http://example.com/")] == [
        "ads.com",
        None,
        None,
    ]
    with pytest.raises(DataError, match=r"hide\.txt: an Adblock list without .*its 1 rules"):
        compile_here(tmp_path, write(tmp_path / "hide.txt", "[Adblock Plus 2.0]\nexample.com##.ad\n"))


def test_a_line_that_is_nothing_is_named_and_what_a_list_holds_can_be_said(tmp_path):
    path = write(tmp_path / "nasty.txt", "bad.com\ncasino\n")
    with pytest.raises(DataError, match=r"nasty\.txt:2: 'casino' is neither"):
        compile_here(tmp_path, path)
    lists = compile_here(tmp_path, path, kinds={"nasty": "words"})
    assert [hit and hit.entry for hit in hits(lists, "http://x.com/casino", "http://x.com/bad-com")] == ["casino", None]
    with pytest.raises(DataError, match=r'a\.jsonl:2: found .*"kind": "ip".*expected'):
        compile_here(tmp_path, write(tmp_path / "a.jsonl", '{"kind": "domain", "value": "a.com"}\n{"kind": "ip", "value": "1.1.1.1"}\n'))


def test_words_of_the_recipe_are_a_list_named_recipe(tmp_path):
    lists = compile_here(tmp_path, words=["Turtle"])
    assert hits(lists, "http://x.com/turtle.html") == [Hit("blocked_word", "recipe", "turtle")]
    assert compile_here(tmp_path / "none").is_empty


def test_decisions_on_real_addresses_equal_a_plain_reading_of_every_entry(tmp_path):
    if not (SHARED / "filters").is_dir():
        pytest.skip(f"{SHARED} is missing: real lists are not part of the repository")
    rows = list(read_jsonl(SHARED / "filters" / "ut1_blocklist.jsonl.gz"))
    urls = [row["url"] for row in read_jsonl(SHARED / "web" / "pages.meta.jsonl.gz")]
    lists = compile_here(tmp_path, SHARED / "filters" / "ut1_blocklist.jsonl.gz", categories=["*"])
    domains = {row["value"].lstrip(".").lower() for row in rows if row["kind"] == "domain"}
    pages = {re.sub(r"^www\.", "", row["value"]).rstrip("/") for row in rows if row["kind"] == "url"}
    for url, hit in zip(urls, hits(lists, *urls), strict=True):
        parsed = parse_url(url)
        assert parsed is not None
        labels = parsed.host.split(".")
        by_domain = any(".".join(labels[i:]) in domains for i in range(len(labels) - 1))
        parts = parsed.page.split("/")
        by_page = any("/".join(parts[:i]) in pages for i in range(1, len(parts) + 1))
        assert (hit is not None) == (by_domain or by_page), url
    assert sum(hit is not None for hit in hits(lists, *urls)) > 100
