"""How far a policy is from its reference, and what a method's figures say."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bloomery.align.best_of_n import Samples, best_of_curve
from bloomery.align.frontier import best_of_record, difference, find_losses, gold_at, over_seeds, turning_point
from bloomery.align.measure import Policy, answer_kl, reward_of
from bloomery.align.rewards import RewardSpec, RewardSum
from bloomery.core.errors import DataError
from bloomery.generate.engine import Sample
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer

SIZES = {"vocab_size": 11, "dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 24, "max_positions": 32}


def make_model(seed: int) -> Transformer:
    model = Transformer(ModelConfig(**SIZES), seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(15)
    return model.eval()


def policy(greedy: list[float], sampled: list[float], kl: float = 1.0) -> Policy:
    ones = np.ones(len(greedy))
    return Policy(np.array(greedy), np.array(sampled), kl * ones, 3 * ones, ones)


def test_the_kl_of_answers_is_the_sum_over_their_tokens_of_that_between_next_token_distributions() -> None:
    model, reference = make_model(1), make_model(2)
    prompts = [[3, 4, 5], [6], [7, 8]]
    samples = [Sample([2, 1], [0.0, 0.0], "end"), Sample([9, 9, 9, 9], [0.0] * 4, "length"), Sample([1], [0.0], "end")]
    for temperature in (1.0, 0.7):
        found = answer_kl(model, reference, prompts, samples, temperature=temperature)
        for prompt, sample, value in zip(prompts, samples, found, strict=True):
            expected = 0.0
            for t in range(len(sample.tokens)):
                ids = torch.tensor([[*prompt, *sample.tokens[:t]]])
                p, q = (F.log_softmax(one(ids)[0, -1].detach().double() / temperature, -1) for one in (model, reference))
                expected += float((p.exp() * (p - q)).sum())
            assert value == pytest.approx(expected, rel=1e-4) and value > 0
    assert answer_kl(model, model, prompts, samples) == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_the_mean_of_the_kl_over_all_answers_is_that_of_the_two_distributions_over_answers() -> None:
    # Two tokens a time, every answer of them listed: sum of p log(p / q) over answers = expectation of the sums over tokens.
    model, reference = make_model(3), make_model(4)
    answers = [Sample([a, b], [0.0, 0.0], "length") for a in range(11) for b in range(11)]
    logps = []
    for one in (model, reference):
        ids = torch.tensor([[5, *answer.tokens] for answer in answers])
        steps = F.log_softmax(one(ids).detach().double(), -1)
        logps.append(sum(steps[range(121), t, ids[:, t + 1]] for t in (0, 1)))
    exact = float((logps[0].exp() * (logps[0] - logps[1])).sum())
    sums = torch.tensor(answer_kl(model, reference, [[5]] * 121, answers), dtype=torch.float64)
    assert float((logps[0].exp() * sums).sum()) == pytest.approx(exact, rel=1e-4)


def test_a_method_is_uncertain_over_its_seeds_and_with_one_seed_over_prompts() -> None:
    three = over_seeds([np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([0.0, 0.0])])
    assert three["value"] == 0.5 and three["seeds"] == [0.5, 1.0, 0.0] and three["interval_over"] == "seeds"
    assert three["high"] - three["value"] == pytest.approx(4.302653 * 0.5 / 3**0.5, rel=1e-6)  # Student's t, 2 degrees of freedom
    assert over_seeds([np.array([0.0, 1.0, 1.0])])["interval_over"] == "prompts"
    assert over_seeds([np.array([1.0])])["low"] is None


def test_differences_are_paired_by_seed_and_one_start_stands_for_all() -> None:
    start = [policy([0, 1], [0.2, 0.4])]
    found = difference([policy([0, 1], [0.5, 0.5]), policy([1, 1], [0.7, 0.9])], start, "sampled")
    assert found["seeds"] == pytest.approx([0.2, 0.5])


def test_where_a_method_lost_is_said_and_where_it_may_be_chance_is_not() -> None:
    start = [policy([0.5] * 4, [0.3] * 4)]
    methods = {
        "plain": [policy([0.9] * 4, [0.8 + d] * 4) for d in (0.0, 0.01, 0.02)],
        "worse": [policy([0.4] * 4, [0.6 + d] * 4) for d in (0.0, 0.01, 0.02)],
        "noisy": [policy([0.6] * 4, [0.8 + d] * 4) for d in (-0.4, 0.0, 0.3)],
    }
    rows = [{"n": 1, "kl": 0.0, "gold": {"value": 0.3}}, {"n": 8, "kl": 2.0, "gold": {"value": 0.9}}]
    losses = find_losses(methods, start, ["plain"], {"gold": rows})
    assert [text.partition(" (")[0] for text in losses["worse"]] == [
        "greedy 10.0 points below the model it began with",
        "sampled 20.0 points below plain",
        "greedy 50.0 points below plain",
    ]  # and not best of n: 0.6 at 1 nat is just what it gives
    assert list(losses) == ["worse", "noisy"] and [text.partition(" (")[0] for text in losses["noisy"]] == [
        "greedy 30.0 points below plain"
    ]


def test_best_of_n_at_a_kl_lies_between_the_sizes_and_nothing_is_said_beyond_them() -> None:
    rows = [{"kl": 0.0, "gold": {"value": 0.2}}, {"kl": 1.0, "gold": {"value": 0.6}}]
    assert gold_at(0.25, rows) == pytest.approx(0.3)
    assert gold_at(1.5, rows) is None


def test_a_proxy_that_misleads_at_its_top_turns_and_a_good_one_does_not() -> None:
    rng = np.random.default_rng(0)

    def curve(turns: bool) -> list[dict]:
        prompts = []
        for _ in range(300):
            proxy = rng.normal(size=16)
            prompts.append(Samples(proxy.tolist(), ((proxy < 1.0) & (proxy > 0) if turns else proxy > 0).astype(float).tolist()))
        return best_of_record([best_of_curve(prompts, seed=i) for i in range(1)], [1, 2, 4, 16])

    turned = turning_point(curve(turns=True))
    assert turned is not None and turned["n"] in (2, 4)
    assert turning_point(curve(turns=False)) is None


def test_an_answer_without_a_reward_is_an_error_that_names_source_prompt_and_answer() -> None:
    class Letters:
        end_id, pad_id, vocab_size = 1, 2, 11

        def decode_bytes(self, ids: Iterable[int]) -> bytes:
            return bytes(ord("a") + i - 3 for i in ids if i >= 3)

    row = {"messages": [{"role": "user", "content": "Which letter?"}]}
    silent = RewardSum([RewardSpec(source="exact", name="oracle")], [lambda rows, answers: [1.0, None]])
    samples = [Sample([3, 1], [0.0, 0.0], "end"), Sample([4, 1], [0.0, 0.0], "end")]
    with pytest.raises(DataError, match=r"oracle: no number for the answer 'b' to .*Which letter\?"):
        reward_of(silent, [row, row], samples, Letters())
