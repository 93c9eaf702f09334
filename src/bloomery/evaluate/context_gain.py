"""What a model gains from the text before: its loss early in a row of held-out text less that late in it, in nats a token.

Olsson et al. (arXiv:2209.11895, sec. 3) call this in-context learning. It rises within a short part of a training, where a model
learns to copy. Of two models, one before and one behind that point, neither says what the loss of the other is.

Rows lie inside documents, and all models are asked the same rows. Shapes: N rows, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bloomery.model.transformer import Transformer
from bloomery.objectives.next_token import linear_token_logps
from bloomery.tokens.shards import TokenSet

NUM_ROWS = 400
MIN_ROWS = 30
"""Of fewer nothing is said."""
MAX_ROW_TOKENS = 1024
EARLY, LATE = (5 / 32, 7 / 32), (25 / 32, 1.0)
"""Parts of a row: of 256 tokens the 40th to 55th, and those from the 200th on."""
BATCH_TOKENS = 16_384


def draw_rows(sets: Sequence[TokenSet], *, row_tokens: int) -> Tensor | None:
    """NUM_ROWS rows (N x T int64), evenly from all that lie whole inside documents, or all of these; None if there are under MIN_ROWS."""
    row_tokens = min(row_tokens, MAX_ROW_TOKENS)
    places = [
        (found, i, start)
        for found in sets
        for i in range(found.num_documents)
        for start in range(0, int(found.lengths[i]) - row_tokens + 1, row_tokens)
    ]
    if len(places) < MIN_ROWS:
        return None
    count = min(NUM_ROWS, len(places))
    chosen = [places[i * len(places) // count] for i in range(count)]
    return torch.from_numpy(np.stack([found.document(i)[start : start + row_tokens].astype(np.int64) for found, i, start in chosen]))


@torch.inference_mode()
def context_gains(model: Transformer, row_NT: Tensor) -> Tensor:
    """Of each row (N, float64) the mean loss of its early tokens less that of its late ones; above 0 where the text before helps."""
    num_tokens = row_NT.shape[1]
    early, late = (slice(int(first * num_tokens), int(last * num_tokens)) for first, last in (EARLY, LATE))
    gains = []
    for batch_BT in torch.split(row_NT.to(model.device), max(1, BATCH_TOKENS // num_tokens)):
        hidden_BTD, target_BT = model.hidden_states(batch_BT[:, :-1]), batch_BT[:, 1:]
        logp_N = linear_token_logps(hidden_BTD.flatten(0, 1), model.head_weight(), target_BT.flatten())
        logp_BT = logp_N.view(target_BT.shape).double()
        gains.append(logp_BT[:, late].mean(dim=1) - logp_BT[:, early].mean(dim=1))
    return torch.cat(gains).cpu()
