"""What an answer is worth: the seam between those who sample answers and those who judge them.

A RewardSource sees prompt rows and one answer to each, and returns one number each. A RewardSpec, one entry of a stage's
`rewards = [...]`, names a source and how much it counts; `make_rewards` makes of several the sum that training sees, with
its parts beside it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, model_validator

from bloomery.align.reward_source import Answer as Answer  # read from here by those who write rewards, too
from bloomery.align.reward_source import RewardSource as RewardSource
from bloomery.align.reward_source import Row
from bloomery.core.config import Config
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Endpoint
from bloomery.generate.verify import verify

RIGHT = 1.0
"""Ended by itself, in the asked format, and right."""
WELL_FORMED = 0.3
"""Ended by itself and in the asked format, but wrong: worth more than a malformed answer, far less than a right one."""
MALFORMED = 0.1
"""Ended by itself, but not in the asked format, whatever it says."""
UNFINISHED = 0.0
"""Ran into the limit of tokens: nobody asked for that, even if it begins with the right answer."""

Source = Literal["verifier"]


class RewardSpec(Config):
    """One source of reward, and how much it counts."""

    source: Source
    name: str = Field(default="", pattern=r"^[\w.-]*$")
    """Of this part in logs; "" = what the source is called."""
    weight: float = 1.0
    """What its rewards are multiplied by in the sum."""
    clip: NonNegativeFloat = 0.0
    """Rewards are cut to -clip..clip before they are summed; 0 = not."""
    whiten: Literal["none", "batch"] = "none"
    """"batch": less the mean of the answers judged together, over their deviation, before they are summed."""

    @property
    def part(self) -> str:
        """What the part is called."""
        return self.name or self.source

    @model_validator(mode="after")
    def _check_weight(self) -> "RewardSpec":
        if self.weight == 0:
            raise ValueError("weight = 0: this source would count nothing; to watch it without training on it, list it under `gold`")
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
    return RewardSum(specs, [verifier_reward for _ in specs])


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
