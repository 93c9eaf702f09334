"""redact: personal data in documents is replaced and counted; no document is dropped.

Signals measured before (characters, words) are of the text before. Shards map one to one.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_table
from bloomery.curate.redact import RedactConfig, redact_table


def redact(config: RedactConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with all documents, without the personal data of the kinds of `config`."""
    shards = number_shards(list_document_files(documents))
    return map_shards(functools.partial(redact_file, config), shards, out=out, runtime=runtime)


def redact_file(config: RedactConfig, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file, redacted; the ledger stays empty."""
    for batch in read_document_batches(shard.source):
        redacted = redact_table(batch, config)
        yield Outcome(redacted.table, ledger_table([]), len(batch), text_bytes(batch), redacted.counts)


STAGE = Stage(
    name="redact",
    config_type=RedactConfig,
    run=redact,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
