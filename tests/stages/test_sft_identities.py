"""What must hold of fine-tuning's loss whatever the batch: the identities, and the mistakes that others made."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bloomery.core.errors import ConfigError
from bloomery.model.huggingface import load_model, read_special_tokens
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import next_token, token_logps
from bloomery.stages.sft import measure, response_objective
from bloomery.tokens.chat import Rendered, render
from bloomery.tokens.loader import Batch, conversation_rows, make_batch
from bloomery.tokens.tokenizer import Tokenizer, load_tokenizer
from bloomery.train.fit import TrainingConfig, make_state
from bloomery.train.step import train_step

ANSWERS = ["a", "the red house", "", "sat on a mat", "dog", "the cat and the dog ran to the sea", "by"]


@pytest.fixture
def model(tiny_checkpoint: Path) -> Transformer:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return load_tokenizer(tiny_checkpoint)


def talks(tokenizer: Tokenizer, answers: list[str] = ANSWERS) -> list[Rendered]:
    pairs = [({"role": "user", "content": f"w{'?' * i}"}, {"role": "assistant", "content": a}) for i, a in enumerate(answers)]
    return [render(tokenizer, list(pair)) for pair in pairs]


def rows_apart(rendered: list[Rendered], row_tokens: int = 48) -> list[Batch]:
    return [make_batch(conversation_rows([r], row_tokens=row_tokens), [0]) for r in rendered]


def stack(batches: list[Batch]) -> Batch:
    names = ("token_BT", "target_BT", "weight_BT", "document_BT", "position_BT")
    return Batch(*(torch.cat([getattr(batch, name) for batch in batches]) for name in names))


def gradients(model: Transformer, batches: list[Batch]) -> torch.Tensor:
    """The gradient of a step before it changes the weights, all matrices end to end."""
    state = make_state(model, TrainingConfig(optimizer="adamw", learning_rate=1e-9, embedding_learning_rate=1e-9, weight_decay=0.0))
    train_step(state, batches, response_objective, max_gradient_norm=0.0)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_first_target_is_the_first_token_of_the_answer_and_the_last_one_its_end(model: Transformer, tokenizer: Tokenizer) -> None:
    rendered = talks(tokenizer)
    total, count = 0.0, 0
    for ids, mask in rendered:
        logp_T = token_logps(model(torch.tensor([ids[:-1]])), torch.tensor([ids[1:]]))[0]
        for t in range(1, len(ids)):
            if ids[t - 1] == tokenizer.special_ids["<|assistant|>"] or (mask[t - 1] and ids[t - 1] != tokenizer.end_id):
                total, count = total - logp_T[t - 1].item(), count + 1
        assert mask[-1] and ids[-1] == tokenizer.end_id
    batch = make_batch(conversation_rows(rendered, row_tokens=48), [0])
    assert set(batch.target_BT[batch.weight_BT > 0].tolist()) >= {tokenizer.end_id}
    assert not batch.weight_BT[batch.target_BT == tokenizer.special_ids["<|assistant|>"]].any()
    assert measure(model, source=conversation_rows(rendered, row_tokens=48))["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("num_parts", [2, 4, 7])
def test_micro_batches_of_any_number_give_the_gradient_of_the_whole_batch(model: Transformer, tokenizer: Tokenizer, num_parts: int) -> None:
    batch = stack(rows_apart(talks(tokenizer)))
    torch.testing.assert_close(gradients(model, batch.split(num_parts)), gradients(model, [batch]), atol=1e-6, rtol=1e-4)


def test_a_micro_batch_without_targets_changes_nothing_and_a_whole_step_without_any_is_left_out(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    batches = rows_apart(talks(tokenizer))
    silent = replace(batches[0], weight_BT=torch.zeros_like(batches[0].weight_BT))
    torch.testing.assert_close(gradients(model, [*batches, silent]), gradients(model, batches), atol=1e-6, rtol=1e-4)
    state = make_state(model, TrainingConfig())
    before = [p.detach().clone() for p in model.parameters()]
    report = train_step(state, [silent], response_objective, max_gradient_norm=1.0)
    assert report.skipped and report.loss == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    held_out = conversation_rows([Rendered(r.ids, [False] * len(r.ids)) for r in talks(tokenizer)], row_tokens=48)
    assert measure(model, source=held_out)["loss"] == 0.0


def test_packed_conversations_have_the_loss_and_gradient_that_they_have_alone(model: Transformer, tokenizer: Tokenizer) -> None:
    rendered = talks(tokenizer)
    source = conversation_rows(rendered, row_tokens=48)
    packed = make_batch(source, range(source.packed.num_rows))
    assert source.packed.num_rows < len(rendered)
    alone = rows_apart(rendered)
    sums = [response_objective(model, batch) for batch in alone]
    together = response_objective(model, packed)
    assert together.loss_sum.item() == pytest.approx(sum(t.loss_sum.item() for t in sums), rel=1e-5)
    assert float(together.weight) == sum(float(t.weight) for t in sums)
    torch.testing.assert_close(gradients(model, [packed]), gradients(model, alone), atol=1e-6, rtol=1e-4)


def test_another_word_in_one_conversation_changes_nothing_of_its_neighbours_in_the_row(model: Transformer, tokenizer: Tokenizer) -> None:
    batch = make_batch(conversation_rows(talks(tokenizer)[:3], row_tokens=48), [0])
    assert int(batch.document_BT.max()) > 1

    def hidden(changed: Batch) -> torch.Tensor:
        return model.hidden_states(changed.token_BT, position_BT=changed.position_BT, document_BT=changed.document_BT)

    other = batch.token_BT.clone()
    other[0, 1] = tokenizer.encode("z")[0]  # inside the first conversation
    before, after = hidden(batch), hidden(replace(batch, token_BT=other))
    first = batch.document_BT == 1
    assert torch.equal(before[~first], after[~first]) and not torch.equal(before[first], after[first])
    for number in range(1, int(batch.document_BT.max()) + 1):
        assert batch.position_BT[batch.document_BT == number].tolist() == list(range(int((batch.document_BT == number).sum())))


@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_on_either_side_changes_neither_loss_nor_gradient(model: Transformer, tokenizer: Tokenizer, side: str) -> None:
    batch = stack(rows_apart(talks(tokenizer), row_tokens=40))
    padding = (8, 0) if side == "left" else (0, 8)

    def pad(tensor: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, padding, value=value)

    junk = tokenizer.end_id  # a padding of the end itself must not teach to end, nor be attended to
    ids = (pad(batch.token_BT, junk), pad(batch.target_BT, junk))
    padded = Batch(*ids, pad(batch.weight_BT, 0.0), pad(batch.document_BT, 0), pad(batch.position_BT, 0))
    expected = response_objective(model, batch).loss_sum.item()
    assert response_objective(model, padded).loss_sum.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradients(model, [padded]), gradients(model, [batch]), atol=1e-6, rtol=1e-4)


def test_logits_that_are_not_finite_where_nothing_is_trained_do_not_reach_the_loss() -> None:
    logits = torch.zeros(3, 4)
    logits[1:] = torch.tensor([[float("nan")], [1e9]])
    terms = next_token(logits, torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.0, 0.0]))
    assert float(terms.loss_sum) == pytest.approx(1.386294, rel=1e-5) and float(terms.weight) == 1.0


def test_where_padding_is_the_end_itself_the_end_is_still_trained_once_an_answer(tokenizer: Tokenizer) -> None:
    same = replace(tokenizer, pad_id=tokenizer.end_id)
    rendered = talks(same)
    source = conversation_rows(rendered, row_tokens=48)
    batch = make_batch(source, range(source.packed.num_rows))
    trained = batch.target_BT[batch.weight_BT > 0]
    assert int((trained == tokenizer.end_id).sum()) == len(rendered)


def test_a_tokenizer_whose_padding_is_its_end_is_refused_when_a_model_is_made(tiny_tokenizer: Path, tmp_path: Path) -> None:
    for path in tiny_tokenizer.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = (tmp_path / "tokenizer_config.json").read_text().replace('"pad_token": "<|pad|>"', '"pad_token": "<|end|>"')
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ConfigError, match="padding and end of answer are the same token"):
        read_special_tokens(tmp_path)


def test_of_two_answers_one_with_loss_false_gives_no_gradient_of_its_own(model: Transformer, tokenizer: Tokenizer) -> None:
    first = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "wrong", "loss": False}]
    second = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "the sea"}]
    (batch,) = rows_apart([render(tokenizer, [*first, *second])])
    trained = batch.target_BT[batch.weight_BT > 0].tolist()
    assert tokenizer.decode(trained, skip_special=False) == "the sea<|end|>"
