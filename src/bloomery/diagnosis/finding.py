"""What a check says, and what it is told: plain values, so that a terminal, a web page and a log can all show them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal  # Any: values of a stage's config and of JSON records

Severity = Literal["error", "warning", "note"]
"""error: the run is not worth going on with. warning: it wastes or loses something. note: good to know."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong. `code` names the check for ever; docs/doctor.md says what each means."""

    code: str
    severity: Severity
    title: str
    """One sentence with the numbers that matter."""
    remedy: str
    """What to do, the likeliest first."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """The numbers it was judged by."""
    step: int | None = None
    """Where it began, if it began somewhere."""
    node: str = ""
    """The id of the run's node."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a check knows beside the log. All may be empty: a check without what it needs says nothing."""

    stage: str = ""
    """pretrain, sft, reward_model, preference, ppo or grpo."""
    node: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of the stage, with every default."""
    has_init: bool = False
    """Whether training began from a checkpoint."""
    vocab_size: int = 0
    params: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the finished stage reported (its training.json, or the metrics of its artifact)."""
    finished: bool = False
    measured: Mapping[str, float] = field(default_factory=dict)
    """What was measured of its weights, data and memory (`bloomery doctor --deep`), by slash names."""

    @property
    def guess_nats(self) -> float:
        """The loss of a model that knows nothing: ln of the vocabulary; NaN where that is not known."""
        return math.log(self.vocab_size) if self.vocab_size > 1 else math.nan

    def number(self, name: str) -> float:
        """A number of the record, or NaN."""
        value = self.record.get(name)
        return float(value) if isinstance(value, int | float) else math.nan

    def setting(self, name: str, default: float) -> float:
        """A number of the config."""
        value = self.config.get(name)
        return float(value) if isinstance(value, int | float) else default
