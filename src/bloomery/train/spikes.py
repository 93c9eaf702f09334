"""Steps that would do harm: seen before they touch a weight, left out, and, if they keep coming, gone around.

A step is a spike if its loss or its gradient norm is not finite, or lies far above the last 128 (as with OLMo's SkipStep).
Steps that were left out count among the 128, but with no more than the limit they broke: so a lasting change of level is
accepted after a dozen steps, and one enormous value does not hide the next. Several spikes close together mean that the
weights went astray before: the run goes back to an earlier snapshot and reads on behind the data that led there (PaLM,
arXiv:2204.02311, sec. 5.1).

All is decided from numbers that are summed over all processes and from the number of the step, so that every process, and
a run that was killed and continued, decides the same.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol  # Any: the values of a JSON document

from bloomery.train.state import TrainState

log = logging.getLogger(__name__)

WINDOW = 128
"""Steps that a spike is measured against, and within which spikes are close together; OLMo's number."""
MIN_DEVIATION = 0.01
"""The least deviation that is reckoned with, as a share of the mean: on data of nearly constant loss, 6 sigma are nothing."""
MAX_ROLLBACKS = 3
"""Returns to one snapshot. If the third does not help, the run goes on from where it is."""
MAX_NOTED = 1000
"""Spikes that are remembered one by one."""


class SpikeRule(NamedTuple):
    """What counts as a spike, and what follows."""

    sigmas: float = 0.0
    """Standard deviations above the mean; 0 = only what is not finite."""
    rollback_spikes: int = 0
    """So many spikes within WINDOW steps of data lead back to a snapshot; 0 = never."""
    rollback_steps: int = 250
    """The snapshots to go back to are those after every so many steps."""


class Restorer(Protocol):
    """What rolling back needs of the snapshots."""

    def restore(self, state: TrainState, *, step: int | None = None) -> bool:
        """Fills `state` from the whole snapshot after `step`; False if there is none."""
        ...

    def forget_after(self, step: int) -> None:
        """Removes the snapshots of later steps."""
        ...


def find_spike(state: TrainState, loss: float, norm: float, *, sigmas: float) -> str:
    """Why a step with this loss and gradient norm must be left out, in words; "" if it need not.

    Until WINDOW steps are known nothing finite is a spike, and a low value never is: early training, where both fall
    fast, is not disturbed.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss:.4g} and gradient norm {norm:.4g} are not both finite"
    for name, value, usual in (("loss", loss, state.usual_losses), ("gradient norm", norm, state.usual_norms)):
        if sigmas and len(usual) >= WINDOW and value > (limit := spike_limit(usual, sigmas=sigmas)):
            return f"{name} {value:.4g} is above {limit:.4g}, the mean of the last {WINDOW} steps and {sigmas:g} deviations"
    return ""


def spike_limit(usual: Sequence[float], *, sigmas: float) -> float:
    """The largest value that is no spike after these.

    >>> spike_limit([1.0, 3.0], sigmas=2.0)
    4.0
    """
    mean = math.fsum(usual) / len(usual)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in usual) / len(usual))
    return mean + sigmas * max(deviation, MIN_DEVIATION * abs(mean))


def note_usual(state: TrainState, loss: float, norm: float, *, sigmas: float) -> None:
    """Takes a step into the numbers that later ones are measured against, if it has any; a spike as the limit that it broke."""
    if math.isfinite(loss) and math.isfinite(norm):
        state.usual_losses = _append(state.usual_losses, loss, sigmas)
        state.usual_norms = _append(state.usual_norms, norm, sigmas)


def note_spike(state: TrainState, reason: str, loss: float, norm: float) -> None:
    """Remembers that the step which `state` stands before (not counted yet) is left out, and why."""
    numbers = {name: value if math.isfinite(value) else None for name, value in (("loss", loss), ("gradient_norm", norm))}
    event = {"step": state.step + 1, "data_step": state.data_step, "reason": reason, **numbers}
    state.spikes = [*state.spikes, event][-MAX_NOTED:]


def rollback_target(state: TrainState, rule: SpikeRule) -> int | None:
    """The step to go back to after a spike, or None if it is not time for that.

    It is the last multiple of `rollback_steps` before the first of the spikes that are close together. Where that is
    the beginning of the run there is nothing to go back to.
    """
    if not rule.rollback_spikes:
        return None
    first_new = max(state.data_step - WINDOW, 1 + max((entry["last_data_step"] for entry in state.rollbacks), default=-1))
    close = [event for event in state.spikes if event["data_step"] >= first_new]
    if len(close) < rule.rollback_spikes:
        return None
    target = (close[0]["step"] - 1) // rule.rollback_steps * rule.rollback_steps
    tried = sum(entry["to_step"] == target for entry in state.rollbacks)
    return target if target > 0 and tried < MAX_ROLLBACKS else None


def is_anchor(step: int, rule: SpikeRule) -> bool:
    """Whether the snapshot after `step` may have to be gone back to one day, and so must be made."""
    return bool(rule.rollback_spikes) and step > 0 and step % rule.rollback_steps == 0


def oldest_anchor(step: int, rule: SpikeRule) -> int:
    """The oldest step that a spike after `step` can still lead back to."""
    return max(0, step - WINDOW) // rule.rollback_steps * rule.rollback_steps


def roll_back(state: TrainState, target: int, snapshots: Restorer) -> bool:
    """Fills `state` from the snapshot after step `target`, all but the memory of spikes and where the data go on.

    The data read since that snapshot are left out. False, and nothing changed, if the snapshot is missing or damaged.
    """
    from_step, data_step, skipped, spikes, rollbacks = state.step, state.data_step, state.skipped, state.spikes, state.rollbacks
    if not snapshots.restore(state, step=target):
        log.warning("several spikes up to step %d, but the snapshot of step %d cannot be read: going on", from_step, target)
        return False
    entry = {"from_step": from_step, "to_step": target, "first_data_step": state.data_step, "last_data_step": data_step - 1}
    log.warning("several spikes up to step %d: back to step %d, without the data of steps %d to %d", *entry.values())
    state.data_step, state.skipped, state.spikes, state.rollbacks = data_step, skipped, spikes, [*rollbacks, entry]
    return True


def spike_summary(state: TrainState) -> dict[str, Any]:
    """For the record of a training: each spike, and each return to a snapshot."""
    return {"spikes": state.spikes, "rollbacks": state.rollbacks}


def _append(usual: Sequence[float], value: float, sigmas: float) -> list[float]:
    limit = spike_limit(usual, sigmas=sigmas) if sigmas and len(usual) >= WINDOW else value
    return [*usual, min(value, limit)][-WINDOW:]
