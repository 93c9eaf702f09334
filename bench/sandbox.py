"""HumanEval's canonical solutions through the code sandbox: each passes; each with a planted fault fails.

    python bench/sandbox.py --data DIR/HumanEval.jsonl.gz

Prints, for each plant, how many of the 164 programs had which judgement, and the time of one. Exits with 1 if a solution
fails or a plant passes. The file is openai/human-eval's.
"""

import argparse
import gzip
import json
import sys
import time
from collections import Counter
from pathlib import Path

from bloomery.generate.sandbox import Program, SandboxLimits, judge_programs

PLANTS = {
    "as they are": "",
    "result in a list": "\n_right = {name}\ndef {name}(*args): return [_right(*args)]\n",
    "None": "\ndef {name}(*args): return None\n",
    "True": "\ndef {name}(*args): return True\n",
    "not a number": "\ndef {name}(*args): return float('nan')\n",
    "equal to everything": (
        "\nclass Yes:\n    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = lambda *_: True\n"
        "    __sub__ = __rsub__ = __abs__ = lambda self, *_: self\n"
        "def {name}(*args): return Yes()\n"
    ),
    "sys.exit(0)": "\ndef {name}(*args):\n    import sys\n    sys.exit(0)\n",
    "os._exit(0)": "\ndef {name}(*args):\n    import os\n    os._exit(0)\n",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with gzip.open(options.data, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    failed = False
    for plant, code in PLANTS.items():
        programs = [
            Program(
                source=row["prompt"] + row["canonical_solution"] + code.format(name=row["entry_point"]),
                setup=row["prompt"],
                tests=f"{row['test']}\ncheck({row['entry_point']})",
                functions=(row["entry_point"],),
            )
            for row in rows
        ]
        began = time.monotonic()
        judgements = judge_programs(programs, SandboxLimits(), workers=options.workers)
        seconds = (time.monotonic() - began) * options.workers / len(rows)
        counts = Counter(judgement.reason for judgement in judgements)
        print(f"{plant:20} {dict(counts)}  {1000 * seconds:.0f} ms a program on one of {options.workers} workers", flush=True)
        failed |= any(judgement.passed != (not code) for judgement in judgements)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
