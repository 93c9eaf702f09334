"""The corpus page in a real browser: the funnel, thresholds that are moved by mouse, keys and typing, samples, addresses to share."""

import re

import pytest
from test_accessibility import find_violations, settle

SLOW_LINE = """() => {
    const ask = window.fetch;
    let open = 0;
    window.asked = window.most = 0;
    window.fetch = async (path, ...rest) => {
        if (!path.endsWith('/what-if')) return ask(path, ...rest);
        window.asked += 1;
        window.most = Math.max(window.most, ++open);
        await new Promise((done) => setTimeout(done, 100));
        return ask(path, ...rest).finally(() => (open -= 1));
    };
}"""
"""Makes each answer of what-if come late, and counts how many are asked for in all and at once."""


@pytest.fixture(scope="module")
def steps(web) -> dict[str, dict]:
    """The stages of the smoke run as the server tells them, by stage."""
    run = web.ask("/api/corpus/runs")[1]["runs"][0]["id"]
    return {step["stage"]: step for step in web.ask(f"/api/corpus/funnel?run={run}")[1]["steps"]}


@pytest.fixture
def thresholds(web, open_page, steps):
    """A page with the histogram of `too_few_words` open."""
    page = open_page(web, f"/corpus?artifact={steps['filter']['artifact']}&tab=thresholds&rule=too_few_words")
    kept = steps["filter"]["documents_out"]
    page.get_by_text(f"{kept} of {steps['filter']['documents_in']} documents kept").wait_for()
    return page


def wait_for_threshold(page) -> float:
    """The threshold where it now rests, once the recipe's settings say so."""
    slider = page.get_by_role("slider")
    # A float of Python, as in the recipe: 400 is 400.0.
    page.wait_for_function(
        """() => {
            const now = Number(document.querySelector('[role=slider]').getAttribute('aria-valuenow'));
            const told = document.querySelector('.corpus-toml').textContent.match(/too_few_words = ([0-9.]+)/);
            return told && Number(told[1]) === now;
        }"""
    )
    return float(slider.get_attribute("aria-valuenow"))


def kept_now(page) -> int:
    told = re.match(r"([\d,]+) of", page.locator(".corpus-verdict").inner_text())
    assert told is not None
    return int(told[1].replace(",", ""))


def ask_kept(web, steps, threshold: float) -> int:
    body = {"artifact": steps["filter"]["artifact"], "thresholds": {"too_few_words": threshold}}
    return web.ask("/api/corpus/what-if", method="POST", body=body)[1]["after"]["documents_out"]


def test_a_threshold_dragged_by_mouse_changes_the_funnel_and_the_toml(web, thresholds, steps):
    thresholds.evaluate(SLOW_LINE)
    thresholds.locator(".corpus-whatif").scroll_into_view_if_needed()
    box = thresholds.locator(".corpus-histogram").bounding_box()
    line = thresholds.get_by_role("slider").bounding_box()
    thresholds.mouse.move(line["x"] + line["width"] / 2, box["y"] + 60)
    thresholds.mouse.down()
    for part in range(1, 31):
        thresholds.mouse.move(line["x"] + line["width"] / 2 + part * box["width"] / 60, box["y"] + 60)
    thresholds.mouse.up()
    threshold = wait_for_threshold(thresholds)
    assert threshold > 300
    assert kept_now(thresholds) == ask_kept(web, steps, threshold) < steps["filter"]["documents_out"]
    asked, most = thresholds.evaluate("() => [window.asked, window.most]")
    assert most == 1 and 2 <= asked < 20, "one question at a time, and those in between are left out"
    thresholds.wait_for_url(f"**at=too_few_words%3A{threshold:g}*")
    thresholds.reload()
    thresholds.locator(".corpus-verdict").wait_for()
    assert kept_now(thresholds) == ask_kept(web, steps, threshold)


def test_a_threshold_moves_by_keys_and_by_typing(web, thresholds, steps):
    slider = thresholds.get_by_role("slider", name="Threshold of too_few_words")
    slider.focus()
    thresholds.keyboard.press("PageUp")
    thresholds.keyboard.press("ArrowRight")
    above = wait_for_threshold(thresholds)
    thresholds.keyboard.press("ArrowLeft")
    thresholds.keyboard.press("ArrowLeft")
    assert 50 < wait_for_threshold(thresholds) < above
    thresholds.keyboard.press("End")
    wait_for_threshold(thresholds)
    thresholds.wait_for_function("() => /^[01] of/.test(document.querySelector('.corpus-verdict').textContent)")
    thresholds.keyboard.press("Home")
    least = wait_for_threshold(thresholds)
    assert least == float(slider.get_attribute("aria-valuemin")) and kept_now(thresholds) == ask_kept(web, steps, least)
    thresholds.get_by_label("Threshold (words)").fill("1000")
    assert wait_for_threshold(thresholds) == 1000 and kept_now(thresholds) == ask_kept(web, steps, 1000)
    thresholds.get_by_role("button", name="As it was").click()
    thresholds.get_by_text("as many as the run kept").wait_for()
    thresholds.wait_for_function("() => !document.querySelector('.corpus-toml').textContent.includes('too_few_words')")


def test_the_toml_that_is_copied_is_the_one_that_is_shown(thresholds):
    thresholds.context.grant_permissions(["clipboard-read", "clipboard-write"])
    thresholds.get_by_label("Threshold (words)").fill("123")
    wait_for_threshold(thresholds)
    thresholds.get_by_role("button", name="Copy the TOML").click()
    thresholds.get_by_role("button", name="Copied").wait_for()
    copied = thresholds.evaluate("() => navigator.clipboard.readText()")
    assert "too_few_words = 123" in copied and copied == thresholds.locator(".corpus-toml").text_content()


def test_the_funnel_shows_documents_bytes_and_tokens_of_every_stage_and_rule(web, open_page, steps):
    page = open_page(web, "/corpus")
    funnel = page.get_by_role("region", name="Funnel")
    for step in steps.values():
        row = funnel.get_by_role("listitem").filter(has=page.get_by_role("button", name=f"{step['node']} {step['stage']}"))
        assert str(step["documents_out"]) in row.first.locator(".corpus-count").first.inner_text()
        assert row.first.locator(".corpus-drops li").count() == len(step["drops"])
    before = funnel.locator(".corpus-count").first.inner_text()
    funnel.get_by_role("button", name="Bytes").click()
    assert "MB" in funnel.locator(".corpus-count").first.inner_text() != before
    funnel.get_by_role("button", name="Tokens").click()
    assert funnel.locator(".corpus-count").first.inner_text() == "–"  # pages of HTML have none
    page.wait_for_url("**measure=tokens*")


def test_kept_documents_stand_beside_dropped_ones_by_chance_near_a_threshold_and_of_a_rule(web, open_page, steps):
    page = open_page(web, "/corpus")
    kept, dropped = page.get_by_role("region", name="Kept"), page.get_by_role("region", name="Dropped")
    kept.get_by_role("article").first.wait_for()
    shown = kept.inner_text()
    page.get_by_role("button", name="Draw others").click()
    page.wait_for_function("old => document.querySelector('.corpus-sides > section').innerText !== old", arg=shown)
    page.get_by_role("button", name="Near the threshold").click()
    page.get_by_label("Rule").select_option("too_few_words")
    page.get_by_text("The nearest on both sides").wait_for()
    kept.get_by_text("threshold 50").first.wait_for()

    def values(side) -> list[int]:
        return [int(re.search(r"words ([\d]+)", text)[1]) for text in side.locator(".corpus-reason").all_inner_texts()]

    assert values(kept) == sorted(values(kept)) and min(values(kept)) >= 50 > max(values(dropped))
    assert values(dropped) == sorted(values(dropped), reverse=True)
    page.get_by_role("button", name="long_words: samples").click()
    dropped.get_by_text("long_words").first.wait_for()
    page.wait_for_function("() => !document.querySelector('.corpus-sides').innerText.includes('by too_few_words')")
    assert dropped.get_by_role("article").count() == 2


def test_a_long_text_is_cut_until_all_of_it_is_asked_for(web, open_page):
    page = open_page(web, "/corpus")
    button = page.get_by_role("button", name="Show all of what was sent").first
    button.wait_for()
    text = page.get_by_role("article").filter(has=button).first.locator(".corpus-text")
    short = len(text.inner_text())
    button.click()
    assert len(text.inner_text()) > short and page.get_by_role("button", name="Show less").count() == 1


def test_a_store_without_documents_says_which_command_makes_some(tmp_path, serve_web, open_page):
    (tmp_path / "runs").mkdir()
    with serve_web(tmp_path / "runs") as empty:
        page = open_page(empty, "/corpus")
        page.get_by_text("bloomery run quickstart").wait_for()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_thresholds_have_no_barrier_that_axe_knows_and_fit_a_phone(web, open_page, steps, scheme, width):
    path = f"/corpus?artifact={steps['filter']['artifact']}&tab=thresholds&at=too_few_words:400"
    page = open_page(web, path, scheme=scheme, width=width)
    settle(page)
    page.locator(".corpus-verdict").wait_for()
    assert find_violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
