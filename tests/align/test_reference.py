"""Reference log-probabilities: those computed online, whatever the order and the company, kept by all that they follow from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.align.answers import answer_logps, pack_answers
from bloomery.align.reference import cached_reference_logps, reference_logps
from bloomery.core.stage import Runtime
from bloomery.model.config import ModelConfig
from bloomery.model.huggingface import save_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.chat import Rendered

SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 24, "max_positions": 64}


def answer(i: int) -> Rendered:
    ids = [(7 * i + 3 * k) % 40 for k in range(6 + i % 17)]
    return Rendered(ids, [k >= 3 + i % 2 for k in range(len(ids))])


ANSWERS = [answer(i) for i in range(30)]


@pytest.fixture
def model() -> Transformer:
    return Transformer(ModelConfig(vocab_size=40, **SIZES), seed=3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOOMERY_REFERENCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def figures(checkpoint: Path, answers: list[Rendered], model: Transformer | None) -> np.ndarray:
    """From the cache; `model` = None: they must be there."""

    def make_model() -> Transformer:
        assert model is not None, "was computed again"
        return model

    runtime = Runtime(quiet=True)
    return cached_reference_logps(answers, checkpoint=checkpoint, computed_in="float32 on cpu", make_model=make_model, runtime=runtime)


def test_they_are_those_of_a_pass_with_the_model_in_memory_one_answer_at_a_time(model: Transformer) -> None:
    online = [answer_logps(model, pack_answers([one], "cpu")).logp_N.item() for one in ANSWERS]
    np.testing.assert_allclose(reference_logps(model, ANSWERS), online, atol=1e-5)
    np.testing.assert_allclose(reference_logps(model, ANSWERS[::-1]), online[::-1], atol=1e-5)


def test_the_order_of_answers_and_copies_of_them_change_nothing(tmp_path: Path, model: Transformer) -> None:
    save_model(model, tmp_path / "model", tokenizer=None)
    first = figures(tmp_path / "model", ANSWERS, model)
    order = np.random.default_rng(0).permutation([*range(30), *range(30)])
    again = figures(tmp_path / "model", [ANSWERS[i] for i in order], None)
    np.testing.assert_array_equal(again, first[order])


def test_what_is_damaged_is_computed_again(tmp_path: Path, model: Transformer, cache: Path) -> None:
    save_model(model, tmp_path / "model", tokenizer=None)
    first = figures(tmp_path / "model", ANSWERS, model)
    (file,) = cache.rglob("logp.npy")
    file.write_bytes(file.read_bytes()[:90])
    np.testing.assert_array_equal(figures(tmp_path / "model", ANSWERS, model), first)
    np.testing.assert_array_equal(figures(tmp_path / "model", ANSWERS, None), first)


def test_a_mask_or_a_token_or_the_dtype_that_changes_is_another_key(tmp_path: Path, model: Transformer) -> None:
    save_model(model, tmp_path / "model", tokenizer=None)
    figures(tmp_path / "model", ANSWERS, model)
    for i in (0, len(ANSWERS[0].ids) - 1):
        ids, mask = list(ANSWERS[0].ids), list(ANSWERS[0].loss_mask)
        ids[i] += 1
        with pytest.raises(AssertionError, match="was computed again"):
            figures(tmp_path / "model", [Rendered(ids, mask), *ANSWERS[1:]], None)
        mask[i] = not mask[i]
        with pytest.raises(AssertionError, match="was computed again"):
            figures(tmp_path / "model", [Rendered(ANSWERS[0].ids, mask), *ANSWERS[1:]], None)
    with pytest.raises(AssertionError, match="was computed again"):
        figures(tmp_path / "model", ANSWERS[1:], None)
    with torch.no_grad():
        model.head_weight().add_(1e-6)
    save_model(model, tmp_path / "trained", tokenizer=None)
    with pytest.raises(AssertionError, match="was computed again"):
        figures(tmp_path / "trained", ANSWERS, None)


def test_where_nothing_can_be_kept_they_are_computed_each_time(tmp_path: Path, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("BLOOMERY_REFERENCE_CACHE", str(tmp_path / "a file"))
    save_model(model, tmp_path / "model", tokenizer=None)
    np.testing.assert_array_equal(figures(tmp_path / "model", ANSWERS, model), figures(tmp_path / "model", ANSWERS, model))


def test_no_answers_have_no_figures(tmp_path: Path) -> None:
    assert len(figures(tmp_path, [], None)) == 0
