"""The pages of `bloomery web` over a large store: first paint, time until data stands on the page, the questions of the corpus page one
after another, 50 runs over each other, memory of the server.

    python bench/web.py runs                       # a store with a finished run of recipes/smoke.toml; about 6 minutes in all
    python bench/web.py runs --documents 100000 --loads 3

The store that is measured is made from that run: 100 runs, 50 of them with 50,000 rows of metrics; the documents, signals, ledgers and
clusters of the stages that curate, repeated until there are a million documents, with signals that differ. It goes when the script ends.
Nothing is compared with another tool: none shows these things. What is printed is held against 300 ms and 500 MB.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import sync_playwright

from bloomery.core.artifact import read_artifact, seal_folder
from bloomery.core.files import read_json, write_json

PAINT_LIMIT_MS, MEMORY_LIMIT_MB = 300, 500
PAGES = ("runs", "corpus", "tokenizer", "chat", "arena")
NAMES = ("id", "kept_id", "cluster", "first_id")
SHARDS = 16
CONSTANT = {"train/learning_rate": 0.01, "train/tokens_per_second": 22000.0, "train/mfu": 0.38, "train/memory_bytes": 950_000_000}


def main() -> None:
    """Makes the store, measures each page, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--loads", type=int, default=7)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--keep", type=Path, help="make the large store here and leave it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or Path(scratch) / "runs"
        if not root.exists():
            began = time.perf_counter()
            make_store(root, args.store, documents=args.documents, rows=args.rows)
            print(f"store made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        with serve(root) as (url, process):
            idle = memory_mb(process.pid)
            rows = measure(url, chromium=args.chromium, loads=args.loads, pid=process.pid)
            questions = ask_corpus(url)
            asked = peak_mb(process.pid)
            seconds = compare_runs(url, chromium=args.chromium)
            peak = peak_mb(process.pid)
        print(f"{args.documents:,} documents, 100 runs, 50 of them with {args.rows:,} rows of metrics\n")
        print("| page | first paint, ms: median (worst) | data on the page, ms: median (worst) | server, MB |\n|---|---|---|---|")
        for name, paints, data, memory in rows:
            cells = [f"{statistics.median(times):.0f} ({max(times):.0f})" for times in (paints, data)]
            print(f"| {name} | {cells[0]} | {cells[1]} | {memory:.0f} |")
        worst, most = max(max(paints) for _, paints, _, _ in rows), max(memory for *_, memory in rows)
        print(
            f"\nfirst paint at most {worst:.0f} ms (limit {PAINT_LIMIT_MS}); "
            f"server {idle:.0f} MB at first, {most:.0f} MB at most (limit {MEMORY_LIMIT_MB})"
        )
        print("\n| question | ms |\n|---|---|")
        for name, times in questions.items():
            print(f"| {name} | {', '.join(f'{ms:.0f}' for ms in times)} |")
        print(
            f"\nserver {asked:.0f} MB at its peak after these; curves of 50 runs in {seconds:.1f} s, {peak:.0f} MB at its peak after them"
        )


def ask_corpus(url: str) -> dict[str, list[float]]:
    """What the corpus page asks, by what it is for: milliseconds of each call."""
    base, _, token = url.partition("/?token=")
    found: dict[str, list[float]] = {}

    def ask(name: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{base}/api/{path}", data=json.dumps(body).encode() if body else None, headers=headers)
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as answer:
            value = json.load(answer)
        found.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return value

    run = ask("runs", "corpus/runs")["runs"][0]["id"]
    steps = {step["stage"]: step["artifact"] for step in ask("funnel", f"corpus/funnel?run={run}")["steps"]}
    filtered, unique = steps["filter"], steps["dedup"]
    rules = ask("rules", f"corpus/rules?artifact={filtered}")["rules"]
    rule = max(rules, key=lambda row: row["dropped"])["name"]
    ask("histogram", f"corpus/histogram?artifact={filtered}&rule={rule}")
    for threshold in (20, 30, 40, 60, 80, 50):
        ask("a moved threshold", "corpus/what-if", {"artifact": filtered, "thresholds": {rule: float(threshold)}})
    for kind in ("random", "near", "rule"):
        ask("samples", f"corpus/samples?artifact={filtered}&kind={kind}&rule={rule}&count=6")
    for by in ("language", "domain", "source"):
        ask("breakdown", f"corpus/breakdown?artifact={filtered}&by={by}&limit=50")
    clusters = ask("clusters", f"corpus/clusters?artifact={unique}&offset=0&limit=20")["clusters"]
    ask("one cluster", f"corpus/cluster?artifact={unique}&cluster={clusters[0]['id']}")
    known = clusters[0]["members"][0]["id"]
    ask("story of a known document", f"corpus/story?run={run}&document={known}")
    ask("story of an unknown one", f"corpus/story?run={run}&document=https%3A%2F%2Fnowhere.example")
    return found


def compare_runs(url: str, *, chromium: str) -> float:
    """Seconds until the curves of 50 runs stand over each other."""
    base, _, token = url.partition("/?token=")
    request = urllib.request.Request(f"{base}/api/runs", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        runs = sorted((run for run in json.load(answer)["runs"] if run["name"].startswith("run-")), key=lambda run: run["name"])
    address = f"{base}/runs/compare?stage=base&" + "&".join(f"run={run['id']}" for run in runs[:50])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        began = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_selector("figure.chart canvas", timeout=120_000)
        page.wait_for_function("() => !document.querySelector('main .spinner')", timeout=120_000)
        seconds = time.perf_counter() - began
        page.wait_for_timeout(15_000)  # whatever is still on its way counts for the memory
        browser.close()
    return seconds


def measure(url: str, *, chromium: str, loads: int, pid: int) -> list[tuple[str, list[float], list[float], float]]:
    """For each page: first paints and times to data in ms, of `loads` loads with the bundle in the browser's cache; the server's memory."""
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(url)
        base = url.partition("?")[0].rstrip("/")
        for name in PAGES:
            paints, data = [], []
            for _ in range(loads):
                page.goto("about:blank")
                page.goto(f"{base}/{name}", wait_until="commit")
                page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
                paints.append(page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                page.wait_for_function(
                    "() => document.querySelector('main h1') && !document.querySelector('main .spinner')", timeout=60_000
                )
                data.append(page.evaluate("() => performance.now()"))
            found.append((name, paints, data, memory_mb(pid)))
        browser.close()
    return found


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`bloomery web` over a store, on a free port: its address with the token, and its process."""
    command = [sys.executable, "-m", "bloomery", "web", "--store", str(root), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = ""
    while not told.endswith("}\n"):
        told += process.stdout.readline()
    try:
        yield json.loads(told)["url"], process
    finally:
        process.terminate()
        process.wait()


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return _status(pid, "VmRSS:")


def peak_mb(pid: int) -> float:
    """The most that it has been, in MB."""
    return _status(pid, "VmHWM:")


def _status(pid: int, key: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(key)[2].split()[0]) / 1000


def make_store(root: Path, source: Path, *, documents: int, rows: int) -> None:
    """A store like `source`, which holds the run `smoke`, but large."""
    shutil.copytree(source, root, symlinks=True, ignore=shutil.ignore_patterns("work"))
    spec = read_json(root / "smoke" / "spec.json")
    for node in spec["nodes"]:
        if node["stage"] in ("extract", "filter", "dedup", "decontaminate"):
            multiply(root / node["artifact"], documents)
    base = next(node for node in spec["nodes"] if node["stage"] == "pretrain")
    for number in range(99):
        name, artifact = f"run-{number:03}", f"artifacts/pretrain-{number:016x}"
        if number < 50:
            write_metrics(root / "logs" / Path(artifact).name, rows, seed=number)
        shutil.copytree(root / base["artifact"], root / artifact)
        record = read_json(root / artifact / "artifact.json")
        write_json(root / artifact / "artifact.json", {**record, "fingerprint": f"{number:016x}" + record["fingerprint"][16:]})
        nodes = [dict(node) for node in spec["nodes"]]
        mine = next(node for node in nodes if node["id"] == base["id"])
        mine.update(artifact=artifact, fingerprint=f"{number:016x}" + base["fingerprint"][16:])
        (root / name).mkdir()
        write_json(root / name / "spec.json", {**spec, "name": name, "nodes": nodes})


def multiply(folder: Path, documents: int) -> None:
    """Repeats the rows of an artifact's tables until there are so many documents; ids and addresses stay different, signals too."""
    record = dict(read_artifact(folder).record)
    had = record["metrics"].get("documents_in") or record["metrics"]["documents_out"]
    times = max(1, documents // max(1, int(had)))
    work = folder.with_name(f".{folder.name}.large")
    for place in ("", "ledger", "signals", "clusters"):
        shards = [pq.read_table(path) for path in sorted((folder / place).glob("*.parquet"))]
        if shards:
            write_shards(work / place, pa.concat_tables(shards), times)
    factor = {name: value * times for name, value in record["metrics"].items() if isinstance(value, int)}
    shutil.rmtree(folder)
    seal_folder(work, folder, {**record, "metrics": {**record["metrics"], **factor}})


def write_shards(folder: Path, table: pa.Table, times: int) -> None:
    """`times` copies of a table as SHARDS files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        copies = range(shard * times // SHARDS, (shard + 1) * times // SHARDS)
        large = pa.concat_tables([table] * len(copies)) if copies else table.slice(0, 0)
        suffix = pa.array(np.repeat([f"-{copy}" for copy in copies], table.num_rows), pa.string())
        for place, name in enumerate(large.column_names):
            column = large.column(name)
            if name in NAMES or name == "url":
                column = pa.compute.binary_join_element_wise(column.cast(pa.string()), suffix, "")
            elif name == "text":
                column = pa.compute.utf8_slice_codeunits(column, 0, 300)
            elif name.startswith("signal_"):
                column = pa.array(column.to_numpy() * rng.normal(1.0, 0.02, len(column)), pa.float64())
            large = large.set_column(place, name, column)
        pq.write_table(large, folder / f"{shard:05}.parquet", compression="zstd")


def write_metrics(folder: Path, rows: int, *, seed: int) -> None:
    """metrics.jsonl of a long training."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    steps = np.arange(1, rows + 1)
    loss = 2 + 8 * steps**-0.3 + rng.normal(0, 0.05, rows)
    norm = rng.lognormal(0, 0.3, rows)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, rows + 1):
            where = {"time": 1.79e9 + step * 0.37, "step": step, "tokens": step * 8192}
            row = {**where, **CONSTANT, "train/loss": float(loss[step - 1]), "train/gradient_norm": float(norm[step - 1])}
            file.write(json.dumps(row) + "\n")
            if step % 500 == 0:
                file.write(json.dumps({**where, "validation/loss": float(loss[step - 1]) + 0.02}) + "\n")


if __name__ == "__main__":
    main()
