"""Is one recipe better than another? Differences over several trained seeds and many rows, with both as sources of chance.

Two recipes are trained with the same seeds and asked the same rows, so what is compared is a table of differences, one line
a seed, one column a row (a document, a question). Three questions are asked of it:

    over seeds   would other seeds agree? A paired t test of the seeds' means (S - 1 degrees of freedom)
    over rows    would other rows agree? A paired bootstrap over rows of the means over seeds
    over both    would other seeds on other rows agree? Both variances added: Clark's min F' (1973), below

What decides is the larger p, and the wider interval, of "over both" and "over seeds": that there is chance in the rows can make
a difference less certain, not more. Min F' alone gives up to eight times too many false alarms at small levels where the seeds
differ most and are three, because a variance of three values is sometimes small by luck (tests/evaluate/test_paired.py). A
bootstrap over both at once (arXiv:0712.1111) would draw from three or five seeds, whose resamples vary too little by 1/S, and
knows no t. Adding the variances counts the chance of a single cell twice, so it errs to the wide side. Pure functions of numpy
arrays: S seeds, N rows, R resamples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.05
POWER = 0.8
NUM_RESAMPLES, RESAMPLES_AT_ONCE = 2000, 100


class Range(NamedTuple):
    """A 95 % interval, and the p value of no difference where a test gives one."""

    low: float
    high: float
    p: float | None = None


class Difference(NamedTuple):
    """How much more one recipe has of a figure than another. `p`, `low` and `high` are over both seeds and rows, if both are several.

    `errors` are the tests behind them, (standard error, degrees of freedom) each: of what `over` says, and of seeds alone. Where
    nothing varies at all there is no test: p is None.
    """

    value: float
    low: float
    high: float
    p: float | None
    errors: tuple[tuple[float, float], ...]
    over: str
    seeds: Range | None
    rows: Range | None
    by_seed: tuple[float, ...]
    num_rows: int


def compare(ours_SN: Floats, theirs_SN: Floats, weight_N: Floats, *, seed: int = 0) -> Difference:
    """ours - theirs of the figure sum_N x / sum_N weight, a mean over seeds.

    For a mean over rows the weights are 1; for bits per byte x are bits, weights bytes. With one seed the result is over rows
    alone, with one row over seeds alone. Raises ValueError for shapes that do not fit or weights that are not positive.

    >>> found = compare(np.array([[1.0, 0.9], [0.8, 1.1]]), np.array([[0.5, 0.6], [0.5, 0.4]]), np.ones(2))
    >>> round(found.value, 3), [round(one, 3) for one in found.by_seed], found.over
    (0.45, [0.4, 0.5], 'seeds and rows')
    """
    if ours_SN.shape != theirs_SN.shape or ours_SN.shape[1:] != weight_N.shape or not (weight_N > 0).all():
        raise ValueError(f"cannot compare {ours_SN.shape} with {theirs_SN.shape} over weights {weight_N.shape}: shapes must fit")
    difference_SN = ours_SN - theirs_SN
    num_seeds, num_rows = difference_SN.shape
    by_seed = difference_SN.sum(axis=1) / weight_N.sum()
    value = float(by_seed.mean())
    variances = {
        "seeds": (variance_over_seeds(by_seed), num_seeds - 1) if num_seeds > 1 else None,
        "rows": (variance_over_rows(difference_SN.mean(axis=0), weight_N), num_rows - 1) if num_rows > 1 else None,
    }
    known = {name: found for name, found in variances.items() if found is not None}
    errors = combine(list(known.values()))
    if "seeds" in known and len(known) > 1:
        errors += combine([known["seeds"]])
    ranges = [t_range(value, *error) for error in errors]
    tested = [one.p for one in ranges if one.p is not None]
    return Difference(
        value=value,
        low=min((one.low for one in ranges), default=value),
        high=max((one.high for one in ranges), default=value),
        p=max(tested, default=None),
        errors=errors,
        over=" and ".join(known) or "nothing",
        seeds=_over_seeds(value, known["seeds"]) if "seeds" in known else None,
        rows=_bootstrap(difference_SN.mean(axis=0), weight_N, seed=seed) if "rows" in known else None,
        by_seed=tuple(by_seed.tolist()),
        num_rows=num_rows,
    )


def variance_over_seeds(by_seed: Floats) -> float:
    """Of the mean over seeds: the sample variance over S."""
    residual_S = by_seed - by_seed.mean()
    return 0.0 if _is_dust(residual_S, by_seed) else float((residual_S**2).sum()) / (len(by_seed) - 1) / len(by_seed)


def variance_over_rows(difference_N: Floats, weight_N: Floats) -> float:
    """Of the ratio sum x / sum weight over rows drawn at random, by its linearisation (Cochran 1977, eq. 6.13, N rows of many).

    With equal weights it is the sample variance over N.
    """
    num_rows, ratio = len(weight_N), difference_N.sum() / weight_N.sum()
    residual_N = difference_N - ratio * weight_N
    if _is_dust(residual_N, difference_N):
        return 0.0
    return num_rows / (num_rows - 1) * float((residual_N**2).sum()) / float(weight_N.sum()) ** 2


def combine(variances: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The standard error and degrees of freedom of a sum of variances, (variance, degrees) each (Satterthwaite 1946).

    For the two of seeds and rows this is Clark's min F' (J. Verbal Learning and Verbal Behavior 12, 1973, eq. 17): F1 = d^2 / V1
    and F2 = d^2 / V2 give min F' = d^2 / (V1 + V2). Empty if nothing varies.

    >>> combine([(1.0, 4), (0.0, 99)]), combine([(2.0, 4), (2.0, 4)])
    (((1.0, 4.0),), ((2.0, 8.0),))
    """
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return ()
    return ((math.sqrt(total), total**2 / sum(variance**2 / degrees for variance, degrees in variances)),)


def t_range(value: float, standard_error: float, degrees: float) -> Range:
    """The t interval around a value and the two-sided p of zero.

    >>> t_range(2.0, 1.0, 4)
    Range(low=-0.776..., high=4.776..., p=0.116...)
    """
    half = float(stats.t.ppf(1 - LEVEL / 2, degrees)) * standard_error
    return Range(value - half, value + half, float(2 * stats.t.sf(abs(value) / standard_error, degrees)))


def detectable(errors: Sequence[tuple[float, float]], *, num_tests: int = 1) -> float:
    """The smallest true difference that tests at 5 % over `num_tests` (Bonferroni's share of it) find four times in five.

    It is (t of the level + t of the power) standard errors (Bloom 1995, minimum detectable effect), of the test that finds least.
    """
    found = [float(stats.t.ppf(1 - LEVEL / 2 / num_tests, degrees) + stats.t.ppf(POWER, degrees)) * error for error, degrees in errors]
    return max(found, default=0.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being so many: the chance of one false alarm among all stays 5 % (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected


def _over_seeds(value: float, variance: tuple[float, float]) -> Range:
    errors = combine([variance])
    return t_range(value, *errors[0]) if errors else Range(value, value)


def _bootstrap(difference_N: Floats, weight_N: Floats, *, seed: int) -> Range:
    generator = np.random.default_rng([seed, len(weight_N)])
    ratios = []
    for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
        count_RN = generator.multinomial(len(weight_N), np.full(len(weight_N), 1 / len(weight_N)), size=RESAMPLES_AT_ONCE)
        ratios.append((count_RN @ difference_N) / (count_RN @ weight_N))
    low, high = np.quantile(np.concatenate(ratios), [LEVEL / 2, 1 - LEVEL / 2])
    return Range(float(low), float(high))


def _is_dust(residual: Floats, values: Floats) -> bool:
    # Equal values have a variance of rounding errors, which a t test would take for certainty.
    return bool(np.abs(residual).max() <= 1e-12 * np.abs(values).max())
