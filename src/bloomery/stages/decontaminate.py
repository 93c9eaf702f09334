"""decontaminate: documents that contain prompts of the evaluation go, so that its figures mean something.

The held-out prompts come as artifacts of `synthesize` (their test.jsonl.gz) or as JSONL files of any benchmark. The
ledger names the prompt that each dropped document contains.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from bloomery.core.documents import list_document_files
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.decontaminate import (
    DecontaminateConfig,
    PromptIndex,
    find_contaminated,
    index_prompts,
    list_prompt_files,
    read_prompts,
)
from bloomery.curate.flow import Outcome, Shard, drop_documents, map_shards, number_shards
from bloomery.curate.ledger import ledger_row, ledger_table, sample_text


def decontaminate(
    config: DecontaminateConfig, *, documents: list[Path], prompts: list[Path], out: Path, runtime: Runtime
) -> Mapping[str, int]:
    """Fills `out` with the documents that contain no prompt, one shard for each input file."""
    files = list_prompt_files(prompts)
    index = index_prompts((text for path in files for text in read_prompts(path)), config)
    shards = number_shards(list_document_files(documents))
    counts = map_shards(functools.partial(decontaminate_file, config, index), shards, out=out, runtime=runtime)
    return {**counts, "prompts": len(index.prompts), "prompts_searched": len(set(index.owners.tolist()))}


def decontaminate_file(config: DecontaminateConfig, index: PromptIndex, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file that contain no prompt, and the ledger of those that do."""

    def drop(table: pa.Table, first_row: int) -> tuple[pa.Array, pa.Table]:
        hits = find_contaminated(table.column("text"), index)
        rows = [
            ledger_row(
                stage="decontaminate",
                rule="contaminated",
                id=table.column("id")[i].as_py(),
                url=table.column("url")[i].as_py(),
                text=table.column("text")[i].as_py(),
                value=float(hit.num_runs),
                threshold=0.0,
                detail=sample_text(hit.prompt),
            )
            for i, hit in enumerate(hits)
            if hit is not None
        ]
        return pa.array([hit is None for hit in hits], pa.bool_()), ledger_table(rows)

    return drop_documents(shard.source, drop)


STAGE = Stage(
    name="decontaminate",
    config_type=DecontaminateConfig,
    run=decontaminate,
    inputs={"documents": Slot("documents", many=True), "prompts": Slot("conversations", many=True)},
    output="documents",
    version=1,
)
