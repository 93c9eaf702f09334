"""Faults that are planted in real trainings of a second are found and named; nothing else is."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_runs import WORDS, Run, train, write_texts, write_tokens

from bloomery.model.config import ModelShape
from bloomery.stages.pretrain import next_token_objective
from bloomery.tokens.data_facts import measure_tokens, open_unverified
from bloomery.tokens.loader import make_batch, token_rows
from bloomery.tokens.shards import token_set
from bloomery.train.weight_facts import measure_weights


def found(run: Run, **measured: float) -> set[str]:
    """The codes of a run; that a model of these sizes has few tokens is true, and no fault."""
    return set(run.codes(**measured)) - {"under_trained"}


def test_steps_that_are_too_small_and_the_training_warns_of_it_once(tmp_path, corpus, language, caplog):
    run = train(tmp_path / "out", corpus, language, learning_rate=1e-4, embedding_learning_rate=1e-4)
    assert found(run) == {"learning_rate_too_low"}
    assert run.findings()[0].evidence["learning_rate"] == pytest.approx(1e-4)
    warned = [record.getMessage() for record in caplog.records if record.name == "bloomery.train.watch"]
    assert len(warned) == 1 and "(learning_rate_too_low)" in warned[0]


def test_steps_that_are_too_large(tmp_path, corpus, language):
    run = train(tmp_path / "out", corpus, language, learning_rate=2.0, embedding_learning_rate=2.0)
    assert run.codes()[0] == "learning_rate_too_high" and found(run) <= {"learning_rate_too_high", "always_clipped"}
    assert run.findings()[0].severity == "error" and run.findings()[0].step < 10


def test_an_explosion_and_its_step(tmp_path, corpus, language):
    def jump(state, run):
        return replace(run, learning_rate_factor=lambda step: 1.0 if step < 60 else 100.0)

    run = train(tmp_path / "out", corpus, language, plant=jump)
    assert run.codes()[0] == "explosion" and found(run) <= {"explosion", "always_clipped"}
    assert 60 < run.findings()[0].step <= 66
    assert run.findings()[0].evidence["before"] < 3 < run.findings()[0].evidence["highest"]


def write_easy_and_hard(folder, language):
    """Two sources: of two words, and of all."""
    for name, words in (("easy", WORDS[:2]), ("hard", WORDS)):
        write_tokens(folder / name, language, write_texts(500, seed=1, words=words), write_texts(30, seed=2, words=words))
    return [folder / "easy", folder / "hard"]


STAGED = {
    "names": ["easy", "hard"],
    "curriculum": [{"tokens": 512 * 60, "mixture": {"easy": 1}}, {"tokens": 512 * 60, "mixture": {"hard": 1}, "sequence_tokens": 32}],
    "decay": "constant",
}


def test_a_curriculum_that_goes_on_with_something_harder_is_no_explosion(tmp_path, language, caplog):
    run = train(tmp_path / "out", write_easy_and_hard(tmp_path, language), language, **STAGED)
    losses = {row["step"]: row["train/loss"] for row in run.rows if "train/loss" in row}
    assert losses[65] > 1.5 * losses[60]  # what would be one elsewhere
    assert found(run) == set()
    assert [record.getMessage() for record in caplog.records if record.name == "bloomery.train.watch"] == []


def test_an_explosion_within_a_later_stage_of_a_curriculum(tmp_path, language):
    def jump(state, run):
        return replace(run, learning_rate_factor=lambda step: 1.0 if step < 90 else 100.0)

    run = train(tmp_path / "out", write_easy_and_hard(tmp_path, language), language, plant=jump, **STAGED)
    assert run.codes()[0] == "explosion" and 90 < run.findings()[0].step <= 96
    assert "max_gradient_norm" not in run.findings()[0].remedy and "spike_sigmas" not in run.findings()[0].remedy  # they are on


def test_an_explosion_with_the_first_step_of_a_stage_of_a_curriculum(tmp_path, language):
    def jump(state, run):
        return replace(run, learning_rate_factor=lambda step: 1.0 if step < 60 else 100.0)

    run = train(tmp_path / "out", write_easy_and_hard(tmp_path, language), language, plant=jump, **STAGED)
    assert run.codes()[0] == "explosion" and 60 < run.findings()[0].step <= 66


def test_gradients_that_are_always_clipped(tmp_path, corpus, language):
    run = train(tmp_path / "out", corpus, language, max_gradient_norm=0.02)
    assert found(run) == {"always_clipped"} and run.findings()[0].evidence["clipped_fraction"] == 1.0


def test_weights_that_begin_too_large(tmp_path, corpus, language):
    def enlarge(state, run):
        with torch.no_grad():
            state.model.model.embed_tokens.weight.mul_(60)

    run = train(tmp_path / "out", corpus, language, plant=enlarge)
    assert found(run) == {"bad_initialisation"} and run.findings()[0].step == 1


def test_logits_that_drift(tmp_path, corpus, language):
    kept = {}

    def push(state, run):
        kept["model"] = state.model

        def objective(model, batch):  # the opposite of a z-loss: what the cross-entropy cannot see drifts away
            plain, pushed = run.objective(model, batch), next_token_objective(model, batch, z_loss=2e-2)
            return plain._replace(loss_sum=2 * plain.loss_sum - pushed.loss_sum)

        return replace(run, objective=objective)

    run = train(tmp_path / "out", corpus, language, plant=push, learning_rate=0.05, embedding_learning_rate=0.05)
    assert found(run, **measure_weights(kept["model"], some_rows(corpus))) - found(run) == {"logit_drift"}


def test_targets_that_have_nothing_to_do_with_the_text(tmp_path, corpus, language):
    def shuffle(state, run):
        def batches(step):
            rng = torch.Generator().manual_seed(step)
            return [replace(b, target_BT=torch.randint(0, 320, b.target_BT.shape, generator=rng)) for b in run.batches_of_step(step)]

        return replace(run, batches_of_step=batches)

    assert found(train(tmp_path / "out", corpus, language, plant=shuffle)) == {"loss_not_falling"}


def test_a_loss_that_is_no_number(tmp_path, corpus, language):
    def divide_by_zero(state, run):
        def objective(model, batch):
            terms = run.objective(model, batch)
            return terms._replace(loss_sum=terms.loss_sum * (torch.inf if state.step >= 30 else 1.0))

        return replace(run, objective=objective)

    run = train(tmp_path / "out", corpus, language, plant=divide_by_zero)
    assert found(run) == {"not_finite"} and run.findings()[0].step == 31


def test_a_loss_without_a_gradient(tmp_path, corpus, language):
    def detach(state, run):
        def objective(model, batch):
            terms = run.objective(model, batch)
            return terms._replace(loss_sum=terms.loss_sum.detach() + 0 * terms.loss_sum)

        return replace(run, objective=objective)

    assert found(train(tmp_path / "out", corpus, language, plant=detach)) == {"no_gradient"}


def test_data_that_come_in_blocks(tmp_path, language):
    topics = [WORDS[i * 10 : (i + 1) * 10] for i in range(4)]
    texts = [text for words in topics for text in write_texts(150, seed=3, words=words)]
    blocks = write_tokens(tmp_path / "tokens", language, texts, [t for words in topics for t in write_texts(8, seed=4, words=words)])
    tokens = open_unverified(blocks, "train")
    ids = np.concatenate([tokens.document(i) for i in range(tokens.num_documents)]).astype(np.int64)
    rows = token_rows(token_set([ids[i : i + 64].tolist() for i in range(0, len(ids) - 64, 64)]), row_tokens=64)
    order = np.argsort(rows.packed.find(np.arange(rows.packed.num_rows)).document, kind="stable")

    def read_in_order(state, run):
        return replace(run, batches_of_step=lambda step: [make_batch(rows, order[np.arange(8 * step, 8 * step + 8) % len(order)])])

    (tmp_path / "ordered").mkdir()
    (tmp_path / "shuffled").mkdir()
    run = train(tmp_path / "ordered" / "out", blocks, language, plant=read_in_order)
    assert found(run) == {"data_unshuffled"}
    assert run.findings()[0].evidence["rises"] == 3
    assert found(train(tmp_path / "shuffled" / "out", blocks, language)) == set()


def test_a_loader_that_is_slow(tmp_path, corpus, language):
    def wait(state, run):
        def batches(step):
            time.sleep(0.03)
            return run.batches_of_step(step)

        return replace(run, batches_of_step=batches)

    assert found(train(tmp_path / "out", corpus, language, plant=wait, tokens=512 * 40)) == {"slow_loader"}


def test_units_that_are_dead_and_attention_that_is_saturated(tmp_path, corpus, language):
    kept = {}

    def kill(state, run):
        kept["model"] = state.model
        layer = state.model.model.layers[0]
        with torch.no_grad():  # without a gate and an input a unit gets no gradient, for ever
            layer.mlp.gate_proj.weight[:10].zero_()
            layer.mlp.up_proj.weight[:10].zero_()
            layer.self_attn.q_norm.weight.mul_(20)
            layer.self_attn.k_norm.weight.mul_(20)

    run = train(tmp_path / "out", corpus, language, plant=kill)
    measured = measure_weights(kept["model"], some_rows(corpus))
    assert found(run, **measured) == {"dead_units", "saturated_attention"}
    assert measured["weights/dead_fraction"] == 10 / 32


def test_weights_that_are_not_finite(tmp_path, corpus, language):
    kept = {}
    run = train(tmp_path / "out", corpus, language, plant=lambda state, run: kept.update(model=state.model), tokens=512 * 4)
    with torch.no_grad():
        kept["model"].model.norm.weight[3] = torch.nan
    assert found(run, **measure_weights(kept["model"], some_rows(corpus))) == {"not_finite"}


def test_text_that_is_learned_by_heart_read_too_often_and_not_carried_over(tmp_path, language):
    from bloomery.evaluate.memorisation import measure_memory
    from bloomery.generate.engine import Engine
    from bloomery.model.huggingface import load_model
    from bloomery.tokens.tokenizer import load_tokenizer

    texts = write_texts(60, seed=1, shortest=70, longest=90)
    few = write_tokens(tmp_path / "tokens", language, texts[:12], texts[12:])
    shape = ModelShape(depth=1, dim=32, head_dim=16, mlp_dim=64)
    run = train(tmp_path / "out", few, language, model=shape, tokens=512 * 110, num_validations=6)
    assert found(run) == {"overfitting", "data_repeated"}
    train_set, held_out = open_unverified(few, "train"), open_unverified(few, "validation")
    engine = Engine(load_model(run.out), load_tokenizer(run.out))
    measured = measure_memory(engine, train_set, held_out, context_tokens=64)
    assert measured["memory/train"] > 0.5 and measured["memory/held_out"] < 0.1
    assert found(run, **measured) - found(run) == {"memorised"}


def test_a_model_that_is_too_large_for_its_tokens(tmp_path, corpus, language):
    run = train(tmp_path / "out", corpus, language, model=ModelShape(depth=2, dim=32, head_dim=16, mlp_dim=64), tokens=512 * 30)
    assert [(f.code, f.severity) for f in run.findings()] == [("under_trained", "note")]


def test_held_out_text_that_is_also_trained_on_and_text_that_is_there_twice(tmp_path, corpus, language):
    texts, held_out = write_texts(80, seed=1), write_texts(40, seed=2)
    leaking = write_tokens(tmp_path / "leaking", language, [*texts, *held_out[:12], *texts[:20]], held_out)
    run = train(tmp_path / "out", leaking, language, tokens=512 * 30)
    measured = measure_tokens(leaking)
    assert measured["data/leaked_fraction"] == pytest.approx(12 / 40)
    assert measured["data/duplicate_fraction"] == pytest.approx(20 / 112)
    assert found(run, **measured) - found(run) == {"data_leaks", "data_repeated"}
    assert measure_tokens(corpus)["data/leaked_fraction"] == 0.0 == measure_tokens(corpus)["data/duplicate_fraction"]


def test_a_trained_model_that_is_given_the_tokens_of_another(tmp_path, corpus, language):
    for name in ("first", "right", "wrong"):
        (tmp_path / name).mkdir()
    first = train(tmp_path / "first" / "out", corpus, language)
    assert found(train(tmp_path / "right" / "out", corpus, language, init=first.out, tokens=512 * 30)) == set()

    def rename(state, run):
        names = torch.randperm(320, generator=torch.Generator().manual_seed(1))

        def batches(step):
            return [replace(b, token_BT=names[b.token_BT], target_BT=names[b.target_BT]) for b in run.batches_of_step(step)]

        return replace(run, batches_of_step=batches)

    wrong = train(tmp_path / "wrong" / "out", corpus, language, init=first.out, plant=rename, tokens=512 * 30)
    assert "tokenizer_mismatch" in found(wrong)
    foreign = write_tokens(tmp_path / "foreign", language, write_texts(5, seed=1), [], sha256="0" * 64)
    told = measure_tokens(foreign, tokenizer_sha256="1" * 64)
    assert "tokenizer_mismatch" in first.codes(**told) and "tokenizer_mismatch" not in first.codes(**measure_tokens(corpus))


def some_rows(corpus: Path):
    rows = token_rows(open_unverified(corpus, "validation"), row_tokens=64)
    return make_batch(rows, range(8))
