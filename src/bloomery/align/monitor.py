"""What to watch while a policy learns from rewards, and when to stop it.

A reward that is only like what is wanted can be raised without end; what is wanted rises with it, and then falls (Gao 2022,
arXiv:2210.10760). So a held-out gold reward is measured beside the one that is trained on, and a rule ends the run at its
best when gold has fallen for good. docs/rl.md says what each number means.

Shapes: N answers, T tokens of an answer, P prompts.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bloomery.align.episodes import Episodes
from bloomery.align.rollouts import GOLD, REWARD, Rollout
from bloomery.core import dist
from bloomery.core.errors import DataError
from bloomery.objectives.advantages import has_spread, kl_estimate
from bloomery.train.fit import Verdict

log = logging.getLogger(__name__)

MAX_DRIFT = 1e-3
"""Nats by which the sampler's log-probability of a token may differ from the trainer's in float32. (0.012 a token are a factor of
3.3 over a hundred: trl #4772.)"""
NGRAM = 2
DIGITS = 6


class StopRule(NamedTuple):
    """How far below its best, in standard errors, and at how many validations in a row gold ends a run; errors 0 = never."""

    errors: float
    checks: int


def describe_values(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of what answers are worth, over those that are known; of the totals the deviation, too."""
    found = {}
    for name, value_N in values.items():
        known_N = value_N[~value_N.isnan()]
        if len(known_N):
            found[name] = known_N.mean().item()
            if name in (REWARD, GOLD):
                found[f"{name}_deviation"] = known_N.std(correction=0).item()
    return found


def describe_episodes(episodes: Episodes, *, logp_NT: Tensor, reference_NT: Tensor | None) -> dict[str, float]:
    """Length, stop share, variety of word pairs, and KL to the reference in nats an answer.

    `kl` is the mean over answers of the summed log ratio (k1), `kl_k3` the same of k3.
    """
    said_NT = episodes.said_NT
    length_N = said_NT.sum(1).double()
    found = {
        "length": length_N.mean().item(),
        "length_p95": length_N.quantile(0.95).item(),
        "stopped": episodes.stopped_N.double().mean().item(),
        **{f"distinct_{n}": distinct_ngrams(episodes, n) for n in range(1, NGRAM + 1)},
    }
    if reference_NT is not None:
        for name, estimator in (("kl", "k1"), ("kl_k3", "k3")):
            kl_NT = kl_estimate(logp_NT.double(), reference_NT.double(), "k1" if estimator == "k1" else "k3")
            found[name] = torch.where(said_NT, kl_NT, 0.0).sum(1).mean().item()
    return found


def distinct_ngrams(episodes: Episodes, n: int) -> float:
    """Different runs of n tokens over all of them, in all answers together (arXiv:1510.03055, sec. 5.2); 1 if there is none.

    It falls when a policy says the same thing to everyone, or one thing over and over.
    """
    token_NT, said_NT = episodes.token_NT.numpy(), episodes.said_NT.numpy()
    last = token_NT.shape[1] - n + 1
    if last < 1:
        return 1.0
    runs = np.stack([token_NT[:, k : k + last] for k in range(n)], -1)
    whole = np.logical_and.reduce([said_NT[:, k : k + last] for k in range(n)])
    found = runs[whole]
    return len(np.unique(found, axis=0)) / len(found) if len(found) else 1.0


def describe_groups(reward_N: Tensor, *, group_size: int) -> dict[str, float]:
    """The share of prompts to which all answers are worth the same: they teach nothing where answers are compared."""
    return {"groups_without_spread": 1.0 - has_spread(reward_N, group_size=group_size).double().mean().item()}


def warn_of_silence(rollout: Rollout, number: int) -> None:
    """Says so when nothing can be learned from a rollout: nobody could judge an answer, or all answers to each prompt are worth the same.

    Without it such a run looks like one that works (a constant reward, a prompt without a chat template). Raises DataError if
    no answer has a reward.
    """
    reward_N = rollout.values[REWARD]
    if bool(reward_N.isnan().all()):
        raise DataError(f"rollout {number}: none of {len(reward_N)} answers has a reward: every source gave None for each of them")
    if dist.rank() != 0:
        return
    whole = rollout.group_size == 1  # compared with what a critic expects: then only a rollout without any difference is silent
    if len(reward_N) > 1 and not bool(has_spread(reward_N, group_size=len(reward_N) if whole else rollout.group_size).any()):
        which = f"all {len(reward_N)} answers are" if whole else f"the {rollout.group_size} answers to each prompt are all"
        log.warning(
            "rollout %d: %s worth the same (mean %.4g): nothing is learned from them. Are prompts too easy or too hard, or does the "
            "reward not look at the answer?", number, which, reward_N.nanmean(),
        )  # fmt: skip
    if not bool(rollout.trained_N.any()):
        log.warning("rollout %d: every answer is left out of the loss (without a reward, or cut off and masked)", number)


def largest_drift(logp_NT: Tensor, sampled_NT: Tensor, said_NT: Tensor) -> Tensor:
    """The largest difference [] between the trainer's and the sampler's log-probability of a token."""
    return torch.where(said_NT, (logp_NT - sampled_NT).abs(), 0.0).amax()


def judge_drift(drift: float, *, dtype: torch.dtype, number: int) -> None:
    """Raises DataError for a drift above MAX_DRIFT in float32, where both sides compute the same; warns in other precisions."""
    if drift <= MAX_DRIFT:
        return
    text = f"rollout {number}: the sampler's log-probability of a token is {drift:.3g} nats off the trainer's (at most {MAX_DRIFT} in fp32)"
    if dtype == torch.float32:
        raise DataError(f"{text}. They do not have the same weights, temperature or prompt; training on such samples goes astray")
    if dist.rank() == 0:
        log.warning("%s; in %s that is rounding, but watch train/ratio", text, dtype)


def standard_error(value_N: Tensor, *, group_size: int) -> float:
    """Of the mean of all known values: from the means of prompts, because answers to one prompt are not independent."""
    value_PG = value_N.view(-1, group_size)
    mean_P = value_PG.nanmean(1)
    mean_P = mean_P[~mean_P.isnan()]
    return mean_P.std().item() / math.sqrt(len(mean_P)) if len(mean_P) > 1 else 0.0


def judge_gold(curve: Sequence[Mapping[str, float]], *, rule: StopRule) -> Verdict:
    """The validation with the best gold so far, and whether gold has been below it for so long that the run should end there.

    Below is: by more than `errors` standard errors of the difference, at each of the last `checks` validations. Rows have
    `gold` and `gold_error`; without them the last row is the best, and the run goes on.
    """
    rows = [row for row in curve if GOLD in row]
    if not rows:
        return Verdict(int(curve[-1]["step"]))
    best = max(rows, key=lambda row: row[GOLD])  # the first of equals
    last = rows[-rule.checks :]
    if not rule.errors or len(last) < rule.checks or any(row["step"] <= best["step"] for row in last):
        return Verdict(int(best["step"]))

    def is_below(row: Mapping[str, float]) -> bool:
        return best[GOLD] - row[GOLD] > rule.errors * math.hypot(best["gold_error"], row["gold_error"])

    if not all(map(is_below, last)):
        return Verdict(int(best["step"]))
    fallen = f"held-out gold fell from {best[GOLD]:.4g} (step {int(best['step'])}) to {last[-1][GOLD]:.4g}"
    proxies = f", the trained reward from {best[REWARD]:.4g} to {last[-1][REWARD]:.4g}" if REWARD in best and REWARD in last[-1] else ""
    return Verdict(
        int(best["step"]),
        f"{fallen}{proxies}: more than {rule.errors:g} standard errors below its best at {rule.checks} validations in a row",
    )


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers for a record: the last bits say nothing."""
    return {name: round(value, DIGITS) for name, value in numbers.items() if math.isfinite(value)}
