"""Policy losses against loops written from the papers, and what PPO, GRPO and their kin must lead to."""

import doctest
import math

import pytest
import torch
from torch import Tensor

from bloomery.objectives import policy_gradient as module
from bloomery.objectives.advantages import gae, group_relative, kl_estimate, leave_one_out, token_rewards, whiten
from bloomery.objectives.policy_gradient import aggregate_weights, clipped_policy_loss, entropy_bonus, kl_loss, value_loss

NAN = math.nan
PPO = {"clip_low": 0.2, "clip_high": 0.2}
AGGREGATES = ("token", "sequence", "constant")


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged(N: int = 4, T: int = 5) -> Tensor:
    """Answers of T, T - 1 ... tokens; the last but one with a gap, the last without any token."""
    mask = (torch.arange(T) < T - torch.arange(N)[:, None]).double()
    mask[-2, 0] = 0.0
    mask[-1] = 0.0
    return mask


def policy_loss_by_loops(logp, old, advantage, mask, low, high, dual, aggregate, constant) -> float:
    """Equation 7 of arXiv:1707.06347, equation 5 of arXiv:1912.09729, and the means of GRPO, DAPO and Dr. GRPO."""
    total, weight = 0.0, 0.0
    for n in range(len(logp)):
        length = sum(1 for m in mask[n] if m)
        summed = 0.0
        for t in range(len(logp[n])):
            if not mask[n][t]:
                continue
            ratio, a = math.exp(logp[n][t] - old[n][t]), advantage[n][t]
            objective = min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
            if dual and a < 0:
                objective = max(objective, dual * a)
            summed -= objective
        if aggregate == "token":
            total, weight = total + summed, weight + length
        elif length:
            total, weight = total + summed / (length if aggregate == "sequence" else constant), weight + 1
    return total / weight


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, 0.0), (0.2, 0.28, 0.0), (0.1, 0.3, 1.5)])
def test_it_matches_plain_loops_written_from_the_papers(aggregate, low, high, dual) -> None:
    logp, old, advantage, mask = draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2), ragged()
    terms = clipped_policy_loss(
        logp, old, advantage, mask, clip_low=low, clip_high=high, dual_clip=dual, aggregate=aggregate, constant_tokens=7
    )
    expected = policy_loss_by_loops(logp.tolist(), old.tolist(), advantage.tolist(), mask.tolist(), low, high, dual, aggregate, 7)
    assert (terms.loss_sum / terms.weight).item() == pytest.approx(expected, rel=1e-6)


def test_on_the_first_minibatch_the_ratio_is_1_nothing_is_clipped_and_the_gradient_is_that_of_reinforce() -> None:
    logp, advantage, mask = draw(4, 5).requires_grad_(), draw(4, 5, seed=2), ragged()
    terms = clipped_policy_loss(logp, logp.detach(), advantage, mask, **PPO)
    terms.loss_sum.backward()
    torch.testing.assert_close(logp.grad, -(advantage * mask))
    count = mask.sum().item()
    assert {name: round(value.item(), 6) for name, value in terms.metrics.items()} == {
        "ratio": count, "approx_kl": 0.0, "clip_fraction": 0.0, "tokens": count,
    }  # fmt: skip
    assert terms.loss_sum.item() == pytest.approx(-(advantage * mask).sum().item(), rel=1e-6)
    whitened = clipped_policy_loss(logp, logp.detach(), whiten(advantage, mask), mask, **PPO)
    assert whitened.loss_sum.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("advantage", "ratio", "dual", "moves"),
    [
        (1.0, 1.3, 0.0, False),  # good, and raised enough already
        (1.0, 0.7, 0.0, True),
        (-1.0, 0.7, 0.0, False),  # bad, and lowered enough already
        (-1.0, 1.3, 0.0, True),
        (-1.0, 50.0, 0.0, True),  # bad and much likelier than before: pulls with all its ratio ...
        (-1.0, 50.0, 3.0, False),  # ... unless that is bounded, too
        (-1.0, 2.0, 3.0, True),
    ],
)
def test_a_token_beyond_its_bound_gets_no_gradient(advantage, ratio, dual, moves) -> None:
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    terms = clipped_policy_loss(logp, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), **PPO, dual_clip=dual)
    terms.loss_sum.backward()
    assert (logp.grad.item() != 0.0) == moves
    if advantage < 0 and dual:
        assert terms.loss_sum.item() <= dual + 1e-6


def test_a_higher_upper_bound_lets_good_tokens_rise_farther_and_nothing_else() -> None:
    logp, old = torch.tensor([[0.22, -0.25]]).requires_grad_(), torch.zeros(1, 2)  # ratios 1.246 and 0.779
    for high, expected in ((0.2, [False, False]), (0.28, [True, False])):
        terms = clipped_policy_loss(logp, old, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), clip_low=0.2, clip_high=high)
        (gradient,) = torch.autograd.grad(terms.loss_sum, logp)
        assert (gradient[0] != 0).tolist() == expected


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_what_stands_in_places_without_a_mask_changes_neither_loss_nor_gradient_nor_metrics(aggregate) -> None:
    mask = ragged()
    found = []
    for junk in (0.0, 1e9, NAN):
        logp = torch.where(mask > 0, draw(4, 5), junk).requires_grad_()
        old, advantage, reference = (torch.where(mask > 0, draw(4, 5, seed=i), junk) for i in (1, 2, 3))
        policy = clipped_policy_loss(logp, old, advantage, mask, **PPO, dual_clip=3.0, aggregate=aggregate, constant_tokens=9)
        others = [kl_loss(logp, reference, mask, estimator=name, aggregate=aggregate, constant_tokens=9) for name in ("k1", "k2", "k3")]
        others += [value_loss(logp, old, reference, mask, clip=0.2), entropy_bonus(logp, mask, aggregate=aggregate, constant_tokens=9)]
        loss = policy.loss_sum + sum(terms.loss_sum for terms in others)
        loss.backward()
        found.append((loss.item(), logp.grad.tolist(), [value.item() for terms in (policy, *others) for value in terms.metrics.values()]))
    assert found[0] == found[1] == found[2]
    assert all(math.isfinite(x) for x in found[0][2])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_batch_in_parts_has_the_loss_and_the_metrics_of_the_whole(aggregate) -> None:
    # With a part that has no token at all (nanochat #618), and parts of unlike length (trl PR 6024).
    tensors = (draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2), ragged())
    how = {**PPO, "aggregate": aggregate, "constant_tokens": 6}
    whole = clipped_policy_loss(*tensors, **how)
    parts = [clipped_policy_loss(*(x[rows] for x in tensors), **how) for rows in ([0], [1, 2], [3])]
    assert sum(part.loss_sum for part in parts).item() == pytest.approx(whole.loss_sum.item(), rel=1e-6)
    assert sum(part.weight for part in parts).item() == whole.weight.item()
    for name, value in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(value.item(), rel=1e-5)


def test_by_a_constant_length_an_answer_counts_the_same_whatever_the_others_length_and_by_tokens_it_does_not() -> None:
    def gradient_of_first(other_length, aggregate):
        logp, mask = torch.zeros(2, 8, requires_grad=True), torch.zeros(2, 8)
        mask[0, :2], mask[1, :other_length] = 1.0, 1.0
        advantage = torch.ones(2, 8)
        terms = clipped_policy_loss(logp, logp.detach(), advantage, mask, **PPO, aggregate=aggregate, constant_tokens=8)
        (gradient,) = torch.autograd.grad(terms.loss_sum / terms.weight, logp)
        return gradient[0, 0].item()

    assert gradient_of_first(1, "constant") == gradient_of_first(8, "constant")
    assert gradient_of_first(1, "sequence") == gradient_of_first(8, "sequence")
    assert gradient_of_first(1, "token") != gradient_of_first(8, "token")


def test_an_answer_that_is_left_out_is_neither_in_the_sum_nor_in_what_it_is_divided_by() -> None:
    tensors = (draw(3, 5), draw(3, 5, seed=1), draw(3, 5, seed=2))
    masked, without = torch.ones(3, 5), torch.ones(2, 5)
    masked[2] = 0.0
    for aggregate in AGGREGATES:
        how = {**PPO, "aggregate": aggregate, "constant_tokens": 6}
        one, other = clipped_policy_loss(*tensors, masked, **how), clipped_policy_loss(*(x[:2] for x in tensors), without, **how)
        assert (one.loss_sum / one.weight).item() == pytest.approx((other.loss_sum / other.weight).item())


def test_the_bounded_value_loss_matches_loops_and_is_never_smaller_than_the_plain_one() -> None:
    value, old, target, mask = draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2), ragged()
    terms = value_loss(value, old, target, mask, clip=0.2)
    total = 0.0
    for n in range(4):
        for t in range(5):
            if mask[n, t]:
                v, v0, r = value[n, t].item(), old[n, t].item(), target[n, t].item()
                bounded = v0 + min(max(v - v0, -0.2), 0.2)
                total += 0.5 * max((v - r) ** 2, (bounded - r) ** 2)
    assert terms.loss_sum.item() == pytest.approx(total, rel=1e-6) and terms.weight == mask.sum()
    assert terms.loss_sum > value_loss(value, old, target, mask).loss_sum


@pytest.mark.parametrize("corrected", [False, True])
def test_the_gradients_of_kl_as_a_loss_are_those_that_the_docstring_says_on_a_vocabulary_of_three(corrected) -> None:
    logits, reference = torch.tensor([0.7, 0.1, -0.4], dtype=torch.float64, requires_grad=True), torch.tensor([0.2, 0.3, 0.5]).double()
    sampler = torch.tensor([0.5, 0.3, 0.2]).double() if corrected else logits.detach().softmax(-1)
    policy = logits.softmax(-1)
    forward = (policy * (policy / reference).log()).sum()
    backward = (reference * (reference / policy).log()).sum()
    gradients = {"forward": forward, "backward": backward, "none": 0 * policy.sum()}
    gradients = {name: torch.autograd.grad(value, logits, retain_graph=True)[0] for name, value in gradients.items()}
    expected = {"k1": "forward", "k3": "forward"} if corrected else {"k1": "none", "k2": "forward", "k3": "backward"}
    for name, which in expected.items():
        # Each token as one answer, as often as the sampler says it.
        logp = logits.log_softmax(-1)[:, None]
        how = {"estimator": name, "old_logp_NT": sampler.log()[:, None] if corrected else None}
        average = torch.zeros((), dtype=torch.float64)
        for v in range(3):
            one = {key: value[v : v + 1] if isinstance(value, Tensor) else value for key, value in how.items()}
            average = average + sampler[v] * kl_loss(logp[v : v + 1], reference.log()[v : v + 1, None], torch.ones(1, 1), **one).loss_sum
        torch.testing.assert_close(torch.autograd.grad(average, logits, retain_graph=True)[0], gradients[which])
        if corrected:
            assert average.item() == pytest.approx(forward.item())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_a_hundred_thousand_sampled_gradients_average_to_the_exact_one_on_a_bandit_of_two_arms(temperature) -> None:
    logits, reward = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 3.0], dtype=torch.float64)
    policy = (logits / temperature).softmax(-1)
    (exact,) = torch.autograd.grad((policy * reward).sum(), logits)
    drawn = torch.multinomial(policy.detach(), 100_000, replacement=True, generator=torch.Generator().manual_seed(0))
    for advantage in (reward[drawn], leave_one_out(reward[drawn], group_size=4).double()):
        logp = torch.log_softmax(logits / temperature, -1)[drawn, None]
        terms = clipped_policy_loss(logp, logp.detach(), advantage[:, None], torch.ones(100_000, 1), **PPO)
        (found,) = torch.autograd.grad(-terms.loss_sum / terms.weight, logits)
        torch.testing.assert_close(found, exact, atol=0.01, rtol=0.0)


def test_log_probabilities_of_a_distribution_at_another_temperature_give_a_gradient_that_is_off() -> None:
    # Drawn at 0.5, trained as if drawn at 1 (trl #4159): what the test above would not let pass.
    logits, reward = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 3.0], dtype=torch.float64)
    policy = (logits / 0.5).softmax(-1).detach()
    (exact,) = torch.autograd.grad(((logits / 0.5).softmax(-1) * reward).sum(), logits, retain_graph=True)
    wrong = (policy[:, None] * reward[:, None] * torch.autograd.functional.jacobian(lambda x: x.log_softmax(-1), logits)).sum(0)
    assert (wrong - exact).abs().max() > 0.05


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_training_on_a_vocabulary_of_three_ends_at_the_reference_times_exp_of_reward_over_beta(method) -> None:
    # KL in the reward (ppo, rloo) or in the loss (grpo, with k2, whose gradient is that of this KL). 4096 answers of one token a step.
    beta, reference = 0.5, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reward = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    best = torch.softmax(reference.log() + reward / beta, -1)
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    value = torch.zeros(1, dtype=torch.float64)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 150) + 0.001
        with torch.no_grad():
            policy = logits.softmax(-1)
            token = torch.multinomial(policy, 4096, replacement=True, generator=torch.Generator().manual_seed(step))
            old = policy.log()[token, None]
            mask, kl = torch.ones(4096, 1), kl_estimate(old, reference.log()[token, None], "k1")
            shaped = token_rewards(reward[token], kl, mask, kl_weight=beta)
            if method == "ppo":
                advantage = gae(shaped, value.expand(4096, 1), mask, gamma=1.0, lam=0.95)
                value = value + 0.3 * (shaped.mean() - value)
            elif method == "rloo":
                advantage = leave_one_out(shaped[:, 0], group_size=4).double()[:, None]
            else:
                advantage = group_relative(reward[token], group_size=4096, scale="none").double()[:, None]
        for _ in range(2 if method == "ppo" else 1):
            logp = logits.log_softmax(-1)[token, None]
            loss = clipped_policy_loss(logp, old, advantage, mask, **PPO).loss_sum
            if method == "grpo":
                loss = loss + beta * kl_loss(logp, reference.log()[token, None], mask, estimator="k2").loss_sum
            optimizer.zero_grad()
            (loss / 4096).backward()
            optimizer.step()
    torch.testing.assert_close(logits.softmax(-1).detach(), best, atol=0.015, rtol=0.0)


def test_a_constant_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="found 0"):
        aggregate_weights(torch.ones(1, 1), "constant")


def test_the_examples_in_the_docstrings_are_right() -> None:
    assert doctest.testmod(module).failed == 0
