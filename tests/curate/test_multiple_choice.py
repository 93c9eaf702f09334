"""Choices hold the right answer once, at every place alike, and the others are answers of the same kind."""

from collections import Counter

from bloomery.curate.multiple_choice import make_choices

CAPITALS = [("capital", f"What is the capital of `land{i}`?", f"city{i}") for i in range(200)]
SUMS = [("sum", f"{i} + 1?", str(i + 1)) for i in range(50)]


def options(prompt: str) -> dict[str, str]:
    return {line[0]: line[3:] for line in prompt.splitlines()[1:5]}


def test_the_letter_is_that_of_the_right_answer_among_four_different_ones() -> None:
    made = make_choices([*CAPITALS, *SUMS], seed=0)
    assert len(made) == 250
    for choice, (_, question, answer) in zip(made, [*CAPITALS, *SUMS], strict=True):
        found = options(choice.prompt)
        assert choice.prompt.startswith(f"{question}\n") and found[choice.letter] == answer
        assert len(set(found.values())) == 4
        assert all(value.startswith("city") == answer.startswith("city") for value in found.values())


def test_every_letter_is_right_about_as_often() -> None:
    counts = Counter(choice.letter for choice in make_choices(CAPITALS, seed=3))
    assert set(counts) == set("ABCD") and min(counts.values()) > 30


def test_too_few_answers_of_a_kind_give_no_question_and_the_same_seed_the_same_choices() -> None:
    assert make_choices(CAPITALS[:3], seed=0) == []
    assert make_choices([("k", f"q{i}?", "yes") for i in range(9)], seed=0) == []
    assert make_choices(CAPITALS, seed=1) == make_choices(CAPITALS, seed=1) != make_choices(CAPITALS, seed=2)
