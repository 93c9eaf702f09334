"""A conversation longer than a row is dealt with by a named policy and counted; what is cut off teaches nothing of stopping."""

from pathlib import Path
from typing import Any

import pytest

from bloomery.core.conversation import Message
from bloomery.tokens.conversation_set import fit_to_row, render_set
from bloomery.tokens.renderer import Renderer, load_renderer
from bloomery.tokens.tokenizer import Tokenizer

LONG: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d e f"},
]


@pytest.fixture(scope="module")
def render(folder: Path, tokenizer: Tokenizer) -> Renderer:
    return load_renderer(folder, tokenizer)


def text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


def test_what_fits_is_left_as_it_is(render: Renderer) -> None:
    whole = render(LONG)
    for policy in ("cut_end", "drop_turns", "drop"):
        assert fit_to_row(LONG, [], render, row_tokens=len(whole.ids), too_long=policy) == (whole, "")


def test_cut_end_keeps_the_beginning_and_no_end_to_learn(render: Renderer, tokenizer: Tokenizer) -> None:
    whole = render(LONG)
    found, what = fit_to_row(LONG, [], render, row_tokens=len(whole.ids) - 1, too_long="cut_end")
    assert what == "cut" and found is not None
    assert found.ids == whole.ids[:-1] and found.loss_mask == whole.loss_mask[:-1]
    trained = [i for i, learn in zip(*found, strict=True) if learn]
    assert text(tokenizer, trained) == "b<|end|>d e f"  # the end of the first answer is learnt, of the second none


def test_drop_turns_keeps_the_system_message_and_the_last_exchange(render: Renderer, tokenizer: Tokenizer) -> None:
    found, what = fit_to_row(LONG, [], render, row_tokens=len(render(LONG).ids) - 1, too_long="drop_turns")
    assert what == "shortened" and found is not None
    assert text(tokenizer, found.ids) == "<|bos|><|system|>S<|end|><|user|>c<|end|><|assistant|>d e f<|end|>"
    last, what = fit_to_row(LONG, [], render, row_tokens=len(found.ids) - 1, too_long="drop_turns")
    assert what == "cut" and last is not None
    assert text(tokenizer, last.ids) == "<|bos|><|system|>S<|end|><|user|>c<|end|><|assistant|>d e f"


def test_what_is_cut_before_its_answer_or_is_to_be_dropped_goes(render: Renderer) -> None:
    assert fit_to_row(LONG[:3], [], render, row_tokens=5, too_long="cut_end") == (None, "dropped")
    assert fit_to_row(LONG, [], render, row_tokens=10, too_long="drop") == (None, "dropped")
    assert fit_to_row(LONG[:2], [], render, row_tokens=99, too_long="drop") == (None, "unanswered")


def test_every_conversation_is_trained_held_out_or_counted(render: Renderer) -> None:
    rows: list[dict[str, Any]] = [{"messages": LONG}, {"messages": LONG[:2]}]
    rows += [{"messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": "b"}]} for i in range(40)]
    found = render_set(rows, render, row_tokens=12, too_long="drop", held_out_fraction=0.3)
    assert found.counts == {"unanswered": 1, "cut": 0, "shortened": 0, "dropped": 1}
    assert len(found.train) + len(found.held_out) == 40 and found.train and found.held_out


def test_with_loss_on_all_the_users_words_are_trained_too(render: Renderer) -> None:
    (found,) = render_set([{"messages": LONG}], render, row_tokens=99, loss_on="all").train
    assert all(found.loss_mask) and found.ids == render(LONG).ids


def test_two_conversations_of_one_prompt_stay_on_one_side_however_they_go_on(render: Renderer) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q{i % 30}"}, {"role": "assistant", "content": f"{i}"}, *LONG[3:]]} for i in range(90)
    ]
    found = render_set(rows, render, row_tokens=99, held_out_fraction=0.4)
    prompts = [{tuple(r.ids[: r.loss_mask.index(True)]) for r in side} for side in (found.train, found.held_out)]
    assert prompts[0] and prompts[1] and not prompts[0] & prompts[1]
