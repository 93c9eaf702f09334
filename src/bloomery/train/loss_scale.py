"""The factor that float16 training multiplies its loss by, so that small gradients do not round to zero.

float16 has nothing below 6e-8 and nothing above 65504. Gradients are computed of `scale * loss` and divided again before
they are used; where one is not finite the step is left out and the scale halved, and after many good steps it is doubled
(Micikevicius et al., arXiv:1710.03740, sec. 3.2). bfloat16 and float32 have the range and need none of it.
"""

from bloomery.objectives.terms import LossTerms
from bloomery.train.state import TrainState

GOOD_STEPS_TO_GROW = 1000
"""torch's GradScaler waits for 2,000; runs here are shorter."""
MIN_SCALE = 2.0**-16
"""Below this a gradient is not too large for float16 but not a number."""
MAX_SCALE = 2.0**16


def scale_loss(terms: LossTerms, scale: float) -> LossTerms:
    """The same terms with a loss that is `scale` times as large (a power of two: nothing is rounded)."""
    return terms if scale == 1.0 else terms._replace(loss_sum=terms.loss_sum * scale)


def can_shrink(state: TrainState) -> bool:
    """Whether a gradient that is not finite may be the scale's fault."""
    return state.loss_scale > MIN_SCALE


def adapt_scale(state: TrainState, *, overflowed: bool) -> None:
    """Halves the scale after an overflow, doubles it after `GOOD_STEPS_TO_GROW` steps without one."""
    state.steps_at_scale = 0 if overflowed else state.steps_at_scale + 1
    if overflowed:
        state.loss_scale = max(MIN_SCALE, state.loss_scale / 2)
    elif state.steps_at_scale == GOOD_STEPS_TO_GROW:
        state.loss_scale, state.steps_at_scale = min(MAX_SCALE, 2 * state.loss_scale), 0
