"""Speed of the signals of Gopher, C4 and FineWeb against datatrove 0.10's filters on the same texts, one core each.

    python bench/signals.py texts.jsonl --peer .venv-peers/bin/python

`texts.jsonl` holds objects with a "text"; bench/agreement.py leaves such a file of real pages in its scratch folder. Ours
measures every signal of docs/rules.md and tries every rule; theirs runs its four filters, each stopping a document at the
first rule it breaks. CPU seconds of one process, kernels compiled and models loaded before.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from bloomery.core.documents import document_table
from bloomery.curate.rules import apply_rules, choose_rules
from bloomery.curate.signals import add_signals

SETS = ("gopher_quality", "gopher_repetition", "c4", "fineweb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="a Python with datatrove 0.10")
    options = parser.parse_args()
    texts = [json.loads(line)["text"] for line in options.texts.open(encoding="utf-8")]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows = [{"id": str(i), "text": text, "language": "en", "language_score": 1.0} for i, text in enumerate(texts)]
    table = document_table(rows)
    add_signals(table.slice(0, 20))
    started = time.process_time()
    measured = add_signals(table)
    signals = time.process_time() - started
    apply_rules(measured, choose_rules(SETS, thresholds={}), languages=["en"])
    ours = time.process_time() - started
    peer = Path(__file__).with_name("datatrove_filters.py")
    answer = subprocess.run([options.peer, peer, "time", options.texts], check=True, capture_output=True, text=True)
    seconds = json.loads(answer.stdout.splitlines()[-1])
    theirs = sum(seconds.values())
    print(f"{len(texts)} documents, {megabytes:.1f} MB of UTF-8")
    print(f"bloomery   {megabytes / ours:8.2f} MB/s  ({ours:.2f} s: signals {signals:.2f}, rules and ledger {ours - signals:.2f})")
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    print(f"datatrove  {megabytes / theirs:8.2f} MB/s  ({theirs:.2f} s: {parts})")
    print(f"ratio      {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
