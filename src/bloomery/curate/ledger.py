"""The ledger: one row for every document that a stage dropped, with the rule, the value that broke it and a sample.

Rows in = documents kept + ledger rows, for every stage. Shards of the ledger lie in `ledger/NNNNN.parquet` beside the
documents of the same number, so that "why is this page gone?" is one query over Parquet files.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: the values of a ledger row

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bloomery.core.errors import DataError
from bloomery.core.files import write_atomically

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("kept_id", pa.string()),
        ("text_sample", pa.string()),
        ("detail", pa.string()),
    ]
)
"""`value` broke `threshold`; `kept_id` is the twin that stayed; `detail` is what no number says (an error, a prompt)."""

FOLDER = "ledger"
SAMPLE_CHARACTERS = 200


def ledger_row(*, stage: str, rule: str, id: str, text: str | None = None, **columns: Any) -> dict[str, Any]:
    """One row; `columns` are the remaining columns of SCHEMA, those not given stay empty."""
    unknown = set(columns) - set(SCHEMA.names)
    assert not unknown, f"not a column of the ledger: {unknown}"
    return {"id": id, "stage": stage, "rule": rule, "text_sample": sample_text(text), **columns}


def sample_text(text: str | None) -> str | None:
    """The beginning of a text, on one line."""
    return None if text is None else " ".join(text[: 2 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS]


def ledger_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A ledger of rows made by `ledger_row`."""
    return pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)


def write_ledger(path: Path, table: pa.Table) -> None:
    """Writes one shard of a ledger, atomically; equal tables give equal bytes."""
    with write_atomically(path) as temporary:
        pq.write_table(table.cast(SCHEMA), temporary, compression="zstd", compression_level=3)


def read_ledger(folder: Path) -> pa.Table:
    """The whole ledger of an artifact folder, in order of shards; empty where the stage dropped nothing.

    Raises DataError if a file there is not a ledger.
    """
    tables = []
    for path in sorted((folder / FOLDER).glob("*.parquet")):
        try:
            tables.append(pq.read_table(path).cast(SCHEMA))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(f"{path}: not a readable ledger: {error}") from error
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def count_rules(table: pa.Table) -> dict[str, int]:
    """How many rows each rule has, as metrics: {"dropped/<rule>": count}, sorted by name."""
    counts = Counter(table.column("rule").to_pylist())
    return {f"dropped/{rule}": counts[rule] for rule in sorted(counts)}


def count_bytes(table: pa.Table, came: pa.Table) -> dict[str, int]:
    """UTF-8 bytes of the texts that each rule dropped, as metrics: {"dropped_bytes/<rule>": bytes}, sorted by name.

    `came` has the documents of the ledger as they came in; a row whose document is not there counts nothing.
    """
    places = pc.index_in(table.column("id"), value_set=came.column("id").combine_chunks().cast(pa.string()))
    sizes = pc.binary_length(came.column("text")).take(places)
    total: Counter[str] = Counter()
    for rule, size in zip(table.column("rule").to_pylist(), sizes.to_pylist(), strict=True):
        total[rule] += size or 0
    return {f"dropped_bytes/{rule}": total[rule] for rule in sorted(total)}
