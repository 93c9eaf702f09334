"""Decisions and speed of the address rules beside datatrove's URLFilter, on the same addresses with the same lists.

    python bench/url_filter.py --peer .venv-peers/bin/python --urls urls.jsonl.gz [--repeat 20] [--lists FOLDER]

`urls.jsonl.gz` has a column `url`. The lists are those that datatrove ships (4.6 million domains of UT1, RefinedWeb's
words), unpacked from its package into FOLDER. Both read them from disk first; the clock runs over the addresses alone.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from bloomery.core.files import read_jsonl
from bloomery.curate.blocklists import compile_lists, load_lists
from bloomery.stages.url_filter import UrlFilterConfig, judge_urls

PEER = """
import sys, json, time
from datatrove.data import Document
from datatrove.pipeline.filters.url_filter import URLFilter
urls = json.load(open(sys.argv[1])); repeat = int(sys.argv[2])
judge = URLFilter()
judge.download_data()
documents = [Document(text="", id=str(i), metadata={"url": url}) for i, url in enumerate(urls)]
decisions = [judge.filter(document) for document in documents]
started = time.perf_counter()
for _ in range(repeat):
    for document in documents:
        judge.filter(document)
seconds = time.perf_counter() - started
json.dump({"reasons": [d if isinstance(d, bool) else d[1] for d in decisions], "rate": len(urls) * repeat / seconds}, sys.stdout)
"""
ASSETS = "import datatrove.utils._import_utils as module; print(module.ASSETS_PATH)"


def main() -> None:
    """Prints both rates, their ratio, and every pair of decisions with its number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--urls", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--lists", type=Path, default=Path(tempfile.gettempdir()) / "bloomery-bench-lists")
    arguments = parser.parse_args()
    urls = [row["url"] for row in read_jsonl(arguments.urls) if row.get("url")]
    assets = Path(subprocess.run([arguments.peer, "-c", ASSETS], check=True, capture_output=True, text=True).stdout.strip())

    started = time.perf_counter()
    if not (arguments.lists / "words.json").exists():
        compile_lists(_unpack(assets, arguments.lists), arguments.lists, categories=["*"], kinds={}, inline={})
        print(f"lists compiled in {time.perf_counter() - started:.1f} s")
    lists = load_lists(arguments.lists)
    config = UrlFilterConfig()
    verdicts, _ = judge_urls(config, lists, urls)
    started = time.perf_counter()
    for _ in range(arguments.repeat):
        judge_urls(config, lists, urls)
    rate = len(urls) * arguments.repeat / (time.perf_counter() - started)

    file = arguments.lists / "bench-urls.json"
    file.write_text(json.dumps(urls))
    theirs = json.loads(
        subprocess.run([arguments.peer, "-c", PEER, str(file), str(arguments.repeat)], check=True, capture_output=True).stdout
    )
    print(f"bloomery {rate:,.0f} addresses/s, datatrove {theirs['rate']:,.0f} addresses/s, ratio {rate / theirs['rate']:.1f}")
    pairs = Counter()
    for number, (url, reason) in enumerate(zip(urls, theirs["reasons"], strict=True)):
        ours = verdicts.get(number, {"rule": "kept"})
        pairs[ours["rule"], str(reason).replace("True", "kept")] += 1
        if (ours["rule"] == "kept") != (reason is True):
            print(f"  differs: {ours['rule']} ({ours.get('detail')}) / {reason}: {url[:150]}")
    for pair, count in pairs.most_common():
        print(f"{count:6d}  bloomery {pair[0]:20s} datatrove {pair[1]}")


def _unpack(assets: Path, folder: Path) -> list[Path]:
    ut1 = folder / "ut1"
    ut1.mkdir(parents=True, exist_ok=True)
    with tarfile.open(next(assets.glob("url_filterblacklists*.tar.gz"))) as tar:
        tar.extractall(ut1, filter="data")
    return [ut1, *(assets / f"{name}.txt" for name in ("banned_words", "banned_subwords", "soft_banned_words"))]


if __name__ == "__main__":
    main()
