"""Draws fall where the cumulated probabilities say, top-k and top-p keep what they promise, and log-probabilities stay the model's.

Legend: B rows, V vocabulary.
"""

import math

import numpy as np
import pytest
import torch
import transformers

from bloomery.generate.sampling import SamplingParams, choose, draws


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def drawable(logits_BV: torch.Tensor, *, seen: tuple[int, ...] = (), **how: float) -> list[float]:
    """The share of each token over an even grid of draws."""
    grid, params = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1], SamplingParams(max_tokens=1, **how)
    tokens = choose(logits_BV.expand(10_000, -1), grid, [params] * 10_000, [seen] * 10_000).token_B
    return (tokens.bincount(minlength=logits_BV.shape[1]) / 10_000).tolist()


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    assert drawable(logits_of(0.1, 0.0, 0.6, 0.3)) == pytest.approx([0.1, 0.0, 0.6, 0.3], abs=2e-4)


def test_temperature_sharpens_and_flattens() -> None:
    weights = [0.1**2, 0.6**2, 0.3**2]
    assert drawable(logits_of(0.1, 0.6, 0.3), temperature=0.5) == pytest.approx([w / sum(weights) for w in weights], abs=2e-4)


def test_top_k_keeps_the_likeliest_and_shares_the_rest_among_them() -> None:
    assert drawable(logits_of(0.1, 0.2, 0.4, 0.3), top_k=2) == pytest.approx([0, 0, 4 / 7, 3 / 7], abs=2e-4)


def test_top_k_keeps_no_more_than_k_of_equally_likely_tokens() -> None:
    assert sum(share > 0 for share in drawable(torch.zeros(1, 10), top_k=3)) == 3


def test_top_k_of_more_than_the_vocabulary_keeps_everything() -> None:
    assert drawable(logits_of(0.25, 0.75), top_k=50) == pytest.approx([0.25, 0.75], abs=2e-4)


@pytest.mark.parametrize(("top_p", "kept"), [(0.35, [2]), (0.45, [2, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3]), (1e-9, [2])])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: list[int]) -> None:
    shares = drawable(logits_of(0.1, 0.2, 0.4, 0.3), top_p=top_p)
    assert [token for token, share in enumerate(shares) if share > 0] == kept


def test_top_p_counts_within_what_top_k_left() -> None:
    shares = drawable(logits_of(0.1, 0.2, 0.4, 0.3), top_k=2, top_p=0.5)  # 0.4 / 0.7 = 0.57 reaches it alone
    assert [token for token, share in enumerate(shares) if share > 0] == [2]


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, [0, 1, 2, 3]), (0.3, [1, 2, 3]), (0.6, [2, 3]), (1.0, [2])])
def test_min_p_keeps_what_is_not_much_less_likely_than_the_likeliest(min_p: float, kept: list[int]) -> None:
    shares = drawable(logits_of(0.1, 0.2, 0.4, 0.3), min_p=min_p)
    assert [token for token, share in enumerate(shares) if share > 0] == kept


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"top_k": 3, "top_p": 0.8}, [transformers.TopKLogitsWarper(3), transformers.TopPLogitsWarper(0.8)]),
        ({"min_p": 0.2, "top_k": 7}, [transformers.TopKLogitsWarper(7), transformers.MinPLogitsWarper(0.2)]),
        ({"repetition_penalty": 1.7}, [transformers.RepetitionPenaltyLogitsProcessor(1.7)]),
        ({"repetition_penalty": 0.5, "temperature": 0.7, "top_p": 0.6},
         [transformers.RepetitionPenaltyLogitsProcessor(0.5), transformers.TemperatureLogitsWarper(0.7),
          transformers.TopPLogitsWarper(0.6)]),
    ],
)  # fmt: skip
def test_tokens_are_as_likely_as_transformers_makes_them(ours: dict[str, float], theirs: list[transformers.LogitsProcessor]) -> None:
    logits_BV = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    scores_BV = transformers.LogitsProcessorList(theirs)(torch.tensor([[2, 5, 5, 9]]), logits_BV)
    assert drawable(logits_BV, seen=(2, 5, 5, 9), **ours) == pytest.approx(scores_BV.softmax(-1)[0].tolist(), abs=2e-4)


def test_rows_with_different_params_are_each_drawn_by_their_own() -> None:
    logits_BV = logits_of(0.1, 0.2, 0.4, 0.3).expand(3, -1)
    params = [SamplingParams(max_tokens=1, **how) for how in ({"temperature": 0.0}, {"top_logps": 2}, {"temperature": 0.5})]
    choice = choose(logits_BV, torch.tensor([0.0, 0.99, 0.0], dtype=torch.float64), params, [[]] * 3)
    assert choice.token_B.tolist() == [2, 3, 0]
    assert choice.logp_B.tolist() == pytest.approx([math.log(0.4), math.log(0.3), math.log(0.01 / 0.3)], abs=1e-6)
    assert [[token for token, _ in top] for top in choice.tops] == [[], [2, 3], []]
    assert choice.tops[1][0][1] == pytest.approx(math.log(0.4), abs=1e-6)


def test_log_probabilities_are_after_temperature_and_before_top_k_and_top_p() -> None:
    logits_BV = logits_of(0.1, 0.2, 0.4, 0.3)
    choice = choose(
        logits_BV, torch.tensor([0.99], dtype=torch.float64), [SamplingParams(max_tokens=1, temperature=0.5, top_k=2, top_p=0.9)]
    )
    assert choice.token_B.tolist() == [3]
    assert choice.logp_B.item() == pytest.approx(math.log(0.09 / (0.01 + 0.04 + 0.16 + 0.09)), abs=1e-6)


def test_greedy_takes_the_likeliest_and_records_its_log_probability_at_temperature_one() -> None:
    choice = choose(logits_of(0.3, 0.6, 0.1), torch.zeros(1, dtype=torch.float64), [SamplingParams(max_tokens=1, temperature=0.0)])
    assert choice.token_B.tolist() == [1]
    assert choice.logp_B.item() == pytest.approx(math.log(0.6), abs=1e-6)


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_never_draw_an_impossible_token(draw: float) -> None:
    logits_BV = torch.full((1, 1000), -math.inf)
    logits_BV[0, 500] = 0.0
    assert choose(logits_BV, torch.tensor([draw], dtype=torch.float64), [SamplingParams(max_tokens=1)]).token_B.tolist() == [500]


def test_draws_are_even_and_each_seed_and_place_has_its_own() -> None:
    numbers = draws(range(500), 40)
    assert numbers.shape == (500, 40)
    assert 0 <= numbers.min() < 0.001 < 0.999 < numbers.max() < 1
    assert len(np.unique(numbers)) == 20_000
    assert np.histogram(numbers, bins=10, range=(0, 1))[0] == pytest.approx([2000] * 10, abs=200)
    for shift in (1, 2):  # neighbours in seed or place are not alike
        assert abs(np.corrcoef(numbers[:-shift].ravel(), numbers[shift:].ravel())[0, 1]) < 0.03
        assert abs(np.corrcoef(numbers[:, :-shift].ravel(), numbers[:, shift:].ravel())[0, 1]) < 0.03


def test_a_draw_depends_on_its_seed_and_place_alone() -> None:
    assert draws([7, 3], 5)[1].tolist() == draws([3], 9)[0, :5].tolist()
    assert draws([2**63 + 5, -1], 1).shape == (2, 1)
    assert draws([1], 2)[0].tolist() == [0.40301438395063927, 0.39630391980025736]
