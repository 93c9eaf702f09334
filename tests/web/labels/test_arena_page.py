"""The arena page in a real browser: votes by mouse and key, undo, names after the vote, rankings, lost connections, a killed server, and
from clicks to a reward model that learned them."""

import json
import re
import signal
import socket
import subprocess
import sys

import hostile
import pytest
import sqlalchemy as sa

from bloomery.web.labels import tables as t
from bloomery.web.labels.campaigns import ModelName
from bloomery.web.labels.reading import read_judgements


@pytest.fixture
def server(database_url, tmp_path, serve_web):
    with serve_web(tmp_path / "runs", "--labels", database_url) as running:
        yield running


def only_sqlite(function):
    return pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)(function)


def live_votes(database):
    with database.read() as connection:
        return [(row.choice, row.ranks) for row in connection.execute(sa.select(t.live_vote).order_by(t.live_vote.c.id))]


def begin(open_page, server, campaign, **options):
    page = open_page(server, f"/arena?campaign={campaign.key}", **options)
    page.get_by_label("Your name").fill("ann")
    page.get_by_role("button", name="Begin to vote").click()
    settle(page)
    return page


def settle(page):
    """Until the next comparison is there, and clicks count again."""
    page.locator("section[aria-busy='false']").or_(page.get_by_text("Nothing to compare now")).first.wait_for()
    page.wait_for_timeout(270)


def prompt_of(page):
    return page.locator(".arena-prompt").inner_text()


def test_votes_by_mouse_and_by_key_land_in_the_database_and_names_come_after_them(open_page, server, database, make_campaign):
    campaign = make_campaign(prompts=4)
    heard = []
    page = open_page(server, "/arena")
    page.on("response", lambda response: heard.append(response.text()) if "/api/" in response.url else None)
    page.get_by_role("link", name="first").click()
    page.get_by_label("Your name").fill("ann")
    page.get_by_role("button", name="Begin to vote").click()
    settle(page)
    left = page.get_by_role("article", name="Left answer").inner_text()
    assert not any(model.name in text or model.fingerprint in text for model in campaign.models for text in [*heard, page.content()])

    page.get_by_role("button", name="Left is better").click()
    page.get_by_text("Last vote: left is better").wait_for()
    page.get_by_role("button", name="Show the models").click()
    names = page.locator(".arena-names").inner_text()
    assert names.startswith("Left: " + ("run/sft" if "answer 0" in left else "run/dpo"))
    (first,) = read_judgements(database, campaign)
    assert first.models[first.ranks.index(1)] == ("run/sft" if "answer 0" in left else "run/dpo")

    for key, choice in (("ArrowRight", None), ("t", "tie"), ("4", "both_bad")):
        settle(page)
        page.keyboard.press(key)
        settle(page)
        if choice:
            assert live_votes(database)[-1][0] == choice
    page.get_by_text("Everything here has the votes").wait_for()
    assert len(live_votes(database)) == 4


@only_sqlite
def test_an_undone_vote_brings_its_comparison_back_and_counts_no_more(open_page, server, database, make_campaign):
    page = begin(open_page, server, make_campaign(prompts=3))
    asked = prompt_of(page)
    page.keyboard.press("1")
    settle(page)
    assert prompt_of(page) != asked and len(live_votes(database)) == 1
    page.keyboard.press("u")
    page.get_by_text(asked.splitlines()[-1], exact=True).wait_for()
    assert live_votes(database) == []
    settle(page)
    page.keyboard.press("s")
    page.get_by_text("Last vote: skipped").wait_for()
    page.reload()
    settle(page)
    page.get_by_role("button", name="Undo").click()
    page.get_by_text(asked.splitlines()[-1], exact=True).wait_for()
    assert live_votes(database) == []


@only_sqlite
def test_a_double_click_and_a_held_key_are_one_vote(open_page, server, database, make_campaign):
    page = begin(open_page, server, make_campaign(prompts=3))
    page.get_by_role("button", name="Left is better").dblclick()
    settle(page)
    assert len(live_votes(database)) == 1
    page.evaluate("for (let i = 0; i < 5; i++) dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: i > 0}))")
    settle(page)
    assert len(live_votes(database)) == 2


@only_sqlite
def test_a_lost_connection_keeps_the_vote_and_sends_it_again(open_page, server, database, make_campaign):
    page = begin(open_page, server, make_campaign(prompts=3))
    page.allow.append("Failed to load resource")
    lost = []

    def lose(route):
        lost.append(route.request.post_data)
        if len(lost) == 1:  # never arrived
            route.abort()
        elif len(lost) == 2:  # arrived and was kept, but the answer was lost
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/api/arena/votes", lose)
    page.get_by_role("button", name="Right is better").click()
    page.get_by_text("Your vote is not saved yet").wait_for()
    page.get_by_text("Last vote: right is better").wait_for()
    assert len(lost) == 3 and len(set(lost)) == 1
    assert len(live_votes(database)) == 1


def test_a_server_killed_in_the_middle_of_a_vote_loses_nothing_that_it_acknowledged(
    open_page, database_url, database, make_campaign, tmp_path, serve_web
):
    campaign = make_campaign(prompts=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ("--labels", database_url, "--port", port, "--token", "the-same-token-again")
    with serve_web(tmp_path / "runs", *options) as server:
        page = begin(open_page, server, campaign)
        page.keyboard.press("1")
        page.get_by_text("Last vote: left is better").wait_for()
        settle(page)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        page.allow.append("Failed to load resource")
        page.keyboard.press("2")
        page.get_by_text("Your vote is not saved yet").wait_for()
    with serve_web(tmp_path / "runs", *options):
        page.get_by_text("Last vote: right is better").wait_for()
        settle(page)
        page.keyboard.press("3")
        page.get_by_text("Last vote: equally good").wait_for()
    assert len(live_votes(database)) == 3


@only_sqlite
def test_a_ranking_is_ordered_by_dragging_by_keys_and_with_ties(open_page, server, database, make_campaign):
    models = [ModelName(name, name) for name in "wxy"]
    campaign = make_campaign(kind="ranking", answers_per_item=3, models=models, prompts=2)
    page = begin(open_page, server, campaign)
    shown = page.locator(".arena-ranking li").all_inner_texts()
    first = page.get_by_role("button", name="Answer A, rank 1")
    box, last = first.bounding_box(), page.locator(".arena-ranking li").last.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(last["x"] + 20, last["y"] + last["height"] - 3, steps=8)
    page.mouse.up()
    # A went below B and C; C goes up to the top; A is as good as B above it.
    page.get_by_role("button", name="Answer A, rank 3").wait_for()
    page.get_by_role("button", name="Answer C, rank 2").press("ArrowUp")
    page.get_by_role("button", name="Answer A, rank 3").press("=")
    page.get_by_role("button", name="Answer A, rank 2").press("Enter")
    page.get_by_text("Last vote: a ranking").wait_for()
    (one,) = read_judgements(database, campaign)
    of_model = dict(zip(one.models, one.ranks, strict=True))
    expected = {"wxy"[int(re.search(r"answer (\d)", text)[1])]: rank for text, rank in zip(shown, [2, 2, 1], strict=True)}
    assert of_model == expected


@only_sqlite
def test_hostile_prompts_answers_guidelines_and_names_stay_text(open_page, server, database, make_campaign):
    everything = "\n\n".join(hostile.PAYLOADS)
    models = [ModelName(f"<img src=x onerror=pwned=1>{i}", str(i)) for i in range(2)]
    campaign = make_campaign(
        prompts=1, models=models, name="<svg onload=pwned=1>", guideline=everything, answer=lambda i, *_: f"{everything} {i}"
    )
    page = begin(open_page, server, campaign)
    page.keyboard.press("1")
    page.get_by_role("button", name="Show the models").click()
    page.locator(".arena-names").wait_for()
    page.get_by_role("tab", name="Results").click()
    page.get_by_role("heading", name="Ratings").wait_for()
    page.get_by_role("tab", name="Campaign").click()
    page.get_by_role("heading", name="Annotators").wait_for()
    assert page.evaluate("window.pwned") is None


def test_a_campaign_is_made_in_the_browser_and_its_answers_are_judged(open_page, smoke_store, tmp_path, serve_web):
    with serve_web(smoke_store, "--labels", f"sqlite:///{tmp_path}/votes.sqlite") as server:
        page = open_page(server, "/arena")
        page.get_by_role("heading", name="No campaign yet").wait_for()
        page.get_by_role("link", name="New campaign").click()
        page.get_by_label("Name").fill("made here")
        page.get_by_label("smoke/sft").check()
        page.get_by_label("From").select_option(label="a text")
        page.get_by_label("One prompt a line").fill("What is iron?\nWhat is coal?")
        page.get_by_label("Longest answer").fill("8")
        page.get_by_label("Temperature").fill("1")
        page.allow.append("400")
        page.get_by_role("button", name="Make the campaign").click()
        page.get_by_text("one answer to a prompt cannot be compared").wait_for()
        page.get_by_label("Answers of each model").fill("2")
        page.get_by_role("button", name="Make the campaign").click()
        page.get_by_label("Your name").fill("ann")
        page.get_by_role("button", name="Begin to vote").click()
        page.get_by_role("article", name="Left answer").or_(page.get_by_text("Everything here")).first.wait_for(timeout=60_000)
        page.get_by_role("tab", name="Campaign").click()
        page.get_by_text("4 of 4 made").wait_for(timeout=60_000)


@only_sqlite
def test_from_clicks_to_a_reward_model_that_learned_them(open_page, server, database, database_url, make_campaign, smoke_store, tmp_path):
    """Whoever clicks prefers the shorter answer; the reward model then does, on a prompt that nobody saw."""
    from bloomery.align.reward_model import score_rows
    from bloomery.core.stage import Runtime
    from bloomery.model.huggingface import load_model
    from bloomery.stages.reward_model import RewardModelConfig, reward_model
    from bloomery.tokens.renderer import load_whole_renderer
    from bloomery.tokens.tokenizer import load_tokenizer

    texts = ["Yes.", "Yes, and there is very much more that one could say about this, at great length."]
    campaign = make_campaign(prompts=16, answer=lambda model, *_: texts[model])
    page = begin(open_page, server, campaign)
    for number in range(16):
        left, right = (page.get_by_role("article", name=f"{side} answer").inner_text() for side in ("Left", "Right"))
        side = "Left" if len(left) < len(right) else "Right"
        if number % 2:
            page.get_by_role("button", name=f"{side} is better").click()
        else:
            page.keyboard.press("1" if side == "Left" else "2")
        settle(page)
    page.get_by_text("Everything here").wait_for()
    exported = tmp_path / "labels" / "first.jsonl"
    command = [
        sys.executable,
        "-m",
        "bloomery",
        "labels",
        "export",
        "first",
        "--out",
        str(exported),
        "--labels",
        database_url,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 16

    fast = {"learning_rate": 0.003, "embedding_learning_rate": 0.003, "held_out_fraction": 0.0, "normalise": "none", "seed": 1}
    config = RewardModelConfig(epochs=20, batch_prompts=8, **fast)
    out, init = tmp_path / "reward", smoke_store / "smoke" / "sft"
    reward_model(config, init=init, labels=[exported], out=out, runtime=Runtime(quiet=True, device="cpu"))
    render, model = load_whole_renderer(out, load_tokenizer(out)), load_model(out, head="scalar")
    unseen = {"role": "user", "content": "Is this a question that nobody has seen?"}
    short, long = score_rows(model, [render([unseen, {"role": "assistant", "content": text}]) for text in texts])
    assert short > long + 0.5


@only_sqlite
def test_a_phone_shows_the_answers_below_each_other_without_scrolling_sideways(open_page, server, make_campaign):
    page = begin(open_page, server, make_campaign(answer=lambda model, *_: "word " * 60 + "xy"[model] * 300), width=390)
    left, right = (page.get_by_role("article", name=f"{side} answer").bounding_box() for side in ("Left", "Right"))
    assert right["y"] > left["y"] and page.evaluate("document.documentElement.scrollWidth") <= 390
