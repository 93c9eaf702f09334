"""Preference losses against loops written from the papers, and the identities that pin them down."""

import doctest
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bloomery.objectives import preference as module
from bloomery.objectives.preference import pair_loss

LOSSES = ("sigmoid", "ipo", "hinge")


def draw(seed: int = 0, n: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [-5 * torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(4)]


def loops(logps: list[Tensor], beta: float, loss: str, smoothing: float = 0.0) -> float:
    total = 0.0
    for w, r, rw, rl in zip(*(x.tolist() for x in logps), strict=True):
        gap = (w - rw) - (r - rl)
        if loss == "sigmoid":
            right, wrong = 1 / (1 + math.exp(-beta * gap)), 1 / (1 + math.exp(beta * gap))
            total += -(1 - smoothing) * math.log(right) - smoothing * math.log(wrong)
        elif loss == "ipo":
            total += (gap - 1 / (2 * beta)) ** 2
        else:
            total += max(0.0, 1 - beta * gap)
    return total


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0), ("hinge", 0.0)])
def test_it_matches_plain_loops(loss: Any, smoothing: float, beta: float) -> None:
    logps = draw()
    terms = pair_loss(*logps, beta=beta, loss=loss, label_smoothing=smoothing)
    assert terms.loss_sum.item() == pytest.approx(loops(logps, beta, loss, smoothing), rel=1e-9)
    assert terms.weight.item() == 6


def test_a_policy_that_is_the_reference_has_loss_ln_2_no_reward_and_a_gradient() -> None:
    chosen, rejected, *_ = draw()
    policy = [x.clone().requires_grad_() for x in (chosen, rejected)]
    terms = pair_loss(*policy, chosen, rejected, beta=0.1)
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(6 * math.log(2))
    assert {name: value.item() for name, value in terms.metrics.items()} == dict.fromkeys(terms.metrics, 0.0)
    assert policy[0].grad.tolist() == pytest.approx([-0.05] * 6) and policy[1].grad.tolist() == pytest.approx([0.05] * 6)


def test_the_gradient_is_that_of_equation_7_of_the_paper() -> None:
    beta, logps = 0.3, draw(1)
    policy = [x.clone().requires_grad_() for x in logps[:2]]
    pair_loss(*policy, *logps[2:], beta=beta).loss_sum.backward()
    gap = (logps[0] - logps[2]) - (logps[1] - logps[3])
    torch.testing.assert_close(policy[0].grad, -beta * torch.sigmoid(-beta * gap))
    torch.testing.assert_close(policy[1].grad, beta * torch.sigmoid(-beta * gap))


def test_swapping_chosen_and_rejected_adds_beta_times_the_gap() -> None:
    beta, (w, r, rw, rl) = 0.3, draw(2)
    forward, swapped = pair_loss(w, r, rw, rl, beta=beta), pair_loss(r, w, rl, rw, beta=beta)
    gap = ((w - rw) - (r - rl)).sum().item()
    assert swapped.loss_sum.item() - forward.loss_sum.item() == pytest.approx(beta * gap)


def test_smoothing_mixes_the_loss_with_that_of_the_swapped_labels() -> None:
    beta, e, (w, r, rw, rl) = 0.3, 0.15, draw(3)
    forward, swapped = pair_loss(w, r, rw, rl, beta=beta).loss_sum, pair_loss(r, w, rl, rw, beta=beta).loss_sum
    smooth = pair_loss(w, r, rw, rl, beta=beta, label_smoothing=e).loss_sum
    assert smooth.item() == pytest.approx(((1 - e) * forward + e * swapped).item())
    assert pair_loss(w, r, rw, rl, beta=beta, label_smoothing=0.0).loss_sum.item() == forward.item()


def test_ipo_is_least_where_the_gap_is_one_over_two_beta() -> None:
    zero, beta = torch.zeros(1), 0.25
    losses = [pair_loss(zero + gap, zero, zero, zero, beta=beta, loss="ipo").loss_sum.item() for gap in (1.9, 2.0, 2.1)]
    assert losses[1] == 0.0 < min(losses[0], losses[2])


def test_hinge_stops_teaching_a_pair_that_is_won_by_one() -> None:
    zero = torch.zeros(1)
    chosen = torch.tensor([10.0], requires_grad=True)
    pair_loss(chosen, zero, zero, zero, beta=0.1, loss="hinge").loss_sum.backward()
    assert chosen.grad.item() == 0.0
    assert pair_loss(zero + 9.9, zero, zero, zero, beta=0.1, loss="hinge").loss_sum.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_difference_to_the_reference_counts(loss: Any) -> None:
    w, r, rw, rl = draw(4)
    one, other = pair_loss(w, r, rw, rl, beta=0.2, loss=loss), pair_loss(w + 7, r - 3, rw + 7, rl - 3, beta=0.2, loss=loss)
    assert one.loss_sum.item() == pytest.approx(other.loss_sum.item())


@pytest.mark.parametrize("loss", LOSSES)
def test_splitting_a_batch_does_not_change_the_sums(loss: Any) -> None:
    logps = draw(5)
    whole = pair_loss(*logps, beta=0.2, loss=loss)
    parts = [pair_loss(*(x[part] for x in logps), beta=0.2, loss=loss) for part in (slice(0, 1), slice(1, 4), slice(4, 6))]
    assert sum(p.loss_sum for p in parts).item() == pytest.approx(whole.loss_sum.item())
    assert sum(p.weight for p in parts).item() == whole.weight.item()
    for name, value in whole.metrics.items():
        assert sum(p.metrics[name] for p in parts).item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_far_gaps_stay_finite(gap: float) -> None:
    zero = torch.zeros(1)
    assert math.isfinite(pair_loss(zero + gap, zero, zero, zero, beta=1.0, label_smoothing=0.1).loss_sum.item())


def test_metrics_count_wins_and_margins() -> None:
    zero = torch.zeros(2)
    terms = pair_loss(torch.tensor([3.0, -1.0]), zero, zero, torch.tensor([1.0, 1.0]), beta=0.5)
    assert terms.metrics["accuracy"].item() == 1 + 0  # gaps 4 and 0
    assert terms.metrics["margin"].item() == pytest.approx(0.5 * (4 + 0))
    assert terms.metrics["chosen_reward"].item() == pytest.approx(1.0) and terms.metrics["rejected_reward"].item() == pytest.approx(-1.0)


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(module).failed == 0
