"""The chat page in a real browser, talking to real checkpoints."""

import contextlib
import json
import shutil
import time

import hostile
import pytest
from test_accessibility import find_violations

from bloomery.core.conversation import read_conversations
from bloomery.core.files import read_json, write_json
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import load_tokenizer

QUESTION = "What is 3 + 4?"


@pytest.fixture(scope="module")
def long_web(smoke_store, tmp_path_factory, serve_web):
    """A store whose SFT model reads 8192 tokens, so that an answer lasts long enough to be stopped."""
    store = tmp_path_factory.mktemp("talk") / "runs"
    shutil.copytree(smoke_store, store, symlinks=True)
    config = next(store.glob("artifacts/sft-*")) / "config.json"
    write_json(config, {**read_json(config), "max_position_embeddings": 8192})
    with serve_web(store) as running:
        yield running


def ids_of(web) -> dict[str, str]:
    return {model["name"]: model["id"] for model in web.ask("/api/chat/models")[1]["models"]}


def chat_at(open_page, web, *names: str, **query: object):
    ids = ids_of(web)
    values = [*(("model", ids[name]) for name in names), *query.items()]
    page = open_page(web, "/chat?" + "&".join(f"{name}={value}" for name, value in values))
    page.get_by_role("heading", name="Chat").wait_for()
    return page


def catch_answering(page, web) -> None:
    """Asks until an answer is in the making: at this temperature most have hundreds of tokens, and a few end at once."""
    from playwright.sync_api import Error as PlaywrightError

    for _ in range(8):
        say(page, "Go on for ever.")
        with contextlib.suppress(PlaywrightError):
            page.wait_for_function(
                "() => [...document.querySelectorAll('[aria-busy=true]')].some(e => e.textContent.length > 20)", timeout=5000
            )
            if web.ask("/api/chat/models")[1]["open"]:
                return
        page.get_by_role("button", name="Send", exact=True).wait_for()
    raise AssertionError("no answer was long enough to be stopped")


def say(page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def until_said(page, answers: int = 1) -> None:
    page.wait_for_function("n => document.querySelectorAll('.chat-facts button').length >= n", arg=answers)
    page.wait_for_function("() => !document.querySelector('main [aria-busy=true]')")


def answer_of(web, model: str, messages: list[dict], seed: int, **sampling: object) -> str:
    body = {"model": ids_of(web)[model], "messages": messages, "seed": seed, "sampling": sampling}
    _, stream = web.ask("/api/chat/answer", method="POST", body=body)
    return "".join(json.loads(line[6:])["text"] for line in stream.split("\n") if line.startswith("data: {\"text\""))  # fmt: skip


def test_two_models_answer_side_by_side_with_one_seed_and_stop_when_told(long_web, open_page):
    page = chat_at(open_page, long_web, "smoke/sft", "smoke/dpo", view="plain", max_tokens=20, temperature=0.7, seed=5)
    say(page, QUESTION)
    until_said(page, 2)
    messages = [{"role": "user", "content": QUESTION}]
    for name in ("smoke/sft", "smoke/dpo"):
        said = page.get_by_role("article", name=name).locator(".chat-said .text").text_content()
        assert said == answer_of(long_web, name, messages, 5, max_tokens=20, temperature=0.7)
        assert "tokens/s" in page.get_by_role("article", name=name).locator(".chat-facts").text_content()
    page.get_by_label("Most tokens").fill("4000")
    page.get_by_label("Temperature").fill("3")
    page.get_by_role("spinbutton", name="Seed").fill("")
    page.get_by_role("button", name="Remove model 2").click()
    catch_answering(page, long_web)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("stopped").wait_for()
    deadline = time.monotonic() + 1
    while long_web.ask("/api/chat/models")[1]["open"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert long_web.ask("/api/chat/models")[1]["open"] == 0


def test_leaving_the_page_stops_the_model(long_web, open_page):
    page = chat_at(open_page, long_web, "smoke/sft", max_tokens=4000, temperature=3)
    catch_answering(page, long_web)
    page.get_by_role("link", name="Runs").click()
    deadline = time.monotonic() + 1
    while long_web.ask("/api/chat/models")[1]["open"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert long_web.ask("/api/chat/models")[1]["open"] == 0


def test_edits_and_new_tries_are_branches_that_a_reload_does_not_lose(web, open_page, tmp_path):
    page = chat_at(open_page, web, "smoke/sft", max_tokens=6, temperature=1.5, view="plain")
    say(page, QUESTION)
    until_said(page)
    first = page.locator(".chat-said .text").text_content()
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("group", name="Answer 2 of 2").wait_for()
    until_said(page)
    page.get_by_role("button", name="Earlier branch").click()
    assert page.locator(".chat-said .text").text_content() == first
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Edit the message").fill("What is 5 + 6?")
    page.get_by_role("button", name="Send as a branch").click()
    page.get_by_role("group", name="Message 2 of 2").wait_for()
    until_said(page)
    second = page.locator(".chat-said .text").text_content()
    page.wait_for_timeout(400)  # it is written a moment later
    page.reload()
    page.get_by_role("group", name="Message 2 of 2").wait_for()
    assert page.locator(".chat-user .text").text_content() == "What is 5 + 6?"
    with page.expect_download() as download:
        page.get_by_role("button", name="Export messages").click()
    download.value.save_as(tmp_path / "messages.jsonl")
    (row,) = read_conversations(tmp_path / "messages.jsonl")
    assert row["messages"] == [{"role": "user", "content": "What is 5 + 6?"}, {"role": "assistant", "content": second}]
    page.get_by_role("button", name="Earlier branch").first.click()
    assert page.locator(".chat-said .text").text_content() == first
    page.get_by_role("group", name="Answer 1 of 2").wait_for()


def test_tokens_show_their_probability_by_keyboard_and_an_alternative_makes_a_branch(web, open_page):
    page = chat_at(open_page, web, "smoke/sft", max_tokens=8, temperature=0, view="tokens", top=3)
    say(page, QUESTION)
    until_said(page)
    tokens = page.get_by_role("toolbar", name="Tokens by probability").get_by_role("button")
    before = [tokens.nth(i).text_content() for i in range(tokens.count())]
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    details = page.locator(".chat-token")
    assert details.text_content().startswith("Token 3:") and "%" in details.text_content()
    assert "%" in tokens.nth(2).get_attribute("aria-label")
    other = details.get_by_role("row").filter(has=page.get_by_role("button", name="Continue with")).first
    chosen = other.locator("code").text_content()
    other.get_by_role("button").click()
    page.get_by_role("group", name="Answer 2 of 2").wait_for()
    until_said(page)
    after = [tokens.nth(i).text_content() for i in range(tokens.count())]
    assert after[:2] == before[:2] and after[2] == chosen != before[2]


def test_the_raw_prompt_is_shown_with_its_special_tokens(web, open_page):
    page = chat_at(open_page, web, "smoke/sft")
    page.get_by_label("Message", exact=True).fill("Say <|end|>.")
    page.get_by_role("button", name="What the model sees").click()
    tokens = page.get_by_role("toolbar", name="Prompt").get_by_role("button")
    tokens.first.wait_for()
    tokenizer = load_tokenizer(next(web.store.glob("artifacts/sft-*")))
    ids = render(tokenizer, [{"role": "user", "content": "Say <|end|>."}], add_generation_prompt=True).ids
    assert tokens.count() == len(ids)
    assert page.locator("dialog .special").all_text_contents() == ["<|bos|>", "<|user|>", "<|end|>", "<|assistant|>"]


def test_a_base_model_opens_as_completion_and_the_cursor_ends_after_what_it_wrote(web, open_page):
    page = chat_at(open_page, web, "smoke/base", max_tokens=10, seed=2)
    field = page.get_by_label("Text to continue")
    field.fill("def add(a, b):\n")
    page.get_by_role("button", name="Continue the text").click()
    until_said(page)
    text = field.input_value()
    assert text.startswith("def add(a, b):\n") and len(text) > len("def add(a, b):\n")
    assert field.evaluate("e => [e.selectionStart, e === document.activeElement]") == [len(text), True]
    assert page.get_by_role("toolbar", name="Tokens by probability").get_by_role("button").count() == 10
    page.get_by_label("Seed", exact=True).fill("3")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("group", name="Continuation 2 of 2").wait_for()
    until_said(page)
    assert field.input_value() != text
    page.get_by_role("button", name="Earlier branch").click()
    assert field.input_value() == text
    page.get_by_role("button", name="Take it back").click()
    assert field.input_value() == "def add(a, b):\n"


def test_a_wrong_setting_is_said_by_its_name(web, open_page):
    page = chat_at(open_page, web, "smoke/sft", temperature=-1)
    page.allow.append("status of 400")
    say(page, QUESTION)
    assert "sampling.temperature" in page.get_by_role("alert").text_content()


def sse(*events: tuple[str, dict]) -> str:
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)


def test_hostile_text_of_a_model_and_of_a_person_stays_text_in_every_view(web, open_page):
    page = chat_at(open_page, web, "smoke/sft")
    tokens = [
        {"id": i, "text": text, "logprob": -1.0, "top": [{"id": 9, "text": text, "logprob": -2.0}]}
        for i, text in enumerate(hostile.PAYLOADS)
    ]
    pieces = [("piece", {"text": text + "\n\n", "tokens": [token]}) for text, token in zip(hostile.PAYLOADS, tokens, strict=True)]
    end = {
        "finish": "stop",
        "prompt_tokens": 1,
        "answer_tokens": 1,
        "logprob": 0.0,
        "first_token_seconds": 0.1,
        "seconds": 0.1,
        "tokens_per_second": 1.0,
    }
    body = sse(("start", {"seed": 1, "prompt_tokens": 1, "forgotten": 0}), *pieces, ("end", end))
    page.route("**/api/chat/answer", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    say(page, hostile.ALL_OF_THEM)
    until_said(page)
    hostile.check_harmless(page)
    assert hostile.PAYLOADS[0] in page.locator(".chat-user .text").text_content()
    page.get_by_role("button", name="Plain", exact=True).click()
    hostile.check_harmless(page)
    shown = page.locator(".chat-said").text_content()
    assert all(text in shown for text in hostile.PAYLOADS if "\x00" not in text)
    page.get_by_role("button", name="Tokens", exact=True).click()
    page.locator(".chat-said .token").nth(1).click()
    hostile.check_harmless(page)
    page.reload()  # from what this browser has kept
    page.locator(".chat-user .text").wait_for()
    hostile.check_harmless(page)


def test_a_column_that_is_taken_away_takes_its_own_conversation_with_it(web, open_page):
    page = chat_at(open_page, web, "smoke/sft", "smoke/base", view="plain", max_tokens=8, temperature=0)
    say(page, QUESTION)
    until_said(page, 2)
    second = page.get_by_role("article", name="smoke/base").locator(".chat-said .text").text_content()
    assert second != page.get_by_role("article", name="smoke/sft").locator(".chat-said .text").text_content()
    page.get_by_role("button", name="Remove model 1").click()
    page.get_by_role("article", name="smoke/sft").wait_for(state="detached")
    assert page.locator(".chat-said .text").text_content() == second
    page.get_by_role("button", name="Compare with another").click()
    page.get_by_role("article").nth(1).wait_for()
    assert page.locator(".chat-said .text").all_text_contents() == [second, second]  # it begins with the conversation so far


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_conversation_has_no_barrier_that_axe_knows(web, open_page, scheme):
    ids = ids_of(web)
    query = f"model={ids['smoke/sft']}&model={ids['smoke/dpo']}&view=tokens&max_tokens=30&top=3&temperature=2"
    page = open_page(web, f"/chat?{query}", scheme=scheme)
    say(page, QUESTION)
    until_said(page, 2)
    page.locator(".token").nth(2).click()
    assert find_violations(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.get_by_role("button", name="What the model sees").first.click()
    page.locator("dialog .token").first.wait_for()
    assert find_violations(page) == []
