"""The funnel: what each data stage let through and what it dropped, read from finished artifacts for the report.

Bytes are UTF-8 bytes of text (of the page as crawled, at the mouth of `extract`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bloomery.core.artifact import read_artifact
from bloomery.curate.ledger import read_ledger

COUNTS = ("documents_in", "documents_out", "bytes_in", "bytes_out")
SAMPLES_PER_RULE = 3


class Dropped(NamedTuple):
    """One rule's harvest: how many documents, and the first few of them."""

    rule: str
    documents: int
    samples: list[str]


class FunnelStep(NamedTuple):
    """One stage of the funnel."""

    name: str
    stage: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int
    dropped: list[Dropped]


def funnel(folders: Mapping[str, Path]) -> list[FunnelStep]:
    """The steps of the artifacts in `folders` (name in the recipe -> folder), in the given order.

    An artifact that counts no documents (a tokenizer, a checkpoint) has no step.
    """
    steps = []
    for name, folder in folders.items():
        record = read_artifact(folder).record
        metrics = record["metrics"]
        if not set(COUNTS) <= set(metrics):
            continue
        counts = {key.removeprefix("dropped/"): int(value) for key, value in metrics.items() if key.startswith("dropped/")}
        samples = sample_ledger(folder)
        dropped = [
            Dropped(rule, count, samples.get(rule, [])) for rule, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        sizes = {key: int(metrics[key]) for key in COUNTS}
        steps.append(FunnelStep(name=name, stage=str(record["stage"]), dropped=dropped, **sizes))
    return steps


def sample_ledger(folder: Path) -> dict[str, list[str]]:
    """For each rule of an artifact's ledger the first few documents: the address, what broke the rule, and their text."""
    samples: dict[str, list[str]] = {}
    for row in read_ledger(folder).to_pylist():
        found = samples.setdefault(row["rule"], [])
        if len(found) < SAMPLES_PER_RULE:
            value = "" if row["value"] is None else f"{row['value']:.4g}"
            found.append(
                ": ".join(part for part in (row["url"] or row["id"], value, row["detail"] or "", row["text_sample"] or "") if part)
            )
    return samples
