"""Best of n by order statistics is what drawing would give."""

import itertools
import math
import random

import numpy as np
import pytest

from bloomery.align.best_of_n import Samples, best_of_curve, best_of_n_kl, expected_best, subset_chances


def test_the_best_of_one_is_the_policy_itself() -> None:
    rewards, golds = [0.3, -1.0, 2.0, 0.3], [1.0, 0.0, 0.0, 1.0]
    best_N, gold_N = expected_best(rewards, golds)
    assert best_of_n_kl(1) == 0.0
    assert best_N[0] == pytest.approx(np.mean(rewards)) and gold_N[0] == pytest.approx(np.mean(golds))
    assert best_N[-1] == 2.0 and gold_N[-1] == 0.0


def test_the_kl_is_that_of_the_best_of_n_over_answers_that_are_equally_likely() -> None:
    # Of K equally likely answers, all of different worth, the k-th best of n is kept with chance (k^n - (k-1)^n) / K^n.
    for n in (2, 4, 16):
        k = np.arange(1, 20_001) / 20_000
        chance = k**n - (k - 1 / 20_000) ** n
        exact = float((chance * np.log(chance * 20_000)).sum())
        assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-3) and exact <= best_of_n_kl(n)
    # Where answers share a reward the policy moves less: the formula bounds.
    for n in (2, 4, 16):
        right = 1 - 0.7**n
        assert right * math.log(right / 0.3) + (1 - right) * math.log((1 - right) / 0.7) < best_of_n_kl(n)


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    rewards, golds = [0.2, 1.5, 1.5, -0.3, 0.9], [1.0, 0.0, 3.0, 7.0, 2.0]
    best_N, gold_N = expected_best(rewards, golds)
    for n in range(1, 6):
        tops, of_top = [], []
        for subset in itertools.combinations(range(5), n):
            top = max(rewards[i] for i in subset)
            tops.append(top)
            of_top.append(np.mean([golds[i] for i in subset if rewards[i] == top]))
        assert best_N[n - 1] == pytest.approx(np.mean(tops)) and gold_N[n - 1] == pytest.approx(np.mean(of_top))
        assert subset_chances(5, n).sum() == pytest.approx(1.0)


def test_the_expected_best_equals_monte_carlo_from_the_population_it_was_sampled_from() -> None:
    rng = random.Random(0)
    prompts = [Samples([rng.gauss(0, 1) for _ in range(16)], []) for _ in range(3000)]
    curve = best_of_curve(prompts, seed=0)
    drawn = np.random.default_rng(1).normal(size=(200_000, 4)).max(axis=1).mean()
    of_four = curve[3].reward
    assert of_four.low < drawn < of_four.high and of_four.value == pytest.approx(drawn, abs=0.02)
    assert [point.n for point in curve] == list(range(1, 17)) and curve[3].gold is None


def test_a_proxy_that_is_wrong_at_its_top_raises_itself_and_lowers_the_gold() -> None:
    # Gold falls where the proxy is highest: the curve of over-optimisation.
    rng = random.Random(1)
    prompts = []
    for _ in range(300):
        proxy = [rng.gauss(0, 1) for _ in range(32)]
        prompts.append(Samples(proxy, [-((value - 0.5) ** 2) for value in proxy]))
    curve = best_of_curve(prompts, seed=0)
    golds = [point.gold.value for point in curve if point.gold]
    assert all(a.reward.value < b.reward.value for a, b in itertools.pairwise(curve))
    assert 0 < golds.index(max(golds)) < 8 and golds[-1] < golds[0]


def test_prompts_with_fewer_samples_count_as_far_as_they_go_and_intervals_are_over_prompts() -> None:
    curve = best_of_curve([Samples([0.0, 1.0], []), Samples([0.0, 1.0, 2.0], []), Samples([], [])], seed=0)
    assert [point.num_prompts for point in curve] == [2, 2, 1]
    assert curve[2].reward.value == 2.0
    alike = best_of_curve([Samples([0.0, 1.0], []) for _ in range(9)], seed=0)
    assert alike[0].reward == (0.5, 0.5, 0.5)
    assert best_of_curve([], seed=0) == []


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="best of 0"):
        best_of_n_kl(0)
    with pytest.raises(ValueError, match="subset of 5 out of 4"):
        subset_chances(4, 5)
