"""The tokenizer page in a real browser: ids of the `tokenizers` library, any text a person may paste, merges, vocabulary, measures."""

import json
import re
import shutil

import hostile
import pytest
import tokenizers
from test_accessibility import find_violations

TEXT = "return the value of größe 你好 👩‍🚀\n\tmore"


@pytest.fixture(scope="module")
def library(web) -> tokenizers.Tokenizer:
    data = json.loads(next(web.store.glob("artifacts/train_tokenizer-*/tokenizer.json")).read_text())
    return tokenizers.Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))


def tokens_of(page):
    return page.get_by_role("toolbar", name="Tokens of").first.get_by_role("button")


def write(page, text: str, count: int) -> None:
    page.get_by_role("textbox", name="Text", exact=True).fill(text)
    page.wait_for_function(
        "n => document.querySelector('.tokenizer-counts strong')?.textContent.replace(/,/g, '') === String(n)", arg=count
    )


def test_a_typed_text_is_shown_in_the_ids_of_the_tokenizers_library(web, open_page, library):
    page = open_page(web, "/tokenizer?view=ids")
    ids = library.encode(TEXT, add_special_tokens=False).ids
    write(page, TEXT, len(ids))
    assert tokens_of(page).all_text_contents() == [str(i) for i in ids]
    page.get_by_role("button", name="Bytes", exact=True).click()
    page.wait_for_function("() => document.querySelector('.tokens button').textContent.match(/^[0-9a-f ]+$/)")
    assert bytes.fromhex(" ".join(tokens_of(page).all_text_contents())) == TEXT.encode()
    page.get_by_role("button", name="Text", exact=True).click()
    shown = "".join(tokens_of(page).all_text_contents())
    assert "return" in shown and "·" in shown and "‹" in shown and "↵" in shown
    page.wait_for_url("**text=return*")  # an address to share


def test_whatever_is_pasted_is_shown_and_nothing_breaks(web, open_page, library):
    page = open_page(web, "/tokenizer")
    for text in ["\x00\x01 a", "مرحبا \u202eabc\u202c", "👩‍👩‍👧‍👦" * 30, "x" * 100_000, hostile.ALL_OF_THEM]:
        write(page, text, len(library.encode(text, add_special_tokens=False).ids))
        assert 0 < tokens_of(page).count() <= 2000
        hostile.check_harmless(page)


def test_half_a_character_typed_by_a_script_is_replaced_before_it_is_sent(web, open_page):
    page = open_page(web, "/tokenizer")
    tokens_of(page).first.wait_for()
    page.evaluate(
        r"""() => { const field = document.querySelector('#tokenizer-text'); field.value = 'a\ud800b';
        field.dispatchEvent(new InputEvent('input', { bubbles: true })); }"""
    )
    page.get_by_text("5 bytes").wait_for()  # a, U+FFFD in three, b


def test_a_chosen_token_tells_its_merges_by_keyboard_too(web, open_page):
    page = open_page(web, "/tokenizer?text=%20return%20the")
    tokens_of(page).first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    page.get_by_role("heading", name="Token 1: ·return").wait_for()
    why = page.locator(".tokenizer-why")
    why.get_by_role("table").wait_for()
    assert why.get_by_role("row").last.get_by_role("cell").nth(3).text_content() == "·return"


def test_two_tokenizers_stand_side_by_side(web, open_page, smoke_store):
    page = open_page(web, "/tokenizer?text=hello")
    page.get_by_label("Beside it").select_option(label="smoke/base (pretrain)")
    page.get_by_role("toolbar", name="Tokens of smoke/base").get_by_role("button").first.wait_for()
    sides = [page.get_by_role("toolbar", name=f"Tokens of smoke/{name}").text_content() for name in ("tokenizer", "base")]
    assert sides[0] == sides[1] == "hello"
    page.reload()
    page.get_by_role("toolbar", name="Tokens of smoke/base").wait_for()


def test_special_tokens_are_text_unless_asked(web, open_page):
    page = open_page(web, "/tokenizer?text=a%3C%7Cend%7C%3Eb")
    tokens_of(page).first.wait_for()
    assert page.locator(".token.special").count() == 0
    page.get_by_label("Read special tokens").check()
    page.locator(".token.special").wait_for()
    assert tokens_of(page).all_text_contents() == ["a", "<|end|>", "b"]


def test_the_vocabulary_is_searched_and_paged(web, open_page):
    page = open_page(web, "/tokenizer?tab=vocabulary")
    page.get_by_text("1,024 of 1,024 entries").wait_for()
    page.get_by_role("button", name="Later").click()
    page.get_by_role("cell", name="50", exact=True).first.wait_for()
    page.get_by_role("searchbox").fill("return")
    page.get_by_text(re.compile(r"^\d of 1,024 entries")).wait_for()
    found = page.locator(".tokenizer-entry").all_text_contents()
    assert len(found) >= 2 and all("return" in entry for entry in found)


def test_bytes_per_token_by_language_are_shown(web, open_page):
    page = open_page(web, "/tokenizer?tab=usage")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="en", exact=True))
    row.wait_for()
    report = json.loads(next(web.store.glob("artifacts/train_tokenizer-*/tokenizer_report.json")).read_text())
    assert f"{report['by']['language']['en']['bytes_per_token']:.3g}" in row.text_content()
    page.get_by_label("Measured on").select_option(label="smoke/corpus (held-out text)")
    page.get_by_title("documents").first.wait_for()
    assert "en" in page.get_by_role("table").text_content()


def test_a_store_without_tokenizers_or_models_says_what_to_run(tmp_path, serve_web, open_page, smoke_store):
    store = tmp_path / "runs"
    shutil.copytree(smoke_store / "smoke", store / "smoke", symlinks=True)
    with serve_web(store) as empty:
        page = open_page(empty, "/tokenizer")
        page.get_by_text("bloomery run quickstart").wait_for()
        page.goto(f"{empty.url}/chat")
        page.get_by_text("No model in this store yet").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_and_merges_have_no_barrier_that_axe_knows(web, open_page, scheme):
    page = open_page(web, "/tokenizer?text=%20return%20gr%C3%B6%C3%9Fe%3C%7Cend%7C%3E&specials=1", scheme=scheme)
    page.get_by_label("Beside it").select_option(label="smoke/base (pretrain)")
    page.get_by_role("toolbar", name="Tokens of smoke/base").wait_for()
    tokens_of(page).first.click()
    assert find_violations(page) == []
    page.get_by_role("tab", name="Bytes per token").click()
    page.get_by_role("table").wait_for()
    assert find_violations(page) == []
