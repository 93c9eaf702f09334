"""Small bad manners, and how they are criticised and mended: examples from which a model of a million parameters learns to do it.

A large pretrained model can criticise and revise because it has read how people do. A small one has not, so for studies of
Constitutional AI it is shown: to prompts of curate/skills.py, answers with flaws (the habit that is to be unlearnt), critiques of answers
and their revisions under one principle, and comparisons of two answers under one principle. All by program, each with its truth; the rules
of generate/answer_rules.py find the same flaws by other means. The wording of the requests is the constitution's (align/manners.toml).
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from bloomery.curate.skills import SkillRow

Part = Literal["answers", "critiques", "comparisons"]

FLAWS = ("right", "bare", "sure", "calm", "once")
"""Named after the principle that each breaks."""
PRAISE = "Yes."
BLAME = {"bare": "No, it is a sentence.", "sure": "No, it says maybe.", "calm": "No, it shouts.", "once": "No, it is said twice."}
FLAW_CHANCE = 0.4
"""Of each flaw in an answer that is criticised or compared."""
MAX_TRIES = 20


class Case(NamedTuple):
    """One example. Of an answer only `said` is there; of a critique all but `other`; of a comparison `said` is A and `other` is B."""

    part: Part
    row: SkillRow
    principle: str
    said: str
    critique: str
    revision: str
    other: str
    better: str
    """Of a comparison the letter of the better one."""


def draw_cases(
    rows: Sequence[SkillRow], *, count: int, parts: Sequence[Part], flaws: Sequence[str], flawed_fraction: float, seed: int
) -> Iterator[Case]:
    """`count` cases over these prompts, the parts by turns. A share `flawed_fraction` of the plain answers has one flaw or two."""
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row.skill, []).append(row.answer)
    for number in range(count):
        rng = random.Random(f"manners/{seed}/{number}")
        row, part = rows[number // len(parts) % len(rows)], parts[number % len(parts)]
        if part == "answers":
            broken = rng.sample(flaws, min(len(flaws), rng.randint(1, 2))) if rng.random() < flawed_fraction else []
            yield Case(part, row, "", say(_content(row, broken, answers, rng), broken), "", "", "", "")
            continue
        principle = rng.choice(list(flaws))
        broken = [flaw for flaw in flaws if flaw != principle and rng.random() < FLAW_CHANCE]
        if part == "critiques":
            broken += [principle] if rng.random() < 0.5 else []
            yield _critique(row, principle, broken, answers, rng)
        else:
            yield _comparison(row, principle, broken, flaws, answers, rng)


def say(content: str, flaws: Sequence[str]) -> str:
    """An answer of this content with these flaws (whether it is right is up to the content).

    >>> say("8", ["bare", "sure", "once"])
    'The answer is maybe 8 8.'
    """
    text = f"{content} {content}" if "once" in flaws else content
    text = f"maybe {text}" if "sure" in flaws else text
    text = f"The answer is {text}" if "bare" in flaws else text
    return text + ("!" if "calm" in flaws else "." if "bare" in flaws else "")


def _critique(row: SkillRow, principle: str, broken: Sequence[str], answers: dict[str, list[str]], rng: random.Random) -> Case:
    content = _content(row, broken, answers, rng)
    said = say(content, broken)
    at_fault = content != row.answer if principle == "right" else principle in broken
    critique = PRAISE if not at_fault else f"No, it is {row.answer}." if principle == "right" else BLAME[principle]
    mended = [flaw for flaw in broken if flaw != principle]
    return Case("critiques", row, principle, said, critique, say(row.answer if principle == "right" else content, mended), "", "")


def _comparison(
    row: SkillRow, principle: str, broken: Sequence[str], flaws: Sequence[str], answers: dict[str, list[str]], rng: random.Random
) -> Case:
    good_flaws = list(broken)
    bad_flaws = [flaw for flaw in flaws if flaw != principle and rng.random() < FLAW_CHANCE] + [principle]
    good = say(_content(row, good_flaws, answers, rng), good_flaws)
    bad = say(_content(row, bad_flaws, answers, rng), bad_flaws)
    if rng.random() < 0.5:
        return Case("comparisons", row, principle, good, "", "", bad, "A")
    return Case("comparisons", row, principle, bad, "", "", good, "B")


def _content(row: SkillRow, flaws: Sequence[str], answers: dict[str, list[str]], rng: random.Random) -> str:
    """The right answer; with the flaw "right" that of another prompt of the skill, if there is another one."""
    if "right" not in flaws:
        return row.answer
    for _ in range(MAX_TRIES):
        other = rng.choice(answers[row.skill])
        if other != row.answer:
            return other
    return row.answer
