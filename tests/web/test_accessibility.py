"""Every page is usable by keyboard and screen reader, as far as axe-core can tell, in both colour schemes and on a phone."""

import pytest

from bloomery.web.app import PAGES

WIDTHS = {"desk": 1280, "phone": 390}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def find_violations(page) -> list[str]:
    """What axe-core finds, one line a rule with the first element it means."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    # Only what is open: a table in a closed dialog is nobody's.
    found = axe.run(page, options={"resultTypes": ["violations"], "runOnly": TAGS}).response["violations"]
    return [f"{one['id']} ({one['impact']}): {one['help']}: {one['nodes'][0]['html'][:160]}" for one in found]


def settle(page) -> None:
    page.get_by_role("heading", level=1).first.wait_for()
    page.wait_for_function("() => !document.querySelector('main .spinner')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_barrier_that_axe_knows(web, open_page, name, scheme):
    page = open_page(web, f"/{name}", scheme=scheme)
    settle(page)
    assert find_violations(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(web, open_page, name):
    page = open_page(web, f"/{name}", width=WIDTHS["phone"], height=800)
    settle(page)
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0, "the page scrolls sideways"


@pytest.mark.parametrize("name", PAGES)
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(web, open_page, name):
    page = open_page(web, f"/{name}")
    settle(page)
    page.evaluate("() => document.body.focus()")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        seen.append(page.evaluate("() => document.activeElement.textContent.trim().slice(0, 30)"))
        if page.evaluate("() => document.activeElement === document.body"):
            break
        assert outline != "none", f"no focus ring on {seen[-1]!r}"
    assert len(set(seen)) >= 6, seen
