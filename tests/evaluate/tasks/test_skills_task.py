from pathlib import Path
from typing import Any

import pytest

from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.evaluate.task import Outcome
from bloomery.evaluate.tasks.skills import score_skill, skill_prompt, skills_task
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.tokens.train import train_bpe, write_tokenizer

ROW = {"messages": [{"role": "user", "content": "6 + 6?"}], "skill": "addition", "answer": "12", "format": r"\d+"}


def row(text: str) -> dict[str, Any]:
    return {**ROW, "messages": [{"role": "user", "content": text}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, train_bpe(["6 + 6? 12 Question Answer"], vocab_size=270, pattern="llama3"), pattern="llama3")
    return load_tokenizer(folder)


def test_of_an_artifact_only_the_held_out_prompts_are_asked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl.gz", [row("trained")])
    write_jsonl(tmp_path / "test.jsonl.gz", [row("held out")])
    assert [example["messages"][0]["content"] for example in skills_task([tmp_path], num_prompts=0, seed=0).examples] == ["held out"]


def test_the_same_random_prompts_are_chosen_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    rows = [row(f"prompt {i}") for i in range(50)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows[::-1])
    first, second = (skills_task([tmp_path / name], num_prompts=10, seed=1).examples for name in ("a.jsonl", "b.jsonl"))
    assert first == second and len(first) == 10
    assert first != skills_task([tmp_path / "a.jsonl"], num_prompts=10, seed=2).examples


def test_prompts_without_a_gold_answer_cannot_be_scored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "chat.jsonl", [{"messages": ROW["messages"]}])
    with pytest.raises(DataError, match=r"chat\.jsonl: no prompt with an `answer`"):
        skills_task([tmp_path / "chat.jsonl"], num_prompts=0, seed=0)


def test_a_chat_prompt_ends_where_the_assistant_begins(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(skill_prompt(ROW, tokenizer, "chat"), skip_special=False)
    assert text == "<|bos|><|user|>6 + 6?<|end|><|assistant|>"
    answered = {**ROW, "messages": [*ROW["messages"], {"role": "assistant", "content": "12"}]}
    assert skill_prompt(answered, tokenizer, "chat") == skill_prompt(ROW, tokenizer, "chat")


def test_a_plain_prompt_asks_in_words(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(skill_prompt(ROW, tokenizer, "plain"), skip_special=False) == "<|bos|>Question: 6 + 6?\nAnswer:"


@pytest.mark.parametrize(
    ("text", "stopped", "outcome"),
    [
        ("12", True, Outcome("12", correct=True, well_formed=True, stopped=True)),
        ("13", True, Outcome("13", correct=False, well_formed=True, stopped=True)),
        ("12 is it", True, Outcome("12 is it", correct=False, well_formed=False, stopped=True)),
        ("12\nNext", True, Outcome("12\nNext", correct=False, well_formed=False, stopped=True)),
        ("12", False, Outcome("12", correct=False, well_formed=False, stopped=False)),
    ],
)
def test_a_chat_answer_counts_only_when_it_ends(text: str, stopped: bool, outcome: Outcome) -> None:
    assert score_skill(ROW, text, stopped, "chat") == outcome


@pytest.mark.parametrize(
    ("text", "stopped", "outcome"),
    [
        (" 12\nQuestion: 3 + 3?", False, Outcome("12", correct=True, well_formed=True, stopped=False)),
        (" 12", True, Outcome("12", correct=True, well_formed=True, stopped=True)),
        (" 12", False, Outcome("12", correct=False, well_formed=False, stopped=False)),
        ("\n12", True, Outcome("", correct=False, well_formed=False, stopped=True)),
    ],
)
def test_a_plain_answer_is_its_first_line(text: str, stopped: bool, outcome: Outcome) -> None:
    assert score_skill(ROW, text, stopped, "plain") == outcome


def test_ranks_order_right_wrong_and_malformed() -> None:
    kinds = [Outcome("12", True, True, True), Outcome("13", False, True, True), Outcome("x", False, False, True)]
    assert [outcome.rank for outcome in kinds] == [2, 1, 0]
