"""KTO against loops written from the paper, and the identities that pin it down."""

import doctest
import itertools
import math

import pytest
import torch

from bloomery.objectives import kto as module
from bloomery.objectives.kto import Weights, balanced_weights, is_balanced, kto_loss, mismatch, reference_point

LABELS = torch.tensor([True, False, True, True, False])
RATIO = torch.tensor([0.7, -1.2, -0.1, 3.0, 0.4], dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_it_matches_plain_loops_written_from_the_paper() -> None:
    beta, z0, weights = 0.4, torch.tensor(0.25, dtype=torch.float64), Weights(1.3, 0.7)
    expected = 0.0
    for ratio, label in zip(RATIO.tolist(), LABELS.tolist(), strict=True):
        weight = weights.desirable if label else weights.undesirable
        value = weight * sigmoid(beta * (ratio - 0.25) if label else beta * (0.25 - ratio))
        expected += weight - value  # lambda_y - v(x, y)
    terms = kto_loss(RATIO, LABELS, z0, beta=beta, weights=weights)
    assert terms.loss_sum.item() == pytest.approx(expected, rel=1e-9) and terms.weight.item() == 5


def test_a_policy_that_is_the_reference_has_half_the_mean_weight_as_its_loss_and_no_reference_point() -> None:
    z0 = reference_point(torch.zeros(()), torch.tensor(5.0))
    terms = kto_loss(torch.zeros(5), LABELS, z0, beta=0.3, weights=Weights(2.0, 1.0))
    assert z0.item() == 0.0
    assert terms.loss_sum.item() / 5 == pytest.approx(0.5 * (3 * 2.0 + 2 * 1.0) / 5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    z0, settings = torch.tensor(0.3, dtype=torch.float64), {"beta": 0.7, "weights": Weights(1.5, 1.0)}
    leaf = RATIO.clone().requires_grad_()
    kto_loss(leaf, LABELS, z0, **settings).loss_sum.backward()
    for i in range(5):
        up, down = RATIO.clone(), RATIO.clone()
        up[i] += 1e-6
        down[i] -= 1e-6
        slope = (kto_loss(up, LABELS, z0, **settings).loss_sum - kto_loss(down, LABELS, z0, **settings).loss_sum) / 2e-6
        assert leaf.grad[i].item() == pytest.approx(slope.item(), abs=1e-7)


def test_no_gradient_flows_through_the_reference_point() -> None:
    mismatched = torch.tensor([0.5, 1.5], requires_grad=True)
    z0 = reference_point(mismatched.sum(), torch.tensor(2.0))
    assert z0.item() == 1.0 and not z0.requires_grad
    leaf = torch.tensor(0.5, requires_grad=True)
    ratio = torch.ones(5, requires_grad=True)
    kto_loss(ratio, LABELS, leaf, beta=0.1, weights=Weights(1.0, 1.0)).loss_sum.backward()
    assert leaf.grad is None and ratio.grad is not None


def test_the_reference_point_is_never_below_zero() -> None:
    assert reference_point(torch.tensor(-3.0), torch.tensor(4.0)).item() == 0.0
    assert reference_point(torch.tensor(3.0), torch.tensor(4.0)).item() == 0.75


@pytest.mark.parametrize("count", range(2, 12))
def test_no_example_is_matched_with_itself_in_a_batch_of_any_size(count: int) -> None:
    for num_prompts in range(1, count + 1):
        prompts = [f"p{i % num_prompts}" for i in range(count)]
        partner = mismatch(prompts)
        assert sorted(partner) == list(range(count)) and all(i != j for i, j in enumerate(partner))
        largest = max(prompts.count(p) for p in prompts)
        if 2 * largest <= count:
            assert all(prompts[i] != prompts[j] for i, j in enumerate(partner))


def test_reversing_the_order_would_leave_the_middle_one_where_it_is() -> None:
    assert list(range(5))[::-1][2] == 2 != mismatch(list("abcde"))[2]


def test_one_example_has_nobody_to_be_mismatched_with() -> None:
    with pytest.raises(ValueError, match="at least two examples, found 1"):
        mismatch(["a"])


def test_a_part_of_a_batch_with_one_label_only_is_finite_and_the_sum_over_parts_is_the_whole() -> None:
    z0, settings = torch.tensor(0.2, dtype=torch.float64), {"beta": 0.1, "weights": Weights(1.0, 3.0)}
    whole = kto_loss(RATIO, LABELS, z0, **settings)
    parts = [kto_loss(RATIO[mask], LABELS[mask], z0, **settings) for mask in (LABELS, ~LABELS)]
    assert all(math.isfinite(part.loss_sum.item()) for part in parts)
    assert sum(part.loss_sum for part in parts).item() == pytest.approx(whole.loss_sum.item())
    assert sum(part.weight for part in parts).item() == whole.weight.item()
    for name, value in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(value.item(), rel=1e-5)
    assert parts[0].metrics["weight/undesirable"].item() == 0.0 == parts[0].metrics["loss/undesirable"].item()


def test_doubling_the_undesirable_weight_doubles_the_gradient_of_undesirable_answers_only() -> None:
    gradients = []
    for weight in (1.0, 2.0):
        leaf = RATIO.clone().requires_grad_()
        kto_loss(leaf, LABELS, ZERO, beta=0.3, weights=Weights(1.0, weight)).loss_sum.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], torch.where(LABELS, gradients[0], 2 * gradients[0]))


def test_desirable_answers_are_pulled_up_and_undesirable_ones_pushed_down() -> None:
    leaf = RATIO.clone().requires_grad_()
    kto_loss(leaf, LABELS, ZERO, beta=0.3, weights=Weights(1.0, 1.0)).loss_sum.backward()
    assert ((leaf.grad < 0) == LABELS).all()


def test_far_log_ratios_stay_finite_and_saturate() -> None:
    ratio = torch.tensor([1e5, -1e5], requires_grad=True)
    terms = kto_loss(ratio, torch.tensor([True, True]), torch.zeros(()), beta=1.0, weights=Weights(1.0, 1.0))
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == 1.0 and ratio.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("desirable", "undesirable"), list(itertools.product((1, 7, 100, 999), repeat=2)))
def test_the_weights_by_the_rule_balance_any_numbers_of_labels(desirable: int, undesirable: int) -> None:
    weights = balanced_weights(desirable, undesirable)
    balance = desirable * weights.desirable / (undesirable * weights.undesirable)
    assert 1 - 1e-9 <= balance <= 4 / 3 + 1e-9 and min(weights) == 1.0 and is_balanced(desirable, undesirable, weights)


def test_what_the_rule_calls_balanced() -> None:
    assert is_balanced(4, 3, Weights(1.0, 1.0)) and not is_balanced(3, 4, Weights(1.0, 1.0))
    assert not is_balanced(10, 100, Weights(1.0, 1.0)) and is_balanced(10, 100, Weights(13.3, 1.0))


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(module).failed == 0
