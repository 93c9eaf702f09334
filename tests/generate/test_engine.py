"""The engine's answers are those of a plain forward pass and of `transformers`, whatever else is in the batch."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from bloomery.core.errors import DataError
from bloomery.generate.engine import Engine, Sample
from bloomery.generate.sampling import SamplingParams, draws
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer

END = 1
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
SAMPLED = SamplingParams(max_tokens=12, temperature=1.0)


def random_prompts(count: int, *, longest: int = 30, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[0, *(rng.randrange(3, 40) for _ in range(rng.randrange(longest)))] for _ in range(count)]


@torch.no_grad()
def naive_answer(model: Transformer, prompt: list[int], params: SamplingParams, seed: int) -> Sample:
    """One prompt, the whole sequence forward for each token, and the draw looked up by counting."""
    ids, logps, draw = list(prompt), [], draws([seed], params.max_tokens)[0]
    for t in range(params.max_tokens):
        logp_V = (model(torch.tensor([ids]))[0, -1] / (params.temperature or 1.0)).log_softmax(-1)
        if params.temperature == 0.0:
            token = int(logp_V.argmax())
        else:
            probability, token, total = logp_V.double().exp().tolist(), 0, 0.0
            while total + probability[token] <= draw[t]:
                total += probability[token]
                token += 1
        ids.append(token)
        logps.append(float(logp_V[token]))
        if token == END:
            return Sample(ids[len(prompt) :], logps, "end")
    return Sample(ids[len(prompt) :], logps, "length")


def assert_same(found: list[Sample], expected: list[Sample]) -> None:
    assert [sample.tokens for sample in found] == [sample.tokens for sample in expected]
    assert [sample.finish for sample in found] == [sample.finish for sample in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-5)


def test_greedy_answers_are_those_of_a_full_forward_pass_for_each_token(engine: Engine, model: Transformer) -> None:
    prompts = random_prompts(40)
    expected = [naive_answer(model, prompt, GREEDY, 0) for prompt in prompts]
    assert_same(engine.generate(prompts, GREEDY, seeds=[0] * 40), expected)
    assert {sample.finish for sample in expected} == {"end", "length"}


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampled_answers_and_log_probabilities_are_those_of_a_full_forward_pass(
    engine: Engine, model: Transformer, temperature: float
) -> None:
    prompts, params = random_prompts(30), SamplingParams(max_tokens=12, temperature=temperature)
    expected = [naive_answer(model, prompt, params, seed) for seed, prompt in enumerate(prompts)]
    assert_same(engine.generate(prompts, params, seeds=range(30)), expected)


def test_greedy_answers_are_those_of_transformers(engine: Engine, model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path, tokenizer=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prompts = random_prompts(20, seed=5)
    ours = engine.generate(prompts, GREEDY, seeds=[0] * 20)
    for prompt, sample in zip(prompts, ours, strict=True):
        ids = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=END, pad_token_id=2)
        assert ids[0, len(prompt) :].tolist() == sample.tokens


def test_an_answer_does_not_depend_on_what_shares_its_batch(engine: Engine) -> None:
    prompts, seeds = random_prompts(70), list(range(70))
    together = engine.generate(prompts, SAMPLED, seeds=seeds)
    assert_same(engine.generate(prompts[::-1], SAMPLED, seeds=seeds[::-1]), together[::-1])
    assert_same(engine.generate(prompts[10:33], SAMPLED, seeds=seeds[10:33]), together[10:33])
    for i in (0, 7, 41):
        assert_same(engine.generate([prompts[i]], SAMPLED, seeds=[i]), [together[i]])


def test_many_answers_to_one_prompt_are_as_if_each_were_asked_alone(engine: Engine, model: Transformer) -> None:
    prompt = random_prompts(1, seed=3)[0]
    samples = engine.generate([prompt] * 20, SAMPLED, seeds=range(20))
    assert_same(samples, [naive_answer(model, prompt, SAMPLED, seed) for seed in range(20)])
    assert len({tuple(sample.tokens) for sample in samples}) > 5


def test_a_stream_is_the_answer_token_by_token(engine: Engine) -> None:
    prompts = random_prompts(10, seed=2)
    for seed, sample in enumerate(engine.generate(prompts, SAMPLED, seeds=range(10))):
        assert list(engine.stream(prompts[seed], SAMPLED, seed=seed)) == sample.tokens


def test_the_end_token_is_kept_and_nothing_follows_it(engine: Engine) -> None:
    for sample in engine.generate(random_prompts(60), SAMPLED, seeds=range(60)):
        assert (END in sample.tokens) == (sample.finish == "end")
        assert END not in sample.tokens[:-1]
        assert len(sample.logps) == len(sample.tokens) <= 12
        assert sample.finish == "end" or len(sample.tokens) == 12


def test_a_shorter_limit_gives_the_beginning_of_the_same_answer(engine: Engine) -> None:
    prompts = random_prompts(10)
    short = engine.generate(prompts, SamplingParams(max_tokens=4), seeds=range(10))
    for one, other in zip(short, engine.generate(prompts, SAMPLED, seeds=range(10)), strict=True):
        assert one.tokens == other.tokens[:4]


def test_an_answer_stops_where_the_models_context_ends(make_model: Callable[..., Transformer], engine: Engine) -> None:
    small = Engine(make_model(max_positions=16), engine.tokenizer)
    prompts = [[0, *range(3, 16)], [0, 3], [0, *range(3, 17)]]
    free = engine.generate(prompts, SAMPLED, seeds=[4, 5, 6])
    for sample, other, room in zip(small.generate(prompts, SAMPLED, seeds=[4, 5, 6]), free, (2, 12, 1), strict=True):
        assert sample.tokens == other.tokens[:room]
        assert sample.finish == ("end" if END in sample.tokens else "length")


def test_a_prompt_that_fills_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="64 tokens: expected 1 to 63"):
        engine.generate([[0] * 64], GREEDY, seeds=[0])
    with pytest.raises(DataError, match="0 tokens"):
        list(engine.stream([], GREEDY, seed=0))


def test_rows_beyond_the_tokenizers_ids_are_never_said(model: Transformer, engine: Engine) -> None:
    prompts, params = [[3, 5, 7], [9, 4]], SamplingParams(max_tokens=30, temperature=2.0)
    assert max(max(sample.tokens) for sample in engine.generate(prompts, params, seeds=[1, 2])) >= 20
    narrow = Engine(model, dataclasses.replace(engine.tokenizer, vocab_size=20))
    samples = narrow.generate(prompts, params, seeds=[1, 2])
    assert max(max(sample.tokens) for sample in samples) < 20
    assert list(narrow.stream(prompts[0], params, seed=1)) == samples[0].tokens


def test_a_seed_is_needed_for_each_prompt(engine: Engine) -> None:
    with pytest.raises(ValueError, match="2 prompts, but 1 seeds"):
        engine.generate([[0], [0]], GREEDY, seeds=[0])


def test_no_prompts_have_no_answers(engine: Engine) -> None:
    assert engine.generate([], GREEDY, seeds=[]) == []


def test_half_precision_answers_are_drawn_from_nearly_the_same_distribution(make_model: Callable[..., Transformer], engine: Engine) -> None:
    half = make_model()
    half.compute_dtype = torch.bfloat16
    prompts = random_prompts(40)
    rounded = Engine(half, engine.tokenizer).generate(prompts, SAMPLED, seeds=range(40))
    pairs = zip(rounded, engine.generate(prompts, SAMPLED, seeds=range(40)), strict=True)
    assert sum(one.tokens[0] == other.tokens[0] for one, other in pairs) >= 30
