"""Next-token loss against plain loops, and its chunked twin against it."""

import doctest
import math

import pytest
import torch
from torch import Tensor

from bloomery.objectives import next_token as module
from bloomery.objectives.next_token import linear_logps_and_entropy, linear_next_token, linear_token_logps, next_token, token_logps


def problem(num_tokens: int = 11, vocab: int = 7, dim: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    hidden = torch.randn(num_tokens, dim, generator=generator)
    head = torch.randn(vocab, dim, generator=generator)
    target = torch.randint(0, vocab, (num_tokens,), generator=generator)
    weight = torch.rand(num_tokens, generator=generator)
    weight[::3] = 0.0
    return hidden, head, target, weight


def loops(logits: Tensor, target: Tensor, weight: Tensor, z_loss: float) -> float:
    total = 0.0
    for n in range(len(target)):
        normaliser = math.log(sum(math.exp(x) for x in logits[n].tolist()))
        total += weight[n].item() * (normaliser - logits[n, target[n]].item() + z_loss * normaliser**2)
    return total


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_it_matches_plain_loops(z_loss: float) -> None:
    hidden, head, target, weight = problem()
    terms = next_token(hidden @ head.T, target, weight, z_loss=z_loss)
    assert terms.loss_sum.item() == pytest.approx(loops(hidden @ head.T, target, weight, z_loss), rel=1e-5)
    assert terms.weight.item() == pytest.approx(weight.sum().item())
    assert set(terms.metrics) == ({"nll"} if z_loss else set())


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_the_chunked_twin_has_the_same_loss_and_gradients(chunk_tokens: int, z_loss: float) -> None:
    hidden, head, target, weight = problem()
    found = []
    for twin in (False, True):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if twin:
            terms = linear_next_token(h, w, target, weight, z_loss=z_loss, chunk_tokens=chunk_tokens)
        else:
            terms = next_token(h @ w.T, target, weight, z_loss=z_loss)
        (terms.loss_sum * 3).backward()
        found.append((terms.loss_sum.detach(), terms.weight, h.grad, w.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_tokens_without_weight_are_not_even_looked_at() -> None:
    hidden, head, target, weight = problem()
    expected = linear_next_token(hidden, head, target, weight).loss_sum
    hidden[::3] = math.nan
    assert torch.equal(linear_next_token(hidden, head, target, weight).loss_sum, expected)
    logits = hidden @ head.T
    logits.requires_grad_()
    terms = next_token(logits, target, weight)
    assert terms.loss_sum.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4, 7])
def test_splitting_a_batch_does_not_change_loss_or_gradient_even_with_a_part_without_targets(parts: int) -> None:
    hidden, head, target, weight = problem(num_tokens=14)
    weight[:7] = 0.0  # the first parts have nothing to learn
    whole = head.clone().requires_grad_()
    next_token(hidden @ whole.T, target, weight).loss_sum.backward()
    split, total = head.clone().requires_grad_(), 0.0
    for h, t, w in zip(hidden.chunk(parts), target.chunk(parts), weight.chunk(parts), strict=True):
        terms = linear_next_token(h, split, t, w)
        if terms.loss_sum.requires_grad:
            terms.loss_sum.backward()
        total += terms.weight.item()
    torch.testing.assert_close(split.grad, whole.grad, atol=1e-5, rtol=1e-5)
    assert total == pytest.approx(weight.sum().item())


def test_a_batch_without_any_target_is_zero_and_not_nan() -> None:
    hidden, head, target, weight = problem()
    for terms in (next_token(hidden @ head.T, target, weight * 0), linear_next_token(hidden, head, target, weight * 0)):
        assert terms.loss_sum.item() == 0.0 == terms.weight.item()


def test_huge_logits_neither_overflow_nor_lose_the_target() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert next_token(logits, torch.tensor([0]), torch.ones(1)).loss_sum.item() == 0.0
    hidden, head = logits.new_tensor([[1.0]]), logits.mT
    assert linear_next_token(hidden, head, torch.tensor([1]), torch.ones(1)).loss_sum.item() == pytest.approx(2e4)


def test_log_probabilities_of_targets_are_those_of_the_softmax() -> None:
    hidden, head, target, _ = problem()
    expected = (hidden @ head.T).log_softmax(-1)[torch.arange(11), target]
    torch.testing.assert_close(token_logps(hidden @ head.T, target), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_from_hidden_states_have_the_numbers_and_gradients_of_those_from_logits(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, head = (torch.randn(*shape, generator=generator) for shape in ((7, 5), (11, 5)))
    target, pull = torch.randint(0, 11, (7,), generator=generator), torch.randn(7, generator=generator)
    found = []
    for fused in (True, False):
        inputs = [x.clone().requires_grad_() for x in (hidden, head)]
        logits = inputs[0] @ inputs[1].T / temperature
        if fused:
            logp, entropy = linear_logps_and_entropy(*inputs, target, temperature=temperature)
        else:
            logp, entropy = token_logps(logits, target), torch.distributions.Categorical(logits=logits).entropy().detach()
        (logp * pull).sum().backward()
        found.append([logp.detach(), entropy, *(x.grad for x in inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_from_hidden_states_are_those_of_the_logits_and_so_are_their_gradients(chunk: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, head = torch.randn(10, 8, generator=generator).to(dtype), torch.randn(20, 8, generator=generator)
    target, slope = torch.randint(20, (10,), generator=generator), torch.randn(10, generator=generator)
    found, expected = [], []
    for results, function in (
        (found, lambda h, w: linear_token_logps(h, w, target, chunk_tokens=chunk)),
        (expected, lambda h, w: token_logps((h @ w.to(dtype).T), target)),
    ):
        leaves = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        logp = function(*leaves)
        (logp * slope).sum().backward()
        results += [logp.detach(), *(leaf.grad for leaf in leaves)]
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, **tolerance)


def test_log_probabilities_leave_out_the_gradient_of_a_frozen_head() -> None:
    hidden, head = torch.randn(4, 8, requires_grad=True), torch.randn(20, 8)
    linear_token_logps(hidden, head, torch.arange(4)).sum().backward()
    assert hidden.grad is not None and head.grad is None
