import math
import random

import pytest
import torch

from bloomery.core.errors import DataError
from bloomery.evaluate.packed import Likelihood, Text, num_cut, score_texts
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer

VOCAB = 50


def make_model(**changes: object) -> Transformer:
    shape = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 48, "max_positions": 64}
    return Transformer(ModelConfig(vocab_size=VOCAB, **{**shape, **changes}), seed=1)


def draw(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(length)]


def make_items(rng: random.Random, *, num_items: int = 30) -> list[list[Text]]:
    """Questions of one to four choices; two thirds of them begin with the same 30 tokens, as after the same examples."""
    shared, items = draw(rng, 30), []
    for i in range(num_items):
        context = (shared if i % 3 else []) + draw(rng, rng.randrange(1, 10))
        items.append([Text(context + draw(rng, rng.randrange(1, 6)), len(context)) for _ in range(rng.randrange(1, 5))])
    return items


@torch.no_grad()
def alone(model: Transformer, text: Text) -> Likelihood:
    """The same by one forward pass of this text alone."""
    tokens = list(text.tokens)[-model.config.max_positions - 1 :]
    start = text.start - (len(text.tokens) - len(tokens))
    logp_TV = model(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
    logps = [float(logp_TV[place - 1, tokens[place]]) for place in range(start, len(tokens))]
    return Likelihood(logps, all(int(logp_TV[place - 1].argmax()) == tokens[place] for place in range(start, len(tokens))))


def check(model: Transformer, items: list[list[Text]]) -> None:
    for texts, found in zip(items, score_texts(model, items), strict=True):
        for text, likelihood in zip(texts, found, strict=True):
            expected = alone(model, text)
            assert likelihood.logps == pytest.approx(expected.logps, abs=2e-6)
            assert likelihood.greedy == expected.greedy


@pytest.mark.parametrize("seed", range(4))
def test_packed_likelihoods_are_those_of_every_text_alone(seed: int) -> None:
    check(make_model(), make_items(random.Random(seed)))


def test_layers_with_a_sliding_window_see_no_farther_in_a_packed_row() -> None:
    check(make_model(sliding_window=8), make_items(random.Random(5)))


def test_contexts_that_differ_and_end_alike_are_scored_as_schemas_are() -> None:
    rng = random.Random(2)
    ending = draw(rng, 4)
    items = [[Text([7, *draw(rng, n), *ending], 1 + n) for n in (3, 5)] for _ in range(6)]
    check(make_model(), items)


def test_one_token_choices_need_no_row_of_their_own_and_the_best_one_is_greedy() -> None:
    model = make_model()
    items = [[Text([1, 2, 3, choice], 3) for choice in range(VOCAB)]]
    found = score_texts(model, items)[0]
    assert math.fsum(math.exp(one.logp) for one in found) == pytest.approx(1.0, abs=1e-5)
    assert sum(one.greedy for one in found) == 1
    assert max(found, key=lambda one: one.logp).greedy


def test_equal_choices_are_equally_likely_and_order_does_not_matter() -> None:
    model, items = make_model(), make_items(random.Random(3))
    first = [one.logp for one in score_texts(model, [[*items[4], items[4][0]]])[0]]
    assert first[0] == first[-1]
    turned = score_texts(model, items[::-1])[::-1]
    for ours, theirs in zip(score_texts(model, items), turned, strict=True):
        assert [one.logp for one in ours] == pytest.approx([one.logp for one in theirs], abs=2e-6)


def test_a_text_that_is_too_long_loses_its_beginning_and_never_its_continuation() -> None:
    model, rng = make_model(), random.Random(4)
    items = [[Text(draw(rng, 100), 95)], [Text(draw(rng, 65), 60)]]
    assert num_cut(model, items) == 1
    check(model, items)


def test_a_continuation_that_alone_exceeds_the_context_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: 90 tokens are to be scored, but the model reads 64"):
        score_texts(make_model(), [[Text(draw(random.Random(0), 100), 10)]], names=["rows.jsonl:7"])


def test_a_logit_that_is_no_number_is_an_error_and_not_a_score() -> None:
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(DataError, match=r"rows\.jsonl:3.*not numbers"):
        score_texts(model, [[Text([1, 2, 3], 1), Text([1, 4], 1)]], names=["rows.jsonl:3"])


def test_a_text_of_which_nothing_is_scored_has_a_likelihood_of_one() -> None:
    found = score_texts(make_model(), [[Text([1, 2, 3], 3), Text([1, 2, 4], 2)]])[0]
    assert (found[0].logps, found[0].logp, found[0].greedy) == ([], 0.0, True)
    assert len(found[1].logps) == 1


def test_what_is_shared_is_read_once() -> None:
    model, rng, read = make_model(), random.Random(0), []
    original = model.run_layer
    model.run_layer = lambda number, x_BTD, context: (read.append(x_BTD.shape[0] * x_BTD.shape[1]), original(number, x_BTD, context))[1]
    shared = draw(rng, 40)
    contexts = [[*shared, *draw(rng, 4)] for _ in range(10)]
    items = [[Text([*context, choice], 44) for choice in range(4)] for context in contexts]
    score_texts(model, items)
    # 40 shared tokens once, and of ten questions four tokens each; a layer at a time, of which there are two.
    assert sum(read) == 2 * (40 + 10 * 4)
