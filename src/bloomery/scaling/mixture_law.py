"""What a mixture of sources comes to: the loss on each source's held-out text as a function of the shares, tested and then minimised.

RegMix (arXiv:2407.01492) regresses the loss on the shares, simulates many mixtures and takes the mean of the best ones; the regressions
here are those that a few dozen runs can carry. r_j are shares, b is the loss of one source:

    mean          b = a                                     what every other form has to beat
    linear        b = sum_j t_j r_j                         RegMix's linear regression
    log           b = a + sum_j t_j log(r_j + 0.01)         each doubling of a source counts the same
    exponential   b = c + exp(sum_j t_j r_j)                Data Mixing Laws (arXiv:2403.16952; its k is in t, as shares sum to 1)

For each source the form of least leave-one-out error on the fitted runs is taken. Runs that were held out say what it is worth: the
error, the skill over the mean, the rank correlation, beside the noise between seeds. Intervals of predictions and of the suggestion are a
bootstrap of residuals (the tried mixtures are a design, not a sample), those of the test a bootstrap over held-out mixtures.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.stats import chi2, rankdata
from scipy.stats import t as student

from bloomery.scaling.fitting import Range
from bloomery.scaling.mixture_plan import draw_mixtures, pull_back, round_shares

Form = Literal["mean", "linear", "log", "exponential"]
FORMS: tuple[Form, ...] = get_args(Form)
FLOOR_SHARE = 0.01
"""In the logarithm, beside the share: what a source that is left out counts as."""
FEWEST_HELD_OUT = 4
"""With fewer no order of mixtures can be told from chance."""
TRIAL_RESAMPLES = 2000
PERMUTATIONS = 20_000
RESAMPLE_EVERY = 5
"""In the bootstrap one in five of the simulated mixtures is asked for, and a fifth of the best taken: the same part."""
MAX_P_VALUE = 0.05

Vector = npt.NDArray[np.float64]


class SourceLaw(NamedTuple):
    """Of one source: its form, the form's constants, and the leave-one-out error of every form on the fitted runs."""

    form: Form
    constants: Vector
    errors: Mapping[Form, float]


class MixtureFit(NamedTuple):
    """A law for each of S sources, fitted to R runs; `resamples` are constants of the same forms from the bootstrap."""

    laws: Sequence[SourceLaw]
    weights: Vector
    """Of the sources in the target; they sum to 1."""
    share_RS: Vector
    loss_RS: Vector
    resamples: Sequence[Sequence[Vector]]

    def predict(self, share_RS: Vector, constants: Sequence[Vector] | None = None) -> Vector:
        """The loss of each source for each mixture, [R, S]; `constants` of a resample in place of the fit's own."""
        chosen = [law.constants for law in self.laws] if constants is None else constants
        designs = {law.form: _design(law.form, share_RS) for law in self.laws}
        return np.stack([_value(law.form, values, designs[law.form]) for law, values in zip(self.laws, chosen, strict=True)], axis=1)

    def predict_target(self, share_RS: Vector, constants: Sequence[Vector] | None = None) -> Vector:
        """The weighted mean of the losses of all sources for each mixture, [R]."""
        return self.predict(share_RS, constants) @ self.weights


class Trial(NamedTuple):
    """What predictions were worth on runs that were not fitted."""

    rmse: Range
    """Root of the mean squared error, in the unit of the loss."""
    skill: Range
    """1 - squared error / squared error of the mean of the fitted runs (R squared): 0 is no better than that mean, 1 is perfect."""
    spearman: Range
    """Rank correlation of predicted and measured."""
    p_value: float
    """Of such a rank correlation or a larger one, if the order were chance (permutations, all of them up to eight runs)."""
    num_runs: int


class Noise(NamedTuple):
    """Standard deviation between runs that differ only in their seed, pooled over mixtures, with its 95 % interval."""

    deviation: Range
    degrees: int

    @property
    def between_two_runs(self) -> float:
        """Two runs of one mixture differ by more than this in one of twenty cases."""
        return float(student.ppf(0.975, self.degrees) * np.sqrt(2) * self.deviation.value)


class Suggestion(NamedTuple):
    """The mixture of least predicted target, [S] each."""

    share_S: Vector
    low_S: Vector
    high_S: Vector
    uncapped_S: Vector
    """What it would be if every source could be repeated for ever."""
    predicted: Range
    natural: Range
    """The target of the natural mixture, by the law."""
    gain: Range
    """How much lower the target is than that of the natural mixture."""


class Verdict(NamedTuple):
    """Whether to go by the suggestion, and why."""

    key: Literal["do_not_trust", "natural_is_as_good", "suggested"]
    text: str


def fit_mixtures(share_RS: Vector, loss_RS: Vector, weights: Sequence[float], *, seed: int, num_resamples: int = 200) -> MixtureFit:
    """Laws of S sources from R runs with these shares and losses. Raises ValueError for too few runs, or values that are not finite."""
    num_runs, num_sources = share_RS.shape
    if num_runs < fewest_runs(num_sources):
        raise ValueError(
            f"a law of {num_sources} sources has up to {num_sources + 1} constants: "
            f"fit it to {fewest_runs(num_sources)} mixtures or more, found {num_runs}"
        )
    if not (np.isfinite(share_RS).all() and np.isfinite(loss_RS).all()):
        raise ValueError("shares and losses must be finite: did a run diverge?")
    laws = [_choose(share_RS, loss_RS[:, i]) for i in range(loss_RS.shape[1])]
    fit = MixtureFit(laws, np.asarray(weights, dtype=np.float64) / np.sum(weights), share_RS, loss_RS, [])
    return fit._replace(resamples=_resample(fit, seed=seed, num_resamples=num_resamples))


def fewest_runs(num_sources: int) -> int:
    """As many as the constants of the largest form, and three to tell forms apart."""
    return num_sources + 4


def leave_one_out(form: Form, share_RS: Vector, loss_R: Vector) -> Vector:
    """Errors (predicted - measured) of each run by the law of the others, [R]."""
    errors = np.empty(len(loss_R))
    for i in range(len(loss_R)):
        kept = np.arange(len(loss_R)) != i
        constants = _fit(form, share_RS[kept], loss_R[kept])
        errors[i] = _value(form, constants, _design(form, share_RS[i : i + 1]))[0] - loss_R[i]
    return errors


def try_out(measured_R: Vector, predicted_R: Vector, *, baseline: float, seed: int) -> Trial:
    """Predictions against measurements of held-out runs; `baseline` is what a law of no effect predicts for all of them.

    Raises ValueError for fewer than FEWEST_HELD_OUT runs.
    """
    num_runs = len(measured_R)
    if num_runs < FEWEST_HELD_OUT:
        raise ValueError(f"{FEWEST_HELD_OUT} held-out mixtures or more are needed to test a law, found {num_runs}")
    rng = np.random.default_rng([seed, num_runs])
    drawn_BR = rng.integers(num_runs, size=(8 * TRIAL_RESAMPLES, num_runs))
    # Two runs have an order, but no correlation to speak of.
    drawn_BR = drawn_BR[np.array([len(set(row)) >= 3 for row in drawn_BR.tolist()])][:TRIAL_RESAMPLES]
    pairs: tuple[Vector, Vector] = (measured_R[None], predicted_R[None])
    resampled: tuple[Vector, Vector] = (measured_R[drawn_BR], predicted_R[drawn_BR])

    def ranged(statistic: Callable[[Vector, Vector], Vector]) -> Range:
        low, high = np.quantile(statistic(*resampled), [0.025, 0.975])
        return Range(float(statistic(*pairs)[0]), float(low), float(high))

    return Trial(
        ranged(lambda y, found: np.sqrt(((found - y) ** 2).mean(axis=1))),
        ranged(lambda y, found: 1 - ((found - y) ** 2).sum(axis=1) / np.maximum(((y - baseline) ** 2).sum(axis=1), 1e-300)),
        ranged(rank_correlation),
        _permutation_p_value(measured_R, predicted_R, seed),
        num_runs,
    )


def rank_correlation(x_BR: Vector, y_BR: Vector) -> Vector:
    """Spearman's rho of each row, ties at their mean rank; 0 where all values are equal, [B]."""
    x_BR, y_BR = rankdata(x_BR, axis=1), rankdata(y_BR, axis=1)
    x_BR, y_BR = x_BR - x_BR.mean(axis=1, keepdims=True), y_BR - y_BR.mean(axis=1, keepdims=True)
    scale_B = np.sqrt((x_BR**2).sum(axis=1) * (y_BR**2).sum(axis=1))
    return np.asarray(np.where(scale_B > 0, (x_BR * y_BR).sum(axis=1) / np.maximum(scale_B, 1e-300), 0.0))


def pool_noise(groups: Sequence[Sequence[float]]) -> Noise | None:
    """The noise of runs that are grouped by mixture; None if no mixture was run twice."""
    degrees = sum(len(group) - 1 for group in groups if group)
    if not degrees:
        return None
    squares = sum(float(((np.asarray(group) - np.mean(group)) ** 2).sum()) for group in groups if group)
    low, high = np.sqrt(squares / chi2.ppf([0.975, 0.025], degrees)).tolist()
    return Noise(Range(float(np.sqrt(squares / degrees)), low, high), degrees)


def suggest_mixture(
    fit: MixtureFit, natural_S: Vector, *, caps: Vector, num_simulated: int = 100_000, num_best: int = 100, seed: int
) -> Suggestion:
    """The mean of the best of many simulated mixtures: each share between the least and the most that was fitted, and within `caps`."""
    floor_caps_S = np.floor(np.round(caps * 1000, 9)) / 1000
    low_S, high_S = fit.share_RS.min(axis=0), fit.share_RS.max(axis=0)
    drawn_RS = draw_mixtures(natural_S, num_simulated, caps=np.ones_like(caps), seed=seed)
    free_RS = np.vstack([natural_S, pull_back(drawn_RS, natural_S, low=low_S, high=high_S)])
    within_RS = np.vstack([natural_S, pull_back(drawn_RS, natural_S, low=low_S, high=np.minimum(high_S, floor_caps_S))])

    def best(share_RS: Vector, count: int, constants: Sequence[Vector] | None = None) -> Vector:
        chosen = np.argpartition(fit.predict_target(share_RS, constants), count)[:count]
        return np.asarray(share_RS[chosen].mean(axis=0), dtype=np.float64)

    share_S = round_shares(best(within_RS, num_best))
    some_RS, few = within_RS[::RESAMPLE_EVERY], max(1, num_best // RESAMPLE_EVERY)
    resampled_BS = np.stack([best(some_RS, few, constants) for constants in fit.resamples])
    low, high = np.quantile(resampled_BS, [0.025, 0.975], axis=0)
    two_2S = np.stack([share_S, natural_S])
    targets_B2 = np.stack([fit.predict_target(two_2S, constants) for constants in fit.resamples])
    value_2 = fit.predict_target(two_2S)
    return Suggestion(
        share_S,
        low,
        high,
        best(free_RS, num_best),
        _range(value_2[0], targets_B2[:, 0]),
        _range(value_2[1], targets_B2[:, 1]),
        _range(value_2[1] - value_2[0], targets_B2[:, 1] - targets_B2[:, 0]),
    )


def judge(trial: Trial, gain: Range, noise: Noise | None, *, measured: Range | None = None) -> Verdict:
    """Do not trust a law that fails on held-out runs; keep the natural mixture where the gain is not more than noise.

    `measured` is the gain of the suggested mixture as it was run: it can take a verdict back, and not give one.
    """
    verdict = _judge_law(trial, gain, noise)
    if measured is None:
        return verdict
    told = f"As run at the size of the proxies, the gain was {measured.value:.4f} [{measured.low:.4f}, {measured.high:.4f}]"
    if verdict.key == "suggested" and measured.low <= 0:
        return Verdict("natural_is_as_good", f"{verdict.text} But it did not come true: {told[0].lower()}{told[1:]}.")
    return verdict._replace(text=f"{verdict.text} {told}.")


def _judge_law(trial: Trial, gain: Range, noise: Noise | None) -> Verdict:
    advice = "Try more proxies, longer ones, or keep the natural mixture."
    if trial.skill.value <= 0:
        failed = f"the law is no better than their mean (skill {trial.skill.value:.2f})"
        return Verdict("do_not_trust", f"Do not trust this: on {trial.num_runs} held-out mixtures {failed}. {advice}")
    if trial.spearman.low <= 0 or trial.p_value > MAX_P_VALUE:
        rank = f"{trial.spearman.value:.2f} [{trial.spearman.low:.2f}, {trial.spearman.high:.2f}], p = {trial.p_value:.3f}"
        failed = f"the order that the law gives to {trial.num_runs} held-out mixtures may be chance (rank correlation {rank})"
        return Verdict("do_not_trust", f"Do not trust this: {failed}. {advice}")
    held = (
        f"The law holds on {trial.num_runs} held-out mixtures (skill {trial.skill.value:.2f}, rank correlation {trial.spearman.value:.2f})"
    )
    told = f"the predicted gain over the natural mixture, {gain.value:.4f} [{gain.low:.4f}, {gain.high:.4f}]"
    if gain.low <= 0:
        return Verdict("natural_is_as_good", f"{held}, but {told}, may be none: the natural mixture is as good.")
    if noise is None:
        return Verdict("suggested", f"{held}, and {told}, is above 0; the noise between seeds was not measured.")
    between = f"{noise.between_two_runs:.4f}"
    if gain.value <= noise.between_two_runs:
        under = f"is under the noise (two runs of one mixture differ by up to {between})"
        return Verdict("natural_is_as_good", f"{held}, but {told}, {under}: the natural mixture is as good.")
    return Verdict("suggested", f"{held}, and {told}, is above the noise between two runs ({between}).")


def compare_means(first: Sequence[float], second: Sequence[float], noise: Noise) -> Range:
    """Mean of `first` less that of `second`, with a 95 % interval of Student's t by the pooled noise."""
    value = float(np.mean(first) - np.mean(second))
    error = noise.deviation.value * float(np.sqrt(1 / len(first) + 1 / len(second)) * student.ppf(0.975, noise.degrees))
    return Range(value, value - error, value + error)


def _choose(share_RS: Vector, loss_R: Vector) -> SourceLaw:
    errors = {form: float(np.sqrt((leave_one_out(form, share_RS, loss_R) ** 2).mean())) for form in FORMS}
    form = min(FORMS, key=lambda form: errors[form])  # of equal ones the simpler
    return SourceLaw(form, _fit(form, share_RS, loss_R), errors)


def _resample(fit: MixtureFit, *, seed: int, num_resamples: int) -> list[list[Vector]]:
    rng = np.random.default_rng([seed, *fit.share_RS.shape])
    predicted_RS = fit.predict(fit.share_RS)
    num_runs = len(predicted_RS)
    # Residuals of a fit are smaller than the noise: it went after it with its constants.
    widen_S = np.array([np.sqrt(num_runs / (num_runs - len(law.constants))) for law in fit.laws])
    error_RS = (fit.loss_RS - predicted_RS) * widen_S
    resamples = []
    for _ in range(num_resamples):
        drawn_RS = predicted_RS + error_RS[rng.integers(num_runs, size=num_runs)]
        resamples.append([_fit(law.form, fit.share_RS, drawn_RS[:, i], start=law.constants) for i, law in enumerate(fit.laws)])
    return resamples


def _design(form: Form, share_RS: Vector) -> Vector:
    if form == "mean":
        return np.ones((len(share_RS), 1))
    if form == "log":
        return np.hstack([np.ones((len(share_RS), 1)), np.log(share_RS + FLOOR_SHARE)])
    return share_RS


def _value(form: Form, constants: Vector, design: Vector) -> Vector:
    if form == "exponential":
        return np.asarray(constants[0] + np.exp(np.minimum(design @ constants[1:], 50.0)))
    return np.asarray(design @ constants)


def _fit(form: Form, share_RS: Vector, loss_R: Vector, *, start: Vector | None = None) -> Vector:
    """Least squares of the loss."""
    if form == "exponential":
        return _fit_exponential(share_RS, loss_R, start)
    return np.asarray(np.linalg.lstsq(_design(form, share_RS), loss_R, rcond=None)[0])


def _fit_exponential(share_RS: Vector, loss_R: Vector, start: Vector | None) -> Vector:
    """(c, t_1 .. t_S), 0 <= c < the least loss. For a given c the law is linear in logarithms: a grid of them gives the start."""
    least, spread = float(loss_R.min()), max(float(np.ptp(loss_R)), 1e-9)
    highest = least - 1e-3 * spread
    lowest = 0.0 if highest > 0 else highest - spread  # a loss of 0 or less is no loss, but must not stop a bootstrap
    if start is None:
        tried = [max(lowest, least - part * spread) for part in (0.03, 0.1, 0.3, 1.0, 3.0)]
        starts = [np.array([c, *_logarithmic_fit(share_RS, loss_R, c)]) for c in tried]
        start = min(starts, key=lambda found: float(((_value("exponential", found, share_RS) - loss_R) ** 2).sum()))

    def errors(vector: Vector) -> Vector:
        return _value("exponential", vector, share_RS) - loss_R

    def slopes(vector: Vector) -> Vector:
        return np.hstack([np.ones((len(loss_R), 1)), np.exp(np.minimum(share_RS @ vector[1:], 50.0))[:, None] * share_RS])

    bounds = ([lowest] + [-50.0] * share_RS.shape[1], [highest] + [50.0] * share_RS.shape[1])
    inside = np.clip(start, np.array(bounds[0]) + 1e-9, np.array(bounds[1]) - 1e-9)
    return np.asarray(least_squares(errors, inside, jac=slopes, bounds=bounds, x_scale="jac", ftol=1e-7, xtol=1e-7, max_nfev=50).x)


def _logarithmic_fit(share_RS: Vector, loss_R: Vector, c: float) -> Vector:
    rest_R = loss_R - c  # an error in the logarithm counts times this in the loss
    return np.asarray(np.linalg.lstsq(rest_R[:, None] * share_RS, rest_R * np.log(rest_R), rcond=None)[0])


def _permutation_p_value(measured_R: Vector, predicted_R: Vector, seed: int) -> float:
    """The part of all orders (of a draw of them, and the order itself, beyond eight runs) that correlate as well or better."""
    num_runs = len(measured_R)
    if num_runs <= 8:
        order_BR = np.array(list(itertools.permutations(range(num_runs))))
    else:
        rng = np.random.default_rng([seed, num_runs, 1])
        order_BR = np.vstack([np.arange(num_runs), rng.permuted(np.tile(np.arange(num_runs), (PERMUTATIONS, 1)), axis=1)])
    chance_B = rank_correlation(measured_R[order_BR], np.broadcast_to(predicted_R, order_BR.shape))
    found = rank_correlation(measured_R[None], predicted_R[None])[0]
    return float((chance_B >= found - 1e-12).mean())


def _range(value: float, drawn: Vector) -> Range:
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Range(float(value), low, high)
