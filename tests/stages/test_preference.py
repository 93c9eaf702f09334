"""preference: it moves the model towards the better answers by every loss, starts at the reference, and resumes to the same bytes."""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bloomery.align.answers import answer_logps, batches_by_length, pack_answers
from bloomery.align.preference_data import mixed_rows_of_step, render_labels, render_pairs, thin_out
from bloomery.align.preference_formats import LabelledRow
from bloomery.align.preference_loss import make_pair_batch, pair_objective, with_reference_point
from bloomery.align.preference_rows import read_labelled, read_pairs
from bloomery.align.reference import reference_logps
from bloomery.core.config import check_config
from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl
from bloomery.core.stage import Launch, Runtime
from bloomery.model.config import LoraConfig
from bloomery.model.huggingface import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.stages import preference as stage
from bloomery.stages.preference import PreferenceConfig, Sources, plan_labels, preference
from bloomery.tokens.renderer import Renderer, load_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train import checkpoint
from bloomery.train.sharding import Parallel

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


def renderer_of(checkpoint: Path) -> Renderer:
    return load_renderer(checkpoint, load_tokenizer(checkpoint))


def read_all(pairs: Path, checkpoint: Path) -> list[Any]:
    return render_pairs(read_pairs(pairs), renderer_of(checkpoint), max_tokens=48, held_out_fraction=0.0).train


AT_REFERENCE = {"sigmoid": math.log(2), "robust": math.log(2), "sigmoid_norm": math.log(2), "ipo": 25.0, "hinge": 1.0, "kto": 0.5}


@pytest.mark.parametrize("loss", [*AT_REFERENCE, "simpo", "orpo"])
def test_it_learns_to_prefer_the_better_answers(tmp_path: Path, tiny_checkpoint: Path, pairs: Path, loss: str) -> None:
    config = TINY.model_copy(update={"loss": loss, "beta": 2.0 if loss == "simpo" else 0.1})
    metrics = preference(config, init=tiny_checkpoint, pairs=pairs, out=tmp_path / "out", runtime=Runtime(quiet=True))
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    first, last = training["validation"][0], training["validation"][-1]
    if loss in AT_REFERENCE:
        assert first["loss"] == pytest.approx(AT_REFERENCE[loss], rel=1e-5) and abs(first["margin"]) < 1e-4
    assert last["loss"] < first["loss"] and last["accuracy"] == 1.0 == metrics["validation_accuracy"]
    assert last["margin"] > first["margin"]
    number = {"kto": "labels"}.get(loss, "pairs")
    assert metrics[number] + metrics[f"held_out_{number}"] == (128 if loss == "kto" else 64)


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    config = TINY.model_copy(update={"loss": loss, "epochs": 2})
    monkeypatch.setattr(checkpoint, "FIRST_COST_SECONDS", 0.0)
    arguments = {"init": tiny_checkpoint, "pairs": pairs, "runtime": Runtime(quiet=True)}
    expected = preference(config, **arguments, out=tmp_path / "whole")
    preference(config, **arguments, out=tmp_path / "cut")
    # What a kill leaves: an older snapshot, the newest one damaged, and no result.
    (tmp_path / "cut" / "training.json").unlink()
    newest = max((tmp_path / "cut" / ".scratch").glob("step-*"))
    (newest / "state.json").write_text("{")
    assert preference(config, **arguments, out=tmp_path / "cut") == expected
    for path in (p for p in (tmp_path / "whole").iterdir() if p.is_file()):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_an_answers_log_probability_is_the_sum_over_its_tokens_and_its_company_adds_nothing(tiny_checkpoint: Path, pairs: Path) -> None:
    model, found = load_model(tiny_checkpoint), read_all(pairs, tiny_checkpoint)[:6]
    answers = [answer for p in found for answer in p.answers]
    packed = pack_answers(answers, "cpu")
    assert len(packed.token_BT) < len(answers)  # several to a row
    logp_N, length_N = answer_logps(model, packed)
    for answer, logp, length in zip(answers, logp_N.tolist(), length_N.tolist(), strict=True):
        logp_TV = model(torch.tensor([answer.ids]))[0].log_softmax(-1)
        expected = sum(logp_TV[t - 1, answer.ids[t]].item() for t in range(1, len(answer.ids)) if answer.loss_mask[t])
        assert logp == pytest.approx(expected, abs=1e-4) and length == sum(answer.loss_mask)
    alone = [answer_logps(model, pack_answers([answer], "cpu")).logp_N.item() for answer in answers]
    np.testing.assert_allclose(alone, logp_N.tolist(), atol=1e-5)


def test_padding_may_hold_anything(tiny_checkpoint: Path, pairs: Path) -> None:
    model = load_model(tiny_checkpoint)
    packed = pack_answers([read_all(pairs, tiny_checkpoint)[0].chosen], "cpu")
    expected = answer_logps(model, packed).logp_N
    is_padding = packed.document_BT == 0
    assert is_padding.any()
    spoiled = dataclasses.replace(
        packed, token_BT=packed.token_BT.masked_fill(is_padding, 9), target_BT=packed.target_BT.masked_fill(is_padding, 7)
    )
    torch.testing.assert_close(answer_logps(model, spoiled).logp_N, expected)
    wider = dataclasses.replace(packed, **{
        name: torch.nn.functional.pad(getattr(packed, name), (0, 5)) for name in
        ("token_BT", "target_BT", "weight_BT", "document_BT", "position_BT", "answer_BT")
    })  # fmt: skip
    torch.testing.assert_close(answer_logps(model, wider).logp_N, expected, atol=1e-5, rtol=1e-5)


def test_batches_by_length_hold_every_item_once_and_keep_to_the_limit() -> None:
    sizes = [5, 1, 9, 30, 7, 7, 2]
    batches = batches_by_length(sizes, 16)
    assert sorted(i for batch in batches for i in batch) == list(range(7)) and [3] in batches
    assert all(sum(sizes[i] for i in batch) <= 16 for batch in batches if batch != [3])


def test_micro_batches_give_the_gradient_of_the_whole(tiny_checkpoint: Path, pairs: Path) -> None:
    found = read_all(pairs, tiny_checkpoint)[:7]
    reference_N2 = reference_logps(load_model(tiny_checkpoint), [a for p in found for a in p.answers]).reshape(-1, 2) + 0.5
    settings: dict[str, Any] = {"beta": 0.1, "gamma": 0.5, "label_smoothing": 0.1, "nll_weight": 0.3}
    for loss in ("sigmoid", "orpo"):
        gradients = []
        for size in (7, 3, 1):
            model = load_model(tiny_checkpoint)
            for start in range(0, 7, size):
                part = slice(start, start + size)
                pair_objective(model, make_pair_batch(found[part], reference_N2[part], "cpu"), loss=loss, **settings).loss_sum.backward()
            gradients.append([p.grad for p in model.parameters()])
        for other in gradients[1:]:
            for a, b in zip(gradients[0], other, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_equal_answers_teach_nothing(tiny_checkpoint: Path, pairs: Path) -> None:
    found = [p._replace(rejected=p.chosen) for p in read_all(pairs, tiny_checkpoint)[:4]]
    model = load_model(tiny_checkpoint)
    reference_N2 = reference_logps(model, [a for p in found for a in p.answers]).reshape(-1, 2)
    batch = make_pair_batch(found, reference_N2, "cpu")
    terms = pair_objective(model, batch, loss="sigmoid", beta=0.1, gamma=0.0, label_smoothing=0.0, nll_weight=0.0)
    terms.loss_sum.backward()
    assert terms.loss_sum.item() == pytest.approx(4 * math.log(2), rel=1e-5)
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-6


def test_a_soft_label_smooths_its_own_pair_only(tiny_checkpoint: Path, pairs: Path) -> None:
    found = read_all(pairs, tiny_checkpoint)[:2]
    reference_N2 = np.array([[0.0, 40.0], [7.0, 0.0]])
    settings: dict[str, Any] = {"beta": 0.1, "gamma": 0.0, "nll_weight": 0.0}

    def loss_of(pairs: list[Any], rows: slice, loss: Any = "sigmoid", smoothing: float = 0.0) -> float:
        batch = make_pair_batch(pairs, reference_N2[rows], "cpu")
        return pair_objective(load_model(tiny_checkpoint), batch, loss=loss, label_smoothing=smoothing, **settings).loss_sum.item()

    soft = [found[0]._replace(probability=0.7), found[1]]
    expected = loss_of(found[:1], slice(0, 1), smoothing=0.3) + loss_of(found[1:], slice(1, 2), smoothing=0.1)
    assert loss_of(soft, slice(0, 2), smoothing=0.1) == pytest.approx(expected, rel=1e-5)
    assert loss_of(soft, slice(0, 2)) != pytest.approx(loss_of(found, slice(0, 2)), rel=1e-3)
    assert loss_of(soft, slice(0, 2), "hinge") == loss_of(found, slice(0, 2), "hinge")


def test_an_earlier_answer_is_not_judged(tmp_path: Path, tiny_checkpoint: Path) -> None:
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    write_jsonl(
        tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": earlier, "chosen": "d", "rejected": "e"}]
    )
    tokenizer = load_tokenizer(tiny_checkpoint)
    first, second = render_pairs(read_pairs(tmp_path / "p.jsonl"), renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.0).train
    assert tokenizer.decode(first.chosen.ids, skip_special=False) == "<|bos|><|user|>a<|end|><|assistant|>b<|end|>"
    judged = [i for i, m in zip(second.chosen.ids, second.chosen.loss_mask, strict=True) if m]
    assert tokenizer.decode(judged, skip_special=False) == "d<|end|>"


def test_a_checkpoint_of_others_learns_preferences_in_its_own_template(tmp_path: Path, foreign_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 20)
    found = render_pairs(read_pairs(tmp_path / "p.jsonl"), renderer_of(foreign_checkpoint), max_tokens=48, held_out_fraction=0.0).train[0]
    theirs = AutoTokenizer.from_pretrained(foreign_checkpoint)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert found.chosen.ids == theirs.apply_chat_template(messages, return_dict=False)
    judged = [i for i, is_judged in zip(found.chosen.ids, found.chosen.loss_mask, strict=True) if is_judged]
    assert theirs.decode(judged) == "b<|im_end|>"
    for loss in ("sigmoid", "kto"):
        config = PreferenceConfig(loss=loss, steps=4, batch_pairs=8, held_out_fraction=0.0, optimizer="adamw", lora=LoraConfig(rank=2))
        metrics = preference(config, init=foreign_checkpoint, pairs=tmp_path / "p.jsonl", out=tmp_path / loss, runtime=Runtime(quiet=True))
        assert metrics["train_loss"] < AT_REFERENCE[loss]
        assert (tmp_path / loss / "adapter" / "adapter_model.safetensors").is_file()


def test_pairs_longer_than_the_model_reads_are_left_out_and_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "z" * 99}, pair(1)])
    found = render_pairs(read_pairs(tmp_path / "p.jsonl"), renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.0)
    assert (len(found.train), found.num_too_long) == (1, 1)
    with pytest.raises(DataError, match="found 0 pairs to train on, 1 longer"):
        write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "z" * 99}])
        preference(TINY, init=tiny_checkpoint, pairs=tmp_path / "q.jsonl", out=tmp_path / "out", runtime=Runtime(quiet=True))


def test_one_prompt_is_on_one_side_of_the_split_unless_it_is_the_only_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": f"q {i % 9}", "chosen": f"a {i}", "rejected": "b"} for i in range(60)])
    found = render_pairs(read_pairs(tmp_path / "p.jsonl"), renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.4)
    prompts = [{tuple(p.rejected.ids) for p in side} for side in (found.train, found.held_out)]
    assert all(prompts) and not prompts[0] & prompts[1]
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": "q", "chosen": f"a {i}", "rejected": "b"} for i in range(60)])
    found = render_pairs(read_pairs(tmp_path / "q.jsonl"), renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.4)
    assert 10 < len(found.held_out) < 40


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, 'found loss = "ipo"'),
        ({"loss": "orpo", "nll_weight": 0.1}, 'found loss = "orpo"'),
        ({"loss": "sigmoid", "desirable_per_undesirable": 0.1}, 'are for loss = "kto"'),
        ({"loss": "kto", "desirable_weight": 2.0}, "give both desirable_weight and undesirable_weight"),
    ],
)
def test_a_setting_is_refused_where_it_is_not_defined(config: dict[str, Any], words: str) -> None:
    _, mistakes = check_config(PreferenceConfig, config)
    assert len(mistakes) == 1 and words in mistakes[0]


# ---- the reference


def test_reference_log_probabilities_are_kept_by_all_that_they_follow_from(
    tmp_path: Path, tiny_checkpoint: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMERY_REFERENCE_CACHE", str(tmp_path / "cache"))
    computed: list[int] = []
    compute = reference_logps
    monkeypatch.setattr("bloomery.align.reference.reference_logps", lambda model, a, bar=None: computed.append(len(a)) or compute(model, a))

    def train(out: str, init: Path = tiny_checkpoint, pairs: Path = pairs, **settings: Any) -> None:
        config = TINY.model_copy(update={"steps": 1, "num_samples": 0, "precision": "fp32", **settings})
        preference(config, init=init, pairs=pairs, out=tmp_path / out, runtime=Runtime(quiet=True, launch=Launch()))

    train("one")
    assert len(computed) == 1
    for i, settings in enumerate([{"beta": 0.3}, {"loss": "ipo"}, {"seed": 9, "held_out_fraction": 0.4}, {"lora": LoraConfig(rank=2)}]):
        train(f"same-{i}", **settings)
    train("free", loss="orpo")
    train("free too", loss="simpo")
    assert len(computed) == 1
    train("labels", loss="kto")  # the same answers, but mismatched ones besides
    assert len(computed) == 2
    save_model(Transformer(load_model(tiny_checkpoint).config, seed=6), tmp_path / "other", tokenizer=tiny_checkpoint)
    train("weights", init=tmp_path / "other")
    assert len(computed) == 3
    write_jsonl(tmp_path / "q.jsonl", [pair(i) for i in range(63)])
    train("data", pairs=tmp_path / "q.jsonl")
    assert len(computed) == 4
    rows = [row._replace(prompt=[{"role": "system", "content": "x"}, *row.prompt]) for row in read_pairs(pairs)]
    monkeypatch.setattr("bloomery.stages.preference.read_pairs", lambda path, format: rows)
    train("template")
    assert len(computed) == 5
    train("precision", precision="bf16")
    assert len(computed) == 6


def test_another_checkpoint_can_be_the_reference(tmp_path: Path, tiny_checkpoint: Path, pairs: Path) -> None:
    save_model(Transformer(load_model(tiny_checkpoint).config, seed=6), tmp_path / "other", tokenizer=tiny_checkpoint)
    arguments = {"init": tiny_checkpoint, "pairs": pairs, "runtime": Runtime(quiet=True), "reference": tmp_path / "other"}
    preference(TINY.model_copy(update={"steps": 1, "precision": "fp32"}), **arguments, out=tmp_path / "out")
    first = json.loads((tmp_path / "out" / "training.json").read_text())["validation"][0]
    model, other = load_model(tiny_checkpoint), load_model(tmp_path / "other")
    held_out = render_pairs(read_pairs(pairs), renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.1).held_out
    ratio = np.array([reference_logps(m, [a for p in held_out for a in p.answers]).reshape(-1, 2) for m in (model, other)])
    expected = 0.1 * (ratio[0] - ratio[1])
    assert first["margin"] == pytest.approx((expected[:, 0] - expected[:, 1]).mean(), abs=1e-4) and abs(first["margin"]) > 1e-3
    (tmp_path / "other" / "tokenizer.json").write_text((tmp_path / "other" / "tokenizer.json").read_text() + " ")
    with pytest.raises(DataError, match="its tokenizer is not that of"):
        preference(TINY, **arguments, out=tmp_path / "refused")


# ---- labels


def labels_of(pairs: Path, checkpoint: Path) -> list[Any]:
    return render_labels(read_labelled(pairs), renderer_of(checkpoint), max_tokens=48, held_out_fraction=0.0).train


def make_label_plan(config: PreferenceConfig, pairs: Path, checkpoint: Path, *, places: int = 8192) -> Any:
    model, render = load_model(checkpoint), renderer_of(checkpoint)
    return plan_labels(config, Sources(pairs), render, model, lambda a: np.zeros(len(a)), parallel=Parallel(), places=places)


def test_the_reference_point_is_that_of_the_whole_batch_however_it_is_split(tiny_checkpoint: Path, pairs: Path) -> None:
    config = PreferenceConfig(loss="kto", batch_pairs=5, held_out_fraction=0.0)
    model = load_model(tiny_checkpoint)
    found = []
    for places in (8192, 60, 20):
        plan = make_label_plan(config, pairs, tiny_checkpoint, places=places)
        batches = plan.make_batches(plan.rows_of(0))
        batches = [dataclasses.replace(b, mismatched_reference_logp_N=b.mismatched_reference_logp_N - 90) for b in batches]
        batches = with_reference_point(model, batches, parallel=Parallel())
        terms = [plan.objective(model, batch) for batch in batches]
        found.append((len(batches), sum(t.loss_sum.item() for t in terms), sum(t.weight.item() for t in terms), batches[0].z0.item()))
        assert len({batch.z0.item() for batch in batches}) == 1
    assert found[0][0] == 1 < found[1][0] < found[2][0]
    logps = [
        sum(model(torch.tensor([a.ids]))[0].log_softmax(-1)[t - 1, a.ids[t]].item() for t in range(1, len(a.ids)) if a.loss_mask[t]) + 90
        for a in [stage.mismatched_answers(labels_of(pairs, tiny_checkpoint))[i] for i in plan.rows_of(0)]
    ]
    for _, loss, weight, z0 in found:
        assert (loss, weight) == (pytest.approx(found[0][1], rel=1e-5), 10)
        assert z0 == pytest.approx(max(0.0, sum(logps) / 10), rel=1e-4) and z0 > 0


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, (30, 20)), (1.0, (20, 20)), (0.1, (2, 20)), (3.0, (30, 10)), (100.0, (30, 1))])
def test_labels_are_thinned_out_to_a_proportion(tiny_checkpoint: Path, ratio: float, expected: tuple[int, int]) -> None:
    message = [{"role": "user", "content": "q"}]
    rows = [LabelledRow(message, [{"role": "assistant", "content": f"a {i}"}], i % 5 < 3) for i in range(50)]
    labels = render_labels(rows, renderer_of(tiny_checkpoint), max_tokens=48, held_out_fraction=0.0).train
    kept = thin_out(labels, desirable_per_undesirable=ratio)
    assert (sum(x.label for x in kept), sum(not x.label for x in kept)) == expected
    assert [x for x in labels if x in kept] == kept == thin_out(labels, desirable_per_undesirable=ratio)


@pytest.mark.parametrize(("desirable", "undesirable", "batch"), [(50, 50, 8), (10, 100, 11), (3, 97, 34), (1, 1, 2), (40, 7, 7)])
def test_every_batch_mixes_the_labels_and_an_epoch_has_each_answer_once(desirable: int, undesirable: int, batch: int) -> None:
    labels = np.random.default_rng(0).permutation([True] * desirable + [False] * undesirable)
    count = len(labels)
    rows = [mixed_rows_of_step(step, labels, batch_rows=batch, seed=4) for step in range(3 * count)]
    for found in rows:
        assert abs(labels[found].sum() - batch * desirable / count) < 1 and len(found) == batch
        assert 0 < labels[found].sum() < batch
    stream = np.concatenate(rows)[: 3 * count].reshape(3, count)
    assert all(sorted(epoch) == list(range(count)) for epoch in stream.tolist())
    assert count < 10 or stream[0].tolist() != stream[1].tolist()


def test_kto_refuses_labels_of_one_kind_and_batches_that_may_have_one_only(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = PreferenceConfig(loss="kto", batch_pairs=2, held_out_fraction=0.0)
    write_jsonl(tmp_path / "l.jsonl", [{"prompt": f"q {i}", "completion": "a", "label": True} for i in range(9)])
    with pytest.raises(DataError, match="found 9 desirable and 0 undesirable answers; KTO learns from both kinds"):
        make_label_plan(config, tmp_path / "l.jsonl", tiny_checkpoint)
    write_jsonl(tmp_path / "l.jsonl", [{"prompt": f"q {i}", "completion": "a", "label": i > 0} for i in range(9)])
    with pytest.raises(DataError, match="a batch of 4 may have one kind only; batch_pairs = 5 always has both"):
        make_label_plan(config, tmp_path / "l.jsonl", tiny_checkpoint)
    plan = make_label_plan(config.model_copy(update={"batch_pairs": 5}), tmp_path / "l.jsonl", tiny_checkpoint)
    assert plan.counts["desirable"] == 8
    write_jsonl(tmp_path / "l.jsonl", [{"prompt": "q", "completion": "a", "label": True}])
    with pytest.raises(DataError, match=r"found 1 labelled answers to train on.* at least 2 are needed"):
        make_label_plan(config, tmp_path / "l.jsonl", tiny_checkpoint)


def test_weights_that_do_not_balance_the_labels_are_warned_of(
    tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_jsonl(tmp_path / "l.jsonl", [{"prompt": f"q {i}", "completion": "a", "label": i % 4 == 0} for i in range(40)])
    config = PreferenceConfig(loss="kto", batch_pairs=4, held_out_fraction=0.0, desirable_weight=1.0, undesirable_weight=1.0)
    with caplog.at_level(logging.WARNING):
        make_label_plan(config, tmp_path / "l.jsonl", tiny_checkpoint)
    assert "10 desirable and 30 undesirable" in caplog.text and "the rule gives desirable_weight = 3, undesirable_weight = 1" in caplog.text
    caplog.clear()
    make_label_plan(config.model_copy(update={"desirable_weight": 3.5}), tmp_path / "l.jsonl", tiny_checkpoint)
    assert not caplog.text


def test_a_mismatched_answer_is_the_answer_to_another_prompt(tiny_checkpoint: Path, pairs: Path) -> None:
    labels = labels_of(pairs, tiny_checkpoint)
    for example, mismatched in zip(labels, stage.mismatched_answers(labels), strict=True):
        begin = example.answer.loss_mask.index(True)
        assert mismatched.ids[:begin] == example.answer.ids[:begin] and mismatched.loss_mask.index(True) == begin
        assert any(
            mismatched.ids[begin:] == other.answer.ids[other.answer.loss_mask.index(True) :]
            for other in labels
            if other.prompt != example.prompt
        )
