"""Preference losses against loops written from the papers, and the identities that pin them down."""

import doctest
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bloomery.objectives import preference as module
from bloomery.objectives.preference import OfPair, dpo_loss, orpo_loss, simpo_loss
from bloomery.objectives.terms import LossTerms

LOSSES = ("sigmoid", "robust", "sigmoid_norm", "ipo", "hinge")
LENGTHS = OfPair(torch.tensor([1.0, 4, 2, 7, 3, 5], dtype=torch.float64), torch.tensor([2.0, 2, 6, 1, 3, 9], dtype=torch.float64))


def draw(seed: int = 0, n: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [-5 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.01 for _ in range(4)]


def loss_of(logps: list[Tensor], length: OfPair = LENGTHS, **settings: Any) -> LossTerms:
    return dpo_loss(OfPair(*logps[:2]), OfPair(*logps[2:]), length, **settings)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def loops(logps: list[Tensor], beta: float, loss: str, e: float = 0.0) -> float:
    """Each loss as its paper writes it, one pair at a time."""
    total = 0.0
    for w, r, rw, rl, nw, nl in zip(*(x.tolist() for x in (*logps, *LENGTHS)), strict=True):
        gap = (w - rw) / nw - (r - rl) / nl if loss in ("ipo", "sigmoid_norm") else (w - rw) - (r - rl)
        right, wrong = -math.log(sigmoid(beta * gap)), -math.log(1 - sigmoid(beta * gap))
        if loss in ("sigmoid", "sigmoid_norm"):
            total += (1 - e) * right + e * wrong
        elif loss == "robust":
            total += ((1 - e) * right - e * wrong) / (1 - 2 * e)
        elif loss == "ipo":
            total += (gap - 1 / (2 * beta)) ** 2
        else:
            total += max(0.0, 1 - beta * gap)
    return total


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_matches_plain_loops(loss: Any, smoothing: float, beta: float) -> None:
    smoothing *= loss in ("sigmoid", "robust", "sigmoid_norm")
    terms = loss_of(draw(), beta=beta, loss=loss, label_smoothing=smoothing)
    assert terms.loss_sum.item() == pytest.approx(loops(draw(), beta, loss, smoothing), rel=1e-9)
    assert terms.weight.item() == 6


@pytest.mark.parametrize("loss", ["sigmoid", "robust", "sigmoid_norm"])
def test_a_policy_that_is_the_reference_has_loss_ln_2_no_reward_and_a_gradient(loss: Any) -> None:
    chosen, rejected, *_ = draw()
    policy = [x.clone().requires_grad_() for x in (chosen, rejected)]
    terms = loss_of([*policy, chosen, rejected], beta=0.1, loss=loss, length=OfPair(torch.ones(6), torch.ones(6)))
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(6 * math.log(2))
    assert {name: value.item() for name, value in terms.metrics.items()} == dict.fromkeys(terms.metrics, 0.0)
    assert policy[0].grad.tolist() == pytest.approx([-0.05] * 6) and policy[1].grad.tolist() == pytest.approx([0.05] * 6)


@pytest.mark.parametrize("loss", ["sigmoid", "robust", "sigmoid_norm"])
def test_equal_answers_have_loss_ln_2_and_move_nothing(loss: Any) -> None:
    leaf, reference = draw()[0].requires_grad_(), draw()[1]
    terms = loss_of([leaf, leaf, reference, reference], beta=0.3, loss=loss, length=OfPair(LENGTHS.chosen_N, LENGTHS.chosen_N))
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(6 * math.log(2)) and leaf.grad.abs().max().item() == 0.0


def test_the_gradient_is_that_of_equation_7_of_the_paper() -> None:
    beta, logps = 0.3, draw(1)
    policy = [x.clone().requires_grad_() for x in logps[:2]]
    loss_of([*policy, *logps[2:]], beta=beta).loss_sum.backward()
    gap = (logps[0] - logps[2]) - (logps[1] - logps[3])
    torch.testing.assert_close(policy[0].grad, -beta * torch.sigmoid(-beta * gap))
    torch.testing.assert_close(policy[1].grad, beta * torch.sigmoid(-beta * gap))


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], LossTerms]] = {
    **{loss: (lambda w, r, loss=loss: loss_of([w, r, *draw(7)[2:]], beta=0.4, loss=loss, label_smoothing=0.0)) for loss in LOSSES},
    "conservative": lambda w, r: loss_of([w, r, *draw(7)[2:]], beta=0.4, label_smoothing=0.2),
    "robust to noise": lambda w, r: loss_of([w, r, *draw(7)[2:]], beta=0.4, loss="robust", label_smoothing=0.2),
    "simpo": lambda w, r: simpo_loss(OfPair(w, r), LENGTHS, beta=2.0, gamma=0.5),
    "orpo": lambda w, r: orpo_loss(OfPair(w, r), LENGTHS, weight=0.3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    logps = draw(6)[:2]
    leaves = [x.clone().requires_grad_() for x in logps]
    FUNCTIONS[name](*leaves).loss_sum.backward()
    step = 1e-6
    for which in (0, 1):
        for i in range(6):
            moved = []
            for sign in (1, -1):
                values = [x.clone() for x in logps]
                values[which][i] += sign * step
                moved.append(FUNCTIONS[name](*values).loss_sum.item())
            assert leaves[which].grad[i].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-6)


def test_swapping_chosen_and_rejected_adds_beta_times_the_gap() -> None:
    beta, (w, r, rw, rl) = 0.3, draw(2)
    forward, swapped = loss_of([w, r, rw, rl], beta=beta), loss_of([r, w, rl, rw], beta=beta)
    gap = ((w - rw) - (r - rl)).sum().item()
    assert swapped.loss_sum.item() - forward.loss_sum.item() == pytest.approx(beta * gap)


def test_conservative_smoothing_mixes_the_loss_with_that_of_the_swapped_labels() -> None:
    beta, e, (w, r, rw, rl) = 0.3, 0.15, draw(3)
    forward, swapped = loss_of([w, r, rw, rl], beta=beta).loss_sum, loss_of([r, w, rl, rw], beta=beta).loss_sum
    smooth = loss_of([w, r, rw, rl], beta=beta, label_smoothing=e).loss_sum
    assert smooth.item() == pytest.approx(((1 - e) * forward + e * swapped).item())
    assert loss_of([w, r, rw, rl], beta=beta, label_smoothing=0.0).loss_sum.item() == forward.item()


def test_robust_smoothing_is_the_true_loss_on_average_over_flipped_labels() -> None:
    beta, e, (w, r, rw, rl) = 0.3, 0.15, draw(3)
    forward, swapped = (loss_of(logps, beta=beta, loss="robust", label_smoothing=e).loss_sum for logps in ([w, r, rw, rl], [r, w, rl, rw]))
    true = loss_of([w, r, rw, rl], beta=beta).loss_sum.item()
    assert ((1 - e) * forward + e * swapped).item() == pytest.approx(true)
    assert loss_of([w, r, rw, rl], beta=beta, loss="robust").loss_sum.item() == pytest.approx(true)


def test_ipo_is_least_and_zero_where_the_mean_gap_is_one_over_two_beta() -> None:
    zero, beta, length = torch.zeros(1), 0.25, OfPair(torch.tensor([4.0]), torch.tensor([3.0]))
    losses = [loss_of([zero + 4 * gap, zero, zero, zero], length, beta=beta, loss="ipo").loss_sum.item() for gap in (1.9, 2.0, 2.1)]
    assert losses[1] == 0.0 < min(losses[0], losses[2])


def test_hinge_stops_teaching_a_pair_that_is_won_by_one() -> None:
    zero, one = torch.zeros(1), OfPair(torch.ones(1), torch.ones(1))
    chosen = torch.tensor([10.0], requires_grad=True)
    loss_of([chosen, zero, zero, zero], one, beta=0.1, loss="hinge").loss_sum.backward()
    assert chosen.grad.item() == 0.0
    assert loss_of([zero + 9.9, zero, zero, zero], one, beta=0.1, loss="hinge").loss_sum.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_difference_to_the_reference_counts(loss: Any) -> None:
    w, r, rw, rl = draw(4)
    one, other = loss_of([w, r, rw, rl], beta=0.2, loss=loss), loss_of([w + 7, r - 3, rw + 7, rl - 3], beta=0.2, loss=loss)
    assert one.loss_sum.item() == pytest.approx(other.loss_sum.item())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_splitting_a_batch_does_not_change_the_sums(name: str) -> None:
    twice = draw(7)
    whole = loss_of(twice, beta=0.2) if name in LOSSES else FUNCTIONS[name](*twice[:2])
    assert whole.weight.item() == 6
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        policy, length = OfPair(*(x[part] for x in twice[:2])), OfPair(*(x[part] for x in LENGTHS))
        if name == "simpo":
            parts.append(simpo_loss(policy, length, beta=2.0, gamma=0.5))
        elif name == "orpo":
            parts.append(orpo_loss(policy, length, weight=0.3))
        else:
            whole = loss_of(twice, beta=0.2, loss="robust", label_smoothing=0.1)
            parts.append(dpo_loss(policy, OfPair(*(x[part] for x in twice[2:])), length, beta=0.2, loss="robust", label_smoothing=0.1))
    assert sum(p.loss_sum for p in parts).item() == pytest.approx(whole.loss_sum.item())
    for metric, value in whole.metrics.items():
        assert sum(p.metrics[metric] for p in parts).item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_far_gaps_stay_finite(gap: float) -> None:
    zero, one = torch.zeros(1), OfPair(torch.ones(1), torch.ones(1))
    assert math.isfinite(loss_of([zero + gap, zero, zero, zero], one, beta=1.0, label_smoothing=0.1).loss_sum.item())
    leaf = torch.zeros(1, requires_grad=True)
    terms = orpo_loss(OfPair(leaf, torch.full((1,), -1e4)), one, weight=1.0)  # an answer that is certain
    terms.loss_sum.backward()
    assert math.isfinite(terms.loss_sum.item()) and math.isfinite(leaf.grad.item())


def test_metrics_count_wins_and_margins() -> None:
    zero = torch.zeros(2)
    terms = loss_of([torch.tensor([3.0, -1.0]), zero, zero, torch.tensor([1.0, 1.0])], OfPair(zero + 1, zero + 1), beta=0.5)
    assert terms.metrics["accuracy"].item() == 1 + 0  # gaps 4 and 0
    assert terms.metrics["margin"].item() == pytest.approx(0.5 * (4 + 0))
    assert terms.metrics["chosen_reward"].item() == pytest.approx(1.0) and terms.metrics["rejected_reward"].item() == pytest.approx(-1.0)
    assert terms.metrics["log_ratio"].item() == pytest.approx((3 - 1) / 2 + (-1 - 1) / 2)


def test_simpo_matches_plain_loops_and_knows_no_reference() -> None:
    w, r, *_ = draw(8)
    expected = 0.0
    for cw, cl, nw, nl in zip(*(x.tolist() for x in (w, r, *LENGTHS)), strict=True):
        expected += -math.log(sigmoid(2.0 * cw / nw - 2.0 * cl / nl - 0.7))
    assert simpo_loss(OfPair(w, r), LENGTHS, beta=2.0, gamma=0.7).loss_sum.item() == pytest.approx(expected)


def test_simpo_judges_a_token_not_an_answer_by_its_length() -> None:
    once, twice = OfPair(torch.tensor([-2.0]), torch.tensor([-3.0])), OfPair(torch.tensor([-4.0]), torch.tensor([-6.0]))
    length, doubled = OfPair(torch.tensor([2.0]), torch.tensor([3.0])), OfPair(torch.tensor([4.0]), torch.tensor([6.0]))
    losses = [simpo_loss(p, n, beta=2.0, gamma=0.5).loss_sum.item() for p, n in ((once, length), (twice, doubled))]
    assert losses[0] == losses[1]


def test_orpo_is_the_nll_and_a_share_of_the_odds_ratio() -> None:
    w, r, *_ = draw(9)
    expected = 0.0
    for cw, cl, nw, nl in zip(*(x.tolist() for x in (w, r, *LENGTHS)), strict=True):
        good, bad = math.exp(cw / nw), math.exp(cl / nl)
        odds_ratio = (good / (1 - good)) / (bad / (1 - bad))
        expected += -cw / nw + 0.3 * math.log(1 + 1 / odds_ratio)  # softplus(-log OR)
    terms = orpo_loss(OfPair(w, r), LENGTHS, weight=0.3)
    assert terms.loss_sum.item() == pytest.approx(expected, rel=1e-6)
    assert orpo_loss(OfPair(w, r), LENGTHS, weight=0.0).loss_sum.item() == pytest.approx(-(w / LENGTHS.chosen_N).sum().item())


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(module).failed == 0


def test_a_soft_label_weighs_both_directions_and_turned_round_with_its_complement_says_the_same() -> None:
    logps, label_N = draw(3), torch.tensor([0.5, 0.6, 0.75, 0.9, 1.0, 0.2], dtype=torch.float64)
    for loss in ("sigmoid", "sigmoid_norm"):
        soft = loss_of(logps, beta=0.3, loss=loss, label_smoothing=1 - label_N).loss_sum
        singly = [
            loss_of([x[i : i + 1] for x in logps], OfPair(*(x[i : i + 1] for x in LENGTHS)), beta=0.3, loss=loss, label_smoothing=e)
            for i, e in enumerate((1 - label_N).tolist())
        ]
        assert soft.item() == pytest.approx(sum(terms.loss_sum.item() for terms in singly))
        swapped = [logps[1], logps[0], logps[3], logps[2]]
        turned = loss_of(swapped, OfPair(*LENGTHS[::-1]), beta=0.3, loss=loss, label_smoothing=label_N).loss_sum
        assert turned.item() == pytest.approx(soft.item())
