"""Prompts beside those of the published programs, written out here from their sources."""

import random

import pytest

from bloomery.core.errors import DataError
from bloomery.evaluate.asking import arrange, pairs_of
from bloomery.evaluate.benchmark import Choice, Completion, Located, Schema
from bloomery.evaluate.rows import Rows
from bloomery.evaluate.tasks.catalog import catalog
from bloomery.evaluate.tasks.parsers import mmlu_row


def rows_of(examples: list) -> Rows:
    located = [Located(example, "file", i) for i, example in enumerate(examples, start=1)]
    return Rows(located, located, {})


CHOICES = rows_of([Choice(f"Question: number {i}?", (f"yes {i}", f"no {i}"), i % 2) for i in range(30)])


def nanochat_prompts(data: list[Choice], idx: int, num_fewshot: int, delimiter: str) -> list[str]:
    """nanochat/core_eval.py: which examples are shown, and how they are joined (render_prompts_mc)."""
    rng = random.Random(1234 + idx)
    shown = [data[i] for i in rng.sample([i for i in range(len(data)) if i != idx], num_fewshot)]
    before = "".join(f"{one.query}{delimiter}{one.choices[one.gold]}\n\n" for one in shown)
    return [f"{before}{data[idx].query}{delimiter}{choice}" for choice in data[idx].choices]


def test_core_prompts_are_nanochats_letter_by_letter() -> None:
    data = [located.example for located in CHOICES.examples]
    random.Random(1337).shuffle(data)  # scripts/base_eval.py
    benchmark = catalog()["arc_easy"]
    for idx, asked in enumerate(arrange(benchmark, CHOICES, limit=0, num_shots=10)):
        ours = [context + continuation for context, continuation in pairs_of(benchmark, asked)]
        assert ours == nanochat_prompts(data, idx, 10, "\nAnswer: ")


def test_the_row_that_is_asked_is_never_shown() -> None:
    for name in ("arc_easy", "mmlu"):
        for asked in arrange(catalog()[name], CHOICES, limit=0, num_shots=10):
            assert asked.located.example not in asked.shots
            assert len(set(asked.shots)) == 10


def test_a_limit_smaller_than_the_number_of_examples_shown_changes_no_prompt() -> None:
    benchmark = catalog()["arc_easy"]
    assert arrange(benchmark, CHOICES, limit=3, num_shots=10) == arrange(benchmark, CHOICES, limit=0, num_shots=10)[:3]


def test_too_few_rows_to_show_are_named() -> None:
    with pytest.raises(DataError, match=r"arc_easy: file has 29 examples to show before line \d+, not 30.*--shots 29"):
        arrange(catalog()["arc_easy"], CHOICES, limit=0, num_shots=30)


def test_a_schema_shows_the_right_context_and_asks_both() -> None:
    rows = rows_of([Schema((f"a{i}", f"b{i}"), f"ends {i}", i % 2) for i in range(2)])
    benchmark = catalog()["winogrande"]
    asked = next(one for one in arrange(benchmark, rows, limit=0, num_shots=1) if one.located.line == 1)
    assert pairs_of(benchmark, asked) == [("b1 ends 1\n\na0 ", "ends 0"), ("b1 ends 1\n\nb0 ", "ends 0")]


def test_a_completion_is_trimmed_before_its_delimiter() -> None:
    rows = rows_of([Completion("  Go on:  ", "thus")])
    asked = arrange(catalog()["lambada_openai"], rows, limit=0, num_shots=0)
    assert pairs_of(catalog()["lambada_openai"], asked[0]) == [("Go on: ", "thus")]


def test_mmlu_shows_the_first_examples_of_its_subject_under_hendrycks_line() -> None:
    def row(subject: str, i: int) -> dict:
        return {"subject": subject, "question": f"What is {i}? ", "choices": ["w", "x", "y", "z"], "answer": i % 4}

    dev = [Located(mmlu_row(row(subject, i)), "dev", i) for subject in ("high_school_physics", "law") for i in range(5)]
    test = [Located(mmlu_row(row("high_school_physics", 9)), "test", 1)]
    benchmark = catalog()["mmlu"]
    context, continuation = pairs_of(benchmark, arrange(benchmark, Rows(test, dev, {}), limit=0, num_shots=2)[0])[1]
    assert continuation == "B"
    assert context == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "What is 0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "What is 1?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "What is 9?\nA. w\nB. x\nC. y\nD. z\nAnswer: "
    )
