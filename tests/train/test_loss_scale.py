"""float16: the loss is scaled, an overflow costs a step and half the scale, and the step is that of float32 but for rounding."""

import itertools
import math

import pytest
import torch

from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import next_token
from bloomery.objectives.terms import LossTerms
from bloomery.train import loss_scale
from bloomery.train.fit import TrainingConfig, make_state
from bloomery.train.loss_scale import MAX_SCALE, MIN_SCALE, adapt_scale
from bloomery.train.state import TrainState
from bloomery.train.step import train_step

SIZES = {"vocab_size": 30, "dim": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 8, "max_positions": 16}
CONFIG = TrainingConfig(optimizer="adamw", learning_rate=0.001, embedding_learning_rate=0.001)


class Rows:
    def __init__(self, seed: int) -> None:
        self.token_BT = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(seed))
        self.document_BT = torch.ones_like(self.token_BT)


def objective(model: Transformer, rows: Rows) -> LossTerms:
    return next_token(model(rows.token_BT[:, :-1]), rows.token_BT[:, 1:], torch.ones(4, 8))


def fresh_state(dtype: torch.dtype) -> TrainState:
    state = make_state(Transformer(ModelConfig(**SIZES), seed=1), CONFIG)
    state.model.compute_dtype = dtype
    return state


@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_training_in_float16_is_that_in_float32_but_for_rounding(scale: float) -> None:
    half, full = fresh_state(torch.float16), fresh_state(torch.float32)
    half.loss_scale = scale
    for step in range(5):
        a = train_step(half, [Rows(step)], objective, max_gradient_norm=1.0)
        b = train_step(full, [Rows(step)], objective, max_gradient_norm=1.0)
        assert a.loss == pytest.approx(b.loss, rel=2e-3) and a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-2)
    assert half.skipped == 0 and (half.loss_scale, half.steps_at_scale) == (scale, 5)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_an_overflow_halves_the_scale_leaves_the_step_out_and_is_no_spike() -> None:
    state = fresh_state(torch.float16)
    state.loss_scale = 2.0**16
    before = [p.detach().clone() for p in state.model.parameters()]

    def steep(model: Transformer, rows: Rows) -> LossTerms:
        # The gradient of the logits is 2**10 for each token: times a scale of 2**6 and more it is no float16.
        logits_BTV = model(rows.token_BT[:, :-1]).half()
        return LossTerms((logits_BTV.float() * 2.0**10).sum(), torch.tensor(32.0), {})

    scales = []
    while state.skipped == state.step:
        report = train_step(state, [Rows(0)], steep, max_gradient_norm=1.0)
        scales.append(state.loss_scale)
        assert report.skipped == (state.skipped == state.step)
        assert not report.skipped or "too large for float16" in report.reason
        if report.skipped:
            assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert scales[0] == 2.0**15 and all(b == a / 2 for a, b in itertools.pairwise(scales[:-1])) and len(scales) > 10
    assert state.spikes == [] and state.skipped_in_a_row == 0  # more than ten overflows in a row, and no error


def test_a_gradient_that_is_not_finite_at_the_smallest_scale_is_a_spike() -> None:
    state = fresh_state(torch.float16)
    state.loss_scale = MIN_SCALE
    bad = train_step(state, [Rows(0)], lambda model, rows: _sharp(model, rows), max_gradient_norm=1.0)
    assert bad.skipped and len(state.spikes) == 1 and state.skipped_in_a_row == 1 and state.loss_scale == MIN_SCALE


def _sharp(model: Transformer, rows: Rows) -> LossTerms:
    weight = model.head_weight()
    terms = objective(model, rows)
    return terms._replace(loss_sum=terms.loss_sum + (weight - weight.detach()).square().sum().sqrt())  # a slope of 0 / 0


def test_a_loss_that_is_not_a_number_is_no_overflow() -> None:
    state = fresh_state(torch.float16)
    train_step(state, [Rows(0)], lambda m, r: objective(m, r)._replace(loss_sum=objective(m, r).loss_sum * math.nan), max_gradient_norm=1.0)
    assert state.loss_scale == 1.0 and len(state.spikes) == 1


def test_the_scale_doubles_after_many_good_steps_and_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS_TO_GROW", 3)
    state = fresh_state(torch.float16)
    found = []
    for overflowed in (False, False, True, False, False, False, False):
        adapt_scale(state, overflowed=overflowed)
        found.append((state.loss_scale, state.steps_at_scale))
    assert found == [(1.0, 1), (1.0, 2), (0.5, 0), (0.5, 1), (0.5, 2), (1.0, 0), (1.0, 1)]
    for _ in range(200):
        adapt_scale(state, overflowed=False)
    assert state.loss_scale == MAX_SCALE
    for _ in range(40):
        adapt_scale(state, overflowed=True)
    assert state.loss_scale == MIN_SCALE


def test_in_bfloat16_and_float32_nothing_is_scaled() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        state = fresh_state(dtype)
        state.loss_scale = 64.0  # not read
        train_step(state, [Rows(0)], objective, max_gradient_norm=1.0)
        assert state.steps_at_scale == 0
