"""Bits per byte: how well a model predicts held-out text, in a unit that does not depend on its tokenizer.

Each document is read from its own beginning, in pieces of the model's context; a piece after the first starts with
the last token of the one before, so every token but the document's first mark is predicted once.

Shapes: B pieces, T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bloomery.evaluate.metrics import Interval, bootstrap_ratio
from bloomery.model.transformer import Transformer
from bloomery.tokens.shards import TokenSet

BATCH_TOKENS = 8192
"""Tokens in one forward pass, padding included; float32 logits over 4,096 entries take 134 MB."""


class DocumentBits(NamedTuple):
    """For each scored document, the bits that its text cost and the bytes that it has."""

    bits: list[float]
    num_bytes: list[float]

    def interval(self, *, seed: int) -> Interval:
        """Bits per byte over all documents, with a bootstrap over documents."""
        return bootstrap_ratio(self.bits, self.num_bytes, seed=seed)


class Piece(NamedTuple):
    """Tokens start .. stop of a document: all but the last are read, all but the first are predicted."""

    document: int
    start: int
    stop: int


@torch.inference_mode()
def document_bits(
    model: Transformer, tokens: TokenSet, token_bytes: npt.NDArray[np.int64], *, context_tokens: int, max_tokens: int, device: str
) -> DocumentBits:
    """Bits and bytes of documents spread evenly over `tokens`, at most `max_tokens` tokens of them (0 = all).

    Special tokens have no bytes, so predicting them costs nothing here: bits per byte speaks of text alone.
    """
    chosen = choose_documents(tokens.lengths, max_tokens=max_tokens)
    bits, sizes = np.zeros(tokens.num_documents), np.zeros(tokens.num_documents)
    bytes_V = torch.from_numpy(token_bytes).to(device)
    for pieces in _batches([piece for i in chosen for piece in split(i, int(tokens.lengths[i]), context_tokens=context_tokens)]):
        rows = [torch.from_numpy(np.asarray(tokens.document(p.document)[p.start : p.stop], dtype=np.int64)) for p in pieces]
        token_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0).to(device)
        real_BT = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True).to(device)[:, 1:]
        target_BT = token_BT[:, 1:]
        # Padding lies on the right and attention is causal: no real token sees it, and no mask is needed.
        logits_BTV = model(token_BT[:, :-1])
        nll_BT = F.cross_entropy(logits_BTV.mT, target_BT, reduction="none")
        bytes_BT = bytes_V[target_BT] * real_BT
        nats_B = (nll_BT * (bytes_BT > 0)).double().sum(1)
        for piece, nats, num_bytes in zip(pieces, nats_B.tolist(), bytes_BT.sum(1).tolist(), strict=True):
            bits[piece.document] += nats / math.log(2)
            sizes[piece.document] += num_bytes
    return DocumentBits([bits[i] for i in chosen], [sizes[i] for i in chosen])


def choose_documents(lengths: npt.NDArray[np.int64], *, max_tokens: int) -> list[int]:
    """Indices of documents spread evenly, as many as fit `max_tokens` tokens (0 = all), at least one.

    >>> choose_documents(np.array([10, 10, 10, 10]), max_tokens=20)
    [0, 2]
    """
    stride = 1
    while max_tokens and lengths[::stride].sum() > max_tokens and stride < len(lengths):
        stride += 1
    return list(range(0, len(lengths), stride))


def split(document: int, length: int, *, context_tokens: int) -> list[Piece]:
    """The pieces of a document, each of at most `context_tokens` inputs; a document of one token has none.

    >>> split(7, 6, context_tokens=3)
    [Piece(document=7, start=0, stop=4), Piece(document=7, start=3, stop=6)]
    """
    return [Piece(document, start, min(start + context_tokens + 1, length)) for start in range(0, length - 1, context_tokens)]


def _batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.start - p.stop, p.document, p.start)):
        widest = batch[0].stop - batch[0].start if batch else 0
        if batch and widest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
