"""Checks on how well the machine and the places of a batch are used: loader, ranks, padding, masks."""

import numpy as np

from bloomery.diagnosis.columns import Columns, curve_of, late
from bloomery.diagnosis.curves import LOSS_STAGES
from bloomery.diagnosis.finding import Facts, Finding

MIN_ROWS = 8
SLOW_LOADER = 0.25
"""Share of a step spent waiting for its data; it is read ahead, and healthy runs here wait 2 % at most."""
LONG_WAIT_SECONDS = 0.005
"""Shorter waits are the operating system's: steps of a few milliseconds meet them on a busy machine."""
LAG = 1.3
"""Time of the slowest process over that of the middle one."""
SAME_RANK = 0.8
"""Share of steps at which it is the same one; chance would spread it."""
MUCH_PADDING = {"pretrain": 0.15, "sft": 0.25, "reward_model": 0.6, "preference": 0.6}
"""Share of places without a token. Packing leaves 1 to 3 %; pairs stand in rows as long as the longest of them."""
FEW_TRAINED = 0.05
"""Share of an sft's tokens that have a loss: answers below a twentieth of their prompts."""


def find_slow_loader(columns: Columns, facts: Facts) -> list[Finding]:
    """Steps that wait for their data. Rollouts are made there too, so stages with rewards are not asked."""
    waits = curve_of(columns, "train/data_fraction").values
    if facts.stage not in LOSS_STAGES or len(waits) < MIN_ROWS:
        return []
    share = float(np.median(late(waits)))
    if share < SLOW_LOADER or share * _step_seconds(columns) < LONG_WAIT_SECONDS:
        return []
    return [Finding(
        code="slow_loader", severity="warning", evidence={"data_fraction": share},
        title=f"Half of the steps wait for their data for {100 * share:.0f} % of their time or longer",
        remedy="Put tokens on a local disk, use larger batches or fewer processes a disk; look for another program that reads.",
    )]  # fmt: skip


def find_lagging_rank(columns: Columns, facts: Facts) -> list[Finding]:
    """One process that all others wait for."""
    slowest, lag = curve_of(columns, "train/slowest_rank"), curve_of(columns, "train/rank_lag")
    if min(len(slowest), len(lag)) < MIN_ROWS:
        return []
    ranks, counts = np.unique(late(slowest.values), return_counts=True)
    share, factor = float(counts.max() / counts.sum()), float(np.median(late(lag.values)))
    if share < SAME_RANK or factor < LAG:
        return []
    rank = int(ranks[counts.argmax()])
    return [Finding(
        code="rank_lags", severity="warning", evidence={"rank": rank, "lag": factor, "share_of_steps": share},
        title=f"Process {rank} was the slowest at {100 * share:.0f} % of the steps and took {factor:.2f} times as long as the middle one",
        remedy="Look at that machine: another program, a hot or slowed GPU, a worse link, fewer cores. All others wait for it.",
    )]  # fmt: skip


def find_waste(columns: Columns, facts: Facts) -> list[Finding]:
    """Places of a batch that hold no token, and tokens that have no loss."""
    found = []
    padding = curve_of(columns, "train/padding_fraction").values
    share = float(padding.mean()) if len(padding) else facts.number("padding_fraction")
    if share > MUCH_PADDING.get(facts.stage, 1.0):
        found.append(Finding(
            code="padding_wasted", severity="warning", evidence={"padding_fraction": share},
            title=f"{100 * share:.0f} % of the places in a batch hold no token",
            remedy="Choose a sequence_tokens that several documents fit into, or nearer to the length of the texts.",
        ))  # fmt: skip
    trained = curve_of(columns, "train/trained_fraction").values
    if facts.stage == "sft" and len(trained) and float(trained.mean()) < FEW_TRAINED:
        found.append(Finding(
            code="masks_wasted", severity="warning", evidence={"trained_fraction": float(trained.mean())},
            title=f"Only {100 * float(trained.mean()):.1f} % of the tokens have a loss: the rest is read for nothing",
            remedy="Check the loss mask (loss_on) and the roles of the turns; shorten prompts, or train on more turns of each.",
        ))  # fmt: skip
    return found


def _step_seconds(columns: Columns) -> float:
    """How long a step usually takes, by its tokens and their speed; infinite if neither is known."""
    speed, tokens = curve_of(columns, "train/tokens_per_second"), curve_of(columns, "tokens")
    if len(speed) < 2 or len(tokens) < 2:
        return float("inf")
    steps = int(tokens.steps[-1] - tokens.steps[0])
    each = float(tokens.values[-1] - tokens.values[0]) / max(steps, 1)
    return each / max(float(np.median(late(speed.values))), 1e-9)
