"""Main content: the block classifier against trafilatura and Resiliparse, on the same pages, in one run.

    python bench/extraction.py --data ../shared/data --cache /tmp/bench-extraction          # about an hour on one core
    python bench/extraction.py --data ../shared/data --cache /tmp/bench-extraction --folds 0   # speed and scrapinghub only

WCXB (development pages): every page is extracted with a model that was trained without any page of its domain (k folds by
registered domain; trained models are kept in --cache). scrapinghub: the shipped model, which has seen none of it.
F1 is of bags of words (lower-cased runs of letters and digits): mean of the pages' F1; "pooled" is that of all words
together. trafilatura runs with its defaults. Speed is from decoded HTML to text on one core, the extractors in turn page
by page. Prints tables; the ratio is in the last line.
"""

import argparse
import gc
import gzip
import json
import pickle
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from bloomery.core.files import write_text
from bloomery.curate.block_training import BlockTrainingConfig, assign_folds, make_example, site_of, train_blocks
from bloomery.curate.blocks import SHIPPED_MODEL, dump_model
from bloomery.curate.extract import decode_bytes, encode_bytes, extract_blocks
from bloomery.curate.warc import Capture, read_captures

WORD = re.compile(r"\w+")
SPEED_PAGES = 150


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder with extraction/wcxb_dev.warc.zst and so on")
    options.add_argument("--cache", type=Path, default=Path("/tmp/bench-extraction"))
    options.add_argument("--folds", type=int, default=3)
    arguments = options.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    folder = arguments.data / "extraction"
    wcxb = read_pages(folder / "wcxb_dev.warc.zst", folder / "wcxb_dev.truth.jsonl.gz", "main_content")
    scrapinghub = read_pages(folder / "scrapinghub.warc.gz", folder / "scrapinghub.truth.jsonl.gz", "articleBody")
    if arguments.folds:
        models = train_folds(wcxb, arguments.folds, arguments.cache)
        report("WCXB, models that never saw the page's domain", wcxb, peers(wcxb, arguments.cache, "wcxb"), models)
    report(
        "scrapinghub, the shipped model",
        scrapinghub,
        peers(scrapinghub, arguments.cache, "scrapinghub"),
        [SHIPPED_MODEL] * len(scrapinghub),
    )
    measure_speed("scrapinghub", scrapinghub)
    measure_speed("WCXB", wcxb[:: max(1, len(wcxb) // SPEED_PAGES)])


class Labelled:
    """A page, its gold text and its kind."""

    def __init__(self, capture: Capture, gold: str, kind: str) -> None:
        self.capture, self.gold, self.kind = capture, gold, kind
        self.html = decode_bytes(capture.body, charset=capture.charset).text
        self.utf8 = encode_bytes(capture.body, charset=capture.charset).utf8


def read_pages(archive: Path, truth: Path, column: str) -> list[Labelled]:
    """The pages that have a row in `truth`."""
    with gzip.open(truth, "rt", encoding="utf-8") as file:
        rows = {row["url"]: row for row in map(json.loads, file) if isinstance(row.get(column), str)}
    captures = [item for item in read_captures(archive, max_record_bytes=64 << 20) if isinstance(item, Capture) and item.url in rows]
    return [Labelled(item, rows[item.url][column], page_kind(rows[item.url])) for item in captures]


def page_kind(row: dict) -> str:
    kind = row.get("page_type", "article")
    return kind["primary"] if isinstance(kind, dict) else kind


def train_folds(pages: list[Labelled], folds: int, cache: Path) -> list[Path]:
    """For each page the model that was trained without its domain."""
    part = assign_folds([site_of(page.capture.url) for page in pages], folds, seed=99)
    paths = [cache / f"fold-{fold}-of-{folds}.json" for fold in range(folds)]
    if not all(path.is_file() for path in paths):
        examples = [make_example(page.capture, page.gold) for page in pages]
        for fold, path in enumerate(paths):
            if not path.is_file():
                chosen = [examples[i] for i in np.flatnonzero(part != fold)]
                write_text(path, dump_model(train_blocks(chosen, BlockTrainingConfig(), about={}, log=lambda note: None)))
                print(f"trained {path.name}", flush=True)
    return [paths[i] for i in part]


def peers(pages: list[Labelled], cache: Path, name: str) -> dict[str, list[str]]:
    """The peers' texts; trafilatura's take minutes, so they are kept."""
    path = cache / f"{name}-{trafilatura.__version__}.pkl"
    if not path.is_file():
        texts = {
            "trafilatura": [trafilatura.extract(page.html) or "" for page in pages],
            "no comments": [trafilatura.extract(page.html, include_comments=False) or "" for page in pages],
            "resiliparse": [extract_plain_text(HTMLTree.parse(page.html), main_content=True) for page in pages],
        }
        path.write_bytes(pickle.dumps(texts))
    texts = pickle.loads(path.read_bytes())
    assert all(len(column) == len(pages) for column in texts.values()), f"{path} is of other pages; delete it"
    return texts


def report(title: str, pages: list[Labelled], texts: dict[str, list[str]], models: list[Path]) -> None:
    """Prints F1 by kind of page."""
    order = sorted(range(len(pages)), key=lambda i: str(models[i]))  # one model after another: two are held at a time
    ours = {i: extract_blocks(pages[i].utf8, model=models[i]) for i in order}
    columns = {"bloomery": [ours[i] for i in range(len(pages))], **texts}
    rows: dict[str, list[list[float]]] = defaultdict(list)
    pooled = {name: np.zeros(3) for name in columns}
    for i, page in enumerate(pages):
        counts = {name: count_words(column[i], page.gold) for name, column in columns.items()}
        for name, count in counts.items():
            pooled[name] += count
        for kind in (page.kind, "all"):
            rows[kind].append([f1(count) for count in counts.values()])
    print(f"\n{title}: word F1, {len(pages)} pages\n{'':16s}{'pages':>6s}" + "".join(f"{name:>13s}" for name in columns))
    for kind in sorted(rows, key=lambda kind: (kind == "all", -len(rows[kind]))):
        print(f"{kind:16s}{len(rows[kind]):6d}" + "".join(f"{value:13.3f}" for value in np.mean(rows[kind], axis=0)))
    print(f"{'pooled':16s}{len(pages):6d}" + "".join(f"{f1(pooled[name]):13.3f}" for name in columns), flush=True)


def count_words(text: str, gold: str) -> tuple[int, int, int]:
    """(words in both, words of the text, words of the gold text), as bags."""
    found, expected = Counter(WORD.findall(text.lower())), Counter(WORD.findall(gold.lower()))
    return (found & expected).total(), found.total(), expected.total()


def f1(counts: "tuple[int, int, int] | np.ndarray") -> float:
    """2 * both / (found + expected); 1 if there is nothing to find and nothing was found."""
    both, found, expected = counts
    return 2 * both / (found + expected) if found + expected else 1.0


def measure_speed(name: str, pages: list[Labelled]) -> None:
    """Prints seconds a page and the ratio, medians over the pages and totals."""
    extractors: dict[str, Callable[[str], object]] = {
        "bloomery": lambda html: extract_blocks(html.encode()),
        "resiliparse": lambda html: extract_plain_text(HTMLTree.parse(html), main_content=True),
        "trafilatura": lambda html: trafilatura.extract(html),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for extractor in extractors.values():
        extractor(pages[0].html)
    gc.disable()
    for page in pages:
        for extractor_name, extractor in extractors.items():
            started = time.process_time()
            extractor(page.html)
            seconds[extractor_name].append(time.process_time() - started)
        gc.collect(0)
    gc.enable()
    mean_kb = statistics.mean(len(page.html) for page in pages) / 1000
    print(f"\n{name}: CPU milliseconds a page ({len(pages)} pages of {mean_kb:.0f} kB on average)")
    for extractor_name, values in seconds.items():
        print(f"{extractor_name:16s} median {1000 * statistics.median(values):7.2f}   mean {1000 * statistics.mean(values):7.2f}")
    ratio = statistics.median(t / o for t, o in zip(seconds["trafilatura"], seconds["bloomery"], strict=True))
    total = sum(seconds["trafilatura"]) / sum(seconds["bloomery"])
    print(f"bloomery is {total:.1f} x as fast as trafilatura over all pages; median ratio of a page {ratio:.1f}", flush=True)


if __name__ == "__main__":
    main()
