"""Small verifiable skills: prompts whose one right answer a program knows, from copying a list to adding two numbers.

These are ours, written for models of a few million parameters that learn for minutes: `reasoning-gym`, the field's
library, starts far above what such a model can do and pins exact versions of heavy packages. A skill draws an instance
(its arguments and gold answer), states it in one of several phrasings, and has a `format`: the regular expression that
a well-formed answer matches whole. Gold is computed here; the tests compute it a second time by other means.

The words are ones that any English technical text holds, so that even a small tokenizer keeps each of them whole.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

_WORD_LIST = (
    "access address argument array base block body bytes call case change character check class client code command content "
    "count data date default directory document element encoding error event example exception field file filter format "
    "function group handler header index input integer item key label length level library line link list mapping mask match "
    "message method mode model module name node number object option order output package page parameter parent path pattern "
    "position process protocol query range record request response result return root row sequence server session shape size "
    "source space stack start state status stream string system table target test text thread time title token tree type "
    "user value variable version view window word"
)
WORDS = tuple(_WORD_LIST.split())

HELD_OUT_SHARE = 0.1
"""The share of each skill's instances that only tests may use. It depends on no seed: no run's training meets another's test."""


class Instance(NamedTuple):
    """One drawn problem. `key` names it whatever the phrasing: instances with one key have one answer."""

    key: str
    arguments: dict[str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A kind of problem: how to draw one, how to say it, and what an answer must look like."""

    name: str
    draw: Callable[[random.Random], Instance]
    phrasings: tuple[str, ...]
    format: str


class SkillRow(NamedTuple):
    """One prompt with its gold."""

    skill: str
    prompt: str
    answer: str
    format: str
    expression: str = ""
    """What a calculator is asked on the way to the answer; "" where none is."""


def is_held_out(skill: str, key: str) -> bool:
    """Whether an instance belongs to the tests. All its phrasings go the same way."""
    digest = hashlib.blake2b(f"{skill}\x00{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def draw_skill_rows(skill: Skill, *, count: int, held_out: bool, seed: int) -> list[SkillRow]:
    """Up to `count` rows with different prompts, all of test instances or all of training instances.

    Fewer come back when the skill has no more different prompts; a longer list starts with the shorter one's rows.
    """
    found: dict[str, SkillRow] = {}
    for row in _draw_forever(skill, held_out=held_out, seed=seed, max_draws=60 + 30 * count):
        if len(found) == count:
            break
        found.setdefault(row.prompt, row)
    return list(found.values())


def _draw_forever(skill: Skill, *, held_out: bool, seed: int, max_draws: int) -> Iterator[SkillRow]:
    for index in range(max_draws):
        # A string seed goes through SHA-512: the same draws in every process and Python version.
        rng = random.Random(f"skills/{seed}/{skill.name}/{index}")
        instance = skill.draw(rng)
        if is_held_out(skill.name, instance.key) == held_out:
            prompt = rng.choice(skill.phrasings).format(**instance.arguments)
            yield SkillRow(skill.name, prompt, instance.answer, skill.format)


def _words(rng: random.Random, low: int, high: int) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _word_list(answer_of: Callable[[list[str]], str], *, low: int = 3, high: int = 4) -> Callable[[random.Random], Instance]:
    def draw(rng: random.Random) -> Instance:
        words = _words(rng, low, high)
        return Instance(" ".join(words), {"words": " ".join(words)}, answer_of(words))

    return draw


def _draw_sorted_words(rng: random.Random) -> Instance:
    words = _words(rng, 3, 3)
    return Instance(" ".join(sorted(words)), {"words": " ".join(words)}, " ".join(sorted(words)))


def _draw_sorted_numbers(rng: random.Random) -> Instance:
    numbers = rng.sample(range(100), 3)
    ordered = " ".join(str(n) for n in sorted(numbers))
    return Instance(ordered, {"numbers": " ".join(str(n) for n in numbers)}, ordered)


def _draw_repeated_word(rng: random.Random) -> Instance:
    word, times = rng.choice(WORDS), rng.randint(2, 5)
    return Instance(f"{word} {times}", {"word": word, "times": str(times)}, " ".join([word] * times))


def _draw_larger_number(rng: random.Random) -> Instance:
    a, b = rng.sample(range(100), 2)
    return Instance(f"{min(a, b)} {max(a, b)}", {"a": str(a), "b": str(b)}, str(max(a, b)))


def _draw_next_number(rng: random.Random) -> Instance:
    number = rng.randrange(1000)
    return Instance(str(number), {"number": str(number)}, str(number + 1))


def _draw_addition(rng: random.Random) -> Instance:
    a, b = rng.randrange(30), rng.randrange(30)
    # 3 + 5 and 5 + 3 are one instance: the one in training would give the other in the tests away.
    return Instance(f"{min(a, b)} {max(a, b)}", {"a": str(a), "b": str(b)}, str(a + b))


def _draw_subtraction(rng: random.Random) -> Instance:
    a, b = sorted((rng.randrange(30), rng.randrange(30)), reverse=True)
    return Instance(f"{a} {b}", {"a": str(a), "b": str(b)}, str(a - b))


_ONE_WORD = r"[a-z]+"
_WORDS_APART = r"[a-z]+( [a-z]+)*"
_NUMBER = r"-?\d+"

_ALL = (
    Skill(
        name="copy",
        draw=_word_list(" ".join),
        phrasings=("Repeat: {words}", "Copy this list: {words}", "Say again: {words}"),
        format=_WORDS_APART,
    ),
    Skill(
        name="brackets",
        draw=_word_list(lambda words: " ".join(f"[{word}]" for word in words), low=2),
        phrasings=("Put each word in brackets: {words}", "Write in brackets: {words}", "Bracket every word: {words}"),
        format=r"\[[a-z]+\]( \[[a-z]+\])*",
    ),
    Skill(
        name="comma_list",
        draw=_word_list(", ".join),
        phrasings=("Write with commas: {words}", "Put commas between the words: {words}", "Make a comma list: {words}"),
        format=r"[a-z]+(, [a-z]+)*",
    ),
    Skill(
        name="json_list",
        draw=_word_list(json.dumps, low=2, high=3),
        phrasings=("Write as JSON: {words}", "Give a JSON list: {words}", "Make a JSON list of: {words}"),
        format=r'\["[a-z]+"(, "[a-z]+")*\]',
    ),
    Skill(
        name="uppercase",
        draw=_word_list(lambda words: " ".join(words).upper(), low=2, high=2),
        phrasings=("Write in capitals: {words}", "Use capital letters: {words}", "Make uppercase: {words}"),
        format=r"[A-Z]+( [A-Z]+)*",
    ),
    Skill(
        name="first_word",
        draw=_word_list(lambda words: words[0], high=5),
        phrasings=("Which word is first: {words}", "Give the first word: {words}", "First word of: {words}"),
        format=_ONE_WORD,
    ),
    Skill(
        name="last_word",
        draw=_word_list(lambda words: words[-1], high=5),
        phrasings=("Which word is last: {words}", "Give the last word: {words}", "Last word of: {words}"),
        format=_ONE_WORD,
    ),
    Skill(
        name="reverse",
        draw=_word_list(lambda words: " ".join(reversed(words)), low=3, high=3),
        phrasings=("Reverse the order: {words}", "Say backwards: {words}", "Write from last to first: {words}"),
        format=_WORDS_APART,
    ),
    Skill(
        name="sort_words",
        draw=_draw_sorted_words,
        phrasings=("Sort from a to z: {words}", "Put in alphabetical order: {words}", "Sort these words: {words}"),
        format=_WORDS_APART,
    ),
    Skill(
        name="sort_numbers",
        draw=_draw_sorted_numbers,
        phrasings=("Sort from small to large: {numbers}", "Put in increasing order: {numbers}", "Sort these numbers: {numbers}"),
        format=r"\d+( \d+)*",
    ),
    Skill(
        name="repeat_word",
        draw=_draw_repeated_word,
        phrasings=("Write {word} {times} times", "Repeat the word {word} {times} times", "Say {times} times: {word}"),
        format=_WORDS_APART,
    ),
    Skill(
        name="count_words",
        draw=_word_list(lambda words: str(len(words)), low=1, high=7),
        phrasings=("How many words: {words}", "Count the words: {words}", "Number of words in: {words}"),
        format=_NUMBER,
    ),
    Skill(
        name="larger_number",
        draw=_draw_larger_number,
        phrasings=("Which is larger: {a} or {b}?", "Give the larger number: {a} {b}", "The maximum of {a} and {b}?"),
        format=_NUMBER,
    ),
    Skill(
        name="next_number",
        draw=_draw_next_number,
        phrasings=("What number comes after {number}?", "The next number after {number}?", "Count one up from {number}"),
        format=_NUMBER,
    ),
    Skill(
        name="addition",
        draw=_draw_addition,
        phrasings=("What is {a} + {b}?", "Add {a} and {b}", "{a} plus {b}?"),
        format=_NUMBER,
    ),
    Skill(
        name="subtraction",
        draw=_draw_subtraction,
        phrasings=("What is {a} - {b}?", "Take {b} from {a}", "{a} minus {b}?"),
        format=_NUMBER,
    ),
)

SKILLS: dict[str, Skill] = {skill.name: skill for skill in _ALL}
"""Every skill by its name, in order of difficulty as a small model meets it."""
