"""Batches hold each target once with its own document, and the rows of a step depend on the step alone.

Legend: B rows, T places.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from bloomery.core.errors import DataError
from bloomery.tokens.chat import Rendered
from bloomery.tokens.loader import (
    Batch,
    TokenRows,
    conversation_rows,
    make_batch,
    make_mixed_batch,
    read_ahead,
    rows_of_step,
    shuffled_rows,
    token_rows,
)
from bloomery.tokens.shards import open_tokens, write_manifest, write_shard

DOCUMENTS = [[1, 10, 11, 12, 13, 14, 15, 2], [1, 20, 2], [1, 30, 31, 2], [1, 2]]


@pytest.fixture
def rows(tmp_path: Path) -> TokenRows:
    write_shard(tmp_path / "train" / "00000", DOCUMENTS, vocab_size=300)
    write_manifest(tmp_path, tokenizer_sha256="a", vocab_size=300, text_bytes={"train": [0], "validation": []})
    return token_rows(open_tokens(tmp_path, split="train"), row_tokens=5)


def learned_pairs(batch: Batch) -> list[tuple[int, int]]:
    """(input, target) of every place with weight."""
    where = batch.weight_BT > 0
    return list(zip(batch.token_BT[where].tolist(), batch.target_BT[where].tolist(), strict=True))


def test_every_token_but_the_first_of_each_document_is_a_target_once(rows: TokenRows) -> None:
    batch = make_batch(rows, range(rows.packed.num_rows))
    expected = [pair for document in DOCUMENTS for pair in itertools.pairwise(document)]
    assert sorted(learned_pairs(batch)) == sorted(expected)
    assert batch.weight_BT.sum() == sum(len(document) - 1 for document in DOCUMENTS)


def test_a_document_cut_by_a_row_is_trained_across_the_cut(rows: TokenRows) -> None:
    assert (13, 14) in learned_pairs(make_batch(rows, range(rows.packed.num_rows)))


def test_documents_are_numbered_from_one_and_positions_start_again(rows: TokenRows) -> None:
    row = next(r for r in range(rows.packed.num_rows) if len(rows.packed.segments(r)) == 2)
    batch = make_batch(rows, [row])
    (_, _, first), (_, _, second) = rows.packed.segments(row)
    padding = [0] * (5 - first - second)
    assert batch.document_BT.tolist() == [[1] * first + [2] * second + padding]
    assert batch.position_BT.tolist() == [[*range(first), *range(second), *padding]]


def test_padding_has_no_document_no_position_and_no_weight(rows: TokenRows) -> None:
    batch = make_batch(rows, range(rows.packed.num_rows))
    empty = batch.document_BT == 0
    assert int(empty.sum()) == rows.packed.num_rows * 5 - rows.packed.num_tokens > 0
    for tensor in (batch.token_BT, batch.target_BT, batch.weight_BT, batch.position_BT):
        assert tensor[empty].abs().sum() == 0


def test_the_parts_of_a_batch_are_the_batch(rows: TokenRows) -> None:
    batch = make_batch(rows, [0, 1, 2, 0, 1])
    parts = batch.split(2)
    assert [part.num_rows for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.token_BT for part in parts]), batch.token_BT)
    assert [part.num_rows for part in batch.split(9)] == [1] * 5
    assert torch.equal(batch.to("cpu").weight_BT, batch.weight_BT)


def conversation(*trained: bool) -> Rendered:
    return Rendered([100 + i for i in range(len(trained))], list(trained))


def test_only_tokens_under_the_mask_are_targets() -> None:
    source = conversation_rows([conversation(False, False, True, True), conversation(False, True)], row_tokens=6)
    batch = make_batch(source, [0])
    assert batch.token_BT.tolist() == [[100, 101, 102, 103, 100, 101]]
    assert batch.target_BT.tolist() == [[101, 102, 103, 0, 101, 0]]
    assert batch.weight_BT.tolist() == [[0, 1, 1, 0, 1, 0]]


def test_an_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    seen = np.concatenate([rows_of_step(step, num_rows=12, batch_rows=4, seed=7) for step in range(6)])
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12].tolist() != seen[12:].tolist()
    assert seen[:12].tolist() == shuffled_rows(np.arange(12), num_rows=12, seed=7).tolist()


def test_the_rows_seen_do_not_depend_on_the_size_of_batches() -> None:
    small = np.concatenate([rows_of_step(step, num_rows=7, batch_rows=3, seed=1) for step in range(8)])
    large = np.concatenate([rows_of_step(step, num_rows=7, batch_rows=24, seed=1) for step in range(1)])
    assert small.tolist() == large.tolist()


def test_a_batch_larger_than_an_epoch_holds_every_row_several_times() -> None:
    rows = rows_of_step(0, num_rows=2, batch_rows=6, seed=0)
    assert np.bincount(rows).tolist() == [3, 3]


def test_seeds_and_epochs_give_unlike_orders_that_never_change() -> None:
    epochs = [range(epoch * 50, epoch * 50 + 50) for epoch in range(3)]
    orders = {tuple(shuffled_rows(np.array(places), num_rows=50, seed=seed).tolist()) for seed in range(3) for places in epochs}
    assert len(orders) == 9
    assert shuffled_rows(np.arange(8), num_rows=8, seed=1).tolist() == [4, 1, 2, 3, 6, 0, 5, 7]


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        rows_of_step(0, num_rows=0, batch_rows=1, seed=0)


def test_what_is_read_ahead_is_what_is_read_when_asked_for_and_errors_come_with_their_step() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        if step == 7:
            raise DataError("step 7 is broken")
        return step * step

    get = read_ahead(make)
    assert [get(step) for step in (0, 1, 2, 5, 6)] == [0, 1, 4, 25, 36]
    with pytest.raises(DataError, match="step 7 is broken"):
        get(7)
    assert get(0) == 0
    assert {0, 1, 2, 3, 5, 6, 7} <= set(made) and made.count(1) <= 2


def test_rows_of_several_sources_come_in_the_order_asked_for_with_their_source(rows: TokenRows, tmp_path: Path) -> None:
    write_shard(tmp_path / "b" / "train" / "00000", [[1, 99, 98, 97, 96, 2]], vocab_size=300)
    write_manifest(tmp_path / "b", tokenizer_sha256="a", vocab_size=300, text_bytes={"train": [0], "validation": []})
    other = token_rows(open_tokens(tmp_path / "b", split="train"), row_tokens=5)
    source, row = np.array([0, 1, 0, 1]), np.array([2, 0, 0, 1])
    mixed = make_mixed_batch([rows, other], source, row)
    assert mixed.source_B is not None and mixed.source_B.tolist() == [0, 1, 0, 1]
    for b in range(4):
        alone = make_batch([rows, other][source[b]], [row[b]])
        for name in ("token_BT", "target_BT", "weight_BT", "document_BT", "position_BT"):
            assert torch.equal(getattr(mixed, name)[b], getattr(alone, name)[0])
    parts = mixed.split(2)
    assert [part.source_B.tolist() for part in parts if part.source_B is not None] == [[0, 1], [0, 1]]
