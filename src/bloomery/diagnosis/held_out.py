"""Checks of training against held-out data, of the amount of data, and of what memory, leaks and repetition were measured."""

import math

import numpy as np

from bloomery.diagnosis.columns import Columns, Curve, curve_of, ends, noise_of, smooth
from bloomery.diagnosis.curves import LOSS_STAGES, TOKEN_STAGES, find_divergence, find_order
from bloomery.diagnosis.finding import Facts, Finding

BY_SOURCE = "validation/loss/"
MIN_POINTS = 3
"""Validations below which a curve has no turn."""
RISE_FRACTION = 0.05
"""A held-out loss so far above its lowest has turned; between validations of one run here it wavers by 1 to 3 %."""
MANY_POINTS = 10
"""From so many on, validations are smoothed, and a rise must stand out from how neighbours differ."""
RISE_DEVIATIONS = 3.0
GAP_NATS = 0.5
GAP_FRACTION = 0.5
"""Held-out loss above training loss by both: what was learned does not carry over. Healthy token runs here: 10 % at most."""
MOST_EPOCHS = 4.0
"""Repeating a text up to four times is nearly as good as new text, and worth less and less after (arXiv:2305.16264, sec. 6)."""
FEWEST_TOKENS = 5.0
"""Tokens a parameter; 20 are compute-optimal (arXiv:2203.15556), and below 5 a smaller model learns more from the same compute."""
MANY_DUPLICATES = 0.05
SOME_LEAK, MUCH_LEAK = 0.01, 0.2
"""Share of held-out documents whose text stands in the training data: one in a hundred is no accident (documentation that quotes itself
has more), and with one in five validation measures memory."""
VERBATIM = 0.1
"""Share of training texts that are completed word for word, above that of held-out ones. Models of 6 B parameters do so with 1 % of
their data (arXiv:2202.07646, fig. 1)."""


def find_overfitting(columns: Columns, facts: Facts) -> list[Finding]:
    """A held-out loss that has turned and rises while that of training falls, or lies far above it; of each source by itself.

    Of all sources together they are not comparable: held-out text has equal parts of them, training what its mixture says.
    """
    if facts.stage not in LOSS_STAGES or find_divergence(columns, facts) or find_order(columns, facts):
        return []  # where it diverged both losses go where they like
    sources = [name.removeprefix(BY_SOURCE) for name in columns if name.startswith(BY_SOURCE)]
    if not sources:
        return _find_turn(curve_of(columns, "validation/loss"), curve_of(columns, "train/loss"), facts)
    found = []
    for source in sources:
        held, train = curve_of(columns, f"{BY_SOURCE}{source}"), curve_of(columns, f"train/loss/{source}")
        if not len(train):
            continue
        # Before it is read other sources may make it worse, and afterwards it may be forgotten: both are another thing.
        read = (held.steps >= train.steps[0] - 1) & (held.steps <= train.steps[-1])
        found += _find_turn(Curve(held.steps[read], held.values[read]), train, facts, of=f" of {source}")
    return found


def _find_turn(held: Curve, train: Curve, facts: Facts, *, of: str = "") -> list[Finding]:
    if len(held) < MIN_POINTS or len(train) < 6:
        return []
    level = smooth(held.values) if len(held) >= MANY_POINTS else held.values
    best, last = int(level.argmin()), float(level[-1])
    lowest, (start, end) = float(level[best]), ends(train.values)
    rise = max(RISE_FRACTION * abs(lowest), RISE_DEVIATIONS * noise_of(held.values) if len(held) >= MANY_POINTS else 0.0)
    numbers = {"train": end, "validation": last, "lowest_validation": lowest, "lowest_step": int(held.steps[best])}
    since = train.values[train.steps > held.steps[best]]
    falls = len(since) > 2 and ends(since)[1] <= ends(since)[0] + noise_of(train.values)
    if best < len(held) - 1 and last - lowest > rise and falls and end < start:
        return [Finding(
            code="overfitting", severity="warning", step=int(held.steps[best]), evidence=numbers,
            title=f"The held-out loss{of} was lowest at step {int(held.steps[best])} ({lowest:.3g}) and rose to {last:.3g}, "
            f"while that of training fell to {end:.3g}",
            remedy=f"Stop near step {int(held.steps[best])}, or use more data, fewer epochs, a smaller model or more weight decay.",
        )]  # fmt: skip
    if facts.stage in TOKEN_STAGES and last - end > max(GAP_NATS, GAP_FRACTION * end):
        return [Finding(
            code="overfitting", severity="warning", evidence=numbers,
            title=f"The held-out loss{of} is {last:.3g} and that of training {end:.3g}: what was learned does not carry over",
            remedy="Use more data, fewer epochs or a smaller model; check that the held-out text is of the same kind.",
        )]  # fmt: skip
    return []


def find_repetition(columns: Columns, facts: Facts) -> list[Finding]:
    """Text that is read too often, by the plan of the run or because it stands in the data many times."""
    epochs, found = facts.number("epochs"), []
    if facts.stage == "pretrain" and epochs > MOST_EPOCHS:
        found.append(Finding(
            code="data_repeated", severity="warning", evidence={"epochs": epochs},
            title=f"The training text is read {epochs:.1f} times",
            remedy=f"Use more text or fewer tokens: beyond {MOST_EPOCHS:.0f} times, another pass is worth little (arXiv:2305.16264).",
        ))  # fmt: skip
    duplicates = facts.measured.get("data/duplicate_fraction", 0.0)
    if duplicates > MANY_DUPLICATES:
        found.append(Finding(
            code="data_repeated", severity="warning", evidence={"duplicate_fraction": duplicates},
            title=f"{100 * duplicates:.0f} % of the training documents are exact copies of others",
            remedy="Put a `dedup` stage before the tokens.",
        ))  # fmt: skip
    return found


def find_leak(columns: Columns, facts: Facts) -> list[Finding]:
    """Held-out documents that stand in the training data, so that validation says nothing."""
    leaked = facts.measured.get("data/leaked_fraction", 0.0)
    if leaked <= SOME_LEAK:
        return []
    return [Finding(
        code="data_leaks", severity="error" if leaked > MUCH_LEAK else "warning", evidence={"leaked_fraction": leaked},
        title=f"{100 * leaked:.0f} % of the held-out documents stand in the training data, word for word or nearly",
        remedy="Remove near duplicates (`dedup`) before text is split, so that copies fall on one side.",
    )]  # fmt: skip


def find_memory(columns: Columns, facts: Facts) -> list[Finding]:
    """Training text that the model completes word for word."""
    measured = facts.measured
    train, held = measured.get("memory/train", math.nan), measured.get("memory/held_out", math.nan)
    if not train - held > VERBATIM:
        return []
    return [Finding(
        code="memorised", severity="warning", evidence={"train": train, "held_out": held},
        title=f"The model completes {100 * train:.0f} % of its training texts word for word, and {100 * held:.0f} % of held-out ones",
        remedy="Remove duplicates, read the text fewer times, or use more of it; what it knows by heart it can be made to tell.",
    )]  # fmt: skip


def find_foreign_tokens(columns: Columns, facts: Facts) -> list[Finding]:
    """Data whose ids another tokenizer made."""
    differing, top = facts.measured.get("data/tokenizer_differs", 0.0), facts.measured.get("data/largest_id", -1.0)
    if not differing and not top >= facts.vocab_size > 0:
        return []
    found = "its manifest names another tokenizer than the model's" if differing else f"id {top:.0f} of a vocabulary of {facts.vocab_size}"
    return [Finding(
        code="tokenizer_mismatch", severity="error", evidence={"tokenizer_differs": differing, "largest_id": top},
        title=f"The tokens do not belong to this model: {found}",
        remedy="Tokenize the documents again with the tokenizer that lies in the model's folder.",
    )]  # fmt: skip


def find_undertraining(columns: Columns, facts: Facts) -> list[Finding]:
    """A model too large for the tokens it was given."""
    tokens = facts.number("tokens")
    if facts.stage != "pretrain" or facts.has_init or not facts.params or not tokens / facts.params < FEWEST_TOKENS:
        return []
    ratio = tokens / facts.params
    return [Finding(
        code="under_trained", severity="note", evidence={"tokens": tokens, "params": facts.params, "tokens_per_param": ratio},
        title=f"{tokens:.3g} tokens for {facts.params:.3g} parameters are {ratio:.2g} a parameter; about 20 are compute-optimal",
        remedy="Train longer, or a smaller model: `bloomery budget --tokens N` says which.",
    )]  # fmt: skip


def find_falling_reward_model(columns: Columns, facts: Facts) -> list[Finding]:
    """A reward model or preference run whose held-out accuracy is that of a coin."""
    held = curve_of(columns, "validation/accuracy")
    pairs = facts.number("held_out_pairs" if facts.stage == "preference" else "held_out_comparisons")
    if facts.stage not in ("reward_model", "preference") or len(held) < 2 or not pairs >= 30:
        return []
    last = float(held.values[-1])
    if last > 0.5 + float(np.sqrt(0.25 / pairs)):
        return []
    return [Finding(
        code="labels_not_learned", severity="warning", evidence={"accuracy": last, "held_out": pairs},
        title=f"On {pairs:.0f} held-out pairs it prefers the chosen answer in {100 * last:.0f} %: no better than a coin",
        remedy="Check that chosen and rejected are not mixed up, and whether labellers agree at all; more pairs, a better start.",
    )]  # fmt: skip
