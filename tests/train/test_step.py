"""One step: the same whatever the micro-batches, clipped where asked, and never poisoned."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import next_token
from bloomery.objectives.terms import LossTerms
from bloomery.train.fit import TrainingConfig, make_state
from bloomery.train.state import TrainState
from bloomery.train.step import micro_batch_rows, sum_losses, train_step

SIZES = {"vocab_size": 40, "dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 24, "max_positions": 16}


@dataclass
class Rows:
    """Rows with a weight for each token; document 1 everywhere."""

    token_BT: Tensor
    weight_BT: Tensor

    @property
    def document_BT(self) -> Tensor:
        return torch.ones_like(self.token_BT)

    def split(self, sizes: list[int]) -> list["Rows"]:
        return [Rows(t, w) for t, w in zip(self.token_BT.split(sizes), self.weight_BT.split(sizes), strict=True)]


def make_rows(num_rows: int = 6) -> Rows:
    generator = torch.Generator().manual_seed(4)
    token_BT = torch.randint(0, 40, (num_rows, 9), generator=generator)
    weight_BT = (torch.rand(num_rows, 9, generator=generator) < 0.5).float()
    weight_BT[0] = 0.0  # a micro-batch of this row alone has nothing to learn
    return Rows(token_BT, weight_BT)


def objective(model: Transformer, rows: Rows) -> LossTerms:
    logits_BTV = model(rows.token_BT[:, :-1])
    terms = next_token(logits_BTV, rows.token_BT[:, 1:], rows.weight_BT[:, 1:])
    return terms._replace(metrics={"half": terms.weight / 2})


def fresh_state(**settings: object) -> TrainState:
    config = TrainingConfig(**{"learning_rate": 0.01, "embedding_learning_rate": 0.01, "precision": "fp32", **settings})  # type: ignore[arg-type]
    return make_state(Transformer(ModelConfig(**SIZES), seed=1), config)


def weights(state: TrainState) -> list[Tensor]:
    return [p.detach().clone() for p in state.model.parameters()]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("sizes", [[3, 3], [1, 5], [1, 1, 1, 1, 1, 1]])
def test_splitting_a_batch_into_micro_batches_does_not_change_the_step(sizes: list[int], optimizer: str) -> None:
    whole, split = fresh_state(optimizer=optimizer), fresh_state(optimizer=optimizer)
    one = train_step(whole, [make_rows()], objective, max_gradient_norm=1.0)
    many = train_step(split, make_rows().split(sizes), objective, max_gradient_norm=1.0)
    assert one.loss == pytest.approx(many.loss, rel=1e-6) and one.gradient_norm == pytest.approx(many.gradient_norm, rel=1e-5)
    assert one.metrics == pytest.approx({"half": 0.5}) and many.metrics == pytest.approx({"half": 0.5})
    assert one.tokens == many.tokens == 54
    gradients = [[p.grad for p in state.model.parameters()] for state in (whole, split)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_divided_by_the_weight_and_clipped_to_its_length() -> None:
    for limit in (0.0, 1e9, 0.01):
        state = fresh_state()
        report = train_step(state, [make_rows()], objective, max_gradient_norm=limit)
        model = Transformer(ModelConfig(**SIZES), seed=1)
        terms = objective(model, make_rows())
        (terms.loss_sum / terms.weight).backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert report.gradient_norm == pytest.approx(expected.norm().item(), rel=1e-4)
        assert report.loss == pytest.approx((terms.loss_sum / terms.weight).item(), rel=1e-5)
        scale = 1.0 if limit in (0.0, 1e9) else limit / expected.norm()
        found = torch.cat([p.grad.flatten() for p in state.model.parameters()])
        torch.testing.assert_close(found, expected * scale, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights_and_ten_in_a_row_stop_the_run(poison: str) -> None:
    def poisoned(model: Transformer, rows: Rows) -> LossTerms:
        terms = objective(model, rows)
        weight = model.head_weight()
        # sqrt at 0 has a finite value and an infinite slope.
        extra = weight.sum() * float("nan") if poison == "loss" else ((weight - weight.detach()).square().sum()).sqrt()
        return terms._replace(loss_sum=terms.loss_sum + extra)

    state = fresh_state()
    train_step(state, [make_rows()], objective, max_gradient_norm=1.0)
    before = weights(state)
    for i in range(9):
        report = train_step(state, [make_rows()], poisoned, max_gradient_norm=1.0)
        assert report.skipped and state.skipped_in_a_row == i + 1
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))
    assert len(state.recent_losses) == 1 and state.step == 10
    with pytest.raises(DataError, match=r"step 11.*in 10 steps in a row"):
        train_step(state, [make_rows()], poisoned, max_gradient_norm=1.0)


def test_one_good_step_ends_a_row_of_bad_ones() -> None:
    def bad(model: Transformer, rows: Rows) -> LossTerms:
        terms = objective(model, rows)
        return terms._replace(loss_sum=terms.loss_sum * float("inf"))

    state = fresh_state()
    for _ in range(3):
        for _ in range(9):
            train_step(state, [make_rows()], bad, max_gradient_norm=1.0)
        train_step(state, [make_rows()], objective, max_gradient_norm=1.0)
    assert (state.skipped, state.skipped_in_a_row) == (27, 0)


def test_held_out_losses_add_up_over_batches_and_leave_no_gradient() -> None:
    state = fresh_state()
    whole = sum_losses(state.model, [make_rows()], objective)
    parts = sum_losses(state.model, make_rows().split([2, 1, 3]), objective)
    assert parts.loss_sum.item() == pytest.approx(whole.loss_sum.item(), rel=1e-6) and parts.weight == whole.weight
    assert parts.metrics["half"].item() == pytest.approx(whole.metrics["half"].item())
    assert all(p.grad is None for p in state.model.parameters())


def test_a_micro_batch_has_at_least_one_row() -> None:
    cpu = torch.device("cpu")
    assert (micro_batch_rows(256, cpu), micro_batch_rows(100_000, cpu)) == (32, 1)
