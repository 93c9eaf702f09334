"""Answers that were sampled, as tensors: what the policy said, what others put between, and what a model says of it.

An episode is a prompt and all that came behind it. The mask is true where the policy itself spoke: on its words and on the
`<|end|>` that it ended with (without which it would never learn to stop: nanochat #810), not on what a tool answered.
Tensors of answers (NT) begin at the first token behind the prompt, so that answers to unlike prompts lie under each other.

For the model, episodes are packed into rows: several short ones in one, none of which sees another. Log-probabilities and
values are those of the place before a token, where it was decided on.

Shapes: N episodes, P prompts (N = P * group size), T tokens of an answer, S tokens of a prompt; B rows of R places, W
tokens that were said (masked in) in a batch, D model, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple  # Any: fields by name

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bloomery.core import dist
from bloomery.core.stage import Launch
from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_logps_and_entropy, token_logps
from bloomery.train.step import micro_batch_rows

ROUND_UP_TOKENS = {"cpu": 16, "cuda": 64}
"""Rows are padded to a multiple of this, so that few shapes occur."""
CHUNK_LOGITS_BYTES = {"cpu": 1 << 26, "cuda": 1 << 31}
"""Logits that exist at one time; more tokens than that go through in chunks, computed again for the backward pass."""


EPISODE_FIELDS = ("prompt_NS", "prompt_length_N", "token_NT", "length_N", "said_NT", "sampled_logp_NT", "stopped_N")
EntropyUse = Literal["none", "measured", "trained"]
"""Whether the entropy of each place is wanted, and whether with a gradient."""


class Episode(NamedTuple):
    """One answer. `said` is true where the policy spoke; `logps` are the sampler's there, and anything elsewhere."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    said: Sequence[bool]
    logps: Sequence[float]
    stopped: bool


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Answers as padded tensors on the CPU. `of_token` holds float32 NT of any name: logps of models, values, advantages."""

    prompt_NS: Tensor
    prompt_length_N: Tensor
    token_NT: Tensor
    length_N: Tensor
    said_NT: Tensor
    sampled_logp_NT: Tensor
    stopped_N: Tensor
    of_token: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """N."""
        return len(self.length_N)

    def with_tokens(self, **of_token: Tensor) -> "Episodes":
        """The same with more numbers of each token."""
        return dataclasses.replace(self, of_token={**self.of_token, **of_token})


@dataclass(frozen=True, kw_only=True)
class EpisodeBatch:
    """Some episodes, ready for a model. `place_W` is where in the flattened rows a said token was decided on, `cell_W` where in
    the flattened NT its numbers go; `mask_NT` is 1 on said tokens. int64, but for mask_NT and `of_token` (float32), which has
    `sampled_logp`, too."""

    token_BT: Tensor
    position_BT: Tensor
    document_BT: Tensor
    max_runs: int
    place_W: Tensor
    target_W: Tensor
    cell_W: Tensor
    mask_NT: Tensor
    of_token: Mapping[str, Tensor]
    indices: np.ndarray
    """Which episodes these are."""


class Said(NamedTuple):
    """float32 NT, 0 where nothing was said: log-probability of each token, and (None if it was not asked for) the entropy there."""

    logp_NT: Tensor
    entropy_NT: Tensor | None


def make_episodes(found: Sequence[Episode]) -> Episodes:
    """Lists as tensors. Raises ValueError for an episode without a token."""
    if not found or any(not episode.prompt or not episode.tokens for episode in found):
        raise ValueError("an episode has a prompt and an answer of at least one token each")
    said = _pad([e.said for e in found], np.bool_)
    return Episodes(
        prompt_NS=_pad([e.prompt for e in found], np.int64),
        prompt_length_N=torch.tensor([len(e.prompt) for e in found]),
        token_NT=_pad([e.tokens for e in found], np.int64),
        length_N=torch.tensor([len(e.tokens) for e in found]),
        said_NT=said,
        sampled_logp_NT=torch.where(said, _pad([e.logps for e in found], np.float32), 0.0),
        stopped_N=torch.tensor([e.stopped for e in found]),
    )


def join_episodes(parts: Sequence[Episodes], chosen_N: Tensor) -> Episodes:
    """Those of these numbers, of all parts one after another."""
    named: dict[str, Any] = {}
    for name in EPISODE_FIELDS:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0].ndim > 1:
            longest = max(tensor.shape[1] for tensor in tensors)
            tensors = [torch.nn.functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors]
        named[name] = torch.cat(tensors)[chosen_N]
    return Episodes(**named)


def make_batches(episodes: Episodes, indices: np.ndarray, device: torch.device, launch: Launch) -> list[EpisodeBatch]:
    """The episodes of these numbers in as many micro-batches as they need; at least one."""
    whole_N = (episodes.prompt_length_N + episodes.length_N - 1).numpy()[indices]  # the last token decides on nothing
    multiple = ROUND_UP_TOKENS[device.type]
    width = -(-int(whole_N.max()) // multiple) * multiple
    # Longest first, and by number among equals: each goes into the first row that has room for it.
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(indices)), key=lambda i: (-whole_N[i], indices[i])):
        row = next((r for r, left in enumerate(room) if left >= whole_N[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(int(indices[i]))
        room[row] -= int(whole_N[i])
    size = micro_batch_rows(width, device, launch)
    num_parts = -(-len(rows) // size)
    parts = np.array_split(np.arange(len(rows)), num_parts)
    return [_make_batch(episodes, [rows[i] for i in part], width, device) for part in parts]


def said_logps(model: Transformer, batch: EpisodeBatch, *, temperature: float, vocab_size: int, entropy: EntropyUse = "none") -> Said:
    """Log-probabilities of the said tokens under softmax(logits / temperature) over the tokenizer's ids.

    The division is of logits, as in sampling, and not of log-probabilities (prime-rl PR 697). Logits are computed where
    something was said, and only so many of them exist at a time.
    """
    hidden_WD = _said_states(model, batch)
    head_VD = model.head_weight()[:vocab_size].to(hidden_WD.dtype)
    shape, device = batch.mask_NT.shape, hidden_WD.device
    size = max(1, CHUNK_LOGITS_BYTES[device.type] // (4 * len(head_VD)))
    logps, entropies = [], []
    for start in range(0, len(hidden_WD), size):
        part = slice(start, start + size)
        arguments = (hidden_WD[part], head_VD, batch.target_W[part], temperature, entropy)
        is_chunked = size < len(hidden_WD) and torch.is_grad_enabled()
        logp_W, entropy_W = checkpoint(_logps, *arguments, use_reentrant=False) if is_chunked else _logps(*arguments)
        logps.append(logp_W)
        entropies.append(entropy_W)
    wanted = (logps,) if entropy == "none" else (logps, entropies)
    found = [_place(parts, batch.cell_W, shape) for parts in wanted]
    return Said(found[0], found[1] if len(found) > 1 else None)


def said_values(critic: Transformer, batch: EpisodeBatch) -> Tensor:
    """What a model with a scalar head says where each said token was decided on, NT."""
    value_W = critic.logits(_said_states(critic, batch))[:, 0]
    return _place([value_W], batch.cell_W, batch.mask_NT.shape)


@torch.no_grad()
def measure_episodes(episodes: Episodes, number: Callable[[EpisodeBatch], Tensor], device: torch.device, launch: Launch) -> Tensor:
    """NT on the CPU: `number` (of a batch, NT) of all episodes. Each process measures a share, and all get the whole."""
    found_NT = torch.zeros(episodes.token_NT.shape)
    share = np.array_split(np.arange(episodes.count), dist.world_size())[dist.rank()]
    for batch in make_batches(episodes, share, device, launch) if len(share) else ():
        part_NT = number(batch).float().cpu()
        found_NT[batch.indices, : part_NT.shape[1]] = part_NT
    return dist.all_reduce_sum(found_NT.to(device)).cpu()


def _make_batch(episodes: Episodes, rows: Sequence[Sequence[int]], width: int, device: torch.device) -> EpisodeBatch:
    shape = (len(rows), width)
    token, position, document = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    indices = np.array([i for row in rows for i in row])
    longest = int(episodes.length_N[indices].max())
    place, cell, target = [], [], []
    n = 0
    for b, row in enumerate(rows):
        start = 0
        for number, i in enumerate(row, start=1):
            prompt = episodes.prompt_NS[i, : int(episodes.prompt_length_N[i])].numpy()
            answer = episodes.token_NT[i, : int(episodes.length_N[i])].numpy()
            size = len(prompt) + len(answer) - 1
            token[b, start : start + size] = np.concatenate([prompt, answer[:-1]])
            position[b, start : start + size], document[b, start : start + size] = np.arange(size), number
            said = episodes.said_NT[i, : len(answer)].numpy().nonzero()[0]
            place.append(b * width + start + len(prompt) - 1 + said)
            cell.append(n * longest + said)
            target.append(answer[said])
            start, n = start + size, n + 1
    mask_NT = episodes.said_NT[indices, :longest].float()
    of_token = {"sampled_logp": episodes.sampled_logp_NT, **episodes.of_token}
    arrays = [token, position, document, *map(np.concatenate, (place, target, cell))]
    tensors = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
    return EpisodeBatch(
        token_BT=tensors[0],
        position_BT=tensors[1],
        document_BT=tensors[2],
        max_runs=len(indices) + len(rows),
        place_W=tensors[3],
        target_W=tensors[4],
        cell_W=tensors[5],
        mask_NT=mask_NT.to(device),
        of_token={name: value[indices, :longest].to(device) for name, value in of_token.items()},
        indices=indices,
    )


def _said_states(model: Transformer, batch: EpisodeBatch) -> Tensor:
    hidden_BTD = model.hidden_states(batch.token_BT, position_BT=batch.position_BT, document_BT=batch.document_BT, max_runs=batch.max_runs)
    return hidden_BTD.flatten(0, 1)[batch.place_W]


def _logps(hidden_WD: Tensor, head_VD: Tensor, target_W: Tensor, temperature: float, entropy: EntropyUse) -> tuple[Tensor, Tensor]:
    if entropy != "trained":
        return linear_logps_and_entropy(hidden_WD, head_VD, target_W, temperature=temperature)
    logits_WV = torch.nn.functional.linear(hidden_WD, head_VD).float() / temperature
    entropy_W = logits_WV.logsumexp(-1) - (logits_WV.softmax(-1) * logits_WV).sum(-1)
    return token_logps(logits_WV, target_W), entropy_W


def _place(parts_W: Sequence[Tensor], cell_W: Tensor, shape: torch.Size) -> Tensor:
    flat = torch.zeros(shape.numel(), device=cell_W.device)
    return flat.index_copy(0, cell_W, torch.cat(list(parts_W)) if parts_W else flat[:0]).view(shape)


def _pad(rows: Sequence[Sequence[float]], dtype: type) -> Tensor:
    found: np.ndarray = np.zeros((len(rows), max(map(len, rows))), dtype=dtype)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return torch.from_numpy(found)
