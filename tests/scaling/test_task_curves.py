"""Planted benchmarks: a threshold on a smooth log-likelihood, pure chance, answers that only sound better."""

import math

import numpy as np
import pytest
import scipy.stats

from bloomery.scaling.task_curves import Figures, correlate, early_fraction, find_jump, find_trend, stack_rows

LOSSES = list(np.linspace(5.0, 3.0, 9))
NAMES = [f"m{i}" for i in range(len(LOSSES))]


def planted(kind: str, *, num_rows: int = 300, seed: int = 0) -> Figures:
    """Rows of nine models. A row's bits a byte are 4 less what the model has gained, give or take a row's own and a model's own noise."""
    rng = np.random.default_rng(seed)
    gain_M1 = np.linspace(0, 2, len(LOSSES))[:, None] if kind != "chance" else np.zeros((len(LOSSES), 1))
    bits_MR = 4 - gain_M1 + 0.2 * rng.standard_normal((1, num_rows)) + 0.1 * rng.standard_normal((len(LOSSES), num_rows))
    guess_MR = (rng.random(bits_MR.shape) < 0.25).astype(float)
    nats_MR = math.log(4) - (0.5 * gain_M1 if kind == "threshold" else 0.0) + 0.1 * rng.standard_normal(bits_MR.shape)
    accuracy_MR = np.maximum(guess_MR, bits_MR < 2.4) if kind == "threshold" else guess_MR
    return Figures(accuracy_MR, bits_MR, nats_MR)


def trend_of(figures: Figures, *, chance: float = 0.25):
    counts = figures.accuracy_MR.sum(axis=1)
    lows = [scipy.stats.binomtest(int(k), figures.accuracy_MR.shape[1]).proportion_ci(method="wilson").low for k in counts]
    return find_trend(figures, LOSSES, lows=lows, chance=chance, names=NAMES, seed=0)


def test_a_threshold_of_a_smooth_likelihood_is_told_as_the_metrics_jump():
    trend = trend_of(planted("threshold"))
    assert trend.leaves_chance_at is not None and trend.leaves_chance_at >= 5
    assert trend.bits.value == pytest.approx(1.0) and trend.bits.low > 0.9
    assert f"Accuracy leaves chance at {NAMES[trend.leaves_chance_at]}" in trend.sentence
    assert "what looks like emergence is the metric" in trend.sentence and "It also gains on the wrong answers" in trend.sentence
    assert early_fraction(planted("threshold").bits_MR, trend.leaves_chance_at) == pytest.approx((trend.leaves_chance_at - 1) / 8, abs=0.02)


def test_pure_chance_is_told_as_nothing_moves():
    for seed in range(5):
        trend = trend_of(planted("chance", seed=seed))
        assert trend.leaves_chance_at is None or trend.leaves_chance_at == len(LOSSES) - 1  # a guess may be lucky once in forty
        assert "does not follow the loss" in trend.sentence
    assert trend_of(planted("chance")).sentence.startswith("Nothing moves yet")


def test_answers_that_only_sound_better_are_not_taken_for_an_ability():
    trend = trend_of(planted("sound"))
    assert trend.leaves_chance_at is None and trend.nats.low < 0 < trend.nats.high
    assert trend.sentence.endswith("the models learn how answers sound, not yet which is right.")


def test_without_choices_or_without_a_likelihood_less_is_said():
    figures = planted("threshold")
    sentence = trend_of(Figures(figures.accuracy_MR * 0, figures.bits_MR, None), chance=0.0).sentence
    assert "Accuracy is at chance for the best model" in sentence and "would be the metric's" in sentence
    assert "there is no log-likelihood" in trend_of(Figures(figures.accuracy_MR, None, None)).sentence


def test_one_model_above_chance_may_be_luck():
    figures = planted("sound")
    trend = find_trend(figures, LOSSES, lows=[0.2] * 8 + [0.26], chance=0.25, names=NAMES, seed=0)
    assert trend.sentence.startswith("Only m8's accuracy is above chance, as one model's in forty is by luck")


def test_a_rise_at_every_size_is_no_emergence():
    figures = planted("threshold")
    trend = trend_of(Figures(np.clip(figures.accuracy_MR + 0.5, 0, 1) > 0.4, figures.bits_MR, None))
    assert trend.leaves_chance_at == 0 and "nothing emerges" in trend.sentence


def test_a_likelihood_that_jumps_itself_is_not_called_steady():
    smooth = planted("threshold")
    bits_MR = smooth.bits_MR.copy()
    bits_MR[6:] -= 4.0
    trend = trend_of(smooth._replace(bits_MR=bits_MR))
    assert trend.bits.low > 0.9 and trend.jump.at == 6 and trend.jump.loss_share == pytest.approx(1 / 8)
    share = (bits_MR[5].mean() - bits_MR[6].mean()) / (bits_MR[0].mean() - bits_MR[-1].mean())
    assert trend.jump.share.value == pytest.approx(share) and trend.jump.share.low < share < trend.jump.share.high
    assert "but jumps: 71 [70, 71] % of its gain lies between m5 and m6, as 12 % of the fall of the loss." in trend.sentence
    assert "It also gains on the wrong answers" in trend.sentence and "steadily" not in trend.sentence
    assert trend.record()["jump"]["at"] == 6 and trend_of(smooth).record()["jump"] is None


def test_a_step_that_the_loss_makes_too_or_that_hangs_on_few_rows_is_no_jump():
    means = [4.0, 3.9, 3.8, 2.0, 1.9]
    bits_MR = np.array(means)[:, None] + np.random.default_rng(0).normal(0, 0.1, (5, 200))
    assert find_jump(bits_MR, [5.0, 4.9, 4.8, 3.0, 2.9], seed=0) is None  # the loss falls by as much there
    assert find_jump(bits_MR, [5.0, 4.9, 4.8, 4.7, 4.6], seed=0).at == 3
    assert find_jump(bits_MR, [5.0] * 5, seed=0) is None
    few_MR = np.array([4.0, 3.9, 3.8, 3.79, 3.7])[:, None] * np.ones((1, 200))
    few_MR[3:, :2] -= 60  # two rows of 200 make two thirds of the whole
    assert few_MR.mean(axis=1)[2] - few_MR.mean(axis=1)[3] > 0.6 * (few_MR.mean(axis=1)[0] - few_MR.mean(axis=1)[4])
    assert find_jump(few_MR, [5.0, 4.9, 4.8, 4.7, 4.6], seed=0) is None
    assert find_jump(bits_MR[::-1], [5.0, 4.9, 4.8, 4.7, 4.6], seed=0) is None  # nothing is gained


def test_the_rank_correlation_is_scipys():
    rng = np.random.default_rng(1)
    better_MR = rng.integers(0, 2, (9, 12)).astype(float)  # few rows: many ties
    found = correlate(better_MR, LOSSES, seed=0)
    assert found.value == pytest.approx(scipy.stats.spearmanr(better_MR.mean(axis=1), -np.array(LOSSES)).statistic)
    assert found.low <= found.value <= found.high
    assert correlate(np.ones((9, 4)), LOSSES, seed=0) == (0, 0, 0)


def test_only_rows_that_all_models_were_asked_count_and_models_must_come_in_order():
    rows = {"a": {1: {"accuracy": 1.0, "gold_nats": 0.5}, 2: {"accuracy": 0.0}}, "b": {2: {"accuracy": 1.0}, 3: {"accuracy": 1.0}}}
    figures = stack_rows(rows, ["a", "b"], metric="accuracy")
    assert figures.accuracy_MR.tolist() == [[0.0], [1.0]] and figures.nats_MR is None
    with pytest.raises(ValueError, match="no rows with accuracy that all of a, c were asked"):
        stack_rows({**rows, "c": {9: {"accuracy": 1.0}}}, ["a", "c"], metric="accuracy")
    with pytest.raises(ValueError, match="in the order of falling loss"):
        find_trend(planted("chance"), LOSSES[::-1], lows=[0] * 9, chance=0.0, names=NAMES, seed=0)
