"""How long a worker is held by pages that were built to hold it: the whole of `extract`'s work on one page, CPU time.

    python bench/hostile_pages.py                 # pages of 8 MB, the largest that `extract` reads by default
    python bench/hostile_pages.py --megabytes 4   # linear work takes half as long

The kinds: what exhausts parsers (nesting, attributes, tables, misplaced formatting), what exhausts patterns (endless
tags, bylines, JSON-LD, entities, spaces), and what gives most blocks. Prints seconds, what became of the page, and the slowest.
"""

import argparse
import time

from bloomery.curate.extract import ExtractConfig, Extracted, extract_page, prepare_extractor
from bloomery.curate.language import identify_language
from bloomery.curate.warc import Capture

PARTS: dict[str, bytes] = {
    "nested divs": b"<div>",
    "nested divs of 900, closed": b"<div>" * 900 + b"x" + b"</div>" * 900,
    "blocks under 900 elements": b"<section>" * 900 + b"<p>some words of text, " * 200_000,
    "nested tables": b"<table><tr><td>a",
    "unclosed formatting": b"<b>a ",
    "formatting opened in each paragraph": b"<p><b><i><a href=x>word ",
    "end tags without a beginning": b"<b>" * 900 + b"</x></y></div>" * 100_000,
    "a tag of many attributes": b"<p " + b"a=1 " * 2_000_000,
    "a tag of many classes": b"<p " + b'class="author byline content" ' * 300_000,
    "one giant attribute": b'<p class="' + b"word " * 2_000_000,
    "only <": b"<",
    "comments that do not end": b"<!--",
    "scripts that do not end": b"<script>",
    "tags that do not end": b'<a href="',
    "entities": b"&notin;",
    "entities that are none": b"&nosuchentitynosuchentitynosuche",
    "numbers of characters": b"&#1114111;",
    "one word": b"a",
    "one word of Chinese": "\u7530".encode(),
    "spaces": b" ",
    "non-breaking spaces": b"\xc2\xa0",
    "tabs before line ends": b"<pre>" + b"x\t\t \t" * 100_000,
    "zero-width characters": "\u200b\u200d".encode(),
    "words parted by zero-width characters": "x\u200b".encode(),
    "joiners": "x\u200d".encode(),
    "mojibake": "\xc3\xa9".encode() * 2,
    "combining marks": b"a" + "\u0301".encode() * 1000,
    "paragraphs": b"<p>word. ",
    "quotations in Markdown": b"<blockquote><p>word. ",
    "table cells": b"<tr><td>a",
    "line breaks": b"a<br>",
    "meta": b'<meta property="og:title" content="a">',
    "meta that does not end": b'<meta property="og:title" content=',
    "JSON-LD": b'<script type="application/ld+json">{"author":{"name":"' + b'a\\"' * 30_000 + b"</script>",
    "authors in JSON-LD": b'<script type="application/ld+json">' + b'"author":' * 10_000 + b"</script>",
    "bylines": b'<a class="author author author">x',
    "a byline of many words": b'<a class="' + b"author " * 1_000_000,
    "headings": b"<h1>",
    "times": b"<time datetime=2024-99-99>",
    "sentences said twice": b"<p>The same nine words are said here again and again. ",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=float, default=8.0)
    size = int(options.parse_args().megabytes * (1 << 20))
    config = ExtractConfig(format="markdown", max_html_bytes=size)
    prepare_extractor(config)
    hold(b"<html><p>Warm up, with a word or two of text.", config)
    slowest = ("", 0.0)
    for name, part in PARTS.items():
        page = (part * (size // len(part) + 1))[:size] if len(part) < 100_000 else part[:size]
        seconds, outcome = hold(b"<html><body>" + page[: size - 12], config)
        slowest = max(slowest, (name, seconds), key=lambda pair: pair[1])
        print(f"{name:40s}{seconds:7.2f} s  {outcome}", flush=True)
    print(f"slowest: {slowest[0]}, {slowest[1]:.2f} s")


def hold(html: bytes, config: ExtractConfig) -> tuple[float, str]:
    """CPU seconds that a page takes, and what became of it."""
    started = time.process_time()
    result = extract_page(Capture(0, "http://a.example/", "", "text/html", "utf-8", html, False), config)
    if isinstance(result, Extracted):
        identify_language(result.text)
    seconds = time.process_time() - started
    return seconds, f"{len(result.text):,} characters" if isinstance(result, Extracted) else f"dropped: {result.rule}"


if __name__ == "__main__":
    main()
