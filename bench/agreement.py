"""How far our rules agree with datatrove 0.10's filters, rule by rule, on identical real text: the table of docs/rules.md.

    python bench/agreement.py ../shared/data --peer .venv-peers/bin/python

Texts are the main content of the web pages under that folder and documents of its text corpora, about 4,700; they and
both sides' decisions stay in a scratch folder (--scratch), nothing of them goes into the repository. Every text is judged
as English, as datatrove's filters do by default. With --explain, the first words of some disagreements are printed.
"""

import argparse
import gzip
import io
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding

from bloomery.core.documents import document_table
from bloomery.curate.rules import RULE_SETS, choose_rules, find_broken
from bloomery.curate.signals import add_signals

ARCHIVES = ("web/pages-*.warc.gz", "extraction/scrapinghub.warc.gz", "extraction/readability.warc.gz", "extraction/wcxb_dev.warc.zst")
CORPORA = {
    "web_c4": 400,
    "mixed_masc": 400,
    "stories": 250,
    "science_abstracts": 250,
    "reviews": 150,
    "science_tech": 300,
    "speeches": 60,
    "encyclopedia": 150,
}
SETS = ("gopher_quality", "gopher_repetition", "c4", "mc4", "fineweb")
JOINED = {"too_many_symbols": ("too_many_hashes", "too_many_ellipses")}
"""Rules of theirs that are two of ours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="a Python with datatrove 0.10")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/bloomery-agreement"))
    parser.add_argument("--explain", type=int, default=0, metavar="N", help="print N disagreements of each rule")
    options = parser.parse_args()
    texts = options.scratch / "texts.jsonl"
    decisions = options.scratch / "decisions.jsonl"
    if not texts.exists():
        write_texts(texts, collect_texts(options.data))
    if not decisions.exists():
        peer = Path(__file__).with_name("datatrove_filters.py")
        subprocess.run([options.peer, peer, "decide", texts, decisions], check=True)
    compare(texts, decisions, num_explained=options.explain)


def collect_texts(data: Path) -> Iterator[dict[str, str]]:
    for pattern in ARCHIVES:
        for path in sorted(data.glob(pattern)):
            for record in ArchiveIterator(io.BytesIO(_unpack(path)), record_types=WarcRecordType.response):
                body = record.reader.read()
                html = body.decode(detect_encoding(body) or "utf-8", "replace")
                yield {"source": path.name.split(".")[0], "text": extract_plain_text(html, main_content=True, alt_texts=False)}
    for name, limit in CORPORA.items():
        path = next((data / "text").glob(f"{name}.*"))
        if path.suffix == ".parquet":
            rows = pq.read_table(path, columns=["text"]).to_pylist()
        else:
            rows = [json.loads(line) for line in _unpack(path).splitlines()]
        yield from ({"source": name, "text": row["text"]} for row in rows[:limit])


def write_texts(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as out:
        for row in rows:
            text = row["text"].encode("utf-8", "replace").decode()
            if text.strip():
                out.write(json.dumps({**row, "text": text}) + "\n")
    partial.rename(path)


def compare(texts: Path, decisions: Path, *, num_explained: int) -> None:
    rows = [json.loads(line) for line in texts.open(encoding="utf-8")]
    theirs = [json.loads(line) for line in decisions.open(encoding="utf-8")]
    assert len(rows) == len(theirs), "another run left half its decisions: delete the scratch folder"
    table = add_signals(document_table([{"id": str(i), "text": row["text"], "language": "en"} for i, row in enumerate(rows)]))
    # Scopes are ours: to compare rules, every rule looks at every text.
    rules = [rule.model_copy(update={"scope": "all"}) for rule in choose_rules(SETS, thresholds={})]
    broken = [set(names) for names in find_broken(table, rules, languages=[])]
    unspaced = [share > 0.3 for share in table.column("signal_unspaced_fraction").to_pylist()]
    print(f"{len(rows)} documents, {sum(unspaced)} of them in scripts without spaces, which are in the last column alone.\n")
    print("| rule | datatrove drops | ours | only datatrove | only ours | agreement | all documents |\n|---|---|---|---|---|---|---|")
    for name in theirs[0]:
        members = {rule.name for rule in RULE_SETS[name]} if name in RULE_SETS else set(JOINED.get(name, (name,)))
        pairs = [(bool(their[name]), bool(members & our)) for their, our in zip(theirs, broken, strict=True)]
        counts = Counter(pair for pair, other in zip(pairs, unspaced, strict=True) if not other)
        agreement = (counts[True, True] + counts[False, False]) / counts.total()
        overall = sum(a == b for a, b in pairs) / len(pairs)
        print(
            f"| `{name}` | {counts[True, True] + counts[True, False]} | {counts[True, True] + counts[False, True]} "
            f"| {counts[True, False]} | {counts[False, True]} | {agreement:.2%} | {overall:.2%} |"
        )
        differing = [i for i, (a, b) in enumerate(pairs) if a != b and not unspaced[i]]
        for i in differing[:num_explained]:
            print(f"    {i} {rows[i]['source']} datatrove {theirs[i][name]} ours {pairs[i][1]}: {rows[i]['text'][:60]!r}")


def _unpack(path: Path) -> bytes:
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(path.open("rb")).read()
    return gzip.open(path).read()


if __name__ == "__main__":
    main()
