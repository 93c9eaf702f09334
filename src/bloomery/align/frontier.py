"""Methods of alignment side by side: what each gained in reward, how far it went for it, and where it lost to something plainer.

A method is trained once for each of several seeds. Its figures are means over the seeds with a t interval over them (for one
seed: over the prompts); differences between methods are paired, seed by seed and prompt by prompt. Everything here is
arithmetic on `Policy` figures and best-of-n curves: who was measured, and on what, is up to stages/frontier.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any  # Any: JSON records

import numpy as np
from scipy import stats

from bloomery.align.best_of_n import BestOf, Estimate
from bloomery.align.measure import Policy

Record = dict[str, Any]

FIGURES = Policy._fields
CURVE_POINTS = 24


def over_seeds(values: Sequence[np.ndarray]) -> Record:
    """The mean over seeds of each seed's mean over prompts, with its 95 % t interval (None for a single prompt and seed).

    >>> over_seeds([np.array([0.0, 1.0]), np.array([1.0, 0.6])])["value"]
    0.65
    """
    means = np.array([value.mean() for value in values])
    units = means if len(means) > 1 else values[0]
    low, high = None, None
    if len(units) > 1:
        half = stats.t.ppf(0.975, len(units) - 1) * units.std(ddof=1) / np.sqrt(len(units))
        low, high = float(means.mean() - half), float(means.mean() + half)
    over = "seeds" if len(means) > 1 else "prompts"
    return {"value": float(means.mean()), "low": low, "high": high, "seeds": [float(mean) for mean in means], "interval_over": over}


def method_record(policies: Sequence[Policy]) -> Record:
    """All figures of a method, one policy a seed."""
    return {name: over_seeds([getattr(policy, name) for policy in policies]) for name in FIGURES}


def difference(ours: Sequence[Policy], theirs: Sequence[Policy], figure: str) -> Record:
    """How much more `ours` have of a figure than `theirs`; one policy of theirs stands for all seeds (what all began with)."""
    others = theirs if len(theirs) == len(ours) else [theirs[0]] * len(ours)
    return over_seeds([getattr(a, figure) - getattr(b, figure) for a, b in zip(ours, others, strict=True)])


def best_of_record(curves: Sequence[Sequence[BestOf]], sizes: Sequence[int]) -> list[Record]:
    """For each n of `sizes` its KL, and over the seeds what the best by the reward is worth by that reward and by gold."""
    rows = []
    for n in sizes:
        found = [curve[n - 1] for curve in curves if n <= len(curve)]
        if found:
            golds = [one.gold for one in found if one.gold is not None]
            row = {"n": n, "kl": found[0].kl_nats, "reward": _over_curves([one.reward for one in found])}
            rows.append({**row, "gold": _over_curves(golds) if golds else None})
    return rows


def _over_curves(estimates: Sequence[Estimate]) -> Record:
    """The mean of several seeds' estimates with a t interval; of one, its own interval over prompts."""
    record = over_seeds([np.array([estimate.value]) for estimate in estimates])
    return record if len(estimates) > 1 else {**record, "low": estimates[0].low, "high": estimates[0].high}


def gold_at(kl: float, rows: Sequence[Record]) -> float | None:
    """The gold of best of n at a KL, between the sizes that were measured; None beyond the largest.

    >>> gold_at(0.5, [{"kl": 0.0, "gold": {"value": 0.2}}, {"kl": 1.0, "gold": {"value": 0.4}}])
    0.3
    """
    known = [(row["kl"], row["gold"]["value"]) for row in rows if row["gold"] is not None]
    if not known or kl > known[-1][0]:
        return None
    return float(np.interp(kl, [at for at, _ in known], [gold for _, gold in known]))


def turning_point(rows: Sequence[Record]) -> Record | None:
    """Where gold was highest, if it fell clearly afterwards while the proxy rose: best of n that was over-optimised.

    "Clearly": from the peak to the last n, gold falls by more than the lower halves of both intervals together.
    """
    known = [row for row in rows if row["gold"] is not None]
    if len(known) < 2:
        return None
    peak, last = max(known, key=lambda row: row["gold"]["value"]), known[-1]
    spread = sum(row["gold"]["value"] - row["gold"]["low"] for row in (peak, last) if row["gold"]["low"] is not None)
    falls = last["gold"]["value"] < peak["gold"]["value"] - spread and last["reward"]["value"] > peak["reward"]["value"]
    return peak if falls else None


def thin_history(history: Sequence[Mapping[str, Any]]) -> list[Record]:
    """The rollouts of a run as at most CURVE_POINTS points: means of `reward`, `gold` and `kl` over runs of rollouts, in their order.

    A single rollout is a few hundred answers, whose mean jumps about.
    """
    known = [row for row in history if "kl" in row and "reward" in row]
    parts = np.array_split(np.arange(len(known)), min(CURVE_POINTS, len(known))) if known else []
    points = []
    for part in parts:
        rows = [known[i] for i in part]
        keys = [key for key in ("reward", "gold", "kl") if all(key in row for row in rows)]
        points.append({"step": rows[-1]["step"], **{key: float(np.mean([row[key] for row in rows])) for key in keys}})
    return points


def find_losses(
    methods: Mapping[str, Sequence[Policy]], start: Sequence[Policy], baselines: Sequence[str], best_of: Mapping[str, Sequence[Record]]
) -> dict[str, list[str]]:
    """Where each method lost, in clauses: to what it began with, to each baseline, to best of n at its own KL.

    A loss to another policy is said only if the interval of the difference lies below 0. Methods that lost nowhere are left out.
    """
    found: dict[str, list[str]] = {}
    for name, policies in methods.items():
        against = {"the model it began with": start, **{other: methods[other] for other in baselines if other != name}}
        for other, theirs in against.items():
            for figure in ("sampled", "greedy"):
                gap = difference(policies, theirs, figure)
                if gap["high"] is not None and gap["high"] < 0:
                    found.setdefault(name, []).append(f"{figure} {_points(-gap['value'])} below {other} {_range(gap)}")
        if name in baselines:
            continue
        kl, sampled = over_seeds([policy.kl for policy in policies])["value"], over_seeds([policy.sampled for policy in policies])["value"]
        ahead = {label: gold - sampled for label, rows in best_of.items() if (gold := gold_at(kl, rows)) is not None and gold > sampled}
        clauses = [f"by {label} {_points(gap)}" for label, gap in ahead.items()]
        if clauses:
            found.setdefault(name, []).append(f"best of n at the same KL ({kl:.2f} nats) ahead: {', '.join(clauses)}")
    return found


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _range(gap: Record) -> str:
    return f"({-100 * gap['high']:.1f} to {-100 * gap['low']:.1f})"
