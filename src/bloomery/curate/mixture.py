"""The mixture: how often each input is repeated, in which order documents stand, and which are held out.

All three are decided by hashes of document ids, never by a generator that walks along the data: a document's place
does not depend on how the inputs are cut into shards, and its side of the split not even on the seed.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from bloomery.core.config import Config

Split = Literal["train", "validation"]


class MixConfig(Config):
    """What goes into the training and validation documents."""

    weights: list[float] = Field(default=[])
    """Share of the bytes of training that each input gets, in the order of the inputs; empty: every document once."""
    max_epochs: float = Field(default=1.0, gt=0)
    """With `weights`: how often the input that runs out first is seen."""
    validation_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the documents held out, by a hash of their ids: a document is on the same side in every mixture."""
    shard_bytes: PositiveInt = 64 << 20
    """Text in an output shard, about."""
    seed: NonNegativeInt = 0
    """Of the order of the documents, and of which ones fill a fraction of an epoch."""

    @field_validator("weights")
    @classmethod
    def _weights_are_shares(cls, weights: list[float]) -> list[float]:
        if weights and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError("weights are shares: not negative, and not all zero")
        return weights


class Place(NamedTuple):
    """Where one copy of a document goes."""

    split: Split
    shard: int
    key: int
    copy: int


def is_validation(id: str, *, fraction: float) -> bool:
    """Whether the document is held out; depends on nothing but its id and the fraction."""
    return _unit(f"validation\x00{id}") < fraction


def epochs_of_inputs(num_bytes: Sequence[int], config: MixConfig) -> list[float]:
    """How often each input is repeated, given the training bytes of each.

    >>> epochs_of_inputs([100, 300], MixConfig(weights=[0.5, 0.5], max_epochs=2.0))
    [2.0, 0.6666666666666666]
    """
    if not config.weights:
        return [1.0] * len(num_bytes)
    shares = [weight / sum(config.weights) for weight in config.weights]
    total = min(size * config.max_epochs / share for size, share in zip(num_bytes, shares, strict=True) if share > 0)
    return [share * total / size if size else 0.0 for size, share in zip(num_bytes, shares, strict=True)]


def num_copies(id: str, *, epochs: float, seed: int) -> int:
    """How often one document of an input with so many epochs is taken: floor or ceiling, right on average over ids."""
    whole = math.floor(epochs)
    return whole + (_unit(f"copies\x00{seed}\x00{id}") < epochs - whole)


def place_document(id: str, *, copies: int, config: MixConfig, num_shards: int) -> list[Place]:
    """Where the copies of a document go: one in validation, or `copies` in training. Sorting by key shuffles."""
    if is_validation(id, fraction=config.validation_fraction):
        return [Place("validation", 0, _number(f"order\x00{config.seed}\x00{id}\x000"), 0)]
    keys = [_number(f"order\x00{config.seed}\x00{id}\x00{copy}") for copy in range(copies)]
    return [Place("train", key * num_shards >> 64, key, copy) for copy, key in enumerate(keys)]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _unit(text: str) -> float:
    return _number(text) / 2**64
