"""Recall on planted leaks, false alarms on clean documents, and speed of decontamination, for each evaluation set.

    python bench/decontaminate.py EVAL_FOLDER CLEAN_FILE [CLEAN_FILE ...]

EVAL_FOLDER holds JSONL files of evaluation sets; the clean files are documents older than them. Up to 60 rows of each set
are planted into passages of the clean documents, each changed in one of the ways of CHANGES; a leak is found if its
document is, and named if a hit has its task and row. False alarms are hits in the clean documents as they are: some are
true quotations of the same famous text, so they are printed to be read. datatrove's decontamination needs lighteval and a
model's task list, and is not run. Seconds are of processor time.
"""

import random
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from bloomery.core.documents import read_documents
from bloomery.curate.decontaminate import (
    DecontaminateConfig,
    Prompt,
    find_contaminated,
    index_prompts,
    list_prompt_files,
    name_tasks,
    read_prompts,
)

PLANTED_ROWS = 60
GROUP = r"(\S+\s+\S+\s+\S+\s+\S+)\s+"

CHANGES: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "upper case": str.upper,
    "lower case": str.lower,
    "title case": str.title,
    "white space": lambda text: re.sub(r"\s+", " \t  ", text),
    "punctuation deleted": lambda text: re.sub(r"[^\w\s]", "", text),
    "punctuation to spaces": lambda text: re.sub(r"[^\w\s]", " ", text),
    "punctuation changed": lambda text: re.sub(r"[.,;:!?]", " —", text).replace("'", "’").replace('"', "“"),
    "one word a line": lambda text: "\n".join(text.split()),
    "split over lines": lambda text: re.sub(GROUP, r"\1\n", text),
    "split by empty lines": lambda text: re.sub(GROUP, r"\1\n\n", text),
    "quoted mail": lambda text: "> " + re.sub(GROUP, r"\1\n> ", text),
    "hyphenated over lines": lambda text: re.sub(r"\b([a-z]{4})([a-z]{4})", r"\1-\n\2", text),
    "decomposed accents": lambda text: unicodedata.normalize("NFKD", text),
}


def main(eval_folder: Path, clean_files: list[Path]) -> None:
    config = DecontaminateConfig()
    files = list_prompt_files([eval_folder])
    prompts = [prompt for path, task in zip(files, name_tasks(files), strict=True) for prompt in read_prompts(path, task)]
    started = time.process_time()
    index = index_prompts(prompts, config)
    print(f"{len(prompts):,} prompts and answers, {len(index.runs.keys):,} runs, indexed in {time.process_time() - started:.1f} s")
    clean = [text for path in clean_files for text in read_documents(path).column("text").to_pylist() if text]
    column = pa.chunked_array([pa.array(clean, pa.large_string())])
    find_contaminated(column.slice(0, 1), index)  # compiles
    started = time.process_time()
    alarms = find_contaminated(column, index)
    speed = sum(len(text.encode()) for text in clean) / (time.process_time() - started) / 1e6
    words = sum(len(text.split()) for text in clean)
    print(f"{len(clean):,} clean documents, {words:,} words: {speed:.0f} MB/s on one core")

    searched = [i for i in range(len(prompts)) if index.searched[i] and prompts[i].part == "prompt"]
    total, found, named, by_change = plant(prompts, searched, clean, index, random.Random(0))
    rows = Counter(task for task in {(p.task, p.row) for p in prompts} for task in [task[0]])
    rows_searched = Counter(task for task, _ in {(prompts[i].task, prompts[i].row) for i in searched})
    flagged = Counter(task for hits in alarms for task in {hit.task for hit in hits})
    print("\n| task | rows | searched for | planted | recall, % | named, % | clean documents hit, % |\n|---|---|---|---|---|---|---|")
    for task in sorted(rows):
        planted = max(total[task], 1)
        shares = f"{100 * found[task] / planted:.1f} | {100 * named[task] / planted:.1f} | {100 * flagged[task] / len(clean):.3f}"
        print(f"| {task} | {rows[task]:,} | {rows_searched[task]:,} | {total[task]} | {shares if total[task] else '– | – | 0'} |")
    every = sum(total.values())
    alarmed = 100 * sum(map(bool, alarms)) / len(clean)
    shares = f"{100 * sum(found.values()) / every:.1f} | {100 * sum(named.values()) / every:.1f} | {alarmed:.3f}"
    print(f"| all | {sum(rows.values()):,} | {sum(rows_searched.values()):,} | {every} | {shares} |")
    print("\nmissed, by change:", {name: missed for name, missed in by_change.items() if missed} or "none")
    examples = [(text[hit.start : hit.end], hit) for text, hits in zip(clean, alarms, strict=True) for hit in hits]
    print(f"\n{len(examples)} hits in clean documents:")
    for text, hit in examples[:60]:
        print(f"  {hit.task}:{hit.row} {hit.part} {hit.match}: {' '.join(text.split())[:110]!r}")


def plant(
    prompts: list[Prompt], searched: list[int], clean: list[str], index: object, draw: random.Random
) -> tuple[Counter[str], Counter[str], Counter[str], Counter[str]]:
    """Leaks planted, found and named by task, and missed by change."""
    by_task: dict[str, list[int]] = {}
    for i in searched:
        by_task.setdefault(prompts[i].task, []).append(i)
    leaks = []
    for of_task in by_task.values():
        for i in draw.sample(of_task, min(PLANTED_ROWS, len(of_task))):
            document = draw.choice(clean)[:4000]
            place = draw.randrange(len(document) // 2, len(document))
            name = list(CHANGES)[len(leaks) % len(CHANGES)]
            leaks.append((i, name, f"{document[:place]}\n{CHANGES[name](prompts[i].text)}\n{document[place:]}"))
    hits = find_contaminated(pa.chunked_array([pa.array([text for *_, text in leaks], pa.large_string())]), index)
    total, found, named, missed = Counter(), Counter(), Counter(), Counter()
    for (i, change, _), of_leak in zip(leaks, hits, strict=True):
        task, row = prompts[i].task, prompts[i].row
        total[task] += 1
        # A hit that the clean text itself gives would be no find: at least one must be of this task.
        found[task] += any(hit.task == task for hit in of_leak)
        named[task] += any((hit.task, hit.row) == (task, row) for hit in of_leak)
        missed[change] += not any(hit.task == task for hit in of_leak)
    return total, found, named, missed


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
