"""augment: documents -> the same documents, and changed copies of some of them (curate/augment.py)."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, NonNegativeInt, field_validator

from bloomery.core.config import Config
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.augment import add_copies, find_hook
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_table


class AugmentConfig(Config):
    """Which changed copies are added."""

    hooks: list[str] = Field(default=["lowercase"], min_length=1)
    """lowercase, unwrap_lines, typos, or your own as "module:function"."""
    fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of the documents that each hook copies, chosen by a hash of their ids."""
    hook_version: NonNegativeInt = 0
    """Raise it when a function of yours gives other texts than before: code is not part of a fingerprint."""
    seed: NonNegativeInt = 0

    @field_validator("hooks")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            try:
                find_hook(name) if ":" not in name else None
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return names


def augment(config: AugmentConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with every document and the copies, one shard for each input file; `augmented` counts the copies."""
    for name in config.hooks:
        find_hook(name)  # a function that is not there should stop the run before its first shard
    shards = number_shards(list_document_files(documents))
    return map_shards(functools.partial(augment_file, config), shards, out=out, runtime=runtime)


def augment_file(config: AugmentConfig, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file and their copies; nothing goes to the ledger."""
    for batch in read_document_batches(shard.source):
        table = add_copies(batch, config.hooks, fraction=config.fraction, seed=config.seed)
        yield Outcome(table, ledger_table([]), len(batch), text_bytes(batch), counts={"augmented": len(table) - len(batch)})


STAGE = Stage(
    name="augment",
    config_type=AugmentConfig,
    run=augment,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
