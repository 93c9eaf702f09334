"""Personal data: speed against plain `re` passes and datatrove's formatter, precision and recall, and growth on hostile text.

    python bench/pii.py DOCUMENTS... [--labelled pii_presidio_synth_v2.jsonl.gz] [--peer .venv-peers/bin/python]

DOCUMENTS are document files (JSONL, Parquet, text). Each method runs three times in turns over the same texts in one run; the
best time of process CPU counts. datatrove finds e-mails and IP addresses only, so ours is timed on those two as well.
"""

import argparse
import json
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bloomery.core.documents import read_documents
from bloomery.core.files import read_jsonl
from bloomery.curate.pii import KINDS, find_pii
from bloomery.curate.redact import RedactConfig, redact_text

TESTS = Path(__file__).parents[1] / "tests" / "curate" / "test_pii.py"

NAIVE = {
    "email": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}\b",
    "ip": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "phone": r"\b(?:\+?1[-. ]?)?\(?\d{3}\)?[-. ]?\d{3}[-. ]?\d{4}\b",
    "national_id": r"\b\d{3}-\d{2}-\d{4}\b",
    "card": r"\b(?:\d[ -]?){13,16}\b",
    "iban": r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b",
    "secret": r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9]{20,})\b",
}
"""What is found in tutorials, one pass each."""

LABELS = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "national_id",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
}
"""presidio-research's types that are ours; the others (persons, addresses, dates, organisations ...) need a model."""

PEER = """
import json, sys, time
from datatrove.pipeline.formatters import PIIFormatter
texts = json.load(open(sys.argv[1]))
formatter, best = PIIFormatter(), 1e9
for _ in range(3):
    start = time.process_time(); out = [formatter.format(text) for text in texts]; best = min(best, time.process_time() - start)
print(json.dumps({"seconds": best, "changed": sum(a != b for a, b in zip(texts, out)), "which": [a != b for a, b in zip(texts, out)]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--peer", type=Path, help="a Python that has datatrove")
    arguments = parser.parse_args()
    texts = [text or "" for path in arguments.documents for text in read_documents(path).column("text").to_pylist()]
    compare_speed(texts, arguments.peer)
    if arguments.labelled:
        measure_labelled(arguments.labelled)
    compare_hard_negatives(arguments.peer)
    measure_growth()


def compare_speed(texts: list[str], peer: Path | None) -> None:
    patterns = [re.compile(pattern) for pattern in NAIVE.values()]
    mail_and_ip = RedactConfig(kinds=["email", "ip"])
    methods: dict[str, Callable[[str], object]] = {
        "ours, 7 kinds, found": lambda text: find_pii(text),
        "ours, 7 kinds, replaced": lambda text: redact_text(text, RedactConfig()),
        "ours, e-mail and IP, replaced": lambda text: redact_text(text, mail_and_ip),
        "re, 7 passes, found": lambda text: [pattern.findall(text) for pattern in patterns],
    }
    megabytes = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6
    seconds = dict.fromkeys(methods, float("inf"))
    for text in texts[:20]:
        find_pii(text)
    for _ in range(3):
        for name, method in methods.items():
            start = time.process_time()
            for text in texts:
                method(text)
            seconds[name] = min(seconds[name], time.process_time() - start)
    if peer is not None:
        seconds["datatrove, e-mail and IP, replaced"] = run_peer(texts, peer)["seconds"]
    print(f"{len(texts)} documents, {megabytes:.1f} MB, one process")
    for name, spent in seconds.items():
        print(f"  {name:38s} {megabytes / spent:8.1f} MB/s")
    print(f"  ratio to re: {seconds['re, 7 passes, found'] / seconds['ours, 7 kinds, found']:.1f}")
    if peer is not None:
        ratio = seconds["datatrove, e-mail and IP, replaced"] / seconds["ours, e-mail and IP, replaced"]
        print(f"  ratio to datatrove, the same two kinds: {ratio:.1f}")


def run_peer(texts: list[str], peer: Path) -> dict:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        done = subprocess.run([peer, "-c", PEER, file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer}: datatrove did not run: {done.stderr[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_labelled(path: Path) -> None:
    """A labelled span is found if one of ours of its kind overlaps it; ours is right if it overlaps a label of its kind."""
    hits: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    uncovered: Counter[str] = Counter()
    for row in read_jsonl(path):
        found = find_pii(row["full_text"])
        labelled = [(LABELS.get(s["entity_type"]), s["start_position"], s["end_position"], s["entity_type"]) for s in row["spans"]]
        for kind, start, end, type_ in labelled:
            if kind is None:
                uncovered[type_] += 1
                continue
            over = [span for span in found if span.kind == kind and span.start < end and start < span.end]
            hits[kind] += bool(over)
            missed[kind] += not over
            exact[kind] += any(span.start <= start and end <= span.end for span in over)
        for span in found:
            wrong[span.kind] += not any(kind == span.kind and start < span.end and span.start < end for kind, start, end, _ in labelled)
    print(f"{path.name}: kind, labelled, precision, recall, recall of whole values")
    for kind in KINDS:
        total = hits[kind] + missed[kind]
        if total:
            precision = hits[kind] / max(hits[kind] + wrong[kind], 1)
            print(f"  {kind:12s} {total:5d} {precision:8.3f} {hits[kind] / total:8.3f} {exact[kind] / total:8.3f}")
    print("  not looked for:", ", ".join(f"{name} {count}" for name, count in uncovered.most_common()))


def compare_hard_negatives(peer: Path | None) -> None:
    texts = [f"So {text} it was." for text in runpy.run_path(str(TESTS))["HARD_NEGATIVES"]]
    ours = sum(bool(find_pii(text)) for text in texts)
    naive = sum(any(re.search(pattern, text) for pattern in NAIVE.values()) for text in texts)
    theirs = f", datatrove (e-mail and IP) {run_peer(texts, peer)['changed']}" if peer is not None else ""
    print(f"false alarms on {len(texts)} look-alikes: ours {ours}, re {naive}{theirs}")


def measure_growth() -> None:
    """Time for twice the text over time for the text: 2 is linear, 4 is squared."""
    hostile = runpy.run_path(str(TESTS))["HOSTILE"]
    ratios = {name: scan_seconds(text * 4) / scan_seconds(text * 2) for name, text in hostile.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    print(f"t(2n)/t(n) on {len(ratios)} hostile texts, n = 200,000: worst {ratios[worst]:.2f} ({worst})")


def scan_seconds(text: str) -> float:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        find_pii(text)
        seconds.append(time.process_time() - start)
    return max(min(seconds), 1e-3)


if __name__ == "__main__":
    main()
