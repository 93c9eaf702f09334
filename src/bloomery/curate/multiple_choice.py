"""Multiple-choice questions from questions with known answers: the wrong choices are right answers to others of the same kind.

As midtraining of small chat models has it: a model that never saw choices and letters scores chance on benchmarks that
ask so, whatever it knows.
"""

import hashlib
import random
import re
from collections.abc import Iterable
from typing import NamedTuple

SKILL = "multiple_choice"
FORMAT = r"[A-D]"
LETTERS = "ABCD"

_NAME = re.compile(r"`[^`]*`|[\d.]+")


class Choice(NamedTuple):
    """A question with its choices, and the letter of the right one."""

    prompt: str
    letter: str


def make_choices(questions: Iterable[tuple[str, str, str]], *, seed: int) -> list[Choice]:
    """A multiple-choice question for each (kind, question, answer) of whose kind and phrasing there are four different answers.

    >>> made = make_choices([("sum", f"{i} + 1?", str(i + 1)) for i in range(5)], seed=0)[0]
    >>> print(made.prompt, "->", made.letter)
    0 + 1?
    A. 3
    B. 5
    C. 2
    D. 1
    Answer with the letter. -> D
    """
    rows = list(questions)
    pools: dict[tuple[str, str], dict[str, None]] = {}  # a dict keeps the order of first sight
    for kind, question, answer in rows:
        pools.setdefault((kind, _phrasing(question)), {})[answer] = None
    answers_of = {key: list(pool) for key, pool in pools.items()}
    made = []
    for kind, question, answer in rows:
        pool = answers_of[kind, _phrasing(question)]
        if len(pool) < len(LETTERS):
            continue
        rng = random.Random(f"multiple_choice/{seed}/{kind}/{question}")
        wrong: list[str] = []
        while len(wrong) < len(LETTERS) - 1:  # the pool has enough of them
            drawn = pool[rng.randrange(len(pool))]
            if drawn != answer and drawn not in wrong:
                wrong.append(drawn)
        at = rng.randrange(len(LETTERS))
        choices = [*wrong[:at], answer, *wrong[at:]]
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
        made.append(Choice("\n".join([question, *lines, "Answer with the letter."]), LETTERS[at]))
    return made


def _phrasing(question: str) -> str:
    # What a question asks of something, whatever that is: the answers of one phrasing are of one kind.
    return hashlib.blake2b(_NAME.sub("", question).partition(":")[0].encode(), digest_size=8).hexdigest()
