"""Checks on the curves of loss, gradient norm and learning rate."""

import math

import numpy as np

from bloomery.diagnosis.columns import Columns, Curve, curve_of, ends, late, noise_of, smooth, stretches
from bloomery.diagnosis.finding import Facts, Finding

MIN_ROWS = 24
"""Logged steps below which a curve says too little: its first and last few are then nearly all of it."""
LOSS_STAGES = ("pretrain", "sft", "reward_model", "preference")
"""Those whose loss is to fall. A policy gradient's has no level."""
TOKEN_STAGES = ("pretrain", "sft")
LEARNED_FRACTION = 0.2
"""A run whose loss had fallen by so much of its first value was learning when it broke."""
RISE_FRACTION = 0.1
"""A lasting rise by so much of the lowest loss is no noise of batches: healthy runs here stay below 3 %."""
RISE_DEVIATIONS = 6.0
ABOVE_FIRST = {"pretrain": 0.1, "sft": 0.1, "reward_model": 0.3, "preference": 0.3}
"""A lasting level so far above the first loss is a rise, too. Batches of pairs differ more than batches of tokens."""
JUMP_DEVIATIONS = 8.0
"""A jump to another block of data, in deviations of what comes after it: an exploded run is as rough as its jumps are high."""
REACH = 10.0
"""See `_reach`: where weights have moved ten times as far as they are large, the learning rate is not what held them back."""
LASTING_ROWS = 5
LITTLE_FALL = {"pretrain": 0.1, "sft": 0.02, "reward_model": 0.03, "preference": 0.03}
"""Falls of the loss, as a share of its first value, that are too small for a whole run. From scratch every model learns the
frequencies of tokens within tens of steps, which is a third of the way; fine-tuning may begin close to its end."""
STRAIGHT = 0.6
"""The slope of the second half over that of the first, per unit of learning rate, above which a curve has not begun to bend:
it would have gone further with larger steps."""
ALWAYS_CLIPPED = 0.95
HARD_CLIPPED = 4.0
"""Norms above the limit by so much: then the limit sets every step. Reward models and DPO run at 2 to 3.6 times theirs in health."""
MUCH_LEFT_OUT = 0.02
"""Share of steps left out as spikes or not finite. Six deviations should not be met once in a million."""
WORSE_THAN_GUESSING = 1.15
"""First loss over ln(vocabulary). An initialised model guesses evenly: 1.00 to 1.02 here."""
WRONG_TOKENS = {"pretrain": 1.02, "sft": 1.25}
"""The same of a model that was trained before, and is far below 1 on text of its kind. Where it sees chat marks for the first time it
begins at 0.7, or up to 1.1 if it was hardly trained."""
NO_GRADIENT = 1e-7
RISES = 2
"""A loss that jumps up so often, and comes down each time, follows the order of the data."""


def find_divergence(columns: Columns, facts: Facts) -> list[Finding]:
    """Loss that rises for good: from the start (learning rate), after it had fallen (explosion), or again and again (order of data).

    Each stage of a curriculum has a level of its own: the loss of one says nothing of the next one's, unless that is worse than guessing.
    """
    curve = curve_of(columns, "train/loss")
    if facts.stage not in LOSS_STAGES or len(curve) < MIN_ROWS:
        return []
    first, before = float(curve.values[0]), float(curve.values[0])
    for part in stretches(columns, curve):
        level = smooth(curve.values[part])
        lowest = np.minimum.accumulate(level)
        limit = np.full(len(level), math.inf)
        if len(level) >= MIN_ROWS:
            limit = lowest + np.maximum(RISE_FRACTION * np.abs(lowest), RISE_DEVIATIONS * noise_of(curve.values[part]))
        # Whatever the noise (a run that breaks at its start is nothing but noise): this far above where it began is not learning.
        worst = first if part.start == 0 else np.fmax(first, facts.guess_nats)
        limit = np.minimum(limit, (1 + ABOVE_FIRST[facts.stage]) * np.abs(worst))
        above = np.flatnonzero(_lasting(level > limit))
        if len(above):
            at = int(above[0])
            before = float(lowest[at - 1]) if at else before
            return _describe_rise(columns, facts, curve, at=part.start + at, before=before, highest=float(level[at:].max()))
        before = float(lowest[-1])
    return []


def _describe_rise(columns: Columns, facts: Facts, curve: Curve, *, at: int, before: float, highest: float) -> list[Finding]:
    """What a rise means that begins at a place of the curve."""
    level = smooth(curve.values)
    first, end = float(curve.values[0]), ends(level)[1]
    numbers = {"first": first, "before": before, "highest": highest, "last": end, "learning_rate": _rate_at(columns, curve, at)}
    step = int(curve.steps[at])
    if float(level[: at + 1].min()) > (1 - LEARNED_FRACTION) * level[0]:
        return [Finding(
            code="learning_rate_too_high", severity="error", step=step, evidence=numbers,
            title=f"The loss rose from {before:.3g} to {highest:.3g} before it had learned anything (first loss {first:.3g}): "
            "steps are too large",
            remedy="Divide learning_rate and embedding_learning_rate by 10, or find them with `bloomery lr-find`; a longer warmup_fraction "
            "helps only where the loss breaks in the warm-up.",
        )]  # fmt: skip
    if not facts.config.get("curriculum") and len(_rises(curve)) >= RISES:
        return []  # find_order tells of it
    clip = "" if facts.setting("max_gradient_norm", 0.0) else "clip (max_gradient_norm = 1); "
    is_guarded = facts.setting("spike_sigmas", 0.0) and facts.setting("rollback_spikes", 0.0)
    guard = "" if is_guarded else "let spikes be left out (spike_sigmas = 6, rollback_spikes = 3); "
    return [Finding(
        code="explosion", severity="error", step=step, evidence=numbers,
        title=f"The loss had fallen to {before:.3g} and rose to {highest:.3g} from step {step} on; it ended at {end:.3g}",
        remedy=f"Lower the learning rate, or let it rise more slowly; {clip}{guard}look at what else changed at that step.",
    )]  # fmt: skip


def find_order(columns: Columns, facts: Facts) -> list[Finding]:
    """A loss that jumps up and comes down several times: the data come in blocks, not shuffled."""
    curve = curve_of(columns, "train/loss")
    if facts.stage not in LOSS_STAGES or len(curve) < 2 * MIN_ROWS or facts.config.get("curriculum"):
        return []
    rises = _rises(curve)
    if len(rises) < RISES:
        return []
    steps = [int(curve.steps[i]) for i in rises]
    return [Finding(
        code="data_unshuffled", severity="error", step=steps[0], evidence={"rises": len(steps), "first": steps[0], "last": steps[-1]},
        title=f"The loss jumped up {len(steps)} times (steps {', '.join(map(str, steps[:5]))}) and came down again: data come in blocks",
        remedy="Shuffle documents before they are cut into batches; where an order is wanted, say it as a `curriculum`, and mix some of "
        "the earlier data into each later block.",
    )]  # fmt: skip


def find_slow_learning(columns: Columns, facts: Facts) -> list[Finding]:
    """A loss that does not fall, or so slowly and so straight that larger steps would carry it further."""
    curve = curve_of(columns, "train/loss")
    if facts.stage not in LOSS_STAGES or len(curve) < MIN_ROWS or find_divergence(columns, facts) or find_order(columns, facts):
        return []
    # What a curriculum goes on with may be harder than what it began with.
    began = stretches(columns, curve)[0]
    curve = Curve(curve.steps[began], curve.values[began])
    if len(curve) < MIN_ROWS:
        return []
    head, tail = ends(curve.values)
    noise = noise_of(curve.values)
    counts = max(3, len(curve) // 10), max(3, len(curve) // 5)
    error = noise * math.sqrt(1 / counts[0] + 1 / counts[1])
    little = LITTLE_FALL["sft" if facts.has_init and facts.stage == "pretrain" else facts.stage]
    fall = head - tail
    if fall > little * abs(head):
        return []
    numbers = {"first": head, "last": tail, "fall": fall, "noise": noise, "learning_rate": _largest(columns, "train/learning_rate")}
    norms = curve_of(columns, "train/gradient_norm").values
    if len(norms) and float(np.median(late(norms))) < NO_GRADIENT:
        return []  # find_no_gradient tells of it
    straight = _straightness(columns, curve)
    reach = _reach(columns, facts)
    if reach < 1 or (fall > 4 * error and straight > STRAIGHT and not REACH < reach < math.inf):
        return [Finding(
            code="learning_rate_too_low", severity="warning", evidence={**numbers, "straightness": straight},
            title=f"The loss fell by {fall:.2g} of {head:.3g} in {len(curve)} logged steps, without bending: steps are too small "
            f"(learning rate {numbers['learning_rate']:.2g} at most)",
            remedy="Multiply learning_rate and embedding_learning_rate by 10, or find them with `bloomery lr-find`.",
        )]  # fmt: skip
    if facts.has_init and fall > 3 * error:
        return []  # slowly, but it does
    return [Finding(
        code="loss_not_falling", severity="error" if not facts.has_init else "warning", evidence=numbers,
        title=f"The loss is {tail:.3g} after {len(curve)} logged steps and was {head:.3g} at the start: nothing is learned",
        remedy="Check that targets are what is to be learned (tokenizer, loss mask, shuffled labels); overfit one batch first; then find a "
        "learning rate with `bloomery lr-find`.",
    )]  # fmt: skip


def find_clipping(columns: Columns, facts: Facts) -> list[Finding]:
    """Gradients that are always far above the limit they are cut to."""
    norms, limit = curve_of(columns, "train/gradient_norm").values, facts.setting("max_gradient_norm", 0.0)
    if facts.stage not in LOSS_STAGES or not limit or len(norms) < MIN_ROWS:
        return []  # a policy gradient is mostly noise, and is clipped for it
    settled = late(norms)
    clipped, middle = float((settled > limit).mean()), float(np.median(settled))
    if clipped < ALWAYS_CLIPPED or middle < HARD_CLIPPED * limit:
        return []
    return [Finding(
        code="always_clipped", severity="warning", evidence={"clipped_fraction": clipped, "median_norm": middle, "limit": limit},
        title=f"{100 * clipped:.0f} % of the gradients were clipped, {middle / limit:.0f} times above max_gradient_norm = {limit:g}",
        remedy=f"Set max_gradient_norm near {2 * middle:.2g} (twice the usual norm), so that it cuts outliers only; if norms keep growing, "
        "lower the learning rate.",
    )]  # fmt: skip


def find_left_out(columns: Columns, facts: Facts) -> list[Finding]:
    """Steps that changed nothing: spikes, and losses that are not finite numbers."""
    skipped, loss = curve_of(columns, "train/skipped"), columns.get("train/loss")
    if not len(skipped):
        return []
    found = []
    steps, count = int(skipped.steps[-1]), float(skipped.values[-1])
    rates = columns.get("train/learning_rate")
    broken = np.flatnonzero(np.isfinite(rates) & ~np.isfinite(loss)) if loss is not None and rates is not None else np.zeros(0, dtype=int)
    if len(broken):
        step = int(columns["step"][broken[0]])
        found.append(Finding(
            code="not_finite", severity="error", step=step, evidence={"rows": len(broken), "first_step": step},
            title=f"The loss was not a finite number at {len(broken)} logged steps, first at step {step}",
            remedy="Lower the learning rate; try precision = 'fp32'; look at the rows of that step, which metrics.jsonl names (spike/...).",
        ))  # fmt: skip
    if steps >= MIN_ROWS and count / steps > MUCH_LEFT_OUT and not len(broken):
        found.append(Finding(
            code="steps_left_out", severity="warning", evidence={"skipped": count, "steps": steps},
            title=f"{count:.0f} of {steps} steps were left out as spikes",
            remedy="Look at the rows that metrics.jsonl names (spike/...): broken documents belong in a filter. Otherwise lower the rate.",
        ))  # fmt: skip
    return found


def find_bad_start(columns: Columns, facts: Facts) -> list[Finding]:
    """A first loss that is worse than guessing: of fresh weights bad initialisation, of trained ones another's tokens."""
    curve = curve_of(columns, "train/loss")
    if facts.stage not in TOKEN_STAGES or not len(curve) or not math.isfinite(facts.guess_nats) or int(curve.steps[0]) > 3:
        return []
    first, ratio = float(curve.values[0]), float(curve.values[0]) / facts.guess_nats
    numbers = {"first": first, "guessing": facts.guess_nats}
    if facts.has_init and ratio > WRONG_TOKENS[facts.stage]:
        return [Finding(
            code="tokenizer_mismatch", severity="error", step=int(curve.steps[0]), evidence=numbers,
            title=f"The trained model begins at a loss of {first:.3g}, worse than guessing among its tokens ({facts.guess_nats:.3g}): "
            "these ids are not those it knows",
            remedy="Tokenize the data with the tokenizer that lies in the checkpoint's folder, and train with that one.",
        )]  # fmt: skip
    if not facts.has_init and ratio > WORSE_THAN_GUESSING:
        return [Finding(
            code="bad_initialisation", severity="error", step=int(curve.steps[0]), evidence=numbers,
            title=f"Fresh weights begin at a loss of {first:.3g}; guessing evenly is {facts.guess_nats:.3g}: their scale is too large",
            remedy="Initialise the output matrix and the last matrix of each layer smaller (standard deviation about 1/sqrt(width), or 0).",
        )]  # fmt: skip
    return []


def find_no_gradient(columns: Columns, facts: Facts) -> list[Finding]:
    """Gradients of length zero: nothing is trained, or every target is masked."""
    norms = curve_of(columns, "train/gradient_norm").values
    if len(norms) < MIN_ROWS or float(np.median(late(norms))) >= NO_GRADIENT:
        return []
    if facts.stage in ("ppo", "grpo"):
        return []  # rewards.find_silence tells why
    return [Finding(
        code="no_gradient", severity="error", evidence={"median_norm": float(np.median(late(norms)))},
        title="Gradients are zero: no weight changes",
        remedy="Check that some weights are trained (LoRA rank), that targets are not all masked, and that units are not dead (--deep).",
    )]  # fmt: skip


def _lasting(flags: np.ndarray) -> np.ndarray:
    """Where a run of at least LASTING_ROWS true ones begins or goes on."""
    sums = np.convolve(flags.astype(np.int64), np.ones(LASTING_ROWS, dtype=np.int64))[LASTING_ROWS - 1 :]
    return np.asarray(sums[: len(flags)] >= LASTING_ROWS)


def _rises(curve: Curve) -> list[int]:
    """Places where the loss jumps to a higher level from one row to the next, and is smooth after, one for each jump."""
    width = max(3, min(16, len(curve) // 24))
    sums = np.concatenate([[0.0], np.cumsum(curve.values)])
    means = (sums[width:] - sums[:-width]) / width
    jump, before = means[width:] - means[:-width], means[:-width]
    places = np.flatnonzero(jump > RISE_FRACTION * np.abs(before)) + width
    # Of neighbouring places the highest jump is the place; the others look at a part of it.
    groups = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []
    found = [int(group[jump[group - width].argmax()]) for group in groups]
    if not found:
        return []
    roughness = noise_of(curve.values[found[0] :])
    return [place for place in found if jump[place - width] > JUMP_DEVIATIONS * roughness]


def _straightness(columns: Columns, curve: Curve) -> float:
    """Slope of the second half over that of the first, with learning rates added up as the axis; 0 if it is not to be told."""
    rates = curve_of(columns, "train/learning_rate")
    shared, own, theirs = np.intersect1d(curve.steps, rates.steps, return_indices=True)
    if len(shared) < MIN_ROWS:
        return 0.0
    spent, value = np.cumsum(rates.values[theirs]), curve.values[own]
    middle = int(np.searchsorted(spent, spent[-1] / 2))
    if min(middle, len(value) - middle) < 4:
        return 0.0
    slopes = [float(np.polyfit(spent[part], value[part], 1)[0]) for part in (slice(0, middle), slice(middle, None))]
    return slopes[1] / slopes[0] if slopes[0] < 0 else 0.0


def _reach(columns: Columns, facts: Facts) -> float:
    """How far a weight can have moved, in hundredths: both optimizers move it by about the learning rate at most each step.

    Fresh weights are some hundredths large; a run that cannot move them so far cannot have learned. Infinite for trained ones.
    """
    rates = curve_of(columns, "train/learning_rate")
    if facts.stage != "pretrain" or facts.has_init or not len(rates):
        return math.inf
    return float(rates.values.mean() * rates.steps[-1]) / 0.01


def _rate_at(columns: Columns, curve: Curve, index: int) -> float:
    rates = curve_of(columns, "train/learning_rate")
    at = int(np.searchsorted(rates.steps, curve.steps[index])) if len(rates) else 0
    return float(rates.values[min(at, len(rates) - 1)]) if len(rates) else math.nan


def _largest(columns: Columns, name: str) -> float:
    values = curve_of(columns, name).values
    return float(values.max()) if len(values) else math.nan
