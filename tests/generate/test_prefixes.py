"""Pieces of prompts are remembered as long as there is room, those of the latest prompt longest."""

from collections.abc import Callable

import torch

from bloomery.generate.engine import Engine
from bloomery.generate.prefixes import PromptReader
from bloomery.generate.text import Vocabulary
from bloomery.model.transformer import Transformer


def make_reader(make_model: Callable[..., Transformer], ids: Vocabulary, *, pieces: int) -> PromptReader:
    # 2 layers, keys and values, 2 heads of 8 numbers in float32: 64 tokens are 16 kB.
    decoder = Engine(make_model(max_positions=600), ids).decoder()
    return PromptReader(decoder, pad_id=2, max_bytes=pieces * 2 * 2 * 2 * 8 * 4 * 64)


def count_read(reader: PromptReader, prompt: list[int]) -> int:
    before = reader.tokens_read
    reader.read(prompt)
    return reader.tokens_read - before


def test_a_prompt_read_again_gives_the_same_numbers_from_its_last_piece_alone(
    make_model: Callable[..., Transformer], ids: Vocabulary
) -> None:
    reader, prompt = make_reader(make_model, ids, pieces=10), [5, 6, 7] * 60
    first = reader.read(prompt)
    assert count_read(reader, prompt) == 180 - 128
    again = reader.read(prompt)
    assert torch.equal(first.hidden_1D, again.hidden_1D) and torch.equal(first.kv_LCGTK, again.kv_LCGTK)
    assert count_read(reader, prompt[:128]) == 64  # its last token is always read: it tells what comes next
    assert count_read(reader, prompt[:40]) == 40


def test_what_was_not_asked_for_longest_is_forgotten_first(make_model: Callable[..., Transformer], ids: Vocabulary) -> None:
    reader = make_reader(make_model, ids, pieces=4)
    one, other = [5] * 150, [6] * 150
    assert (count_read(reader, one), count_read(reader, other)) == (150, 150)
    assert (count_read(reader, one), count_read(reader, other)) == (22, 22)
    reader.read([7] * 64)  # pushes out a piece of `one`: its second, for the first leads to it
    assert count_read(reader, one) == 150 - 64
