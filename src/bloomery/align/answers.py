"""Answers as tensors, and the log-probability that a model gives to each: what every preference loss is made of.

Answers are packed into rows, several to one, in which none sees another: a batch of unlike lengths has little padding.
Which row an answer is in changes nothing but rounding.

Shapes: B rows, T places of a row, N answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_token_logps
from bloomery.tokens.chat import Rendered

ROUND_UP_TOKENS = 16
"""Rows are padded to a multiple of this, so that few shapes occur."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """N answers with their prompts, packed into rows. int64 but weight_BT, which is float32 and 1 where the target is a token of an answer.

    Padding has document 0. `answer_BT` is the number of the answer that a place belongs to, in the order in which the
    answers were given.
    """

    token_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor
    document_BT: Tensor
    position_BT: Tensor
    answer_BT: Tensor
    count: int
    """N."""
    max_runs: int
    """Documents of the batch, padding counted as one more a row that has some."""


class AnswerLogps(NamedTuple):
    """float32 [N]: an answer's log-probability, and its number of tokens."""

    logp_N: Tensor
    length_N: Tensor


def pack_answers(answers: Sequence[Rendered], device: torch.device | str) -> Answers:
    """The tensors of some answers, each with its prompt; rows are as long as the longest one, rounded up."""
    lengths = [len(answer.ids) - 1 for answer in answers]
    row_tokens = -(-max(lengths) // ROUND_UP_TOKENS) * ROUND_UP_TOKENS
    rows = _fill_rows(lengths, row_tokens)
    shape = (len(rows), row_tokens)
    token, target, document, position, number = (np.zeros(shape, dtype=np.int64) for _ in range(5))
    weight = np.zeros(shape, dtype=np.float32)
    max_runs = 0
    for b, row in enumerate(rows):
        start = 0
        for d, i in enumerate(row, start=1):
            part, answer = slice(start, start + lengths[i]), answers[i]
            token[b, part], target[b, part], weight[b, part] = answer.ids[:-1], answer.ids[1:], answer.loss_mask[1:]
            document[b, part], position[b, part], number[b, part] = d, np.arange(lengths[i]), i
            start += lengths[i]
        max_runs += len(row) + (start < row_tokens)
    tensors = [torch.from_numpy(array).to(device) for array in (token, target, weight, document, position, number)]
    names = ("token_BT", "target_BT", "weight_BT", "document_BT", "position_BT", "answer_BT")
    return Answers(**dict(zip(names, tensors, strict=True)), count=len(answers), max_runs=max_runs)


def answer_logps(model: Transformer, answers: Answers) -> AnswerLogps:
    """The model's log-probability of each answer. Logits are computed at the answers' tokens only, a chunk at a time."""
    hidden_BTD = model.hidden_states(
        answers.token_BT, position_BT=answers.position_BT, document_BT=answers.document_BT, max_runs=answers.max_runs
    )
    b, t = answers.weight_BT.nonzero(as_tuple=True)
    logp = linear_token_logps(hidden_BTD[b, t], model.head_weight(), answers.target_BT[b, t])
    number, zero_N = answers.answer_BT[b, t], torch.zeros(answers.count, device=logp.device)
    return AnswerLogps(zero_N.index_add(0, number, logp), zero_N.index_add(0, number, answers.weight_BT[b, t]))


def batches_by_length(num_tokens: Sequence[int], places: int) -> list[list[int]]:
    """Items of so many tokens in batches of at most `places` of them (a longer item is one by itself), longest first.

    Items of like length are together, so that rows are filled well. The same items give the same batches.

    >>> batches_by_length([3, 9, 4, 8], 12)
    [[1], [3, 2], [0]]
    """
    batches: list[list[int]] = []
    used = 0
    for i in sorted(range(len(num_tokens)), key=lambda i: -num_tokens[i]):
        if not batches or used + num_tokens[i] > places:
            batches.append([])
            used = 0
        batches[-1].append(i)
        used += num_tokens[i]
    return batches


def find_too_long(answers: Sequence[Rendered], max_tokens: int) -> list[bool]:
    """Of each answer with its prompt whether a model that reads `max_tokens` places cannot read it whole."""
    return [len(answer.ids) - 1 > max_tokens for answer in answers]


def _fill_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Which items lie in which row: the longest first, each in the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        b = next((b for b, left in enumerate(room) if left >= lengths[i]), len(rows))
        if b == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[b].append(i)
        room[b] -= lengths[i]
    return rows
