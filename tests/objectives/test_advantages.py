"""Advantages against loops written from the papers, and against what is known of them without computing."""

import doctest
import math

import pytest
import torch
from torch import Tensor

from bloomery.objectives import advantages as module
from bloomery.objectives.advantages import (
    above_baseline,
    adapt_kl_weight,
    batch_mean,
    gae,
    group_relative,
    has_spread,
    kl_estimate,
    leave_one_out,
    moments,
    moving_baseline,
    token_rewards,
    whiten,
)

NAN = math.nan


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gae_by_double_sum(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16 of arXiv:1506.02438 as it stands there, for one trajectory without gaps."""
    T = len(reward)
    delta = [reward[t] + gamma * (value[t + 1] if t + 1 < T else 0.0) - value[t] for t in range(T)]
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, T)) for t in range(T)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
@pytest.mark.parametrize("T", [1, 7, 300])
def test_gae_equals_the_double_sum_of_the_paper(gamma: float, lam: float, T: int) -> None:
    reward, value = draw(3, T), draw(3, T, seed=1)
    found = gae(reward, value, torch.ones(3, T), gamma=gamma, lam=lam)
    for n in range(3):
        assert found[n].tolist() == pytest.approx(gae_by_double_sum(reward[n].tolist(), value[n].tolist(), gamma, lam), abs=1e-10)


def test_gae_with_lambda_1_is_the_sum_of_rewards_less_the_value_and_with_lambda_0_one_step_of_it() -> None:
    reward, value, mask = draw(2, 6), draw(2, 6, seed=1), torch.ones(2, 6)
    to_come = reward.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(reward, value, mask, gamma=1.0, lam=1.0), to_come - value)
    following = torch.nn.functional.pad(value[:, 1:], (0, 1))
    torch.testing.assert_close(gae(reward, value, mask, gamma=0.9, lam=0.0), reward + 0.9 * following - value)


def test_gae_over_a_gap_equals_that_of_the_trajectory_without_it() -> None:
    # What a tool said lies at places 3 and 4. With its values taken as 0, and its places discounted, the first advantages
    # come out as .3209, .443, .5716 (measured on OpenRLHF).
    value = torch.tensor([[0.5, 0.4, 0.3, 9.0, NAN, 0.6, 0.7]], dtype=torch.float64)
    reward = torch.tensor([[0.0, 0.0, 0.0, 7.0, NAN, 0.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1]])
    found = gae(reward, value, mask, gamma=1.0, lam=0.95)[0]
    compacted = gae_by_double_sum([0.0, 0.0, 0.0, 0.0, 1.0], [0.5, 0.4, 0.3, 0.6, 0.7], 1.0, 0.95)
    assert found[mask[0].bool()].tolist() == pytest.approx(compacted)
    assert found[:3].tolist() == pytest.approx([0.4058, 0.5325, 0.6657], abs=1e-4)
    assert found[3:5].tolist() == [0.0, 0.0]


def test_the_score_on_the_end_of_an_answer_gives_the_published_advantages() -> None:
    # trl #3750 puts the score on the first padding: with V(pad) = .8 it gets .4277, .5555, .69.
    value = torch.tensor([[0.5, 0.4, 0.3, 0.8]])
    mask = torch.tensor([[1, 1, 1, 0]])
    reward = token_rewards(torch.tensor([1.0]), torch.zeros(1, 4), mask, kl_weight=0.0)
    assert gae(reward, value, mask, gamma=1.0, lam=0.95)[0].tolist() == pytest.approx([0.43675, 0.565, 0.7, 0.0])


def test_a_score_lies_on_the_last_token_of_the_answer_whether_it_ended_or_was_cut_off() -> None:
    # The first ended by itself and is padded, the second was cut off at the limit, the third called a tool at its end.
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    kl = torch.where(mask > 0, 0.0, NAN)
    found = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), kl, mask, kl_weight=0.5)
    assert found.nonzero().tolist() == [[0, 2], [1, 4], [2, 2]]
    assert found.sum(1).tolist() == [1.0, 2.0, 3.0, 0.0]


def test_rewards_of_tokens_sum_to_the_score_less_the_penalty() -> None:
    logp, reference, mask = draw(3, 5), draw(3, 5, seed=1), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    kl = kl_estimate(logp, reference, "k1")
    found = token_rewards(torch.tensor([1.0, NAN, -2.0]), kl, mask, kl_weight=0.3)
    expected = torch.tensor([1.0, 0.0, -2.0]) - 0.3 * (kl * mask).sum(1)
    torch.testing.assert_close(found.sum(1), expected.double())


def test_k1_and_k3_average_to_the_exact_kl_of_a_vocabulary_of_three_and_k2_and_k3_are_never_negative() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    exact = (policy * (policy / reference).log()).sum().item()
    token = torch.multinomial(policy, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    for estimator in ("k1", "k3"):
        every = kl_estimate(policy.log(), reference.log(), estimator)
        assert (policy * every).sum().item() == pytest.approx(exact, abs=1e-12)
        sampled = every[token]
        assert abs(sampled.mean().item() - exact) < 5 * sampled.std().item() / math.sqrt(len(token))
    assert (kl_estimate(policy.log(), reference.log(), "k2") >= 0).all() and (kl_estimate(policy.log(), reference.log(), "k3") >= 0).all()
    assert (policy * kl_estimate(policy.log(), reference.log(), "k2")).sum().item() != pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("scale", ["none", "std"])
def test_advantages_of_a_group_sum_to_zero_and_follow_the_papers_loops(scale) -> None:
    reward = draw(12)
    found = group_relative(reward, group_size=4, scale=scale)
    for start in range(0, 12, 4):
        group = reward[start : start + 4].tolist()
        mean = sum(group) / 4
        deviation = math.sqrt(sum((x - mean) ** 2 for x in group) / 3) + 1e-4 if scale == "std" else 1.0
        assert found[start : start + 4].tolist() == pytest.approx([(x - mean) / deviation for x in group], rel=1e-5)
        assert found[start : start + 4].sum().item() == pytest.approx(0.0, abs=1e-5)


def test_a_group_of_equal_rewards_gets_exact_zeros_also_where_e_x2_less_e_x_squared_is_not_zero() -> None:
    # Float32 0.1 and 1000.1, three and eight times: their mean is off by a rounding, their E[x^2] - E[x]^2 by much more (NeMo-RL PR 4158).
    for value, size in ((0.1, 3), (1000.1, 8)):
        reward = torch.full((size,), value)
        for found in (
            group_relative(reward, group_size=size, scale="std"),
            group_relative(reward, group_size=size, scale="none"),
            leave_one_out(reward, group_size=size),
        ):
            assert found.tolist() == [0.0] * size


def test_leaving_one_out_is_n_over_n_less_1_times_the_distance_from_the_mean() -> None:
    reward = draw(10)
    others = torch.stack([reward[i] - (reward[i // 5 * 5 : i // 5 * 5 + 5].sum() - reward[i]) / 4 for i in range(10)])
    torch.testing.assert_close(leave_one_out(reward, group_size=5).double(), others, atol=1e-6, rtol=1e-6)
    mean = reward.view(2, 5).mean(1).repeat_interleave(5)
    torch.testing.assert_close(leave_one_out(reward, group_size=5).double(), 5 / 4 * (reward - mean), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "advantage", [lambda r, n: group_relative(r, group_size=n, scale="std"), lambda r, n: leave_one_out(r, group_size=n)]
)
def test_a_reward_that_nobody_knows_moves_neither_the_mean_nor_the_deviation(advantage) -> None:
    with_gap = advantage(torch.tensor([1.0, NAN, 3.0, 2.5]), 4)
    without = advantage(torch.tensor([1.0, 3.0, 2.5]), 3)
    assert with_gap[1].item() == 0.0
    assert with_gap[[0, 2, 3]].tolist() == pytest.approx(without.tolist())
    assert advantage(torch.tensor([NAN, NAN, 7.0, NAN]), 4).tolist() == [0.0] * 4


def test_spread_is_told_by_comparing_what_is_known() -> None:
    reward = torch.tensor([0.1, 0.1, 0.1, NAN, 1.0, 2.0, NAN, NAN, NAN])
    assert has_spread(reward, group_size=3).tolist() == [False, True, False]


def test_rewards_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rewards are not groups of 2"):
        group_relative(torch.zeros(5), group_size=2, scale="none")


def test_the_baseline_of_reinforce_is_the_mean_of_this_batch_or_moves_with_each() -> None:
    reward = torch.tensor([1.0, 3.0, NAN])
    assert batch_mean(reward).item() == 2.0
    assert above_baseline(reward, batch_mean(reward)).tolist() == [-1.0, 1.0, 0.0]
    assert moving_baseline(10.0, reward, decay=0.9) == pytest.approx(9.2)
    assert moving_baseline(10.0, torch.tensor([NAN]), decay=0.9) == 10.0


def test_whitened_numbers_have_mean_0_and_variance_1_where_the_mask_is() -> None:
    x, mask = draw(4, 50) * 3 + 7, torch.rand(4, 50, generator=torch.Generator().manual_seed(3)) < 0.6
    found = whiten(torch.where(mask, x, NAN), mask)
    assert found[mask].mean().item() == pytest.approx(0.0, abs=1e-12)
    assert found[mask].var().item() == pytest.approx(1.0)
    assert (found[~mask] == 0).all()
    unshifted = whiten(x, mask, shift_mean=False)
    assert unshifted[mask].mean().item() == pytest.approx(x[mask].mean().item())
    assert unshifted[mask].var().item() == pytest.approx(1.0)


def test_whitening_equal_numbers_or_one_alone_gives_no_noise() -> None:
    for x in (torch.full((3,), 0.1), torch.tensor([5.0]), torch.full((1000,), 1234.5678)):
        assert whiten(x, torch.ones_like(x)).abs().max().item() <= 1e-3
        torch.testing.assert_close(whiten(x, torch.ones_like(x), shift_mean=False), x)
    assert whiten(torch.tensor([NAN, NAN]), torch.zeros(2)).tolist() == [0.0, 0.0]


def test_a_part_is_whitened_by_the_moments_of_the_whole() -> None:
    x, mask = draw(2, 8), torch.ones(2, 8)
    whole = whiten(x, mask)
    torch.testing.assert_close(whiten(x[:1], mask[:1], of=moments(x, mask)), whole[:1])


def test_the_weight_of_kl_moves_towards_its_target_by_at_most_a_fifth() -> None:
    def next_weight(kl):
        return adapt_kl_weight(0.1, kl, target=6.0, num_episodes=1000, horizon=10_000)

    assert next_weight(6.0) == 0.1
    assert next_weight(6.6) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert next_weight(600.0) == pytest.approx(0.1 * (1 + 0.2 * 0.1)) == next_weight(7.3)
    assert next_weight(0.0) == pytest.approx(0.1 * (1 - 0.2 * 0.1)) == next_weight(-5.0)


def test_the_examples_in_the_docstrings_are_right() -> None:
    assert doctest.testmod(module).failed == 0
