"""A real server over a real store, and a real browser that fails a test when a page misbehaves.

Browser tests need Chromium and Playwright for Python. Where one is missing they are skipped with the reason, or fail if
BLOOMERY_REQUIRE_BROWSER is set.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class RunningWeb:
    """A `bloomery web` in a process of its own. `url` ends without a slash; `token` opens it."""

    url: str
    token: str
    store: Path
    process: subprocess.Popen[str]

    @property
    def opening(self) -> str:
        return f"{self.url}/?token={self.token}"

    def ask(self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON (or text) of one request with the token, as a program would send it."""
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=given)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text, kind = answer.status, answer.read().decode(), answer.headers.get("content-type", "")
        except urllib.error.HTTPError as error:
            status, text, kind = error.code, error.read().decode(), error.headers.get("content-type", "")
        return status, json.loads(text) if kind.startswith("application/json") else text


@pytest.fixture(scope="session")
def serve_web() -> Any:
    """`with serve_web(store, *options) as server`: a server of a test's own."""
    return start_web


@contextlib.contextmanager
def start_web(store: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[RunningWeb]:
    """`bloomery web --store STORE` on a free port; killed at the end."""
    command = [sys.executable, "-m", "bloomery", "web", "--store", str(store), "--port", "0", "--json", *options]
    errors = store.parent / f"web-{time.monotonic_ns()}.log"
    with errors.open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})})
    assert process.stdout is not None
    try:
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            assert line, f"bloomery web ended: {errors.read_text()[-3000:]}"
            told += line
        parts = urlsplit(json.loads(told)["url"])
        yield RunningWeb(f"http://{parts.netloc}", parts.query.removeprefix("token="), store, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def web(smoke_store) -> Iterator[RunningWeb]:
    """One server over the smoke run's store for all tests that only read."""
    with start_web(smoke_store) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, started once."""
    found = os.environ.get("BLOOMERY_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        _skip("no Chromium here: install the system's package `chromium`, or set BLOOMERY_CHROMIUM to its path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _skip("Playwright for Python is not installed: pip install -c constraints.txt playwright")
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        chromium = playwright.chromium.launch(executable_path=found, args=[*CHROMIUM_FLAGS, *sandbox])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser) -> Iterator[Any]:
    """`open_page(server, "/runs", width=1280, scheme="light")`: a new browser session, logged in, at that address.

    At the end of the test no page may have logged an error, broken the content security policy, or asked any other host.
    `page.allow` takes regular expressions of console lines that the test provokes.
    """
    contexts, faults = [], []

    def open_at(server: RunningWeb, path: str = "/", *, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.allow = []
        watch(page, urlsplit(server.url).netloc, faults)
        page.goto(server.opening)
        if path != "/":
            page.goto(server.url + path)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert faults == []


def watch(page: Any, netloc: str, faults: list[str]) -> None:
    """Notes every error of a page and every request to another host in `faults`."""

    def note(text: str) -> None:
        if not any(re.search(pattern, text) for pattern in page.allow):
            faults.append(text)

    page.on("console", lambda message: note(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: note(f"script: {error}"))
    page.on("request", lambda request: None if _is_ours(request.url, netloc) else note(f"asked {request.url}"))


def _is_ours(url: str, netloc: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.netloc == netloc


def _skip(reason: str) -> None:
    if os.environ.get("BLOOMERY_REQUIRE_BROWSER"):
        pytest.fail(f"BLOOMERY_REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)
