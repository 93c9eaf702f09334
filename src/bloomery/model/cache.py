"""Keys and values of tokens already read, so that generation reads each token once.

Slots are positions: the key and value of the token at position p of row b lie in slot p of row b, and a query at
position p sees the slots up to p. Rows of unlike length therefore need no padding on the left: prompts are padded on
the right, and what the padding wrote beyond a row's end is overwritten before any query can see it.

Shapes: L layers, B rows, T new tokens, S slots, G key-value heads, K head dimension.
"""

import torch
from torch import Tensor

from bloomery.model.config import ModelConfig


class KVCache:
    """Room for `max_tokens` tokens in each of `num_rows` rows."""

    def __init__(self, config: ModelConfig, *, num_rows: int, max_tokens: int, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (config.num_layers, num_rows, config.num_kv_heads, max_tokens, config.head_dim)
        self.key_LBGSK = torch.zeros(shape, dtype=dtype, device=device)
        self.value_LBGSK = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def num_rows(self) -> int:
        """How many rows are held now."""
        return self.key_LBGSK.shape[1]

    @property
    def max_tokens(self) -> int:
        """How many tokens a row can hold."""
        return self.key_LBGSK.shape[3]

    def write(self, layer: int, key_BTGK: Tensor, value_BTGK: Tensor, position_BT: Tensor, *, num_slots: int) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values of a layer at their positions; returns its first `num_slots` slots, as BSGK."""
        row_B1 = torch.arange(self.num_rows, device=position_BT.device)[:, None]
        # Indexing with a slice between two index tensors puts the indexed dimensions first: B, T, G, K.
        self.key_LBGSK[layer][row_B1, :, position_BT] = key_BTGK.to(self.key_LBGSK.dtype)
        self.value_LBGSK[layer][row_B1, :, position_BT] = value_BTGK.to(self.value_LBGSK.dtype)
        key_BSGK, value_BSGK = (kept_LBGSK[layer, :, :, :num_slots].transpose(1, 2) for kept_LBGSK in (self.key_LBGSK, self.value_LBGSK))
        return key_BSGK, value_BSGK

    def keep_rows(self, row_B: Tensor) -> None:
        """Drops every row but these, in this order (a row may come more than once)."""
        self.key_LBGSK = self.key_LBGSK[:, row_B]
        self.value_LBGSK = self.value_LBGSK[:, row_B]
