"""A reward model reads a conversation and says one number at its last token: batches to train it on, and a fast way to ask it.

Answers are rows of their own, padded on the right: plain causal attention then never sees padding, and needs no mask. The last
token is the end of the assistant's turn, whose id is not that of padding, so that every reader of the checkpoint finds it.

Shapes: B answers, T tokens, D model, N prompts, K answers to a prompt.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bloomery.align.reward_source import Answer, RewardSource, Row, prompt_messages
from bloomery.core.conversation import Message
from bloomery.model.device import Precision, resolve_dtype
from bloomery.model.huggingface import load_model
from bloomery.model.transformer import Transformer
from bloomery.tokens.renderer import load_whole_renderer
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.train.step import MICRO_BATCH_TOKENS

log = logging.getLogger(__name__)

ROUND_UP_TOKENS = 16
"""Rows are padded to a multiple of this: few shapes, and kernels that sum a row in one order whatever its company."""


class RankedIds(NamedTuple):
    """Answers to one prompt as ids, prompt included, each with its rank (1 is best); `margin` and `wrong` as in objectives/reward.py."""

    answers: list[list[int]]
    ranks: list[int]
    margin: float = 0.0
    wrong: float = 0.0

    @property
    def num_places(self) -> int:
        """Places of the longest answer."""
        return max(map(len, self.answers))


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """The answers to some prompts, one a row. int64, but margin_N and wrong_N (float32).

    document_BT is 1 where there is a token, last_B the place of an answer's last one, row_NK the row of each answer, rank_NK its
    rank (0: no answer there; the row is then 0).
    """

    token_BT: Tensor
    document_BT: Tensor
    last_B: Tensor
    row_NK: Tensor
    rank_NK: Tensor
    margin_N: Tensor
    wrong_N: Tensor


def make_rank_batch(rankings: Sequence[RankedIds], device: torch.device | str) -> RankBatch:
    """The tensors of some rankings."""
    most = max(len(ranking.answers) for ranking in rankings)
    row, rank = (np.zeros((len(rankings), most), dtype=np.int64) for _ in range(2))
    used = 0
    for n, ranking in enumerate(rankings):
        count = len(ranking.answers)
        row[n, :count], rank[n, :count] = np.arange(used, used + count), ranking.ranks
        used += count
    token_BT, document_BT, last_B = _pad([ids for ranking in rankings for ids in ranking.answers])
    margin_N, wrong_N = (
        torch.tensor(values, dtype=torch.float32) for values in zip(*((one.margin, one.wrong) for one in rankings), strict=True)
    )
    found = (token_BT, document_BT, last_B, torch.from_numpy(row), torch.from_numpy(rank), margin_N, wrong_N)
    tensors = [tensor.to(device, non_blocking=True) for tensor in found]
    names = ("token_BT", "document_BT", "last_B", "row_NK", "rank_NK", "margin_N", "wrong_N")
    return RankBatch(**dict(zip(names, tensors, strict=True)))


def split_rankings(rankings: Sequence[RankedIds], *, places: int) -> list[list[int]]:
    """Which rankings go through the model together: of like length, and so many that their rows have about `places` places.

    Gives indices. All answers to a prompt stay together.
    """
    order = sorted(range(len(rankings)), key=lambda i: (-rankings[i].num_places, i))
    parts: list[list[int]] = []
    rows = longest = 0
    for i in order:
        if not parts or (rows + len(rankings[i].answers)) * longest > places:
            parts.append([])
            rows, longest = 0, _rounded(rankings[i].num_places)
        parts[-1].append(i)
        rows += len(rankings[i].answers)
    return parts


def last_hidden_states(model: Transformer, token_BT: Tensor, last_B: Tensor) -> Tensor:
    """The stream at each row's last token, BD."""
    hidden_BTD = model.hidden_states(token_BT)
    return hidden_BTD[torch.arange(len(token_BT), device=token_BT.device), last_B]


def ranking_rewards(model: Transformer, batch: RankBatch) -> Tensor:
    """The reward of each answer of a batch, float32 NK, in one pass for all; where there is no answer it is the first row's."""
    reward_B = model.logits(last_hidden_states(model, batch.token_BT, batch.last_B))[:, 0]
    return reward_B[batch.row_NK]


@torch.no_grad()
def score_states(model: Transformer, rows: Sequence[Sequence[int]], *, places: int = 0) -> Tensor:
    """The stream at the last token of each row of ids, float32 [N, D] on the model's device, in the order of `rows`.

    Rows of like length go together, so there is next to no padding; a row's numbers do not depend on which others there are (on
    a CPU to the last bit: its padding follows from its own length).
    """
    device = model.device
    places = places or MICRO_BATCH_TOKENS[device.type == "cuda"]
    found = torch.empty(len(rows), model.config.dim, device=device)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    start = 0
    while start < len(order):
        width = _rounded(len(rows[order[start]]))
        same = [i for i in order[start : start + max(1, places // width)] if _rounded(len(rows[i])) == width]
        token_BT, _, last_B = _pad([rows[i] for i in same])
        states_BD = last_hidden_states(model, token_BT.to(device), last_B.to(device))
        found[torch.tensor(same, device=device)] = states_BD.float()
        start += len(same)
    return found


@torch.no_grad()
def score_rows(model: Transformer, rows: Sequence[Sequence[int]], *, places: int = 0) -> list[float]:
    """The reward at the last token of each row of ids; as `score_states`."""
    states_ND = score_states(model, rows, places=places)
    # Row by row, and not a product of matrices, whose sums may go another way for another number of rows.
    scores: list[float] = (states_ND * model.head_weight()[0].float()).sum(1).tolist()
    return scores


def reward_model_source(folder: Path, *, device: torch.device | str = "cpu", precision: Precision = "fp32") -> RewardSource:
    """A reward model as a source: the conversation with the answer as its last turn, in the model's own tokens and marks.

    An answer that ran into its limit is read as if it had ended there: no reward model has seen one without an end. Raises
    DataError for a folder that holds no reward model, or has no chat template.
    """
    model = load_model(folder, head="scalar", device=device)
    model.compute_dtype = resolve_dtype(precision, torch.device(device))
    render = load_whole_renderer(folder, load_tokenizer(folder))

    def score(rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
        ids = []
        for row, answer in zip(rows, answers, strict=True):
            said: Message = {"role": "assistant", "content": answer.text}
            ids.append(render([*prompt_messages(row), said], tools=row.get("tools") or ()))
        longest = max(map(len, ids), default=0)
        if longest > model.config.max_positions:
            log.warning("%s: reads %d tokens, found %d: what stands first is cut off", folder, model.config.max_positions, longest)
            ids = [row_ids[-model.config.max_positions :] for row_ids in ids]
        return list(score_rows(model, ids))

    return score


def _rounded(num_tokens: int) -> int:
    return -(-num_tokens // ROUND_UP_TOKENS) * ROUND_UP_TOKENS


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(rows), _rounded(max(map(len, rows))))
    token, document = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    for b, ids in enumerate(rows):
        token[b, : len(ids)], document[b, : len(ids)] = ids, 1
    last = np.array([len(ids) - 1 for ids in rows], dtype=np.int64)
    return torch.from_numpy(token), torch.from_numpy(document), torch.from_numpy(last)
