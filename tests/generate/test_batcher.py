"""Requests come and go; what each is told does not change with it, to the last bit."""

import random
from collections.abc import Callable

import pytest

from bloomery.core.errors import DataError
from bloomery.generate.batcher import Batcher, Event
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.transformer import Transformer

SAMPLED = SamplingParams(max_tokens=12)
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


def random_prompts(count: int, *, longest: int = 30, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[0, *(rng.randrange(3, 40) for _ in range(rng.randrange(longest)))] for _ in range(count)]


def drain(batcher: Batcher) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {}
    while batcher.num_active or batcher.num_waiting:
        for event in batcher.step():
            found.setdefault(event.request_id, []).append(event)
    return found


def told(events: list[Event]) -> list[tuple[int, float, str | None]]:
    return [(event.token, event.logp, event.finish) for event in events]


def alone(engine: Engine, prompt: list[int], params: SamplingParams, seed: int) -> list[tuple[int, float, str | None]]:
    batcher = Batcher(engine)
    request_id = batcher.add(prompt, params, seed=seed)
    return told(drain(batcher)[request_id])


def test_each_request_gets_one_token_a_step_and_one_finish(engine: Engine) -> None:
    batcher = Batcher(engine)
    ids = [batcher.add(prompt, SAMPLED, seed=seed) for seed, prompt in enumerate(random_prompts(5))]
    assert (batcher.num_active, batcher.num_waiting) == (0, 5)
    assert [event.request_id for event in batcher.step()] == ids
    rest = drain(batcher)
    assert all([event.finish is not None for event in events][:-1] == [False] * (len(events) - 1) for events in rest.values())
    assert (batcher.num_active, batcher.num_waiting, batcher.step()) == (0, 0, [])


@pytest.mark.parametrize("seed", range(4))
def test_tokens_and_log_probabilities_are_to_the_last_bit_those_of_a_request_alone(engine: Engine, seed: int) -> None:
    rng, prompts = random.Random(seed), random_prompts(25, seed=seed)
    expected = [alone(engine, prompt, SAMPLED, i) for i, prompt in enumerate(prompts)]
    order = rng.sample(range(25), 25)
    batcher = Batcher(engine, max_rows=rng.choice([3, 7, 20, 50]), max_slots=rng.choice([100, 300, 5000]))
    ids: dict[int, int] = {}
    found: dict[int, list[Event]] = {}
    while order or batcher.num_active or batcher.num_waiting:
        for _ in range(min(rng.randrange(4), len(order))):  # they arrive while others are being answered
            i = order.pop()
            ids[batcher.add(prompts[i], SAMPLED, seed=i)] = i
        for event in batcher.step():
            found.setdefault(ids[event.request_id], []).append(event)
    assert [told(found[i]) for i in range(25)] == expected


SHAPES = [
    {"num_heads": 4, "num_kv_heads": 4, "head_dim": 8},
    {"num_heads": 6, "num_kv_heads": 2, "head_dim": 16, "dim": 96, "mlp_dim": 100, "num_layers": 3},
    {"num_heads": 4, "num_kv_heads": 1, "head_dim": 16, "sliding_window": 20},
    {"num_heads": 8, "num_kv_heads": 2, "head_dim": 16, "num_layers": 1},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_long_texts_and_samples_of_one_prompt_do_not_depend_on_their_company_either(
    shape: dict[str, int], make_model: Callable[..., Transformer], engine: Engine
) -> None:
    rng, long = random.Random(1), Engine(make_model(max_positions=700, **shape), engine.tokenizer)
    params = SamplingParams(max_tokens=80, temperature=1.2)
    head = random_prompts(1, longest=200, seed=4)[0] + [7] * 130
    prompts = [*([*head, *prompt] for prompt in random_prompts(4)), *random_prompts(8, longest=500, seed=2)]
    asked = [(prompt, [10 * i + k for k in range(rng.choice([1, 1, 3, 9]))]) for i, prompt in enumerate(prompts)]

    def answers(chosen: list[int], **limits: int) -> dict[int, list[tuple[int, float, str | None]]]:
        batcher, waiting = Batcher(long, **limits), list(chosen)
        seed_of: dict[int, int] = {}
        found: dict[int, list[Event]] = {}
        while waiting or batcher.num_active or batcher.num_waiting:
            for i in [waiting.pop() for _ in range(min(len(waiting), rng.randrange(3)))]:
                seed_of |= zip(batcher.add_samples(asked[i][0], params, seeds=asked[i][1]), asked[i][1], strict=True)
            for event in batcher.step():
                found.setdefault(seed_of[event.request_id], []).append(event)
        return {seed: told(events) for seed, events in found.items()}

    apart = {seed: events for i in range(len(prompts)) for seed, events in answers([i]).items()}
    assert answers(list(range(len(prompts)))) == apart
    assert answers(rng.sample(range(len(prompts)), len(prompts)), max_rows=11, max_slots=8000) == apart


def test_what_prompts_have_in_common_is_read_once(make_model: Callable[..., Transformer], engine: Engine) -> None:
    long = Engine(make_model(max_positions=700), engine.tokenizer)
    head = random_prompts(1, seed=4)[0] + [7] * 130
    batcher = Batcher(long)
    batcher.add_samples(head, SAMPLED, seeds=range(8))
    batcher.step()
    assert batcher.tokens_read == len(head)
    batcher.add([*head[:140], 5, 6, 7], SAMPLED, seed=0)
    batcher.step()
    assert batcher.tokens_read == len(head) + 141 - 128
    batcher.add(head, SAMPLED, seed=0)
    batcher.step()
    assert batcher.tokens_read == len(head) + 141 - 128 + len(head) % 64


def test_samples_added_together_are_those_that_were_asked_for_one_by_one(make_model: Callable[..., Transformer], engine: Engine) -> None:
    long = Engine(make_model(max_positions=700), engine.tokenizer)
    prompt = random_prompts(1, seed=4)[0] + [7] * 130
    together = long.generate([prompt] * 5, SAMPLED, seeds=range(5))
    for seed, sample in enumerate(together):
        single = long.generate([prompt], SAMPLED, seeds=[seed])[0]
        assert (sample.tokens, sample.finish) == (single.tokens, single.finish)
        assert sample.logps == pytest.approx(single.logps, abs=1e-5)


def test_rows_and_slots_are_a_limit_and_whoever_waits_comes_in_order(engine: Engine) -> None:
    batcher = Batcher(engine, max_rows=2)
    ids = [batcher.add([0, 3], SamplingParams(max_tokens=3, temperature=0.0), seed=0) for _ in range(5)]
    seen = []
    while batcher.num_active or batcher.num_waiting:
        seen.append([event.request_id for event in batcher.step()])
    assert max(map(len, seen)) == 2 and list(dict.fromkeys(i for step in seen for i in step)) == ids
    narrow = Batcher(engine, max_slots=32)
    for prompt in random_prompts(3, longest=2):
        narrow.add(prompt, GREEDY, seed=0)
    narrow.step()
    assert (narrow.num_active, narrow.num_waiting) == (2, 1)


def test_a_cancelled_request_says_nothing_more_and_frees_its_row(engine: Engine) -> None:
    batcher = Batcher(engine, max_rows=2)
    prompts = random_prompts(3, seed=8)
    first, second, third = (batcher.add(prompt, SAMPLED, seed=seed) for seed, prompt in enumerate(prompts))
    batcher.step()
    batcher.cancel(first)
    assert (batcher.num_active, batcher.num_waiting) == (1, 1)
    assert [event.request_id for event in batcher.step()] == [second, third]
    batcher.cancel(second)
    batcher.cancel(1000)
    assert set(drain(batcher)) <= {third}


def test_requests_with_different_params_share_a_batch(engine: Engine) -> None:
    prompt = random_prompts(1, seed=3)[0]
    kinds = [GREEDY, SAMPLED, SamplingParams(max_tokens=5, top_k=3), SamplingParams(max_tokens=9, top_p=0.5, repetition_penalty=1.4)]
    batcher = Batcher(engine)
    ids = [batcher.add(prompt, params, seed=7) for params in kinds]
    found = drain(batcher)
    assert [told(found[i]) for i in ids] == [alone(engine, prompt, params, 7) for params in kinds]


def test_a_stop_string_ends_an_answer_also_across_tokens(engine: Engine) -> None:
    prompt = random_prompts(1, seed=3)[0]
    free = engine.generate([prompt], SamplingParams(max_tokens=12, temperature=1.0), seeds=[5])[0]
    assert len(free.tokens) > 6
    text = engine.tokenizer.decode_bytes(free.tokens).decode()
    sample = engine.generate([prompt], SamplingParams(max_tokens=12, stop=("NEVER", text[3:5])), seeds=[5])[0]
    end = text.index(text[3:5]) + 2
    assert (sample.tokens, sample.logps, sample.finish) == (free.tokens[:end], free.logps[:end], "stop")


def test_a_stop_token_ends_an_answer_and_is_kept(engine: Engine) -> None:
    prompt = random_prompts(1, seed=3)[0]
    free = engine.generate([prompt], SAMPLED, seeds=[5])[0]
    sample = engine.generate([prompt], SamplingParams(max_tokens=12, stop_tokens=(free.tokens[4],)), seeds=[5])[0]
    assert (sample.tokens, sample.finish) == (free.tokens[: free.tokens.index(free.tokens[4]) + 1], "stop")


def test_the_likeliest_tokens_of_each_place_are_recorded(engine: Engine) -> None:
    prompts = random_prompts(3)
    samples = engine.generate(prompts, SamplingParams(max_tokens=4, temperature=0.0, top_logps=3), seeds=[0, 0, 0])
    for sample in samples:
        assert [top[0] for top in sample.tops] == list(zip(sample.tokens, sample.logps, strict=True))
        assert all(len(top) == 3 and top[0][1] >= top[1][1] >= top[2][1] for top in sample.tops)
    assert engine.generate(prompts[:1], GREEDY, seeds=[0])[0].tops == []


def test_what_can_never_be_answered_is_refused_at_once(engine: Engine, make_model: Callable[..., Transformer]) -> None:
    batcher = Batcher(engine, max_slots=40)
    with pytest.raises(DataError, match="30 tokens and 1 answers of up to 12: the cache has 256 rows and room for 40"):
        batcher.add([0] * 30, SAMPLED, seed=0)
    with pytest.raises(DataError, match="64 tokens: expected 1 to 63"):
        batcher.add([0] * 64, SAMPLED, seed=0)
    with pytest.raises(DataError, match="ids from -1 to 40; the model knows 0 to 39"):
        batcher.add([-1, 40], SAMPLED, seed=0)
    assert batcher.num_waiting == 0
