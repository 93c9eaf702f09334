"""What a model gains from the text before: against logits taken by hand, and where rows are drawn from."""

import pytest
import torch

from bloomery.evaluate.context_gain import MIN_ROWS, NUM_ROWS, context_gains, draw_rows
from bloomery.model.config import ModelShape, make_model_config
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import token_set


def test_the_gain_is_the_loss_of_the_40th_to_55th_token_less_that_from_the_200th_on():
    model = Transformer(make_model_config(ModelShape(depth=1, dim=32, head_dim=16), vocab_size=50, max_positions=256), seed=0).eval()
    row_NT = torch.randint(0, 50, (70, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_NTV = model(row_NT)
    for n, gain in enumerate(context_gains(model, row_NT)):
        losses = torch.nn.functional.cross_entropy(logits_NTV[n, :-1], row_NT[n, 1:], reduction="none")
        assert gain.item() == pytest.approx((losses[40:56].mean() - losses[200:].mean()).item(), abs=1e-5)


def test_rows_lie_inside_documents_and_come_from_all_of_them():
    first = [[10 * i + j % 10 for j in range(70)] for i in range(40)]  # two rows of 32 in each
    row_NT = draw_rows([token_set(first), token_set([[7] * 31] * 9)], row_tokens=32)
    assert row_NT.shape == (80, 32)
    assert all(len({token // 10 for token in row}) == 1 for row in row_NT.tolist())
    assert {row[0] // 10 for row in row_NT.tolist()} == set(range(40))
    many = draw_rows([token_set([[1] * 32_000]), token_set([[2] * 32_000])], row_tokens=32)
    assert len(many) == NUM_ROWS and (many[:, 0] == 1).sum() == NUM_ROWS // 2


def test_of_few_rows_nothing_is_said():
    assert draw_rows([token_set([[1] * 64] * (MIN_ROWS - 1))], row_tokens=64) is None
    assert draw_rows([token_set([[1] * 64] * MIN_ROWS)], row_tokens=64).shape == (MIN_ROWS, 64)
