"""Where a Decoder keeps the keys and values of texts that come and go.

Legend: L layers, C keys or values (2), B rows, G key-value heads, S slots, K head dimension, T tokens.
"""

from collections.abc import Sequence

from torch import Tensor

from bloomery.model.decoding import Decoder, round_up


class RowCache:
    """Rows that grow, come and go: keys and values of a Decoder's texts, LCBGSK, all rows as long as the longest needs it.

    It has exactly the slots that are in use, in blocks: attention reads it from end to end, and gaps between rows would
    double the time of that.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.kv_LCBGSK = decoder.new_cache(0, 0)

    def reserve(self, num_rows: int, num_slots: int) -> None:
        """Makes room for so many rows and so many slots in each; what there is stays."""
        B, S = self.kv_LCBGSK.shape[2], self.kv_LCBGSK.shape[4]
        if num_rows > B or num_slots > S:
            old_LCBGSK = self.kv_LCBGSK
            self.kv_LCBGSK = self._decoder.new_cache(max(num_rows, B), max(round_up(num_slots), S))
            self.kv_LCBGSK[:, :, :B, :, :S] = old_LCBGSK

    def keep(self, rows: Sequence[int], *, num_rows: int, num_slots: int) -> None:
        """Only these rows stay, in this order, and empty ones after them up to `num_rows`; of each the first `num_slots` slots."""
        kept_LCBGSK = self.kv_LCBGSK[:, :, list(rows), :, : round_up(num_slots)]
        self.kv_LCBGSK = self._decoder.new_cache(num_rows, kept_LCBGSK.shape[4])
        self.kv_LCBGSK[:, :, : len(rows)] = kept_LCBGSK

    def fill(self, row: int, kv_LCGTK: Tensor, *, num_rows: int = 1) -> None:
        """Writes the first T slots of a row, and the same of those behind it, `num_rows` in all."""
        self.kv_LCBGSK[:, :, row : row + num_rows, :, : kv_LCGTK.shape[3]] = kv_LCGTK[:, :, None]
