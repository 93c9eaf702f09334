"""The mixture: how often each input is repeated, in which order documents stand, and which are held out.

All three are decided by hashes of document ids, never by a generator that walks along the data: a document's place
does not depend on how the inputs are cut into shards, and its side of the split not even on the seed. Shares are exact:
the documents that fill a fraction of an epoch are those of the smallest hashes, up to the number of bytes asked for, so
that an input's share is off by at most one document.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple  # Any: the shape parameter of numpy arrays

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from bloomery.core.config import Config

Split = Literal["train", "validation"]


class MixConfig(Config):
    """What goes into the training and validation documents."""

    weights: list[float] = Field(default=[])
    """Share of the bytes of training that each input gets, in the order of the inputs; empty: every document once."""
    temperature: PositiveFloat = 1.0
    """Without `weights`: shares proportional to the input's size to the power 1/temperature (arXiv:1901.07291, sec. 3.1, with
    alpha = 1/temperature). 1 takes every document once; larger ones favour small inputs."""
    max_epochs: float = Field(default=1.0, gt=0)
    """With `weights` or a temperature: no input is seen more often. The whole is as large as that allows, so that shares stay exact."""
    max_bytes: NonNegativeInt = 0
    """With `weights` or a temperature: the whole has at most so many bytes of training text; 0 for no limit."""
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

    @model_validator(mode="after")
    def _one_way_to_say_shares(self) -> "MixConfig":
        if self.weights and self.temperature != 1.0:
            raise ValueError("weights and temperature both say the shares: give one of them")
        if (self.max_bytes or self.max_epochs != 1.0) and not self.has_shares:
            raise ValueError("max_epochs and max_bytes limit a mixture with shares: give weights or a temperature too")
        return self

    @property
    def has_shares(self) -> bool:
        """Whether inputs are repeated or cut to shares, rather than taken as they are."""
        return bool(self.weights) or self.temperature != 1.0


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
    >>> [round(epochs, 3) for epochs in epochs_of_inputs([100, 400], MixConfig(temperature=2.0))]
    [1.0, 0.5]
    """
    if not config.has_shares:
        return [1.0] * len(num_bytes)
    weights = config.weights or [size ** (1 / config.temperature) for size in num_bytes]
    shares = [weight / max(sum(weights), 1e-300) for weight in weights]
    totals = [size * config.max_epochs / share for size, share in zip(num_bytes, shares, strict=True) if share > 0]
    total = min([*totals, *([config.max_bytes] if config.max_bytes else [])], default=0)
    return [share * total / size if size else 0.0 for size, share in zip(num_bytes, shares, strict=True)]


def copy_key(id: str, *, seed: int) -> int:
    """The 64-bit hash by which documents are chosen for a fraction of an epoch, the smallest first."""
    return _number(f"copies\x00{seed}\x00{id}")


def choose_limit(keys: np.ndarray[Any, np.dtype[np.uint64]], num_bytes: np.ndarray[Any, np.dtype[np.int64]], *, epochs: float) -> int:
    """The key below which documents are taken once more, so that `epochs` of their bytes are taken to within one document."""
    wanted = (epochs - math.floor(epochs)) * int(num_bytes.sum())
    order = np.argsort(keys, kind="stable")
    taken = np.concatenate([[0], np.cumsum(num_bytes[order])])
    count = int(np.abs(taken - wanted).argmin())
    return int(keys[order[count]]) if count < len(keys) else 2**64


def num_copies(id: str, *, epochs: float, limit: int, seed: int) -> int:
    """How often one document of an input with so many epochs is taken: floor or ceiling."""
    return math.floor(epochs) + (copy_key(id, seed=seed) < limit)


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
