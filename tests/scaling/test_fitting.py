"""Laws fitted to runs: constants that made the losses come back, a peer's minimiser agrees, what cannot be fitted says why."""

import numpy as np
import pytest
from scipy.optimize import check_grad, curve_fit

from bloomery.scaling.fitting import Measured, _huber, _logs, find_valleys, fit_exponent, fit_law, fit_with_intervals
from bloomery.scaling.laws import BESIROGLU, HOFFMANN, Split, predict_loss, split_flops

SIZES = (0.1e6, 0.2e6, 0.4e6, 0.8e6, 1.6e6)
RATIOS = (5, 20, 80)


def make_runs(law, *, noise: float = 0.0, seed: int = 0) -> list[Measured]:
    rng = np.random.default_rng(seed)
    splits = [Split(size, size * ratio) for size in SIZES for ratio in RATIOS]
    return [Measured(*split, predict_loss(law, split) * float(np.exp(noise * rng.normal()))) for split in splits]


@pytest.mark.parametrize("law", [BESIROGLU, HOFFMANN, BESIROGLU._replace(E=0.4, A=30.0, B=700.0, alpha=0.2, beta=0.5)])
def test_the_constants_that_made_the_losses_are_found_again(law):
    found = fit_law(make_runs(law))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-3), name
    assert (found.smallest_params, found.largest_params) == (min(SIZES), max(SIZES))


def test_a_generic_least_squares_solver_finds_the_same_law_where_no_run_is_far_off():
    runs = make_runs(BESIROGLU, noise=2e-4)

    def loss(x, A, B, E, alpha, beta):
        return np.log(E + A / x[0] ** alpha + B / x[1] ** beta)

    x = np.array([[run.params for run in runs], [run.tokens for run in runs]])
    wanted, _ = curve_fit(loss, x, np.log([run.loss for run in runs]), p0=[482, 2085, 1.8, 0.35, 0.37], maxfev=50_000)
    found = fit_law(runs)
    assert [found.A, found.B, found.E, found.alpha, found.beta] == pytest.approx(wanted, rel=1e-3)


def test_the_gradient_is_that_of_the_loss():
    logs = _logs(make_runs(BESIROGLU, noise=0.01))
    at = np.array([5.0, 6.5, 0.5, 0.3, 0.4])
    assert check_grad(lambda v: _huber(v, logs)[0], lambda v: _huber(v, logs)[1], at) < 1e-4 * np.linalg.norm(_huber(at, logs)[1])


def test_one_diverged_run_hardly_moves_the_law():
    runs = make_runs(BESIROGLU)
    spoilt = [*runs[:-1], runs[-1]._replace(loss=runs[-1].loss * 1.5)]
    target = Split(3e6, 6e7)
    assert predict_loss(fit_law(spoilt), target) == pytest.approx(predict_loss(BESIROGLU, target), rel=0.005)


def test_intervals_hold_the_truth_and_shrink_with_the_noise():
    target = Split(3e6, 6e7)
    truth = predict_loss(BESIROGLU, target)
    widths = {}
    for noise in (1e-2, 1e-3):
        found = [fit_with_intervals(make_runs(BESIROGLU, noise=noise, seed=seed), seed=seed, num_resamples=25) for seed in range(3)]
        ranges = [fit.predict(target) for fit in found]
        assert all(one.low <= truth <= one.high for one in ranges)
        widths[noise] = np.mean([one.high - one.low for one in ranges])
        assert all(abs(one.value / truth - 1) < 4 * noise for one in ranges)
    assert widths[1e-3] < widths[1e-2] / 3
    assert fit_with_intervals(make_runs(BESIROGLU, noise=1e-2), seed=1, num_resamples=5) == fit_with_intervals(
        make_runs(BESIROGLU, noise=1e-2), seed=1, num_resamples=5
    )


def test_the_valley_of_each_budget_lies_at_the_best_size_and_their_exponent_is_the_laws():
    runs, budgets = [], (1e13, 4e13, 1.6e14)
    for flops in budgets:
        best = split_flops(BESIROGLU, flops).params
        for factor in (0.5, 0.7, 1.0, 1.4, 2.0):
            split = Split(best * factor, flops / 6 / (best * factor))
            runs.append(Measured(*split, predict_loss(BESIROGLU, split)))
    valleys = find_valleys(runs)
    assert [valley.flops for valley in valleys] == pytest.approx(budgets)
    for valley in valleys:
        assert valley.is_inside
        assert valley.params == pytest.approx(split_flops(BESIROGLU, valley.flops).params, rel=0.05)
    assert fit_exponent(valleys) == pytest.approx(BESIROGLU.exponent, abs=0.02)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (make_runs(BESIROGLU)[:5], "give 6 runs or more, found 5"),
        ([run._replace(params=1e6) for run in make_runs(BESIROGLU)], "three sizes or more"),
        ([run._replace(tokens=1e6) for run in make_runs(BESIROGLU)], "three numbers of tokens or more"),
        ([*make_runs(BESIROGLU), Measured(1e6, 1e7, float("nan"))], "positive and finite"),
    ],
)
def test_runs_that_tell_no_law_are_refused_with_the_reason(runs, message):
    with pytest.raises(ValueError, match=message):
        fit_law(runs)
