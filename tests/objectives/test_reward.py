"""Reward losses against plain loops, and the identities they must hold."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bloomery.objectives.reward import pair_reward_loss, ranking_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pairs_in_loops(
    rewards: Sequence[float], ranks: Sequence[int], *, even: bool = False, margin: float = 0.0, centering: float = 0.0
) -> float:
    """The mean loss of a prompt's pairs, written pair by pair (arXiv:2203.02155, eq. 1)."""
    costs, weights, penalties = [], [], []
    for i, j in itertools.combinations(range(len(ranks)), 2):
        if ranks[i] == ranks[j]:
            if even:
                costs.append(0.5 * (softplus(rewards[j] - rewards[i]) + softplus(rewards[i] - rewards[j])))
                weights.append(1.0)
            continue
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        costs.append(softplus(-(rewards[better] - rewards[worse] - margin)))
        weights.append(1.0)
        penalties.append((rewards[i] + rewards[j]) ** 2)
    loss = sum(costs) / sum(weights) if weights else 0.0
    return loss + (centering * sum(penalties) / len(penalties) if penalties else 0.0)


def choices_in_loops(rewards: Sequence[float], ranks: Sequence[int], *, even: bool = False) -> float:
    """Plackett and Luce: the best is chosen from all, the next from the rest."""
    total = 0.0
    for i in range(len(ranks)):
        field = [rewards[j] for j in range(len(ranks)) if ranks[j] > ranks[i] or (even and ranks[j] == ranks[i]) or j == i]
        total += math.log(sum(map(math.exp, field))) - rewards[i] if len(field) > 1 else 0.0
    return total


def test_equal_rewards_cost_ln_2_and_the_gradient_parts_them() -> None:
    reward_N = torch.zeros(3, requires_grad=True)
    other_N = torch.zeros(3, requires_grad=True)
    terms = pair_reward_loss(reward_N, other_N)
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(3 * math.log(2)) and terms.weight.item() == 3
    assert reward_N.grad is not None and other_N.grad is not None
    assert reward_N.grad.tolist() == [-0.5] * 3 and other_N.grad.tolist() == [0.5] * 3
    assert terms.metrics["accuracy"].item() == 1.5


def test_a_constant_added_to_both_rewards_changes_nothing_but_with_centering() -> None:
    chosen_N, rejected_N = draw(5), draw(5, seed=1)
    plain, moved = pair_reward_loss(chosen_N, rejected_N), pair_reward_loss(chosen_N + 7, rejected_N + 7)
    assert moved.loss_sum.item() == pytest.approx(plain.loss_sum.item(), abs=1e-4)
    centred, moved = (pair_reward_loss(chosen_N + c, rejected_N + c, centering=0.1) for c in (0, 7))
    assert moved.loss_sum.item() > centred.loss_sum.item() + 10


def test_the_gradient_of_centering_is_twice_the_coefficient_times_the_sum_of_both() -> None:
    chosen_N, rejected_N = draw(4).requires_grad_(), draw(4, seed=1).requires_grad_()
    with_N, without_N = (
        torch.autograd.grad(pair_reward_loss(chosen_N, rejected_N, centering=c).loss_sum / 4, chosen_N)[0] for c in (0.3, 0.0)
    )
    torch.testing.assert_close(with_N - without_N, 2 * 0.3 * (chosen_N + rejected_N).detach() / 4)


def test_a_margin_is_what_the_better_answer_must_be_ahead_by() -> None:
    chosen_N, rejected_N, margin_N = draw(4), draw(4, seed=1), torch.tensor([0.0, 1.0, 2.5, 5.0])
    terms = pair_reward_loss(chosen_N, rejected_N, margin_N=margin_N)
    assert terms.loss_sum.item() == pytest.approx(pair_reward_loss(chosen_N - margin_N, rejected_N).loss_sum.item(), rel=1e-6)
    # A log-exp loss that forgets the margin gives ln 2 for equal rewards, whatever it is.
    zero_N = torch.zeros(1)
    assert pair_reward_loss(zero_N, zero_N, margin_N=zero_N + 5).loss_sum.item() == pytest.approx(5.0067, abs=1e-4)


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_loss_and_gradient_are_finite_for_rewards_that_lie_far_apart(loss: Any, gap: float) -> None:
    reward_NK = torch.tensor([[gap, 0.0]], requires_grad=True)
    terms = ranking_loss(reward_NK, torch.tensor([[1, 2]]), loss=loss)
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == (0.0 if gap > 0 else 1e4)
    assert reward_NK.grad is not None and reward_NK.grad.tolist() == ([[0.0, 0.0]] if gap > 0 else [[-1.0, 1.0]])


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
def test_a_ranking_of_two_is_a_pair(loss: Any) -> None:
    reward_NK = draw(6, 2)
    rank_NK = torch.tensor([[1, 2], [2, 1]] * 3)
    best_N, worst_N = (reward_NK.gather(1, (rank_NK == rank).int().argmax(1, keepdim=True))[:, 0] for rank in (1, 2))
    ours, pair = ranking_loss(reward_NK, rank_NK, loss=loss), pair_reward_loss(best_N, worst_N)
    assert ours.loss_sum.item() == pytest.approx(pair.loss_sum.item(), rel=1e-6)
    assert {name: value.item() for name, value in ours.metrics.items()} == pytest.approx({k: v.item() for k, v in pair.metrics.items()})


def test_a_ranking_of_four_is_the_mean_of_its_six_pairs_and_one_element_of_the_batch() -> None:
    reward_NK = draw(2, 4).requires_grad_()
    rank_NK = torch.tensor([[3, 1, 4, 2], [1, 2, 3, 4]])
    terms = ranking_loss(reward_NK, rank_NK)
    total = torch.zeros(())
    for n in range(2):
        order = rank_NK[n].argsort()
        for i, j in itertools.combinations(range(4), 2):
            total = total + pair_reward_loss(reward_NK[n, order[i], None], reward_NK[n, order[j], None]).loss_sum / 6
    torch.testing.assert_close(terms.loss_sum, total)
    torch.testing.assert_close(*(torch.autograd.grad(value, reward_NK, retain_graph=True)[0] for value in (terms.loss_sum, total)))
    assert terms.weight.item() == 2


@pytest.mark.parametrize("even", [False, True])
def test_rankings_match_plain_loops_with_ties_gaps_and_margins(even: bool) -> None:
    ties: Any = "even" if even else "left_out"
    ranks = [[1, 2, 3, 4], [1, 1, 2, 0], [2, 2, 2, 1], [7, 3, 0, 0], [1, 1, 0, 0], [5, 0, 0, 0]]
    reward_NK, rank_NK, margin_N = draw(6, 4), torch.tensor(ranks), torch.tensor([0.0, 0.5, 1.0, 0.0, 2.0, 0.0])
    terms = ranking_loss(reward_NK, rank_NK, margin_N=margin_N, centering=0.2, ties=ties)
    choices = ranking_loss(reward_NK, rank_NK, loss="plackett_luce", ties=ties)
    expected = [0.0, 0.0]
    for n, row in enumerate(ranks):
        shown = [(reward_NK[n, k].item(), rank) for k, rank in enumerate(row) if rank]
        rewards, kept = [reward for reward, _ in shown], [rank for _, rank in shown]
        expected[0] += pairs_in_loops(rewards, kept, even=even, margin=margin_N[n].item(), centering=0.2)
        expected[1] += choices_in_loops(rewards, kept, even=even)
    assert terms.loss_sum.item() == pytest.approx(expected[0], rel=1e-5)
    assert choices.loss_sum.item() == pytest.approx(expected[1], rel=1e-5)
    assert terms.weight.item() == choices.weight.item() == (5 if even else 4)


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
@pytest.mark.parametrize("ties", ["left_out", "even"])
def test_the_order_in_which_answers_are_listed_and_padding_say_nothing(loss: Any, ties: Any) -> None:
    reward_NK, rank_NK = draw(3, 4), torch.tensor([[2, 1, 1, 3], [1, 2, 3, 0], [4, 4, 1, 1]])
    plain = ranking_loss(reward_NK, rank_NK, loss=loss, ties=ties)
    order = torch.tensor([2, 0, 3, 1])
    padded = torch.cat([reward_NK[:, order], torch.full((3, 2), 1e9)], 1).requires_grad_()
    moved = ranking_loss(padded, torch.cat([rank_NK[:, order], torch.zeros(3, 2, dtype=torch.long)], 1), loss=loss, ties=ties)
    assert moved.loss_sum.item() == pytest.approx(plain.loss_sum.item(), rel=1e-6)
    moved.loss_sum.backward()
    assert padded.grad is not None and padded.grad.isfinite().all() and not padded.grad[:, 4:].any()


def test_even_ties_draw_rewards_together_and_left_out_ones_do_not_move_them() -> None:
    for loss in ("bradley_terry", "plackett_luce"):
        reward_NK = torch.tensor([[1.0, -1.0]], requires_grad=True)
        rank_NK = torch.ones(1, 2, dtype=torch.long)
        nothing = ranking_loss(reward_NK, rank_NK, loss=loss)  # type: ignore[arg-type]
        assert nothing.weight.item() == 0 and nothing.loss_sum.item() == 0
        slope_NK = torch.autograd.grad(ranking_loss(reward_NK, rank_NK, loss=loss, ties="even").loss_sum, reward_NK)[0]  # type: ignore[arg-type]
        assert slope_NK[0, 0] > 0 > slope_NK[0, 1]


def test_plackett_luce_recovers_the_strengths_that_rankings_were_drawn_from() -> None:
    strength_K = torch.tensor([1.0, 0.3, -0.2, -1.1])
    generator = torch.Generator().manual_seed(0)
    # The order of strengths with Gumbel noise is a draw from Plackett and Luce (Yellott 1977).
    noise_NK = -torch.log(-torch.log(torch.rand(20_000, 4, generator=generator)))
    rank_NK = (-(strength_K + noise_NK)).argsort(1).argsort(1) + 1
    for loss in ("plackett_luce", "bradley_terry"):
        found_K = torch.zeros(4, requires_grad=True)
        optimizer = torch.optim.LBFGS([found_K], max_iter=50)

        def close(loss: Any = loss, found_K: Tensor = found_K, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            terms = ranking_loss(found_K.expand(20_000, 4), rank_NK, loss=loss)
            mean = terms.loss_sum / terms.weight
            mean.backward()
            return mean

        optimizer.step(close)
        torch.testing.assert_close((found_K - found_K.mean()).detach(), strength_K - strength_K.mean(), atol=0.03, rtol=0)


def test_soft_labels_are_the_cross_entropy_of_torch() -> None:
    reward_NK, label_N = 3 * draw(5, 2), torch.tensor([0.5, 0.6, 0.75, 1.0, 0.1])
    ranks = torch.tensor([[1, 2]]).expand(5, 2)
    ours = ranking_loss(reward_NK, ranks, wrong_N=1 - label_N).loss_sum
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(reward_NK[:, 0] - reward_NK[:, 1], label_N, reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    turned = ranking_loss(reward_NK.flip(1), ranks, wrong_N=label_N).loss_sum
    assert turned.item() == pytest.approx(ours.item(), rel=1e-6)
    assert ranking_loss(reward_NK, ranks, wrong_N=torch.zeros(5)).loss_sum == ranking_loss(reward_NK, ranks).loss_sum
