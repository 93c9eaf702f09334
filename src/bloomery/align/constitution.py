"""A constitution: principles by which a model criticises and revises its own answers, and by which two answers are compared.

Constitutional AI (Bai et al., arXiv:2212.08073) has two halves that share nothing but the principles. Supervised: draft, critique,
revision, again and again, and fine-tuning on the last revision (sec. 3.1). By preference: a model says which of two answers
follows a principle better, by the likelihoods of "(A)" and "(B)" (sec. 4.1). Principles are data: a TOML file, checked strictly.

    critique_question = "{critique}"                    # optional: the wording around each request, with its places
    comparison_question = "... {comparison} ... {prompt} ... {first} ... {second} ..."
    [[principles]]
    name = "honest"
    critique = "..."                                    # what to look for
    revision = "..."                                    # what to do about it
    comparison = "..."                                  # "Which of the two answers ...?"
    rule = "sure"                                       # optional: the check of generate/answer_rules.py that says the same
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple  # Any: a row of JSON, and the values of a TOML table

from pydantic import Field, field_validator

from bloomery.core.config import Config, check_config, suggest
from bloomery.core.conversation import Message
from bloomery.core.errors import ConfigError
from bloomery.generate.answer_rules import AnswerRule, choose_rules

Shipped = Literal["default", "manners"]
"""The constitutions that come along: sixteen principles for assistants, and five small ones that a program can check."""

COMPARISON_QUESTION = (
    "Here is a request and two answers to it.\n\nRequest:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
    "{comparison}\n\nReply with one letter, A or B."
)


class Principle(Config):
    """One principle, as the three things that are asked by it."""

    name: str = Field(pattern=r"^[\w-]+$")
    critique: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    comparison: str = Field(min_length=1)
    rule: str = ""
    """The rule of generate/answer_rules.py that says whether an answer follows it; "" = no program can tell."""

    @field_validator("rule")
    @classmethod
    def _rule_is_known(cls, name: str) -> str:
        try:
            choose_rules([name] if name else [])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name


class Wording(Config):
    """What stands around a principle's requests."""

    critique_question: str = "{critique}"
    revision_question: str = "{revision}"
    comparison_question: str = COMPARISON_QUESTION


class Constitution(NamedTuple):
    """Principles and the wording around them."""

    principles: list[Principle]
    wording: Wording

    @property
    def rules(self) -> dict[str, AnswerRule]:
        """The rules that its principles name."""
        return choose_rules(list(dict.fromkeys(principle.rule for principle in self.principles if principle.rule)))

    def critique_turn(self, principle: Principle) -> Message:
        """Asks for a critique of the answer before it."""
        return _ask(_fill(self.wording.critique_question, critique=principle.critique))

    def revision_turn(self, principle: Principle) -> Message:
        """Asks for a better answer than the one that was criticised."""
        return _ask(_fill(self.wording.revision_question, revision=principle.revision))

    def comparison(self, principle: Principle, prompt: Sequence[Message], first: str, second: str) -> list[Message]:
        """Asks which of two answers to a prompt follows the principle better: A, the first one, or B."""
        told = _fill(self.wording.comparison_question, comparison=principle.comparison, prompt=tell(prompt), first=first, second=second)
        return [_ask(told)]


def load_constitution(shipped: Shipped, file: Path | None = None, *, only: Sequence[str] = ()) -> Constitution:
    """The constitution in a TOML file, or the shipped one of this name; of its principles those named in `only`, if any are.

    Raises ConfigError with every mistake in the file, and for a name that no principle has.
    """
    source = file if file is not None else files("bloomery.align") / f"{'constitution' if shipped == 'default' else shipped}.toml"
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{source}: not a readable TOML file: {error}") from error
    law = parse_constitution(table, name=str(source))
    names = [principle.name for principle in law.principles]
    for name in only:
        if name not in names:
            raise ConfigError(f'{source}: no principle is named "{name}"; {suggest(name, names)}')
    return law._replace(principles=[principle for principle in law.principles if not only or principle.name in only])


def parse_constitution(table: Mapping[str, Any], *, name: str) -> Constitution:
    """A constitution of a TOML table; `name` is what errors call it."""
    rows = table.get("principles", [])
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{name}: expected one or more tables [[principles]], found {sorted(table) or 'nothing'}")
    wording, problems = check_config(Wording, {key: value for key, value in table.items() if key != "principles"})
    principles = []
    for number, row in enumerate(rows, start=1):
        principle, mistakes = check_config(Principle, row)
        problems += [f"principle {number} ({row.get('name', 'without a name')}): {mistake}" for mistake in mistakes]
        principles += [principle] if principle is not None else []
    twice = sorted({one.name for one in principles if sum(other.name == one.name for other in principles) > 1})
    problems += [f'two principles are named "{one}"' for one in twice]
    if wording is not None:
        problems += _missing_places(wording)
    if problems or wording is None:
        raise ConfigError("\n  ".join([f"{name}: {len(problems)} mistake(s)", *problems]))
    return Constitution(principles, wording)


def draw_principles(principles: Sequence[Principle], count: int, *, key: str) -> list[Principle]:
    """`count` principles in an order that `key` decides; none comes again before all have come.

    >>> ones = [Principle(name=name, critique="c", revision="r", comparison="w") for name in "abc"]
    >>> sorted(one.name for one in draw_principles(ones, 3, key="prompt"))
    ['a', 'b', 'c']
    """
    drawn: list[Principle] = []
    for turn in range(-(-count // len(principles))):
        drawn += sorted(principles, key=lambda one: hashlib.blake2b(f"{key}/{turn}/{one.name}".encode("utf-8", "replace")).digest())
    return drawn[:count]


def tell(prompt: Sequence[Message]) -> str:
    """A prompt as text: the message itself, or of several each after its role."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def _ask(content: str) -> Message:
    return {"role": "user", "content": content}


def _fill(template: str, **values: str) -> str:
    # Not str.format: what models and people write has braces in it, and what is filled in must not be filled again.
    pieces, at = [], 0
    while (start := template.find("{", at)) >= 0:
        name, brace, _ = template[start + 1 :].partition("}")
        known = bool(brace) and name in values
        pieces.append(template[at:start] + (values[name] if known else "{"))
        at = start + len(name) + 2 if known else start + 1
    return "".join(pieces) + template[at:]


def _missing_places(wording: Wording) -> list[str]:
    needed = {
        "critique_question": ("critique",),
        "revision_question": ("revision",),
        "comparison_question": ("comparison", "prompt", "first", "second"),
    }
    return [
        f"{setting}: it needs {{{place}}}, where the {place} goes"
        for setting, places in needed.items()
        for place in places
        if f"{{{place}}}" not in getattr(wording, setting)  # a field of its own, by name
    ]
