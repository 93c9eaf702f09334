"""What an answer is worth: the seam between those who sample answers and those who judge them.

A RewardSource sees prompt rows and one answer to each, and returns one number each. A RewardSpec, one entry of a stage's
`rewards = [...]`, names a source and how much it counts; `make_rewards` makes of several the sum that training sees, with
its parts beside it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bloomery.align.constitution import Shipped, load_constitution
from bloomery.align.judge import make_judge
from bloomery.align.program_tests import tests_source
from bloomery.align.reasoning_tasks import reasoning_source
from bloomery.align.reward_functions import find_function, function_source
from bloomery.align.reward_model import reward_model_source
from bloomery.align.reward_source import Answer, RewardSource, Row
from bloomery.align.text_shape import LengthUnit, measure_lengths, overlong_penalty, repetition_penalty
from bloomery.align.verifiers import Compare, is_number, is_text, right_number, right_texts
from bloomery.core.config import Config
from bloomery.core.errors import ConfigError, DataError
from bloomery.core.stage import Endpoint, Slot
from bloomery.generate.answer_rules import choose_rules, followed_fraction
from bloomery.generate.sandbox import SandboxLimits
from bloomery.generate.verify import has_format, verify
from bloomery.model.device import Precision

REWARD_SLOTS: Mapping[str, Slot] = {
    "reward_models": Slot("reward_model", many=True, optional=True),
    "functions": Slot("functions", many=True, optional=True),
    "judge": Slot("checkpoint", optional=True),
}
"""What the sources of a stage's `rewards` and `gold` are made from: inputs of every stage that judges answers."""
RIGHT = 1.0
"""Ended by itself, in the asked format, and right."""
WELL_FORMED = 0.3
"""Ended by itself and in the asked format, but wrong: worth more than a malformed answer, far less than a right one."""
MALFORMED = 0.1
"""Ended by itself, but not in the asked format, whatever it says."""
UNFINISHED = 0.0
"""Ran into the limit of tokens: nobody asked for that, even if it begins with the right answer."""

Source = Literal[
    "verifier",
    "exact",
    "number",
    "format",
    "tests",
    "reasoning_gym",
    "model",
    "judge",
    "function",
    "rules",
    "length",
    "repetition",
    "stopped",
]
PROGRAMS = ("exact", "number", "format", "tests", "reasoning_gym")
"""Sources that say by program whether an answer is right: an unfinished one is worth nothing to them."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "verifier": ("answer", "format"),
    "exact": ("answer",),
    "number": ("answer",),
    "format": ("format",),
    "tests": ("tests",),
    "reasoning_gym": ("answer", "metadata"),
}
"""What a source reads from a prompt's row."""
ONLY_FOR: Mapping[str, tuple[Source, ...]] = {
    "column": ("exact", "number", "format", "tests"),
    "where": ("exact", "number"),
    "compare": ("exact",),
    "units": ("number",),
    "tolerance": ("number",),
    "pattern": ("format",),
    "sandbox": ("tests",),
    "model": ("model",),
    "precision": ("model",),
    "function": ("function",),
    "constitution": ("judge",),
    "judge_model": ("judge",),
    "num_principles": ("judge",),
    "opponents": ("judge",),
    "rules": ("rules",),
    "unit": ("length",),
    "max_length": ("length",),
    "buffer_length": ("length",),
    "ngram_words": ("repetition",),
}
"""Settings that some sources have and others do not."""


class RewardSpec(Config):
    """One source of reward, and how much it counts."""

    source: Source
    """"verifier": the row's `answer` and `format` (right 1, wrong 0.3, malformed 0.1, unfinished 0); "exact", "number", "format", "tests",
    "reasoning_gym": 1 or 0 by program; "model": a reward model; "judge": a model asked which answer is better; "function": your own, TRL's
    signature; "rules": the share of rules of writing that are followed; "length", "repetition": penalties, 0 to -1; "stopped": 1 for an
    answer that ended by itself. See docs/rewards.md."""
    name: str = Field(default="", pattern=r"^[\w.-]*$")
    """Of this part in logs; "" = what the source, or the function, is called."""
    weight: float = 1.0
    """What its rewards are multiplied by in the sum."""
    clip: NonNegativeFloat = 0.0
    """Rewards are cut to -clip..clip before they are summed; 0 = not."""
    whiten: Literal["none", "batch"] = "none"
    """"batch": less the mean of the answers judged together, over their deviation, before they are summed."""
    unfinished: Literal["by_source", "scored", "fixed", "left_out"] = "by_source"
    """Of an answer that ran into the limit of tokens: scored like any other, worth `unfinished_reward`, or left out. "by_source":
    worth 0 to the programs, scored by the rest."""
    unfinished_reward: float = 0.0
    """With unfinished = "fixed"; -1 is that of arXiv:1909.08593."""
    column: str = ""
    """Of the row, with what is right; "" = `answer` for "exact" and "number", `tests`, `format`."""
    where: Literal["auto", "final", "whole", "last"] = "auto"
    """Where the answer stands in the text: "final", what is boxed, follows #### or "answer is" (the whole text where nothing is), and no
    other; "whole"; or "last", the last number. "auto": "final" for numbers, "whole" for "exact"."""
    compare: Compare = "as_written"
    units: Literal["match", "ignore"] = "match"
    """Whether a number must have the unit that the right one has, and none that it has not."""
    tolerance: NonNegativeFloat = 0.0
    """How far a number may be off, as a share of the right one."""
    pattern: str = ""
    """A regular expression that must match the whole text; "" = that of the row."""
    sandbox: SandboxLimits = SandboxLimits()
    """What a program may use."""
    model: NonNegativeInt = 0
    """Which of the input `reward_models`, from 0."""
    precision: Precision = "fp32"
    """What a reward model computes in."""
    function: str = ""
    """Its name; "" = the only one in the file."""
    constitution: Shipped = "default"
    """The principles by which a judge compares."""
    judge_model: str = ""
    """The judge's name at the endpoint of `launch`, without an input `judge`."""
    num_principles: PositiveInt = 1
    """That each two answers are compared by."""
    opponents: PositiveInt = 2
    """Other answers to the same prompt that each is compared with."""
    rules: list[str] = Field(default=[])
    """Of generate/answer_rules.py: "right", "bare", "sure", "calm", "clean", "once", "not_shouted", "full_stop", "short", "courteous"."""
    unit: LengthUnit = "tokens"
    max_length: NonNegativeInt = 0
    """The length at which the penalty is -1."""
    buffer_length: NonNegativeInt = 0
    """Over so much before it the penalty grows from 0."""
    ngram_words: PositiveInt = 3

    @property
    def part(self) -> str:
        """What the part is called."""
        return self.name or self.function or self.source

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that a prompt's row must have."""
        if self.source == "format" and self.pattern:
            return ()
        return (self.column,) if self.column else COLUMNS.get(self.source, ())

    @model_validator(mode="after")
    def _check_settings(self) -> "RewardSpec":
        if self.weight == 0:
            raise ValueError("weight = 0: this source would count nothing; to watch it without training on it, list it under `gold`")
        # By value: a config that was written out and is read again names every setting.
        changed = [name for name in ONLY_FOR if getattr(self, name) != type(self).model_fields[name].default]
        strange = [name for name in changed if self.source not in ONLY_FOR[name]]
        if strange:
            known = ", ".join(name for name in ONLY_FOR if self.source in ONLY_FOR[name]) or "none of its own"
            raise ValueError(f'source = "{self.source}" does not read {", ".join(strange)}; its settings are: {known}')
        if self.source == "exact" and self.where == "last":
            raise ValueError('where = "last" is the last number of a text; for source = "exact" it is "final" or "whole"')
        if self.source == "length" and not self.buffer_length <= self.max_length > 0:
            raise ValueError(
                f"max_length = {self.max_length} with buffer_length = {self.buffer_length}: expected 0 <= buffer <= max, max > 0"
            )
        if self.source == "rules" and not self.rules:
            raise ValueError('source = "rules" needs the names of some: rules = ["calm", "short"]')
        try:
            choose_rules(self.rules)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern = {self.pattern!r} is not a regular expression: {error}") from error
        return self


class Scores(NamedTuple):
    """Of each answer what training sees, and every part as its source gave it: before clipping, whitening and weights.

    A part that is None counts nothing in the sum; an answer whose parts are all None has the total None, and is left out.
    """

    total: list[float | None]
    parts: dict[str, list[float | None]]


class RewardSum:
    """The weighted sum of named sources."""

    def __init__(self, specs: Sequence[RewardSpec], sources: Sequence[RewardSource]) -> None:
        self._parts = list(zip(specs, sources, strict=True))

    @property
    def names(self) -> list[str]:
        """Of the parts, in their order."""
        return [spec.part for spec, _ in self._parts]

    def __call__(self, rows: Sequence[Row], answers: Sequence[Answer]) -> Scores:
        """Scores of answers; rows[i] is the prompt row of answers[i]."""
        parts: dict[str, list[float | None]] = {}
        total: list[float | None] = [None] * len(answers)
        for spec, source in self._parts:
            found = source(rows, answers)
            if len(found) != len(answers):
                raise ConfigError(f'rewards: "{spec.part}" gave {len(found)} numbers for {len(answers)} answers; expected one each')
            found = _of_unfinished(found, answers, spec)
            parts[spec.part] = found
            for i, value in enumerate(_shape(found, spec)):
                if value is not None:
                    total[i] = (total[i] or 0.0) + spec.weight * value
        return Scores(total, parts)


def make_rewards(
    specs: Sequence[RewardSpec],
    *,
    reward_models: Sequence[Path] = (),
    functions: Sequence[Path] = (),
    judge: Path | None = None,
    device: torch.device | str = "cpu",
    endpoint: Endpoint | None = None,
) -> RewardSum:
    """The sum of what `specs` name, from the inputs of a stage. Raises ConfigError for what does not fit together."""
    check_specs(specs)
    sources = []
    for spec in specs:
        if spec.source == "model":
            if spec.model >= len(reward_models):
                raise ConfigError(
                    f'rewards: "{spec.part}" is number {spec.model} of the input `reward_models`, from 0; there are {len(reward_models)}'
                )
            sources.append(reward_model_source(reward_models[spec.model], device=device, precision=spec.precision))
        elif spec.source == "function":
            sources.append(function_source(find_function(functions, spec.function)))
        elif spec.source == "judge":
            sources.append(
                make_judge(
                    judge,
                    constitution=load_constitution(spec.constitution),
                    device=device,
                    endpoint=endpoint,
                    model=spec.judge_model,
                    num_principles=spec.num_principles,
                    opponents=spec.opponents,
                )
            )
        else:
            sources.append(_program_source(spec))
    return RewardSum(specs, sources)


def check_specs(specs: Sequence[RewardSpec]) -> None:
    """Raises ConfigError if there is no source, or two have one name."""
    if not specs:
        raise ConfigError("rewards: no source is named; expected at least one")
    twice = [name for name, count in Counter(spec.part for spec in specs).items() if count > 1]
    if twice:
        raise ConfigError(f"rewards: {len(specs)} sources, of which several are called {', '.join(twice)}; give each its own `name`")


def verifier_reward(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
    """RIGHT, WELL_FORMED, MALFORMED or UNFINISHED for each answer, by its row's `answer` and `format`."""
    return [_judge(row, answer) for row, answer in zip(rows, answers, strict=True)]


def _judge(row: Row, answer: Answer) -> float:
    if not answer.stopped:
        return UNFINISHED
    verdict = verify(row, answer.text)
    if not verdict.well_formed:
        return MALFORMED
    return RIGHT if verdict.correct else WELL_FORMED


def _program_source(spec: RewardSpec) -> RewardSource:
    """A source that is a function of row and text alone."""
    if spec.source == "verifier":
        return verifier_reward
    if spec.source == "tests":
        return tests_source(spec.column or "tests", spec.sandbox)
    if spec.source == "reasoning_gym":
        return reasoning_source()

    def score(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        if spec.source == "length":
            lengths = measure_lengths(answers, spec.unit)
            return [overlong_penalty(length, max_length=spec.max_length, buffer_length=spec.buffer_length) for length in lengths]
        return [_judge_by_program(spec, row, answer) for row, answer in zip(rows, answers, strict=True)]

    return score


def _judge_by_program(spec: RewardSpec, row: Row, answer: Answer) -> float:
    if spec.source == "stopped":
        return float(answer.stopped)
    if spec.source == "rules":
        return followed_fraction(choose_rules(spec.rules), row, answer.text)
    if spec.source == "repetition":
        return repetition_penalty(answer.text, ngram_words=spec.ngram_words)
    if spec.source == "number":
        where = "final" if spec.where == "auto" else spec.where
        right = right_number(row, spec.column or "answer")
        return float(is_number(answer.text, right, where=where, units=spec.units, tolerance=spec.tolerance))
    if spec.source == "exact":
        where = "whole" if spec.where == "auto" else spec.where
        return float(is_text(answer.text, right_texts(row, spec.column or "answer"), where=where, compare=spec.compare))
    pattern = spec.pattern or row.get(spec.column or "format")
    if not isinstance(pattern, str):
        raise DataError(f"a row to verify needs a regular expression in `{spec.column or 'format'}`, found {dict(row)!r:.200}")
    return float(has_format(answer.text, pattern))


def _of_unfinished(found: list[float | None], answers: Sequence[Answer], spec: RewardSpec) -> list[float | None]:
    rule = spec.unfinished
    if rule == "by_source":
        rule = "fixed" if spec.source in PROGRAMS else "scored"
    if rule == "scored":
        return found
    instead = spec.unfinished_reward if rule == "fixed" else None
    return [value if answer.stopped else instead for value, answer in zip(found, answers, strict=True)]


def _shape(found: Sequence[float | None], spec: RewardSpec) -> list[float | None]:
    """A part's rewards as they are summed, but for the weight."""
    if spec.clip:
        found = [None if value is None else min(max(value, -spec.clip), spec.clip) for value in found]
    if spec.whiten == "none":
        return list(found)
    known = torch.tensor([value for value in found if value is not None], dtype=torch.float64)
    if len(known) == 0:
        return list(found)
    mean, deviation = known.mean().item(), known.std(correction=0).item()
    # Equal rewards say nothing: zeros, not rounding errors blown up.
    scale = 1 / deviation if deviation > 1e-8 * (1 + abs(mean)) else 0.0
    return [None if value is None else (value - mean) * scale for value in found]
