"""Best of n, measured for every n up to N from the same N samples of each prompt.

Drawing n answers and keeping the one that a reward likes best is the plainest policy optimisation there is: no training, and its
distance from the model is known. It is what every trained policy is to be compared with at equal distance (Stiennon et al.,
arXiv:2009.01325; Gao et al., 2210.10760, whose curves of proxy and gold over the square root of the KL these are).

The expectation over all subsets of n of the N samples is computed, not drawn: of N sorted rewards the one with i - 1 below it is the
best of a random subset of n with the chance C(i-1, n-1) / C(N, n). That estimate has no bias, as that of pass@k
(arXiv:2107.03374, sec. 2.1). Intervals are a bootstrap over prompts, the units that were drawn.

Legend: P prompts, N samples of a prompt (also: sizes n from 1 to N), R resamples.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: JSON records, and the shape parameter of numpy arrays

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000


class Estimate(NamedTuple):
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float


class BestOf(NamedTuple):
    """What the best of n by the reward is worth: by that reward, and by the gold that it knows nothing of."""

    n: int
    kl_nats: float
    num_prompts: int
    """Prompts with at least n samples that have a reward."""
    reward: Estimate
    gold: Estimate | None

    def record(self) -> dict[str, Any]:
        """As best_of_n.json holds it."""
        gold = None if self.gold is None else self.gold._asdict()
        return {"n": self.n, "kl_nats": self.kl_nats, "num_prompts": self.num_prompts, "reward": self.reward._asdict(), "gold": gold}


class Samples(NamedTuple):
    """The rewards of one prompt's samples, and their golds (empty without a gold)."""

    reward: list[float]
    gold: list[float]


def best_of_n_kl(n: int) -> float:
    """KL(best of n || the model) in nats: log n - (n - 1)/n. Exact where no two answers are worth the same, else an upper bound.

    Stiennon et al. 2020, app. G.3; that it bounds is Beirami et al., arXiv:2401.01879, th. 1.

    >>> best_of_n_kl(1), round(best_of_n_kl(16), 4)
    (0.0, 1.8351)
    """
    if n < 1:
        raise ValueError(f"best of {n}: expected at least 1")
    return math.log(n) - (n - 1) / n


def subset_chances(num_samples: int, n: int) -> Array:
    """[N]: the chance that the i-th smallest of N values is the largest of a random subset of n of them.

    >>> subset_chances(4, 2).round(4).tolist()
    [0.0, 0.1667, 0.3333, 0.5]
    """
    if not 1 <= n <= num_samples:
        raise ValueError(f"a subset of {n} out of {num_samples} samples: expected 1 to {num_samples}")
    total = math.comb(num_samples, n)
    return np.array([math.comb(i, n - 1) / total for i in range(num_samples)])


def expected_best(reward: Sequence[float], gold: Sequence[float] = ()) -> tuple[Array, Array]:
    """[N] each: the expected reward, and the expected gold, of the best by reward among n random ones, for n = 1 .. N.

    Of several that share the highest reward each is kept with the same chance. Without gold the second is empty.
    """
    reward_N = np.asarray(reward, dtype=np.float64)
    chance_NN = np.array([subset_chances(len(reward_N), n) for n in range(1, len(reward_N) + 1)])
    order = np.argsort(reward_N, kind="stable")
    best_N = chance_NN @ reward_N[order]
    if not len(gold):
        return best_N, np.empty(0)
    # Within a tie the order is arbitrary: its places together keep their chances, and every answer in it has an equal share.
    _, tie_N = np.unique(reward_N, return_inverse=True)
    gold_N = np.asarray(gold, dtype=np.float64)
    mean_of_tie = np.bincount(tie_N, weights=gold_N) / np.bincount(tie_N)
    return best_N, chance_NN @ mean_of_tie[tie_N][order]


def best_of_curve(samples: Sequence[Samples], *, seed: int) -> list[BestOf]:
    """The curve for every n up to the most samples of a prompt. Prompts with fewer than n count up to what they have."""
    samples = [prompt for prompt in samples if prompt.reward]
    if not samples:
        return []
    has_gold = all(len(prompt.gold) == len(prompt.reward) for prompt in samples)
    num_samples = max(len(prompt.reward) for prompt in samples)
    reward_PN, gold_PN = (np.full((len(samples), num_samples), np.nan) for _ in range(2))
    for p, prompt in enumerate(samples):
        best_N, gold_N = expected_best(prompt.reward, prompt.gold if has_gold else ())
        reward_PN[p, : len(best_N)], gold_PN[p, : len(gold_N)] = best_N, gold_N
    rewards = _estimates(reward_PN, seed=seed)
    golds = _estimates(gold_PN, seed=seed) if has_gold else [None] * num_samples
    counts = (~np.isnan(reward_PN)).sum(axis=0)
    return [BestOf(n + 1, best_of_n_kl(n + 1), int(counts[n]), rewards[n], golds[n]) for n in range(num_samples)]


def _estimates(value_PN: Array, *, seed: int) -> list[Estimate]:
    """Of each column the mean over the rows that have it, with a percentile bootstrap over rows (Efron 1979)."""
    known_PN = ~np.isnan(value_PN)
    filled_PN = np.where(known_PN, value_PN, 0.0)
    num_prompts = len(value_PN)
    rng = np.random.default_rng([seed, num_prompts])
    times_RP = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=NUM_RESAMPLES).astype(np.float64)
    count_RN = times_RP @ known_PN
    # A resample in which no prompt has n samples says nothing about n.
    drawn_RN = np.divide(times_RP @ filled_PN, count_RN, out=np.full(count_RN.shape, np.nan), where=count_RN > 0)
    low_N, high_N = np.nanquantile(drawn_RN, [0.025, 0.975], axis=0)
    mean_N = filled_PN.sum(axis=0) / known_PN.sum(axis=0)
    return [Estimate(*(float(value) for value in of_n)) for of_n in zip(mean_N, low_N, high_N, strict=True)]
