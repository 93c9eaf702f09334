"""All checks of a run, in the order of docs/doctor.md: first what broke, then what is wasted, then what is good to know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any  # Any: rows of metrics.jsonl

from bloomery.diagnosis.columns import Columns, columns_of
from bloomery.diagnosis.curves import (
    find_bad_start,
    find_clipping,
    find_divergence,
    find_left_out,
    find_no_gradient,
    find_order,
    find_slow_learning,
)
from bloomery.diagnosis.finding import SEVERITIES, Facts, Finding
from bloomery.diagnosis.held_out import (
    find_falling_reward_model,
    find_foreign_tokens,
    find_leak,
    find_memory,
    find_overfitting,
    find_repetition,
    find_undertraining,
)
from bloomery.diagnosis.machine import find_lagging_rank, find_slow_loader, find_waste
from bloomery.diagnosis.rewards import find_cut_answers, find_entropy_collapse, find_hacking, find_kl_runaway, find_silence
from bloomery.diagnosis.weights import find_bad_weights

Check = Callable[[Columns, Facts], list[Finding]]

CHECKS: tuple[Check, ...] = (
    find_left_out,
    find_divergence,
    find_bad_start,
    find_foreign_tokens,
    find_order,
    find_slow_learning,
    find_no_gradient,
    find_bad_weights,
    find_leak,
    find_overfitting,
    find_memory,
    find_repetition,
    find_falling_reward_model,
    find_hacking,
    find_kl_runaway,
    find_entropy_collapse,
    find_silence,
    find_cut_answers,
    find_clipping,
    find_waste,
    find_slow_loader,
    find_lagging_rank,
    find_undertraining,
)


def diagnose(rows: Sequence[Mapping[str, Any]] | Columns, facts: Facts) -> list[Finding]:
    """What is wrong with one training, the worst first.

    `rows` are those of its metrics.jsonl, or columns of equal length by name (NaN where a row has no value), "step" among
    them. The log of a run that is still going on will do. 50,000 rows of columns take some hundredths of a second.
    """
    columns = rows if isinstance(rows, Mapping) else columns_of(rows)
    found = [replace(finding, node=facts.node) for check in CHECKS for finding in check(columns, facts)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
