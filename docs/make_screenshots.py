"""Pictures of every page of `bloomery web`, in both colour schemes: to look at after a change, and for the README.

    python docs/make_screenshots.py runs --out /tmp/pages            # a store with a finished quickstart run
    python docs/make_screenshots.py runs --readme                    # writes docs/images/web-*.png anew

Needs Playwright for Python and Chromium, as the browser tests do.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
QUESTION = "Put each word in brackets: stack order view"


def main() -> None:
    """Draws the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--run", default="quickstart")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--readme", action="store_true", help="light, 1280 wide, into docs/images")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    args = parser.parse_args()
    looks = [("light", 1280)] if args.readme else [("light", 1280), ("dark", 1280), ("light", 390)]
    folder = IMAGES if args.readme else args.out
    folder.mkdir(parents=True, exist_ok=True)
    with serve(args.store) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--disable-gpu", "--no-sandbox"])
        for scheme, width in looks:
            context = browser.new_context(viewport={"width": width, "height": 820}, color_scheme=scheme, device_scale_factor=1)
            page = context.new_page()
            page.goto(url)
            for name, draw in VIEWS.items():
                draw(page, url.partition("?")[0].rstrip("/"), args.run)
                suffix = "" if args.readme else f"-{scheme}-{width}"
                page.screenshot(path=folder / f"web-{name}{suffix}.png", full_page=not args.readme)
                print(folder / f"web-{name}{suffix}.png")
        browser.close()


def settle(page: Page) -> None:
    """Waits until a page has its data."""
    page.get_by_role("heading", level=1).first.wait_for()
    page.wait_for_function("() => !document.querySelector('main .spinner')")
    page.wait_for_timeout(600)


def plain(path: str) -> Callable[[Page, str, str], None]:
    """A page as it opens."""

    def draw(page: Page, base: str, run: str) -> None:
        page.goto(base + path)
        settle(page)

    return draw


def draw_run(page: Page, base: str, run: str) -> None:
    """The curves of a run's first training."""
    page.goto(f"{base}/runs")
    settle(page)
    page.get_by_role("link", name=run, exact=True).click()
    settle(page)
    page.get_by_role("tab", name="Curves").click()
    settle(page)


def draw_chat(page: Page, base: str, run: str) -> None:
    """One question to the model."""
    page.goto(f"{base}/chat")
    settle(page)
    page.get_by_placeholder("A message").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Send").wait_for(timeout=60_000)
    page.wait_for_timeout(4000)


VIEWS: dict[str, Callable[[Page, str, str], None]] = {
    "runs": plain("/runs"),
    "run": draw_run,
    "corpus": plain("/corpus"),
    "tokenizer": plain("/tokenizer"),
    "chat": draw_chat,
    "arena": plain("/arena"),
}


@contextmanager
def serve(store: Path) -> Iterator[str]:
    """The address, with the token, of a server over a store."""
    command = [sys.executable, "-m", "bloomery.cli.main", "web", "--store", str(store), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = ""
    while not told.endswith("}\n"):
        told += process.stdout.readline()
    try:
        yield json.loads(told)["url"]
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
