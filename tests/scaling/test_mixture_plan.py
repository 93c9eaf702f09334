"""Mixtures to try: on the simplex, the same each time, every source seen, within what its size allows."""

import numpy as np
import pytest

from bloomery.scaling.mixture_plan import (
    MIN_SHARE,
    draw_mixtures,
    natural_mixture,
    plan_mixtures,
    pull_back,
    round_shares,
    share_caps,
)

SIZES = [5e6, 1e6, 2e6, 1e5]
FREE = np.ones(4)


def test_a_plan_is_the_same_each_time_and_another_with_another_seed():
    plans = [plan_mixtures(SIZES, num_fitted=10, num_held_out=4, caps=FREE, seed=seed) for seed in (3, 3, 4)]
    first, same, other = ([share.tolist() for share in (*plan.fitted, *plan.held_out)] for plan in plans)
    assert first == same and first != other
    assert len(plans[0].fitted) == 10 and len(plans[0].held_out) == 4


def test_planned_mixtures_sum_to_one_begin_with_the_natural_one_and_are_all_different():
    plan = plan_mixtures(SIZES, num_fitted=10, num_held_out=4, caps=FREE, seed=0)
    everyone = np.stack([*plan.fitted, *plan.held_out])
    assert plan.fitted[0] == pytest.approx(np.array(SIZES) / sum(SIZES))
    assert everyone.sum(axis=1) == pytest.approx(1) and everyone.min() >= 0
    assert len({tuple(share) for share in everyone.tolist()}) == 14
    assert np.all((everyone == 0) | (everyone >= MIN_SHARE / 2))


def test_every_source_is_seen_often_enough_to_tell_its_effect_also_the_smallest():
    for seed in range(5):
        fitted = np.stack(plan_mixtures(SIZES, num_fitted=12, num_held_out=6, caps=FREE, seed=seed).fitted)
        assert np.linalg.matrix_rank(fitted, tol=0.05) == 4
        assert ((fitted > 0.1).sum(axis=0) >= 2).all()


def test_drawn_mixtures_are_dirichlet_around_the_roots_of_the_sizes():
    drawn = draw_mixtures(natural_mixture(SIZES), 40_000, caps=FREE, seed=0)
    prior = np.sqrt(SIZES) / np.sqrt(SIZES).sum()
    assert drawn.mean(axis=0) == pytest.approx(prior, abs=0.01)


def test_no_source_is_asked_for_more_than_its_epochs_give():
    caps = share_caps(SIZES, tokens=1e6, max_epochs=2)
    assert caps.tolist() == [1.0, 1.0, 1.0, 0.2]
    drawn = draw_mixtures(natural_mixture(SIZES), 5000, caps=caps, seed=1)
    assert (drawn <= caps + 1e-12).all() and drawn.sum(axis=1) == pytest.approx(1)
    assert (drawn[:, 3] > 0.199).sum() > 100  # what was drawn beyond is not lost: it stands at the limit
    plan = plan_mixtures(SIZES, num_fitted=10, num_held_out=4, caps=caps, seed=1)
    assert max(share[3] for share in (*plan.fitted, *plan.held_out)) <= 0.2


def test_a_run_that_its_sources_are_too_small_for_is_refused_with_the_epochs_it_takes():
    with pytest.raises(ValueError, match=r"reads its sources \(8,100,000 tokens\) 5.0 times, but max_epochs = 4"):
        share_caps(SIZES, tokens=40.5e6, max_epochs=4)
    assert share_caps(SIZES, tokens=40.5e6, max_epochs=0).tolist() == [1.0] * 4


def test_pulling_back_goes_straight_to_the_natural_mixture_and_no_further_than_needed():
    natural, far = np.array([0.5, 0.3, 0.2]), np.array([[0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    pulled = pull_back(far, natural, low=np.zeros(3), high=np.array([1.0, 1.0, 0.5]))
    assert pulled[0] == pytest.approx([0.3, 0.2, 0.5]) and pulled[1] == pytest.approx(far[1])
    low = pull_back(far, natural, low=np.array([0.3, 0.0, 0.0]), high=np.ones(3))
    assert low[0] == pytest.approx([0.3, 0.2, 0.5])


def test_rounded_shares_sum_to_one_and_never_pass_a_limit_in_thousandths():
    rng = np.random.default_rng(0)
    for _ in range(300):
        share = rng.dirichlet([0.5] * 5)
        share = pull_back(share[None], np.full(5, 0.2), low=np.zeros(5), high=np.full(5, 0.345))[0]
        rounded = round_shares(share)
        assert rounded.sum() == pytest.approx(1, abs=1e-12) and rounded.max() <= 0.345 and np.abs(rounded - share).max() < 0.001
