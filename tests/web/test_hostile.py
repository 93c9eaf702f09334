"""A store in which every document, address, answer, name and setting is an attack: every page shows it as text, and nothing happens."""

import itertools
import json
import shutil
from pathlib import Path
from urllib.parse import quote

import hostile
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bloomery.core.files import read_json, write_json
from bloomery.web.app import PAGES

RUN_NAME = "<img src=x onerror=pwned=1>"
METRIC = "train/<svg onload=pwned=1>"
KEPT = ("id", "kept_id", "cluster", "rule", "stage", "language", "kind", "model", "task", "metric", "benchmark")
"""String columns that join tables or that a page chooses by: the pages' own words."""


def poison_table(path: Path) -> None:
    """Every free text of a Parquet file becomes an attack; what was there stays behind it, so that lengths and samples make sense."""
    table = pq.read_table(path)
    payloads = itertools.cycle(hostile.PAYLOADS)
    for place, column in enumerate(table.schema):
        if column.type in (pa.string(), pa.large_string()) and column.name not in KEPT:
            prefix = "https://example.org/" if column.name == "url" else ""
            values = [None if old is None else f"{prefix}{next(payloads)} {old}" for old in table.column(place).to_pylist()]
            table = table.set_column(place, column, pa.array(values, column.type))
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def hostile_store(smoke_store, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("hostile") / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    for path in store.glob("artifacts/*/**/*.parquet"):
        poison_table(path)
    (store / "smoke").rename(store / RUN_NAME)
    spec = read_json(store / RUN_NAME / "spec.json")
    spec["name"] = RUN_NAME
    spec["command"] = [*spec["command"], hostile.PAYLOADS[0]]
    for node in spec["nodes"]:
        node["reason"] = hostile.PAYLOADS[1]
        node["differences"] = hostile.PAYLOADS[:5]
        spec["recipe"]["stages"][node["id"]]["config"]["remark"] = hostile.ALL_OF_THEM
    write_json(store / RUN_NAME / "spec.json", spec)
    # A second run that differs from the first in its settings, so that the difference of both has something to show.
    shutil.copytree(store / RUN_NAME, store / "other", symlinks=True)
    spec["recipe"]["stages"]["base"]["config"]["remark"] = hostile.PAYLOADS[3]
    write_json(store / "other" / "spec.json", {**spec, "name": "other"})
    for log in store.glob("logs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps({**row, METRIC: 1.0}) + "\n" for row in rows))
    return store


@pytest.fixture(scope="module")
def hostile_web(hostile_store, serve_web):
    with serve_web(hostile_store) as running:
        yield running


def settle(page) -> None:
    page.wait_for_load_state("networkidle") if not page.url.partition("?")[0].endswith("/runs") else page.wait_for_timeout(800)
    page.wait_for_function("() => !document.querySelector('main .spinner')")


@pytest.mark.parametrize("name", PAGES)
def test_whatever_is_clicked_hostile_text_stays_text(hostile_web, open_page, name):
    page = open_page(hostile_web, f"/{name}")
    page.allow.append("status of 4")  # a click on what this store cannot do is refused, and the browser notes that
    settle(page)
    hostile.check_harmless(page)
    # Every tab, toggle, disclosure and inner link of the page, as far as they go without leaving it or changing the store.
    controls = "main [role=tab], main summary, main button[aria-pressed], main a[href^='/'], main [role=row] button, main td button"
    for place in range(25):
        found = page.locator(controls)
        if place >= found.count():
            break
        control = found.nth(place)
        if control.is_visible() and control.is_enabled():
            control.click()
            settle(page)
            hostile.check_harmless(page)
        if not page.url.startswith(f"{hostile_web.url}/{name}"):
            page.goto(f"{hostile_web.url}/{name}")
            settle(page)


def test_every_view_of_the_corpus_shows_hostile_documents_as_text(hostile_web, open_page):
    run = hostile_web.ask("/api/corpus/runs")[1]["runs"][0]["id"]
    steps = {step["stage"]: step for step in hostile_web.ask(f"/api/corpus/funnel?run={run}")[1]["steps"]}
    views = [
        ("filter", "kind=near&rule=too_few_words"),
        ("filter", "kind=rule&rule=too_few_words"),
        ("dedup", "tab=duplicates"),
        ("mix", "tab=breakdown&by=domain"),
    ]
    page = open_page(hostile_web)
    for stage, rest in views:
        page.goto(f"{hostile_web.url}/corpus?run={run}&artifact={steps[stage]['artifact']}&{rest}")
        page.locator("main article, main tbody tr").first.wait_for()
        assert "evil.example" in page.locator("main").inner_text() or "pwned" in page.locator("main").inner_text()
        hostile.check_harmless(page)
    page.goto(f"{hostile_web.url}/corpus?run={run}&document={quote(hostile.PAYLOADS[1])}")
    settle(page)
    hostile.check_harmless(page)


@pytest.mark.parametrize(
    "payload", ["<img src=x onerror=pwned=1>", "<a href='javascript:pwned=1'>here</a>", "<style>p { color: red }</style>"]
)
def test_the_check_would_see_an_attack_that_became_markup(web, open_page, payload):
    page = open_page(web)
    page.allow.append("Content Security Policy|Failed to load|404")
    page.evaluate("payload => { document.querySelector('main').innerHTML = payload }", payload)
    with pytest.raises(AssertionError):
        hostile.check_harmless(page)
    assert page.evaluate("() => window.pwned") is None, "the content security policy did not hold"
