"""The corpus page in a real browser: the funnel, thresholds that are moved by mouse, keys and typing, samples, addresses to share."""

import re

import hostile
import pytest
from corpus_store import HOSTILE, make_store
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


@pytest.fixture(scope="module")
def look(tmp_path_factory, serve_web):
    """A server over a run with duplicates, personal data, two languages and a hostile text; its stages' artifacts by node."""
    with serve_web(make_store(tmp_path_factory.mktemp("look"))) as running:
        run = running.ask("/api/corpus/runs")[1]["runs"][0]["id"]
        steps = running.ask(f"/api/corpus/funnel?run={run}")[1]["steps"]
        yield running, {step["node"]: step["artifact"] for step in steps}


def test_duplicates_are_shown_with_their_differences_marked(look, open_page):
    web, artifacts = look
    page = open_page(web, f"/corpus?artifact={artifacts['unique']}&tab=duplicates")
    page.get_by_role("button", name="a1.example/41").click()
    page.locator("article del").wait_for()
    assert page.locator("article del").all_inner_texts() == ["One sentence more, said once."]
    assert page.locator("article ins").count() == 0
    page.get_by_role("button", name=re.compile("characters the same")).click()
    kept = page.locator("article.kept .corpus-text").inner_text()
    page.locator("article.dropped .corpus-text").wait_for()
    assert page.locator("article.dropped .corpus-text").inner_text() == kept
    page.wait_for_url("**cluster=t41*")


def test_replacements_of_personal_data_are_highlighted_with_their_kind(look, open_page):
    web, artifacts = look
    page = open_page(web, f"/corpus?artifact={artifacts['private']}&tab=pii")
    page.get_by_role("article").wait_for()
    assert page.locator("mark").all_inner_texts() == ["<EMAIL>email", "<PHONE>phone"]
    assert page.get_by_role("row", name="email 1").count() == 1
    assert "jane.doe" not in page.locator("main").inner_text()


def test_languages_domains_and_sources_are_counted(look, open_page):
    web, artifacts = look
    page = open_page(web, f"/corpus?artifact={artifacts['extracted']}&tab=breakdown")
    page.get_by_role("row", name=re.compile(r"en 65.9 % 29 ")).wait_for()
    page.get_by_role("button", name="Domains").click()
    page.get_by_role("row", name=re.compile(r"a0.example 50.0 % 22 ")).wait_for()
    page.get_by_role("button", name="Sources").click()
    page.get_by_role("row", name=re.compile(r"s1 50.0 % 22 ")).wait_for()


def test_a_url_is_asked_what_happened_to_it(look, open_page):
    web, _ = look
    page = open_page(web, "/corpus")
    page.get_by_role("textbox", name="What happened to").fill("https://a0.example/36")
    page.keyboard.press("Enter")
    story = page.get_by_role("region", name="What happened to it")
    story.get_by_text("Dropped at filtered by too_few_words.").wait_for()
    assert story.get_by_text("1 of 14 rules failed").is_visible()
    assert page.evaluate("() => document.activeElement.tagName") == "INPUT"  # the next address can be typed at once
    assert "filtered filter dropped by too_few_words: 15, threshold 20" in story.inner_text().replace("\n", " ")
    assert story.get_by_role("row", name="too_few_words failed 15 at least 20").count() == 1
    page.get_by_role("textbox", name="What happened to").fill("https://a0.example/777")
    page.get_by_role("button", name="Ask").click()
    story.get_by_text("No stage of this run knows it").wait_for()
    story.get_by_role("button", name="https://a0.example/0", exact=True).click()
    story.get_by_text("judged").wait_for()
    page.go_back()
    story.get_by_text("No stage of this run knows it").wait_for()
    page.get_by_role("textbox", name="What happened to").fill("t17")
    page.keyboard.press("Enter")
    story.get_by_role("button", name="The copy that was kept: t41").click()
    page.wait_for_url("**document=t41*")


def test_a_hostile_text_is_told_as_text_in_its_story(look, open_page):
    web, _ = look
    page = open_page(web, "/corpus?document=t42")
    story = page.get_by_role("region", name="What happened to it")
    story.get_by_text("Its text here").first.click()
    assert HOSTILE.strip() in story.locator(".corpus-text").first.inner_text()
    hostile.check_harmless(page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
@pytest.mark.parametrize(("node", "rest"), [("unique", "tab=duplicates&cluster=t41"), ("private", "tab=pii&document=t36")])
def test_views_of_a_stage_have_no_barrier_that_axe_knows_and_fit_a_phone(look, open_page, node, rest, scheme, width):
    web, artifacts = look
    page = open_page(web, f"/corpus?artifact={artifacts[node]}&{rest}", scheme=scheme, width=width)
    page.get_by_role("article").first.wait_for()
    settle(page)
    assert find_violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
