"""Log-likelihoods of many texts that share beginnings: what is shared is read once.

Two things are shared in evaluation. The choices of a question have its context in common: they go into one row, the
context once and the choices after it, under a mask by which a choice sees the context and itself only, with positions as
if it stood alone. And the questions of a benchmark have examples to show in common: these are read once, and their keys
and values serve all rows after them. The numbers are those of scoring every text by itself (tests/evaluate/test_packed.py)
for a fraction of the tokens; logits are computed only where a scored token is predicted.

Shapes: B rows, T tokens of a row, P tokens of the shared beginning, S = P + T keys, D model, V vocabulary, N predictions.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from bloomery.core.errors import DataError
from bloomery.model.attention import Visibility
from bloomery.model.cache import KVCache
from bloomery.model.transformer import Transformer, make_context

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Places of one forward pass, padding included."""
MASK_ENTRIES = 32 << 20
"""Rows times queries times keys of one mask."""
LOGITS_ENTRIES = 16 << 20
"""Predictions times vocabulary at once: 64 MB of float32."""
MIN_SHARED_TOKENS = 24
"""A beginning of fewer tokens is not worth a pass of its own."""


class TooLong(DataError):
    """A scored part that alone exceeds the model's context: no number of this model's can be had for it."""


class Text(NamedTuple):
    """Token ids, of which those from `start` on are scored; `start` is at least 1, because something must predict them."""

    tokens: Sequence[int]
    start: int


class Likelihood(NamedTuple):
    """The log-probability (natural) of each scored token, and whether none was likelier than each of them."""

    logps: list[float]
    greedy: bool

    @property
    def logp(self) -> float:
        """Of all scored tokens together; 0 for none."""
        return math.fsum(self.logps)


@dataclass(frozen=True)
class _Row:
    """An item laid out: what its texts share, then what each has after that. `segments` are 0 for the former, else 1, 2, ..."""

    item: int
    tokens: list[int]
    positions: list[int]
    segments: list[int]
    predictions: list[tuple[int, int, int]]
    """(text, place in the row that predicts, target token)."""


@torch.inference_mode()
def score_texts(
    model: Transformer, items: Sequence[Sequence[Text]], *, names: Sequence[str] | None = None, advance: Callable[[int], None] | None = None
) -> list[list[Likelihood]]:
    """The likelihood of every text of every item; the texts of one item (the choices of a question) share a row.

    Texts longer than the model's context lose their beginning, never a scored token. `advance(n)` is called after each n
    items. Raises DataError (with names[i], if given) where a scored part alone exceeds the context, or a logit is no number.
    """
    limit = model.config.max_positions
    label = names or [f"item {i}" for i in range(len(items))]
    cut = [[_cut(text, limit, label[i]) for text in texts] for i, texts in enumerate(items)]
    found: list[list[list[float]]] = [[[] for _ in texts] for texts in cut]
    greedy = [[True] * len(texts) for texts in cut]
    for group, num_shared in _groups(cut):
        shared = _read_shared(model, cut[group[0]][0].tokens[:num_shared]) if num_shared else None
        rows = [_lay_out(item, cut[item], num_shared) for item in group]
        for batch in _batches(rows, num_shared, model.device.type):
            hidden_ND = _hidden_states(model, batch, shared)
            for (item, text), logp, likeliest in _predict(model, batch, hidden_ND, label):
                found[item][text].append(logp)
                greedy[item][text] &= likeliest
            if advance is not None:
                advance(len(batch))
    return [[Likelihood(logps, ok) for logps, ok in zip(*of, strict=True)] for of in zip(found, greedy, strict=True)]


def num_cut(model: Transformer, items: Sequence[Sequence[Text]]) -> int:
    """How many items have a text that is longer than the model's context."""
    return sum(any(len(text.tokens) - 1 > model.config.max_positions for text in texts) for texts in items)


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with together.

    >>> common_length([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    first, shortest = sequences[0], min(map(len, sequences))
    if all(sequence[:shortest] == first[:shortest] for sequence in sequences):
        return shortest
    return next(i for i in range(shortest) if any(sequence[i] != first[i] for sequence in sequences))


def _cut(text: Text, limit: int, name: str) -> Text:
    tokens, start = list(text.tokens), text.start
    if not 1 <= start <= len(tokens):
        raise ValueError(f"{name}: {len(tokens)} tokens of which those from {start} on are scored: nothing predicts the first")
    # The last token is predicted but never read, so a text may be one longer than the context.
    surplus = max(0, len(tokens) - 1 - limit)
    if surplus >= start:
        raise TooLong(f"{name}: {len(tokens) - start} tokens are to be scored, but the model reads {limit} at once")
    return Text(tokens[surplus:], start - surplus)


def _inputs(text: Text) -> Sequence[int]:
    return text.tokens[:-1] if text.start < len(text.tokens) else text.tokens[: text.start - 1]


def _groups(items: Sequence[Sequence[Text]]) -> Iterator[tuple[list[int], int]]:
    """Items that begin alike, and with how many tokens; last, those that share nothing worth it."""
    trunks = [list(_inputs(texts[0])[: common_length([_inputs(text) for text in texts])]) for texts in items]
    # Each row keeps at least one token of its own: what predicts its first scored token.
    trunks = [trunk[: min([len(trunk), *(text.start - 1 for text in texts)])] for trunk, texts in zip(trunks, items, strict=True)]
    order = sorted(range(len(items)), key=lambda i: trunks[i])
    alone: list[int] = []
    group: list[int] = []
    shared = 0
    for i in order:
        common = common_length([trunks[group[0]], trunks[i]]) if group else 0
        common = min(common, shared)
        # One more is taken in if the tokens that are then saved are at least as many as before.
        saves_more = common * len(group) >= shared * (len(group) - 1)
        if common >= MIN_SHARED_TOKENS if len(group) == 1 else group and saves_more:
            group.append(i)
            shared = common
            continue
        if len(group) > 1 and shared >= MIN_SHARED_TOKENS:
            yield group, shared
        else:
            alone += group
        group, shared = [i], len(trunks[i])
    if len(group) > 1 and shared >= MIN_SHARED_TOKENS:
        yield group, shared
    else:
        alone += group
    if alone:
        yield alone, 0


def _lay_out(item: int, texts: Sequence[Text], num_shared: int) -> _Row:
    inputs = [list(_inputs(text)) for text in texts]
    trunk = common_length(inputs)
    tokens, segments = inputs[0][num_shared:trunk], [0] * (trunk - num_shared)
    positions = list(range(num_shared, trunk))
    predictions = []
    for number, (text, own) in enumerate(zip(texts, inputs, strict=True)):
        begins = len(tokens)
        tokens += own[trunk:]
        positions += range(trunk, len(own))
        segments += [number + 1] * (len(own) - trunk)
        for place in range(text.start, len(text.tokens)):
            before = place - 1
            at = before - num_shared if before < trunk else begins + before - trunk
            predictions.append((number, at, text.tokens[place]))
    return _Row(item, tokens, positions, segments, predictions)


def _batches(rows: Sequence[_Row], num_shared: int, device: str) -> Iterator[list[_Row]]:
    room = BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])
    batch: list[_Row] = []
    # Longest first: what is too much for the memory fails at once. Rows with choices apart: the others need no mask.
    for row in sorted(rows, key=lambda row: (-len(row.tokens), row.item)):
        width = len(batch[0].tokens) if batch else len(row.tokens)
        entries = (len(batch) + 1) * width * (num_shared + width)
        if batch and ((len(batch) + 1) * width > room or entries > MASK_ENTRIES):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Kept:
    """Keys and values of a shared beginning, BSGK by layer: written once, then put before those of every row."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def num_tokens(self) -> int:
        return self.layers[0][0].shape[1]

    def write(self, layer: int, key_BTGK: Tensor, value_BTGK: Tensor, position_BT: Tensor, *, num_slots: int) -> tuple[Tensor, Tensor]:
        if layer not in self.layers:
            self.layers[layer] = key_BTGK, value_BTGK
            return key_BTGK, value_BTGK
        B = key_BTGK.shape[0]
        key_BSGK, value_BSGK = (
            torch.cat([kept_1PGK.expand(B, -1, -1, -1), new_BTGK], 1)
            for kept_1PGK, new_BTGK in zip(self.layers[layer], (key_BTGK, value_BTGK), strict=True)
        )
        return key_BSGK, value_BSGK


def _read_shared(model: Transformer, tokens: Sequence[int]) -> _Kept:
    kept = _Kept()
    token_1P = torch.tensor([list(tokens)], device=model.device)
    position_1P = torch.arange(len(tokens), device=model.device)[None]
    segment_1P = torch.zeros_like(position_1P)
    _run(model, token_1P, position_1P, segment_1P, kept, num_before=0)
    return kept


def _hidden_states(model: Transformer, batch: Sequence[_Row], shared: _Kept | None) -> Tensor:
    """The stream where something is predicted, ND: one row for each (row, place) of `_places`."""
    width = max(len(row.tokens) for row in batch)
    token_BT, position_BT, segment_BT = (
        torch.tensor([[*values, *[fill] * (width - len(values))] for values in columns], device=model.device)
        for columns, fill in (
            ([row.tokens for row in batch], 0),
            ([row.positions for row in batch], 0),
            ([row.segments for row in batch], -1),
        )
    )
    hidden_BTD = _run(model, token_BT, position_BT, segment_BT, shared, num_before=shared.num_tokens if shared else 0)
    place_N = torch.tensor([b * width + at for b, at in _places(batch)], device=model.device)
    return hidden_BTD.flatten(0, 1)[place_N]


def _places(batch: Sequence[_Row]) -> list[tuple[int, int]]:
    return [(b, at) for b, row in enumerate(batch) for at in dict.fromkeys(at for _, at, _ in row.predictions)]


def _run(model: Transformer, token_BT: Tensor, position_BT: Tensor, segment_BT: Tensor, kept: _Kept | None, *, num_before: int) -> Tensor:
    dtype = model.compute_dtype
    context = make_context(model.config, position_BT, None, None, dtype=dtype)
    branched = bool((segment_BT > 0).any()) or num_before > 0
    window = model.config.sliding_window
    context = context._replace(
        # Padding stands on the right: where rows have no branches, plain causal attention hides it from all that counts.
        visibility=_tree_visibility(position_BT, segment_BT, num_before, 0, dtype) if branched else context.visibility,
        window_visibility=_tree_visibility(position_BT, segment_BT, num_before, window, dtype) if branched else context.window_visibility,
        # A layer asks nothing of a cache but `write`.
        cache=cast(KVCache | None, kept),
    )
    x_BTD = model.model.embed_tokens(token_BT).to(dtype)
    for i in range(model.config.num_layers):
        x_BTD = model.run_layer(i, x_BTD, context)
    hidden_BTD: Tensor = model.model.norm(x_BTD)
    return hidden_BTD


def _tree_visibility(position_BT: Tensor, segment_BT: Tensor, num_before: int, window: int, dtype: torch.dtype) -> Visibility:
    """A token sees the shared beginning, and of its row, up to itself, the trunk and its own branch."""
    B, T = segment_BT.shape
    slot_T = torch.arange(T, device=segment_BT.device)
    own_BTT = (segment_BT[:, None, :] == 0) | (segment_BT[:, None, :] == segment_BT[:, :, None])
    own_BTT &= slot_T[None, None, :] <= slot_T[None, :, None]
    visible_BTS = torch.cat([own_BTT.new_ones(B, T, num_before), own_BTT], 2)
    if window:
        before_BP = torch.arange(num_before, device=segment_BT.device).expand(B, -1)
        key_position_BS = torch.cat([before_BP, position_BT], 1)
        visible_BTS &= key_position_BS[:, None, :] > position_BT[:, :, None] - window
        visible_BTS |= torch.cat(
            [own_BTT.new_zeros(B, T, num_before), torch.eye(T, dtype=torch.bool, device=own_BTT.device).expand(B, -1, -1)], 2
        )
    bias_BTS = torch.zeros(visible_BTS.shape, dtype=dtype, device=visible_BTS.device).masked_fill_(~visible_BTS, -math.inf)
    return Visibility(bias_B1TS=bias_BTS[:, None])


def _predict(
    model: Transformer, batch: Sequence[_Row], hidden_ND: Tensor, names: Sequence[str]
) -> Iterator[tuple[tuple[int, int], float, bool]]:
    """For each prediction, in order: whose it is, its log-probability, and whether it was the likeliest token."""
    number_of = {place: n for n, place in enumerate(_places(batch))}
    wanted = [(number_of[b, at], target, (row.item, text)) for b, row in enumerate(batch) for text, at, target in row.predictions]
    # A text with nothing to score keeps its empty list.
    by_place: dict[int, list[int]] = {}
    for i, (n, _, _) in enumerate(wanted):
        by_place.setdefault(n, []).append(i)
    results: list[tuple[float, bool]] = [(0.0, False)] * len(wanted)
    step = max(1, LOGITS_ENTRIES // model.config.vocab_size)
    for first in range(0, hidden_ND.shape[0], step):
        logits_NV = model.logits(hidden_ND[first : first + step])
        mine = [i for n in range(first, first + logits_NV.shape[0]) for i in by_place.get(n, ())]
        place = torch.tensor([wanted[i][0] - first for i in mine], device=logits_NV.device)
        target = torch.tensor([wanted[i][1] for i in mine], device=logits_NV.device)
        wanted_logit, top_N = logits_NV[place, target], logits_NV.amax(-1)
        # In place and by hand: passes over so many numbers cost as much as the product that made them.
        sum_N = logits_NV.sub_(top_N[:, None]).exp_().sum(-1)
        likeliest = wanted_logit == top_N[place]
        logp = wanted_logit - top_N[place] - sum_N.log()[place]
        for i, value, ok in zip(mine, logp.tolist(), likeliest.tolist(), strict=True):
            if math.isnan(value) or value == math.inf:
                raise DataError(
                    f"{names[wanted[i][2][0]]}: the model's logits are not numbers ({value}): its weights are damaged, or overflow"
                )
            results[i] = value, ok
    return ((of, *result) for (_, _, of), result in zip(wanted, results, strict=True))


def flatten(items: Sequence[Sequence[Text]]) -> list[Text]:
    """All texts of all items, one after another."""
    return list(itertools.chain.from_iterable(items))
