"""The law of mixtures: planted laws come back with their optimum, noise is not trusted, statistics are those of scipy."""

import numpy as np
import pytest
from scipy import stats

from bloomery.scaling.fitting import Range
from bloomery.scaling.mixture_law import (
    FORMS,
    Trial,
    compare_means,
    fit_mixtures,
    judge,
    leave_one_out,
    pool_noise,
    rank_correlation,
    suggest_mixture,
    try_out,
)
from bloomery.scaling.mixture_plan import draw_mixtures, natural_mixture, plan_mixtures, share_caps

SIZES = [5e6, 2e6, 1e6]
NATURAL = natural_mixture(SIZES)
FLOORS = np.array([1.0, 1.2, 0.9])
EFFECTS = np.array([[-2.0, 0.1, -0.3], [0.2, -2.5, 0.0], [-0.2, 0.3, -3.0]])
"""Of source j (columns) on the loss of source i: each helps itself most."""
FREE = np.ones(3)


def planted(share_RS: np.ndarray) -> np.ndarray:
    """The law of Data Mixing Laws (arXiv:2403.16952)."""
    return FLOORS + np.exp(share_RS @ EFFECTS.T)


def experiment(law, *, noise: float, seed: int = 0, num_fitted: int = 16, num_held_out: int = 8, num_resamples: int = 40):
    plan = plan_mixtures(SIZES, num_fitted=num_fitted, num_held_out=num_held_out, caps=FREE, seed=seed)
    rng = np.random.default_rng(seed + 100)
    fitted, held_out = np.stack(plan.fitted), np.stack(plan.held_out)
    losses = law(fitted) + noise * rng.standard_normal(fitted.shape)
    fit = fit_mixtures(fitted, losses, [1, 1, 1], seed=seed, num_resamples=num_resamples)
    measured = (law(held_out) + noise * rng.standard_normal(held_out.shape)) @ fit.weights
    trial = try_out(measured, fit.predict_target(held_out), baseline=float((losses @ fit.weights).mean()), seed=seed)
    return fit, trial


@pytest.fixture(scope="module")
def exponential():
    return experiment(planted, noise=0.01)


def test_a_planted_exponential_law_is_chosen_and_its_error_on_held_out_mixtures_is_about_the_noise(exponential):
    fit, trial = exponential
    assert [law.form for law in fit.laws] == ["exponential"] * 3
    noise_of_target = 0.01 / np.sqrt(3)
    assert trial.rmse.value < 2 * noise_of_target and trial.skill.value > 0.95 and trial.p_value < 0.01
    assert trial.rmse.low <= trial.rmse.value <= trial.rmse.high


def test_the_suggestion_finds_the_planted_optimum_and_its_intervals_hold_it(exponential):
    fit, _ = exponential
    suggestion = suggest_mixture(fit, NATURAL, caps=FREE, num_simulated=20_000, num_best=20, seed=0)
    every = draw_mixtures(NATURAL, 200_000, caps=FREE, seed=9)
    losses = planted(every).mean(axis=1)
    best = every[losses.argmin()]
    assert np.abs(suggestion.share_S - best).max() < 0.05 and suggestion.share_S.sum() == pytest.approx(1)
    assert planted(suggestion.share_S[None]).mean() - losses.min() < 0.003
    true_gain = planted(NATURAL[None]).mean() - planted(suggestion.share_S[None]).mean()
    assert suggestion.gain.low - 0.005 < true_gain < suggestion.gain.high + 0.005
    assert (suggestion.low_S <= suggestion.high_S).all() and suggestion.uncapped_S == pytest.approx(suggestion.share_S, abs=0.01)


def test_a_source_is_not_suggested_beyond_its_limit_nor_beyond_what_was_tried(exponential):
    fit, _ = exponential
    caps = share_caps(SIZES, tokens=5e6, max_epochs=1)
    suggestion = suggest_mixture(fit, NATURAL, caps=caps, num_simulated=20_000, num_best=20, seed=0)
    assert caps[2] == 0.2 < suggestion.uncapped_S[2]
    assert 0.19 < suggestion.share_S[2] <= 0.2 and (suggestion.share_S <= caps).all()
    only = fit._replace(weights=np.array([0.0, 0.0, 1.0]))
    far = suggest_mixture(only, NATURAL, caps=FREE, num_simulated=20_000, num_best=20, seed=0)
    assert 0.8 * fit.share_RS[:, 2].max() < far.share_S[2] <= fit.share_RS[:, 2].max() + 1e-3


@pytest.mark.parametrize(
    ("law", "form"),
    [
        (lambda r: r @ np.array([[1.0, 2.0, 2.5], [2.0, 1.0, 2.5], [2.5, 2.0, 1.0]]).T, "linear"),
        (lambda r: 2 - np.log(r + 0.01) @ np.array([[0.3, 0.0, 0.02], [0.01, 0.3, 0.0], [0.0, 0.02, 0.3]]).T, "log"),
    ],
)
def test_other_laws_are_told_apart_from_the_exponential_one(law, form):
    fit, trial = experiment(law, noise=0.01)
    assert [found.form for found in fit.laws] == [form] * 3
    assert trial.skill.value > 0.95


def test_a_linear_law_is_exact_least_squares():
    fit, _ = experiment(lambda r: r @ np.diag([1.0, 2.0, 3.0]), noise=0.1)
    for i, law in enumerate(fit.laws):
        if law.form == "linear":
            assert law.constants == pytest.approx(np.linalg.lstsq(fit.share_RS, fit.loss_RS[:, i], rcond=None)[0])
    assert any(law.form == "linear" for law in fit.laws)


def test_pure_noise_is_not_trusted():
    verdicts = []
    for seed in range(4):
        fit, trial = experiment(lambda r: np.full_like(r, 2.0), noise=0.05, seed=seed, num_fitted=12, num_resamples=10)
        suggestion = suggest_mixture(fit, NATURAL, caps=FREE, num_simulated=2000, num_best=20, seed=seed)
        verdicts.append(judge(trial, suggestion.gain, pool_noise([[2.0, 2.05, 1.96]])).key)
    assert "suggested" not in verdicts and verdicts.count("do_not_trust") >= 3


def test_leaving_one_out_is_what_a_plain_loop_says():
    rng = np.random.default_rng(0)
    share, loss = rng.dirichlet([1, 1, 1], size=9), rng.standard_normal(9)
    assert leave_one_out("mean", share, loss) == pytest.approx([np.delete(loss, i).mean() - loss[i] for i in range(9)])
    hat = share @ np.linalg.pinv(share)
    press = (hat @ loss - loss) / (1 - np.diag(hat))  # the closed form for linear least squares
    assert leave_one_out("linear", share, loss) == pytest.approx(press)


def test_rank_correlation_and_its_chance_are_those_of_scipy():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((5, 7)), rng.standard_normal((5, 7)).round(0)
    y[0] = 1.0
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x[1:], y[1:], strict=True)]
    assert rank_correlation(x, y) == pytest.approx([0.0, *expected])
    measured, predicted = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.2, 2.1, 2.0, 4.5, 4.4, 6.0])
    expected = stats.permutation_test(
        (measured,),
        lambda a: stats.spearmanr(a, predicted).statistic,
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert try_out(measured, predicted, baseline=3.0, seed=0).p_value == pytest.approx(expected.pvalue)
    many = rng.standard_normal(30)
    close = many + 1.5 * rng.standard_normal(30)
    assert try_out(many, close, baseline=0.0, seed=0).p_value == pytest.approx(
        stats.spearmanr(many, close, alternative="greater").pvalue, abs=0.01
    )


def test_error_and_skill_of_a_trial_by_hand():
    trial = try_out(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 6.0]), baseline=2.0, seed=0)
    assert trial.rmse.value == pytest.approx(1.0)  # sqrt(4 / 4)
    assert trial.skill.value == pytest.approx(1 - 4 / 6)
    assert trial.spearman.value == pytest.approx(1.0) and trial.p_value == pytest.approx(1 / 24)
    with pytest.raises(ValueError, match="4 held-out mixtures or more are needed to test a law, found 3"):
        try_out(np.ones(3), np.ones(3), baseline=1.0, seed=0)


def test_noise_is_the_pooled_deviation_with_the_interval_of_chi_square():
    noise = pool_noise([[1.0, 3.0], [5.0], [2.0, 2.0, 5.0]])
    assert noise.degrees == 3 and noise.deviation.value == pytest.approx(np.sqrt((2 + 6) / 3))
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        found = pool_noise(rng.normal(0, 0.5, (2, 3)).tolist()).deviation
        inside += found.low <= 0.5 <= found.high
    assert 0.91 < inside / 300 < 0.985
    assert pool_noise([[1.0], [2.0]]) is None


def test_means_are_compared_as_by_the_t_test_of_scipy():
    first, second = [1.0, 1.2, 1.1], [0.8, 0.9, 1.0]
    found = compare_means(first, second, pool_noise([first, second]))
    expected = stats.ttest_ind(first, second).confidence_interval(0.95)
    assert found == pytest.approx((0.2, expected.low, expected.high))


GOOD = Trial(Range(0.01, 0.005, 0.02), Range(0.9, 0.5, 0.95), Range(0.9, 0.5, 1.0), 0.01, 6)
NOISE = pool_noise([[1.0, 1.01, 1.02]])


@pytest.mark.parametrize(
    ("trial", "gain", "measured", "key", "words"),
    [
        (GOOD, Range(0.3, 0.2, 0.4), None, "suggested", "above the noise between two runs (0.0608)"),
        (GOOD, Range(0.03, 0.02, 0.04), None, "natural_is_as_good", "is under the noise"),
        (GOOD, Range(0.3, -0.1, 0.4), None, "natural_is_as_good", "may be none"),
        (GOOD, Range(0.3, 0.2, 0.4), Range(0.01, -0.05, 0.07), "natural_is_as_good", "did not come true"),
        (GOOD, Range(0.3, 0.2, 0.4), Range(0.28, 0.2, 0.3), "suggested", "the gain was 0.2800 [0.2000, 0.3000]"),
        (GOOD._replace(skill=Range(-0.2, -1, 0.5)), Range(0.3, 0.2, 0.4), None, "do_not_trust", "no better than their mean"),
        (GOOD._replace(spearman=Range(0.4, -0.3, 0.9)), Range(0.3, 0.2, 0.4), None, "do_not_trust", "0.40 [-0.30, 0.90]"),
        (GOOD._replace(p_value=0.08), Range(0.3, 0.2, 0.4), Range(0.3, 0.2, 0.4), "do_not_trust", "p = 0.080"),
    ],
)
def test_the_verdict_says_what_to_do_and_why(trial, gain, measured, key, words):
    verdict = judge(trial, gain, NOISE, measured=measured)
    assert verdict.key == key and words in verdict.text


def test_too_few_runs_and_runs_that_diverged_are_refused():
    share = np.full((6, 3), 1 / 3)
    with pytest.raises(ValueError, match="fit it to 7 mixtures or more, found 6"):
        fit_mixtures(share, np.ones((6, 3)), [1, 1, 1], seed=0)
    with pytest.raises(ValueError, match="did a run diverge"):
        fit_mixtures(np.full((8, 3), 1 / 3), np.full((8, 3), np.nan), [1, 1, 1], seed=0)
    assert len(FORMS) == 4
