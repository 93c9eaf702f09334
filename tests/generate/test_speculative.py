"""What is said with drafts has the large model's distribution, token for token where it is greedy."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from bloomery.core.errors import ConfigError
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.speculative import SpeculativeEngine
from bloomery.generate.text import Vocabulary
from bloomery.model.transformer import Transformer


@pytest.fixture(scope="module")
def pair(make_model: Callable[..., Transformer], ids: Vocabulary) -> tuple[Engine, Engine]:
    """A model, and one that is like it in part: half as deep, with the same first layer and embeddings."""
    large, small = make_model(max_positions=96), make_model(max_positions=96, num_layers=1)
    return Engine(large, ids), Engine(small, ids)


def random_prompts(count: int, *, longest: int = 70) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 40) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("num_draft", [1, 3, 6])
@pytest.mark.parametrize("how", [{}, {"repetition_penalty": 1.3}, {"stop_tokens": (9, 12)}])
def test_greedy_answers_are_those_of_the_large_model_alone(num_draft: int, how: dict[str, object], pair: tuple[Engine, Engine]) -> None:
    params, prompts = SamplingParams(max_tokens=20, temperature=0.0, top_logps=2, **how), random_prompts(20)
    expected = pair[0].generate(prompts, params, seeds=[0] * 20)
    speculative = SpeculativeEngine(*pair, num_draft=num_draft)
    for found, sample in zip(speculative.generate(prompts, params, seeds=[0] * 20), expected, strict=True):
        assert (found.tokens, found.finish) == (sample.tokens, sample.finish)
        assert found.logps == pytest.approx(sample.logps, abs=1e-5)
        assert [[token for token, _ in top] for top in found.tops] == [[token for token, _ in top] for top in sample.tops]
    assert 0 < speculative.speculation.acceptance_rate < 1
    assert speculative.speculation.tokens_per_pass > 1


@pytest.mark.parametrize(
    "how", [{"temperature": 1.0}, {"temperature": 1.7, "top_k": 6}, {"temperature": 2.0, "top_p": 0.9, "repetition_penalty": 1.5}]
)
def test_answers_are_drawn_as_often_as_the_large_model_says_they_are_likely(how: dict[str, float], pair: tuple[Engine, Engine]) -> None:
    """Chi-square of all answers of three tokens against those of the plain engine."""
    narrow = [Engine(one.model, dataclasses.replace(one.tokenizer, vocab_size=12)) for one in pair]
    params, count = SamplingParams(max_tokens=3, **how), 1500
    prompts, seeds = [[3, 5, 7]] * count, list(range(count))
    speculative = SpeculativeEngine(narrow[0], narrow[1], num_draft=2)
    found, plain = (
        Counter(tuple(sample.tokens) for sample in engine.generate(prompts, params, seeds=seeds)) for engine in (speculative, narrow[0])
    )
    assert 0.05 < speculative.speculation.acceptance_rate < 0.95
    common = [answer for answer in found | plain if found[answer] + plain[answer] >= 10]
    assert len(common) >= 4
    # Two samples of the same size: sum of (a - b)^2 / (a + b), with about as many degrees of freedom as there are answers.
    chi_square = sum((found[answer] - plain[answer]) ** 2 / (found[answer] + plain[answer]) for answer in common)
    assert chi_square < len(common) + 5 * (2 * len(common)) ** 0.5
    assert abs(sum(found[answer] - plain[answer] for answer in common)) < 5 * (2 * count) ** 0.5


def test_a_wrong_acceptance_rule_would_be_seen(pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft's own distribution is far from the large model's: the chi-square above does not pass by itself."""
    narrow = [Engine(one.model, dataclasses.replace(one.tokenizer, vocab_size=12)) for one in pair]
    params, count = SamplingParams(max_tokens=3, temperature=1.0), 1000
    large, small = (
        Counter(tuple(sample.tokens) for sample in engine.generate([[3, 5, 7]] * count, params, seeds=range(count))) for engine in narrow
    )
    common = [answer for answer in large | small if large[answer] + small[answer] >= 10]
    chi_square = sum((large[answer] - small[answer]) ** 2 / (large[answer] + small[answer]) for answer in common)
    assert chi_square > len(common) + 20 * (2 * len(common)) ** 0.5


def test_an_answer_follows_from_its_seed_and_not_from_its_company(pair: tuple[Engine, Engine]) -> None:
    params, prompts = SamplingParams(max_tokens=15), random_prompts(20)
    engine = SpeculativeEngine(*pair)
    together = engine.generate(prompts, params, seeds=range(20))
    for i in (0, 3, 19):
        alone = engine.generate([prompts[i]], params, seeds=[i])[0]
        assert (alone.tokens, alone.logps) == (together[i].tokens, together[i].logps)


def test_a_model_that_drafts_for_itself_is_always_right(pair: tuple[Engine, Engine]) -> None:
    engine = SpeculativeEngine(pair[0], pair[0], num_draft=3)
    engine.generate(random_prompts(5), SamplingParams(max_tokens=16, temperature=0.0), seeds=[0] * 5)
    assert engine.speculation.acceptance_rate > 0.85  # an answer can end before its drafts do
    assert engine.speculation.tokens_per_pass > 3


def test_answers_stop_at_their_limit_and_at_the_end_of_the_context(
    pair: tuple[Engine, Engine], make_model: Callable[..., Transformer]
) -> None:
    short = SpeculativeEngine(pair[0], Engine(make_model(max_positions=40, num_layers=1), pair[0].tokenizer))
    assert short.context_tokens == 40
    samples = short.generate([[5] * 38, [5] * 10], SamplingParams(max_tokens=30, temperature=0.0, stop=("@",)), seeds=[0, 0])
    assert [len(sample.tokens) <= limit for sample, limit in zip(samples, (2, 30), strict=True)] == [True, True]


def test_a_draft_with_another_tokenizer_is_refused(pair: tuple[Engine, Engine]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Shifted(type(pair[0].tokenizer)):  # type: ignore[misc]
        def decode_bytes(self, ids: object) -> bytes:
            return b"?"

    with pytest.raises(ConfigError, match=r"token 0 is b'\?', and the model's is b''"):
        SpeculativeEngine(pair[0], Engine(pair[1].model, Shifted()))
    with pytest.raises(ConfigError, match="vocab_size 39, and the model's is 40"):
        SpeculativeEngine(pair[0], Engine(pair[1].model, dataclasses.replace(pair[0].tokenizer, vocab_size=39)))
    with pytest.raises(ConfigError, match="num_draft = 0"):
        SpeculativeEngine(*pair, num_draft=0)


def test_bfloat16_pairs_answer(pair: tuple[Engine, Engine], make_model: Callable[..., Transformer]) -> None:
    half = make_model(max_positions=96)
    half.compute_dtype = torch.bfloat16
    engine = SpeculativeEngine(Engine(half, pair[0].tokenizer), pair[1])
    assert all(sample.tokens for sample in engine.generate(random_prompts(3), SamplingParams(max_tokens=8), seeds=range(3)))
