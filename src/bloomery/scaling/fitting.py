"""A law of one's own: L(N, D) = E + A / N^alpha + B / D^beta fitted to finished runs, with intervals, and how far it can be trusted.

The fit is Hoffmann's third approach (arXiv:2203.15556, sec. 3.3 and D.3): least Huber loss of log L, over the five constants as
(log A, log B, log E, alpha, beta), from many starts, with L-BFGS. As Besiroglu et al. (arXiv:2404.10102) found, the published constants
came from a minimiser that stopped too early; here it goes on until nothing changes, and the sum (not the mean) of the losses is
minimised. Starts come from a grid of exponents: for given ones the law is linear in E, A, B, and non-negative least squares solves it.

Intervals are a bootstrap over runs: the fit is made again on as many runs drawn with replacement.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls

from bloomery.scaling.laws import FLOPS_PER_PARAM_TOKEN, LAW_KEYS, Law, Split, predict_loss

HUBER_DELTA = 1e-3
"""Of log L; Hoffmann's. A run that is further off counts by its distance and no longer by its square."""
GRID = (0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.9, 1.2)
NUM_STARTS = 6
FEWEST_RUNS = 6
"""Five constants: with as many runs anything fits."""
EXPONENT_LIMITS = (0.01, 3.0)

Vector = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """A finished run: its parameters, the tokens it read, its loss on held-out text in nats a token."""

    params: float
    tokens: float
    loss: float


class Range(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


class Fit(NamedTuple):
    """A law with what it stands on: `errors` are log(predicted / measured) of each run, `resamples` the laws of the bootstrap."""

    law: Law
    runs: Sequence[Measured]
    errors: Sequence[float]
    resamples: Sequence[Law]

    def constants(self) -> Mapping[str, Range]:
        """E, A, B, alpha, beta and the exponent of the best size, each with its interval."""
        names = (*LAW_KEYS, "exponent")
        return {name: _range(getattr(self.law, name), [getattr(law, name) for law in self.resamples]) for name in names}

    def predict(self, split: Split) -> Range:
        """The loss to expect of a run, in nats a token; the interval is that of the fit, without the run's own noise."""
        return _range(predict_loss(self.law, split), [predict_loss(law, split) for law in self.resamples])


def fit_law(runs: Sequence[Measured], *, name: str = "fitted", source: str = "") -> Law:
    """The law of least Huber loss. Raises ValueError for too few runs, or runs of one size or one number of tokens only."""
    check_runs(runs)
    logs_R3 = _logs(runs)
    starts = _starts(logs_R3)
    best = min((_descend(start, logs_R3) for start in starts), key=lambda found: found[1])
    return _as_law(best[0], runs, name=name, source=source)


def fit_with_intervals(runs: Sequence[Measured], *, seed: int, num_resamples: int = 200, name: str = "fitted", source: str = "") -> Fit:
    """The law and its bootstrap. Resamples that cannot be fitted (all of one size) are drawn again."""
    law = fit_law(runs, name=name, source=source)
    rng = np.random.default_rng([seed, len(runs)])
    resamples: list[Law] = []
    while len(resamples) < num_resamples:
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        if len({run.params for run in drawn}) >= 2 and len({run.tokens for run in drawn}) >= 2:
            logs_R3 = _logs(drawn)
            starts = [_as_vector(law), *_starts(logs_R3)[:2]]
            vector, _ = min((_descend(start, logs_R3) for start in starts), key=lambda found: found[1])
            resamples.append(_as_law(vector, drawn, name=name, source=""))
    errors = [float(np.log(predict_loss(law, Split(run.params, run.tokens)) / run.loss)) for run in runs]
    return Fit(law, list(runs), errors, resamples)


class Valley(NamedTuple):
    """Of one budget: the size of the least loss, by a parabola in log N through its runs (Hoffmann's second approach)."""

    flops: float
    params: float
    loss: float
    is_inside: bool
    """Whether the lowest point lies between the smallest and the largest size that were run; else it is a guess."""


def find_valleys(runs: Sequence[Measured], *, tolerance: float = 0.05) -> list[Valley]:
    """The best size of each budget that three runs or more have spent, budgets within `tolerance` of each other being one."""
    groups: list[list[Measured]] = []
    for run in sorted(runs, key=_flops):
        if groups and _flops(run) <= _flops(groups[-1][0]) * (1 + tolerance):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [valley for group in groups if len({run.params for run in group}) >= 3 and (valley := _valley(group)) is not None]


def fit_exponent(valleys: Sequence[Valley]) -> float:
    """a in N = G C^a through the valleys of two budgets or more. Raises ValueError for fewer."""
    if len({valley.flops for valley in valleys}) < 2:
        raise ValueError("the exponent of the best size needs valleys of two budgets or more")
    x, y = np.log([valley.flops for valley in valleys]), np.log([valley.params for valley in valleys])
    return float(np.polyfit(x, y, 1)[0])


def check_runs(runs: Sequence[Measured]) -> None:
    """Raises ValueError, saying what is missing, if no law can be fitted to these runs."""
    if len(runs) < FEWEST_RUNS:
        raise ValueError(f"a law has five constants: give {FEWEST_RUNS} runs or more, found {len(runs)}")
    wrong = [run for run in runs if not (np.isfinite(run).all() and min(run) > 0)]
    if wrong:
        raise ValueError(f"parameters, tokens and loss must be positive and finite; found {wrong[0]}")
    for what, values in (("sizes", {run.params for run in runs}), ("numbers of tokens", {run.tokens for run in runs})):
        if len(values) < 3:
            raise ValueError(f"a law needs three {what} or more to tell their effect; found {len(values)}")


def _flops(run: Measured) -> float:
    return FLOPS_PER_PARAM_TOKEN * run.params * run.tokens


def _valley(group: Sequence[Measured]) -> Valley | None:
    x_R = np.log([run.params for run in group])
    square, slope, level = np.polyfit(x_R - x_R.mean(), [run.loss for run in group], 2)
    if square <= 0:
        return None  # no valley: the loss only falls, or only rises, over these sizes
    at = -slope / (2 * square)
    low, high = x_R.min() - x_R.mean(), x_R.max() - x_R.mean()
    flops = float(np.exp(np.mean([np.log(_flops(run)) for run in group])))
    return Valley(flops, float(np.exp(at + x_R.mean())), float(level - slope**2 / (4 * square)), bool(low <= at <= high))


def _logs(runs: Sequence[Measured]) -> Vector:
    return np.log(np.array(runs, dtype=np.float64))


def _starts(logs_R3: Vector) -> list[Vector]:
    """The best vectors (log A, log B, log E, alpha, beta) of the grid, each with the constants that its exponents ask for."""
    loss_R = np.exp(logs_R3[:, 2])
    found = []
    for alpha in GRID:
        for beta in GRID:
            # Scaled columns: N^-alpha may be 1e-12, and the solver's tolerance is not relative.
            scale = np.array([alpha * logs_R3[:, 0].mean(), beta * logs_R3[:, 1].mean()])
            columns_R3 = np.stack(
                [np.exp(scale[0] - alpha * logs_R3[:, 0]), np.exp(scale[1] - beta * logs_R3[:, 1]), np.ones(len(loss_R))], axis=1
            )
            constants, residual = nnls(columns_R3 / loss_R[:, None], np.ones(len(loss_R)))
            logs = np.log(np.maximum(constants, 1e-8)) + np.array([scale[0], scale[1], 0.0])
            found.append((residual, np.array([*logs, alpha, beta])))
    found.sort(key=lambda pair: pair[0])
    return [vector for _, vector in found[:NUM_STARTS]]


def _descend(start: Vector, logs_R3: Vector) -> tuple[Vector, float]:
    bounds = [(None, None)] * 3 + [EXPONENT_LIMITS] * 2
    options = {"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(_huber, start, args=(logs_R3,), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x, float(found.fun)


def _huber(vector: Vector, logs_R3: Vector) -> tuple[float, Vector]:
    """Sum over runs of the Huber loss of log L, and its gradient; in units of delta squared, so that the tolerances mean something."""
    a, b, e, alpha, beta = vector
    n_R, d_R = logs_R3[:, 0], logs_R3[:, 1]
    terms_3R = np.stack([a - alpha * n_R, b - beta * d_R, np.full(len(n_R), e)])
    most_R = terms_3R.max(axis=0)
    log_loss_R = most_R + np.log(np.exp(terms_3R - most_R).sum(axis=0))
    share_3R = np.exp(terms_3R - log_loss_R)
    error_R = (log_loss_R - logs_R3[:, 2]) / HUBER_DELTA
    is_far_R = np.abs(error_R) > 1
    value = float(np.where(is_far_R, np.abs(error_R) - 0.5, error_R**2 / 2).sum())
    slope_R = np.where(is_far_R, np.sign(error_R), error_R) / HUBER_DELTA
    gradient = np.array([slope_R @ share_3R[0], slope_R @ share_3R[1], slope_R @ share_3R[2], 0.0, 0.0])
    gradient[3], gradient[4] = -slope_R @ (share_3R[0] * n_R), -slope_R @ (share_3R[1] * d_R)
    return value, gradient


def _as_vector(law: Law) -> Vector:
    return np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])


def _as_law(vector: Vector, runs: Sequence[Measured], *, name: str, source: str) -> Law:
    A, B, E = np.exp(vector[:3]).tolist()
    sizes = [run.params for run in runs]
    return Law(name, E, A, B, float(vector[3]), float(vector[4]), source, min(sizes), max(sizes))


def _range(value: float, drawn: Sequence[float]) -> Range:
    if not drawn:
        return Range(value, value, value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Range(value, float(low), float(high))
