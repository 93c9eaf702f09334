"""Every skill's gold is computed a second time here, from the prompt's text alone and by other means."""

import json
import re
from collections.abc import Callable

import pytest

from bloomery.curate.skills import SKILLS, WORDS, SkillRow, draw_skill_rows, is_held_out


def numbers_in(prompt: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", prompt)]


def words_in(prompt: str) -> list[str]:
    return prompt.rpartition(": ")[2].split(" ")


def insertion_sorted(words: list[str]) -> list[str]:
    done: list[str] = []
    for word in words:
        place = len([other for other in done if other < word])
        done.insert(place, word)
    return done


def repeated(prompt: str) -> str:
    (times,) = numbers_in(prompt)
    skeleton = prompt.replace("Repeat the word", "").replace("Write", "").replace("Say", "").replace("times", "").replace(":", "")
    (word,) = [part for part in skeleton.split() if not part.isdigit()]
    return " ".join(word for _ in range(times))


def subtracted(prompt: str) -> str:
    first, second = numbers_in(prompt)
    return str(second - first if prompt.startswith("Take") else first - second)


def counted_up(numbers: list[int]) -> str:
    return str(len(list(range(sum(numbers)))))


TWINS: dict[str, Callable[[str], str]] = {
    "copy": lambda p: p[p.index(": ") + 2 :],
    "brackets": lambda p: "[" + "] [".join(words_in(p)) + "]",
    "comma_list": lambda p: p[p.index(": ") + 2 :].replace(" ", ", "),
    "json_list": lambda p: '["' + '", "'.join(words_in(p)) + '"]',
    "uppercase": lambda p: "".join(chr(ord(c) - 32) if c != " " else c for c in p[p.index(": ") + 2 :]),
    "first_word": lambda p: re.search(r": (\w+)", p)[1],
    "last_word": lambda p: re.search(r"(\w+)$", p)[1],
    "reverse": lambda p: " ".join(words_in(p)[::-1]),
    "sort_words": lambda p: " ".join(insertion_sorted(words_in(p))),
    "sort_numbers": lambda p: " ".join(str(n) for n in range(100) if n in numbers_in(p)),
    "repeat_word": repeated,
    "count_words": lambda p: str(p[p.index(": ") + 2 :].count(" ") + 1),
    "larger_number": lambda p: str(next(n for n in range(99, -1, -1) if n in numbers_in(p))),
    "next_number": lambda p: counted_up([*numbers_in(p), 1]),
    "addition": lambda p: counted_up(numbers_in(p)),
    "subtraction": subtracted,
}


def rows_of(name: str, *, held_out: bool = False, count: int = 120, seed: int = 0) -> list[SkillRow]:
    return draw_skill_rows(SKILLS[name], count=count, held_out=held_out, seed=seed)


def test_every_skill_has_a_twin() -> None:
    assert list(TWINS) == list(SKILLS)


@pytest.mark.parametrize("name", SKILLS)
def test_gold_equals_what_the_twin_reads_from_the_prompt(name: str) -> None:
    for row in rows_of(name) + rows_of(name, held_out=True, count=30):
        assert row.answer == TWINS[name](row.prompt), row.prompt


@pytest.mark.parametrize("name", SKILLS)
def test_gold_matches_the_format_and_other_things_do_not(name: str) -> None:
    for row in rows_of(name):
        assert re.fullmatch(row.format, row.answer), row
        for spoiled in ("", row.answer + ".", f"The answer is {row.answer}", row.answer + "\n", " " + row.answer):
            assert not re.fullmatch(row.format, spoiled), spoiled


@pytest.mark.parametrize("name", SKILLS)
def test_training_and_test_prompts_never_meet_whatever_the_seeds(name: str) -> None:
    train = {row.prompt for seed in range(3) for row in rows_of(name, seed=seed)}
    test = {row.prompt for seed in range(3, 6) for row in rows_of(name, held_out=True, count=40, seed=seed)}
    assert len(test) > 40
    assert not train & test


@pytest.mark.parametrize("name", SKILLS)
def test_every_skill_has_enough_different_prompts(name: str) -> None:
    assert len({row.prompt for row in rows_of(name, count=800)}) == 800
    assert len({row.prompt for row in rows_of(name, held_out=True, count=40)}) == 40


def test_no_prompt_belongs_to_two_skills() -> None:
    prompts = [row.prompt for name in SKILLS for row in rows_of(name)]
    assert len(set(prompts)) == len(prompts)


def test_a_longer_list_starts_with_the_shorter_one_and_the_seed_changes_it() -> None:
    assert rows_of("addition", count=200)[:50] == rows_of("addition", count=50)
    assert rows_of("addition", seed=1) != rows_of("addition")


def test_a_sum_is_held_out_in_both_orders_and_in_every_phrasing() -> None:
    pairs = [tuple(sorted(numbers_in(row.prompt))) for row in rows_of("addition", held_out=True)]
    trained = {tuple(sorted(numbers_in(row.prompt))) for row in rows_of("addition", count=1000)}
    assert pairs and not trained & set(pairs)


def test_about_a_tenth_of_the_instances_is_held_out() -> None:
    share = sum(is_held_out("next_number", str(n)) for n in range(1000)) / 1000
    assert 0.07 < share < 0.13


def test_a_skill_that_runs_out_of_prompts_gives_what_it_has() -> None:
    rows = rows_of("next_number", count=10_000)
    assert 2000 < len(rows) <= 3000
    assert len({row.prompt for row in rows}) == len(rows)


def test_the_words_are_plain_and_different() -> None:
    assert len(set(WORDS)) == len(WORDS) > 100
    assert all(re.fullmatch("[a-z]+", word) for word in WORDS)


def test_json_lists_are_json() -> None:
    for row in rows_of("json_list"):
        assert json.loads(row.answer) == words_in(row.prompt)
