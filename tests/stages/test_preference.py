"""preference: it moves the model towards the chosen answers, starts at ln 2, and resumes to the same bytes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bloomery.align.reference import answer_logps, make_pair_batch, reference_logps
from bloomery.core.config import check_config
from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Runtime
from bloomery.model.huggingface import load_model
from bloomery.stages.preference import PreferenceConfig, pair_objective, preference, read_pairs
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train import checkpoint

TINY = PreferenceConfig(epochs=4, batch_pairs=16, learning_rate=0.003, embedding_learning_rate=0.003, held_out_fraction=0.1, seed=3)


def pair(i: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"where {i}"}]
    chosen, rejected = ("the house", "sea " * (i % 4)) if i % 2 else ("the red house", "dog")
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pairs" / "train.jsonl.gz", [pair(i) for i in range(64)])
    return tmp_path / "pairs"


def read_all(pairs: Path, checkpoint: Path) -> list[Any]:
    return read_pairs([pairs / "train.jsonl.gz"], load_tokenizer(checkpoint), max_tokens=48, held_out_fraction=0.0).train


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_it_learns_to_prefer_the_chosen_answers(tmp_path: Path, tiny_checkpoint: Path, pairs: Path, loss: str) -> None:
    config = TINY.model_copy(update={"loss": loss})
    metrics = preference(config, init=tiny_checkpoint, pairs=pairs, out=tmp_path / "out", runtime=Runtime(quiet=True))
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    first, last = training["validation"][0], training["validation"][-1]
    at_start = {"sigmoid": math.log(2), "ipo": 25.0, "hinge": 1.0}[loss]  # policy = reference
    assert first["loss"] == pytest.approx(at_start, rel=1e-5) and abs(first["margin"]) < 1e-4
    assert last["loss"] < first["loss"] and last["accuracy"] == 1.0 == metrics["validation_accuracy"]
    assert metrics["pairs"] + metrics["held_out_pairs"] == 64


def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    arguments = {"init": tiny_checkpoint, "pairs": pairs, "runtime": Runtime(quiet=True)}
    expected = preference(TINY, **arguments, out=tmp_path / "whole")
    preference(TINY, **arguments, out=tmp_path / "cut")
    # What a kill leaves: the reference's figures and an older snapshot, the newest one damaged, and no result.
    (tmp_path / "cut" / "training.json").unlink()
    newest = max((tmp_path / "cut" / ".scratch").glob("step-*"))
    (newest / "state.json").write_text("{")
    assert preference(TINY, **arguments, out=tmp_path / "cut") == expected
    for path in (p for p in (tmp_path / "whole").iterdir() if p.is_file()):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_reference_log_probabilities_do_not_depend_on_the_company_of_a_pair(tiny_checkpoint: Path, pairs: Path) -> None:
    model, found = load_model(tiny_checkpoint), read_all(pairs, tiny_checkpoint)
    together = reference_logps(model, found, batch_pairs=64)
    alone = reference_logps(model, found, batch_pairs=1)
    backwards = reference_logps(model, found[::-1], batch_pairs=7)[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)


def test_an_answers_log_probability_is_the_sum_over_its_tokens_and_padding_adds_nothing(tiny_checkpoint: Path, pairs: Path) -> None:
    model, found = load_model(tiny_checkpoint), read_all(pairs, tiny_checkpoint)[:6]
    logp_B, length_B = answer_logps(model, make_pair_batch(found, np.zeros((6, 2)), "cpu"))
    rendered = [answer for p in found for answer in p]
    for answer, logp, length in zip(rendered, logp_B.tolist(), length_B.tolist(), strict=True):
        logp_TV = model(torch.tensor([answer.ids]))[0].log_softmax(-1)
        expected = sum(logp_TV[t - 1, answer.ids[t]].item() for t in range(1, len(answer.ids)) if answer.loss_mask[t])
        assert logp == pytest.approx(expected, abs=1e-4) and length == sum(answer.loss_mask)


def test_micro_batches_give_the_gradient_of_the_whole(tiny_checkpoint: Path, pairs: Path) -> None:
    found = read_all(pairs, tiny_checkpoint)[:7]
    config = TINY.model_copy(update={"nll_weight": 0.3, "label_smoothing": 0.1})
    reference_N2 = reference_logps(load_model(tiny_checkpoint), found, batch_pairs=4) + 0.5
    gradients = []
    for size in (7, 3, 1):
        model = load_model(tiny_checkpoint)
        for start in range(0, 7, size):
            part = slice(start, start + size)
            pair_objective(model, make_pair_batch(found[part], reference_N2[part], "cpu"), config=config).loss_sum.backward()
        gradients.append([p.grad for p in model.parameters()])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_equal_answers_teach_nothing(tiny_checkpoint: Path, pairs: Path) -> None:
    found = [p._replace(rejected=p.chosen) for p in read_all(pairs, tiny_checkpoint)[:4]]
    model = load_model(tiny_checkpoint)
    terms = pair_objective(model, make_pair_batch(found, reference_logps(model, found, batch_pairs=4), "cpu"), config=TINY)
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(4 * math.log(2), rel=1e-5)
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-6


def test_plain_strings_are_pairs_too_and_an_earlier_answer_is_not_judged(tmp_path: Path, tiny_checkpoint: Path) -> None:
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    answer = {"chosen": [{"role": "assistant", "content": "d"}], "rejected": [{"role": "assistant", "content": "e"}]}
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": earlier, **answer}])
    tokenizer = load_tokenizer(tiny_checkpoint)
    first, second = read_pairs([tmp_path / "p.jsonl"], tokenizer, max_tokens=48, held_out_fraction=0.0).train
    assert tokenizer.decode(first.chosen.ids, skip_special=False) == "<|bos|><|user|>a<|end|><|assistant|>b<|end|>"
    judged = [i for i, m in zip(second.chosen.ids, second.chosen.loss_mask, strict=True) if m]
    assert tokenizer.decode(judged, skip_special=False) == "d<|end|>"


def test_pairs_longer_than_the_model_reads_are_left_out_and_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "z" * 99}, pair(1)])
    found = read_pairs([tmp_path / "p.jsonl"], load_tokenizer(tiny_checkpoint), max_tokens=48, held_out_fraction=0.0)
    assert (len(found.train), found.num_too_long) == (1, 1)
    with pytest.raises(DataError, match="found 0 pairs to train on, 1 longer"):
        write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "z" * 99}])
        preference(TINY, init=tiny_checkpoint, pairs=tmp_path / "q.jsonl", out=tmp_path / "out", runtime=Runtime(quiet=True))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, "row 2: `rejected`"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "row 2: `prompt`"),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "`chosen`: must end with an assistant message"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, tiny_checkpoint: Path, row: dict[str, Any], words: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [pair(1), row])
    with pytest.raises(DataError, match=words):
        read_pairs([tmp_path / "p.jsonl"], load_tokenizer(tiny_checkpoint), max_tokens=48, held_out_fraction=0.0)


def test_smoothing_is_refused_where_it_is_not_defined() -> None:
    _, mistakes = check_config(PreferenceConfig, {"loss": "ipo", "label_smoothing": 0.1})
    assert len(mistakes) == 1 and 'found loss = "ipo"' in mistakes[0]
