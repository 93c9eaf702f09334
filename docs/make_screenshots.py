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

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bloomery.core.artifact import Store
from bloomery.web.directory import Directory, opaque_id

IMAGES = Path(__file__).parent / "images"
README = ("run", "corpus", "chat")
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
                if args.readme and name not in README:
                    continue
                draw(page, url.partition("?")[0].rstrip("/"), Store(args.store), args.run)
                settle(page)
                suffix = "" if args.readme else f"-{scheme}-{width}"
                path = folder / f"web-{name}{suffix}.png"
                page.screenshot(path=path, full_page=not args.readme)
                if args.readme:
                    Image.open(path).quantize(128).save(path, optimize=True)  # a third of the size; the eye sees no difference
                print(path)
        browser.close()


def settle(page: Page) -> None:
    """Waits until a page has its data."""
    page.get_by_role("heading", level=1).first.wait_for()
    page.wait_for_function("() => !document.querySelector('main .spinner')")
    page.wait_for_timeout(600)


def draw_runs(page: Page, base: str, store: Store, run: str) -> None:
    """The list of runs."""
    page.goto(f"{base}/runs")


def draw_run(page: Page, base: str, store: Store, run: str) -> None:
    """The curves of a run's first training."""
    page.goto(f"{base}/runs/{opaque_id('run', run)}?tab=curves&smooth=0.6")


def draw_corpus(page: Page, base: str, store: Store, run: str) -> None:
    """The funnel, and the thresholds of the filter."""
    page.goto(f"{base}/corpus?run={opaque_id('run', run)}")
    settle(page)
    page.get_by_role("button", name="filtered").first.click()
    settle(page)
    page.get_by_role("tab", name="Thresholds").click()
    settle(page)
    page.mouse.wheel(0, 330)


def draw_tokenizer(page: Page, base: str, store: Store, run: str) -> None:
    """A text and its tokens, and what made one of them."""
    page.goto(f"{base}/tokenizer")
    settle(page)
    page.get_by_role("textbox", name="Text").fill("def bloomery(ore):\n    return iron  # größer, 1,234 or 漢字?")
    settle(page)


def draw_chat(page: Page, base: str, store: Store, run: str) -> None:
    """One question to two models of the run, as tokens with their probabilities."""
    ids = {entry.name: entry.id for entry in Directory(store).artifacts("checkpoint")}
    chosen = [ids[name] for name in (f"{run}/sft", f"{run}/dpo") if name in ids]
    page.goto(f"{base}/chat?view=tokens&seed=1&" + "&".join(f"model={model}" for model in chosen))
    settle(page)
    page.get_by_placeholder("A message").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_text("tokens/s").nth(len(chosen) - 1).wait_for(timeout=120_000)


def draw_arena(page: Page, base: str, store: Store, run: str) -> None:
    """The campaigns."""
    page.goto(f"{base}/arena")


VIEWS: dict[str, Callable[[Page, str, Store, str], None]] = {
    "runs": draw_runs,
    "run": draw_run,
    "corpus": draw_corpus,
    "tokenizer": draw_tokenizer,
    "chat": draw_chat,
    "arena": draw_arena,
}


@contextmanager
def serve(store: Path) -> Iterator[str]:
    """The address, with the token, of a server over a store."""
    command = [sys.executable, "-m", "bloomery", "web", "--store", str(store), "--port", "0", "--json"]
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
