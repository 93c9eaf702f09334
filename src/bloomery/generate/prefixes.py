"""Prompts are read once: what two of them have in common at their beginning, such as a few-shot head, is not read again.

A prompt is read in pieces of `piece_tokens`, counted from its beginning. The keys and values of whole pieces are kept, each
under everything that the prompt says up to its end, and the next prompt that begins so takes them from here. A piece is
computed in the same way whoever asks for it, so that a prompt's numbers do not depend on what was read before it.

Legend: T tokens, L layers, C keys or values, G key-value heads, S slots, K head dimension, D model.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bloomery.model.decoding import Decoder, round_up

PIECE_TOKENS, CUDA_PIECE_TOKENS = 64, 512
"""On a CPU a product of 64 rows is as fast a token as any; a GPU wants more. Multiples of the cache's blocks of slots."""
SIDE_BY_SIDE_TOKENS = 4096
"""Places of short prompts that are read in one pass."""
WIDTH_MULTIPLE = 16
"""A prompt's last piece is filled up to a multiple of this."""

PIECES_BYTES = 1 << 29
"""Memory for pieces that are remembered: of a model of 125 M parameters in float32 some 7,000 tokens."""


class ReadPrompt(NamedTuple):
    """A prompt's keys and values, and the stream at its last token."""

    kv_LCGTK: Tensor
    hidden_1D: Tensor


class PromptReader:
    """Reads prompts and remembers pieces of the latest ones. `tokens_read` counts the work done."""

    def __init__(self, decoder: Decoder, *, pad_id: int, max_bytes: int = PIECES_BYTES) -> None:
        self.decoder, self.pad_id, self.max_bytes = decoder, pad_id, max_bytes
        self.piece_tokens = PIECE_TOKENS if decoder.device.type == "cpu" else CUDA_PIECE_TOKENS
        self.tokens_read = 0
        """Tokens that went through the model; those of remembered pieces do not count."""
        self._pieces: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.inference_mode()
    def read_each(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, ReadPrompt]]:
        """`read` of each as (its number, what was read), one after another, so that not all lie in memory at once.

        Prompts of less than a piece, of which nothing can be remembered, are read side by side.
        """
        short: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            if len(prompt) < self.piece_tokens:
                short.setdefault(-(-len(prompt) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE, []).append(i)
            else:
                yield i, self.read(prompt)
        for width, same in short.items():
            size = max(1, SIDE_BY_SIDE_TOKENS // width)
            for start in range(0, len(same), size):
                part = same[start : start + size]
                yield from zip(part, self._read_side_by_side([prompts[i] for i in part], width), strict=True)

    def _read_side_by_side(self, prompts: Sequence[Sequence[int]], width: int) -> list[ReadPrompt]:
        self.tokens_read += sum(map(len, prompts))
        rows = [[*prompt, *[self.pad_id] * (width - len(prompt))] for prompt in prompts]
        token_BT = torch.tensor(rows, device=self.decoder.device)
        position_BT = torch.arange(width, device=self.decoder.device).expand(len(prompts), width)
        self.decoder.reserve_positions(round_up(width))
        kv_LCBGSK = self.decoder.new_cache(len(prompts), round_up(width))
        hidden_BTD = self.decoder.read(token_BT, kv_LCBGSK, position_BT=position_BT)
        return [ReadPrompt(kv_LCBGSK[:, :, b, :, : len(p)], hidden_BTD[b, len(p) - 1 : len(p)]) for b, p in enumerate(prompts)]

    @torch.inference_mode()
    def read(self, prompt: Sequence[int]) -> ReadPrompt:
        """A prompt of at least one token. Its last token is always read, because what comes after it has to be told."""
        ids, size = np.asarray(prompt, dtype=np.int64), self.piece_tokens
        self.decoder.reserve_positions(round_up(len(ids)))
        kv_LC1GSK = self.decoder.new_cache(1, round_up(len(ids)))
        start = 0
        for end in range(size, len(ids), size):
            kept = self._pieces.get(ids[:end].tobytes())
            if kept is None:
                break
            kv_LC1GSK[:, :, 0, :, start:end] = kept
            start = end
        hidden_TD = torch.empty(0)
        for first in range(start, len(ids), size):
            end = min(first + size, len(ids))
            hidden_TD = self._read_piece(ids[first:end], first, kv_LC1GSK)
            if end - first == size:
                self._pieces[ids[:end].tobytes()] = kv_LC1GSK[:, :, 0, :, first:end].clone()
        self._forget(ids)
        last = (len(ids) - 1) % size
        return ReadPrompt(kv_LC1GSK[:, :, 0, :, : len(ids)], hidden_TD[last : last + 1])

    def _read_piece(self, ids: np.ndarray, start: int, kv_LC1GSK: Tensor) -> Tensor:
        self.tokens_read += len(ids)
        # Padding is on the right: no token sees it, and the slots after the prompt's end are not taken over.
        width = -(-len(ids) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        token_1T = torch.full((1, width), self.pad_id, device=self.decoder.device)
        token_1T[0, : len(ids)] = torch.from_numpy(ids)
        position_1T = torch.arange(start, start + width, device=self.decoder.device)[None]
        # Only the slots up to this piece's end: keys that nobody sees are not multiplied.
        seen_LC1GSK = kv_LC1GSK[:, :, :, :, : round_up(start + width)].contiguous()
        hidden_1TD = self.decoder.read(token_1T, seen_LC1GSK, position_BT=position_1T)
        kv_LC1GSK[:, :, :, :, start : start + width] = seen_LC1GSK[:, :, :, :, start : start + width]
        return hidden_1TD[0]

    def _forget(self, latest: np.ndarray) -> None:
        # Pieces of the latest prompt go last, and its first one last of all: without that the others cannot be found.
        for end in range(len(latest) // self.piece_tokens * self.piece_tokens, 0, -self.piece_tokens):
            self._pieces.move_to_end(latest[:end].tobytes())
        while len(self._pieces) > 1 and len(self._pieces) * next(iter(self._pieces.values())).nbytes > self.max_bytes:
            self._pieces.popitem(last=False)
