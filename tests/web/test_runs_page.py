"""The page of runs in a real browser, over a real training that was started from the command line."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bloomery.core.metrics import read_metrics
from bloomery.diagnosis.diagnose import diagnose
from bloomery.pipeline.checkup import find_trainings

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.toml"


@pytest.fixture(scope="module")
def growing(smoke_store, serve_web, tmp_path_factory):
    """A server over a copy of the smoke store, in which a run `grow` trains longer than any test waits."""
    folder = tmp_path_factory.mktemp("growing")
    store = folder / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    recipe = folder / "grow.toml"
    recipe.write_text(RECIPE.read_text().replace('name = "smoke"', 'name = "grow"'))
    settings = {"tokens": "2M", "batch_tokens": 1024, "validation_tokens": 2048, "num_samples": 0}
    options = [part for name, value in settings.items() for part in ("--set", f"base.{name}={value}")]
    options += ["--only", "base", "--store", str(store)]
    with (folder / "run.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "bloomery", "run", str(recipe), *options], stdout=log, stderr=log)
        with serve_web(store) as server:
            yield server
    process.kill()
    process.wait()


def run_id(server, name):
    return next(run["id"] for run in server.ask("/api/runs")[1]["runs"] if run["name"] == name)


def points_of(page, title="Loss"):
    chart = page.locator("figure.chart", has=page.get_by_role("heading", name=title, exact=True))
    return int(chart.get_attribute("data-points") or 0)


def wait_for_points(page, least):
    enough = "least => Number(document.querySelector('figure.chart')?.dataset.points ?? 0) >= least"
    page.wait_for_function(enough, arg=least, timeout=60_000)


def test_a_curve_grows_while_a_run_trains_and_the_run_is_stopped_and_resumed_by_clicks(growing, open_page):
    page = open_page(growing, "/runs")
    page.get_by_role("row", name=re.compile("grow")).get_by_text("running").wait_for(timeout=60_000)
    page.get_by_role("link", name="grow").click()
    page.get_by_role("tab", name="Curves").click()
    wait_for_points(page, 4)
    before = points_of(page)
    wait_for_points(page, before + 3)
    page.get_by_role("tab", name="Stages").click()
    row = page.get_by_role("table", name="Stages of grow").get_by_role("row", name=re.compile("^base"))
    row.get_by_text(re.compile(r"\d+ / [\d,]+ steps")).wait_for()

    page.get_by_role("button", name="Stop").click()
    page.get_by_text("asked to stop", exact=False).first.wait_for()
    page.locator("header .tag", has_text="stopped").wait_for(timeout=60_000)
    assert row.get_by_text(re.compile("stopped by SIGTERM after step")).is_visible()
    assert page.get_by_role("button", name="Stop").count() == 0

    page.get_by_role("tab", name="Curves").click()
    wait_for_points(page, 2)
    before = points_of(page)
    page.get_by_role("button", name="Resume").click()
    page.locator("header .tag", has_text="running").wait_for(timeout=60_000)
    wait_for_points(page, before + 3)
    run = run_id(growing, "grow")
    assert growing.ask(f"/api/runs/{run}/resume", method="POST", body={})[1]["started"] is False
    resumed = growing.ask(f"/api/runs/{run}")[1]["process"]["pid"]
    assert os.getsid(resumed) == resumed != os.getsid(growing.process.pid)  # Ctrl-C in the server's terminal, or its end, is not its own
    page.get_by_role("button", name="Stop").click()
    page.locator("header .tag", has_text="stopped").wait_for(timeout=60_000)
    page.get_by_role("tab", name="Settings and log").click()
    page.get_by_text("--only base", exact=False).first.wait_for()
    assert (growing.store / "grow" / "resume.log").read_text().count("SIGTERM")


def test_runs_over_each_other_on_any_axis_and_what_differs_between_them(growing, open_page):
    page = open_page(growing, "/runs")
    for name in ("grow", "smoke"):
        page.get_by_role("checkbox", name=f"Compare {name}").check()
    page.get_by_role("button", name="Compare 2 runs").click()
    page.get_by_role("list", name="Curves").get_by_text("smoke").wait_for()
    page.get_by_role("combobox", name="Stage").select_option("base")
    wait_for_points(page, 10)
    for axis in ("tokens", "time", "flops"):
        page.get_by_role("combobox", name="Along").select_option(axis)
        page.get_by_role("img", name=re.compile(f"^Loss over {axis}", re.IGNORECASE)).wait_for()
        wait_for_points(page, 10)
    page.get_by_role("button", name="x log").click()
    page.get_by_role("button", name="y log").click()
    page.get_by_role("slider", name=re.compile("Smoothing")).fill("0.6")
    page.wait_for_url(re.compile("x=flops.*logx=1.*logy=1.*smooth=0.6"))
    chart = page.locator("figure.chart").first
    shown = chart.locator("canvas").evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return new Set(new Uint32Array(d.buffer)).size }"
    )
    assert shown > 20  # something is drawn: colours of lines and their edges

    page.reload()
    assert page.get_by_role("button", name="y log").get_attribute("aria-pressed") == "true"
    page.get_by_role("tab", name="Differences of settings").click()
    row = page.get_by_role("row", name=re.compile(r"^stages\.base\.config\.tokens"))
    assert row.inner_text().split() == ["stages.base.config.tokens", "2000000", "100000"]
    assert page.get_by_role("row", name=re.compile("learning_rate")).count() == 0


def test_a_zoom_by_mouse_shows_a_part_and_a_button_the_whole_again(web, open_page):
    page = open_page(web, f"/runs/{run_id(web, 'smoke')}?tab=curves")
    wait_for_points(page, 10)
    box = page.locator("figure.chart .u-over").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 50, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("low=.*high="))
    page.get_by_role("button", name="Whole range").first.click()
    page.wait_for_function("() => !location.search.includes('low=')")


def test_a_chart_is_taken_away_as_csv_and_as_png(web, open_page):
    page = open_page(web, f"/runs/{run_id(web, 'smoke')}?tab=curves&stage=base")
    wait_for_points(page, 10)
    with page.expect_download() as download:
        page.get_by_role("link", name="Loss as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    record = json.loads((web.store / "smoke" / "base" / "artifact.json").read_text())
    logged = read_metrics(web.store / "logs" / f"pretrain-{record['fingerprint'][:16]}" / "metrics.jsonl")
    wanted = [row["train/loss"] for row in logged if "train/loss" in row]
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == pytest.approx(wanted, rel=1e-6)
    assert {row["run"] for row in rows} == {"smoke"} and {row["stage"] for row in rows} == {"base"}
    with page.expect_download() as download:
        page.get_by_role("button", name="Loss as PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG") and download.value.suggested_filename == "Loss.png"


def test_samples_over_time_and_scores_with_intervals_are_shown(web, open_page):
    page = open_page(web, f"/runs/{run_id(web, 'smoke')}?tab=samples")
    slider = page.get_by_role("slider", name=re.compile("Validation"))
    slider.wait_for()
    training = json.loads((web.store / "smoke" / "base" / "training.json").read_text())
    slider.fill("0")
    first = training["samples"][0]
    assert page.locator("article.sample").first.inner_text().split() == [*first["prompt"].split(), "Step", "0", *first["text"].split()]
    page.get_by_role("tab", name="Scores").click()
    scores = json.loads((web.store / "smoke" / "scores" / "scores.json").read_text())
    cell = scores["metrics"]["sft"]["bits_per_byte"]
    row = page.get_by_role("row", name=re.compile("^bits per byte")).first
    row.wait_for()
    assert f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" in row.inner_text()


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/api/runs/0123456789abcdef", 404, "no such run"),
        ("/api/runs/..%2f..%2fetc", 404, ""),
        ("/api/runs/curves?of=0123456789abcdef.base&metric=train/loss", 404, "no stage"),
        ("/api/runs/curves?of=../../etc.passwd", 404, "no stage"),
        ("/api/runs/curves?x=price", 400, "step, tokens, time, flops"),
        ("/api/runs/curves?low=inf", 400, "low"),
        ("/api/runs/curves?" + "metric=a&metric=b&" * 1 + "&".join(f"metric={i}" for i in range(30)), 400, "at most 24"),
        ("/api/runs/live?of=none.base", 404, "no stage"),
        ("/api/runs/compare?run=0123456789abcdef", 400, "2 to 20"),
    ],
)
def test_what_is_not_in_the_store_is_refused_in_words(web, path, status, told):
    found, answer = web.ask(path)
    assert found == status and told in answer["error"]["message"]


def test_a_finished_run_has_nothing_to_resume_and_nothing_to_stop(web):
    run = run_id(web, "smoke")
    status, told = web.ask(f"/api/runs/{run}/resume", method="POST", body={})
    assert status == 409 and "nothing to resume" in told["error"]["message"]
    assert web.ask(f"/api/runs/{run}/stop", method="POST", body={}) == (200, {"sent": False, "message": "it does not run: it is done"})
    assert web.ask(f"/api/runs/{run}/stop", method="POST", body={"pid": 1})[0] == 400
    assert web.ask(f"/api/runs/{run}/stop")[0] == 405


def test_the_doctors_findings_stand_above_the_run_with_what_to_do(web, open_page):
    expected = []
    for training in find_trainings(web.store / "smoke"):
        expected += [(found.node, found.code, found.title) for found in diagnose(read_metrics(training.metrics), training.facts)]
    assert expected
    run = run_id(web, "smoke")
    findings = web.ask(f"/api/runs/{run}/findings")[1]["findings"]
    assert [(found["node"], found["code"], found["title"]) for found in findings] == expected
    page = open_page(web, f"/runs/{run}")
    page.get_by_text("The doctor:").click()
    page.get_by_text(findings[0]["title"]).first.click()
    assert page.get_by_text(findings[0]["remedy"]).first.is_visible()


def test_a_stream_goes_on_where_a_lost_connection_left_it(web):
    key = f"{run_id(web, 'smoke')}.base"
    training = next(found for found in find_trainings(web.store / "smoke") if found.facts.node == "base")
    rows = read_metrics(training.metrics)
    missed = [row["train/loss"] for row in rows[10:] if "train/loss" in row]
    headers = {"Authorization": f"Bearer {web.token}", "Last-Event-ID": json.dumps({key: "0.10"})}
    request = urllib.request.Request(f"{web.url}/api/runs/live?of={key}&metric=train/loss", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as stream:
        event = dict(stream.readline().decode().rstrip("\n").split(": ", 1) for _ in range(3))
    assert event["event"] == "points"
    assert json.loads(event["data"])[key]["curves"]["train/loss"]["y"] == pytest.approx(missed, rel=1e-5)
    assert json.loads(event["id"])[key] == f"0.{len(rows)}"
