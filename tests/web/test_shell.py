"""The frame of the pages in a real server and a real Chromium, and the bundle they are made of."""

import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from bloomery.web.app import PAGES

ROOT = Path(__file__).resolve().parents[2]
STATIC = Path(str(files("bloomery.web"))) / "static"
FRONTEND = ROOT / "frontend"
MAX_BUNDLE_BYTES = 400_000


def test_the_whole_bundle_is_small():
    sizes = {path.name: path.stat().st_size for path in STATIC.iterdir()}
    assert {"app.js", "app.css", "index.html"} <= set(sizes)
    assert sum(sizes.values()) <= MAX_BUNDLE_BYTES, sizes


def test_the_bundle_loads_nothing_from_elsewhere():
    loads = re.compile(r"""(?:src|href|url\(|import\(?|from|fetch\()\s*=?\s*["'(]?\s*(?:https?:)?//""")
    for path in STATIC.iterdir():
        assert not loads.search(path.read_text(encoding="utf-8")), path.name


def test_the_shipped_bundle_is_what_its_sources_make(tmp_path):
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        reason = "no Node.js here; users need none, this test does"
        if os.environ.get("BLOOMERY_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    work = tmp_path / "frontend"
    shutil.copytree(FRONTEND, work, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    done = subprocess.run([node, "build.mjs", str(tmp_path / "static")], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {path.name: path.read_bytes() for path in (tmp_path / "static").iterdir()}
    assert sorted(made) == sorted(path.name for path in STATIC.iterdir()), "run `make bundle` and commit src/bloomery/web/static"
    assert all((STATIC / name).read_bytes() == content for name, content in made.items())


def test_a_stranger_sees_a_form_for_the_token_and_nothing_else(web, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(web.url)
    assert page.get_by_label("Token").is_visible()
    page.get_by_label("Token").fill(web.token)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("navigation", name="Pages").wait_for()
    assert "token" not in page.url
    context.close()


def test_every_page_opens_by_its_link_and_by_its_address(web, open_page):
    page = open_page(web)
    for name in PAGES:
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name.capitalize()).click()
        page.wait_for_url(f"**/{name}*")
        page.wait_for_function("title => document.title.startsWith(title)", arg=name.capitalize())
        page.reload()
        page.get_by_role("heading", level=1).first.wait_for()


def test_an_unknown_address_says_so(web):
    status, told = web.ask("/api/none")
    assert status == 404 and "nothing at /api/none" in told["error"]["message"]


def test_colours_follow_the_system_and_can_be_chosen(web, open_page):
    page = open_page(web, "/runs", scheme="dark")
    surface = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(surface)
    page.get_by_role("button", name="Colours").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate(surface) != dark
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/index.html"]
)
def test_no_path_of_a_request_is_looked_up_on_the_disk(web, path):
    assert web.ask(path)[0] == 404


def test_the_frame_is_painted_before_any_script_runs(web, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(web.opening)
    links = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    assert [link.lower() for link in links] == list(PAGES)
    context.close()
