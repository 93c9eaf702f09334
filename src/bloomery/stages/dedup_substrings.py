"""dedup_substrings: passages of 50 words or more that occur twice, in one document or two, are cut out of the later ones.

Files state hashes by which most of their text is seen to be unique; what may repeat goes through one suffix array, or
through a second round of hashes where that would not fit into memory (`curate/substrings.py`). Then every file is
written without its cuts.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.files import write_atomically
from bloomery.core.shuffle import choose_partitions
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate import substrings
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.regroup import judge_here, regroup, verdicts
from bloomery.curate.substrings import (
    WORD_SHIFT,
    DedupSubstringsConfig,
    cut_words,
    find_candidates,
    find_words,
    judge_by_suffix_array,
    judge_minima,
    judge_runs,
    merge_intervals,
    state_minima,
)

SIGNAL = "signal_repeated_passage_fraction"

BYTES_PER_MINIMUM = 10
"""Bytes of (compressed) input for each stated hash, or fewer: sets how many partitions there are."""


def dedup_substrings(config: DedupSubstringsConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with one shard for each input file, without passages that stood before in these files."""
    shards = number_shards(list_document_files(documents))
    scratch = out / ".scratch"
    regroup(
        functools.partial(state_file, config),
        judge_minima,
        shards,
        folder=scratch / "minima",
        num_partitions=choose_partitions(sum(shard.source.stat().st_size for shard in shards) // BYTES_PER_MINIMUM),
        runtime=runtime,
        verb="hashes",
    )
    waiting = [shard for shard in shards if not _candidates_path(out, shard).exists()]
    for _ in runtime.pool().map(functools.partial(find_in_file, config, out, len(shards)), waiting):
        pass
    num_words = sum(pq.read_metadata(_candidates_path(out, shard)).num_rows for shard in shards)
    if num_words <= substrings.MAX_ARRAY_WORDS:
        judge_here(functools.partial(judge_together, config, out, shards), shards, folder=scratch / "cuts")
    else:
        regroup(
            functools.partial(state_runs, out),
            functools.partial(judge_runs, config),
            shards,
            folder=scratch / "cuts",
            num_partitions=choose_partitions(num_words),
            runtime=runtime,
            verb="repeats",
        )
    counts = map_shards(functools.partial(cut_file, config, out, len(shards)), shards, out=out, runtime=runtime)
    return {**counts, "candidate_words": num_words}


def state_file(config: DedupSubstringsConfig, shard: Shard) -> pa.Table:
    """The hashes that one file states; see `state_minima`."""
    return state_minima(config, shard.source, shard.index)


def find_in_file(config: DedupSubstringsConfig, out: Path, num_shards: int, shard: Shard) -> None:
    """Writes to scratch the words of one file that may repeat, and which of them begin a run that may."""
    judged = verdicts(out / ".scratch" / "minima", shard, num_shards=num_shards)
    base = shard.index << WORD_SHIFT
    found = find_candidates(config, shard.source, judged.column("place").to_numpy() - base)
    begins = np.isin(found.numbers, found.runs)
    keys, checks = np.zeros(len(begins), np.uint64), np.zeros(len(begins), np.uint64)
    keys[begins], checks[begins] = found.keys, found.checks
    columns = {"word": found.numbers + base, "hash": found.hashes, "opens": found.opens, "begins": begins, "key": keys, "check": checks}
    with write_atomically(_candidates_path(out, shard)) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="none", use_dictionary=False)


def state_runs(out: Path, shard: Shard) -> pa.Table:
    """The runs of one file that may repeat, named by hash."""
    return pq.read_table(_candidates_path(out, shard), columns=["key", "check", "word"], filters=[("begins", "=", True)])


def judge_together(config: DedupSubstringsConfig, out: Path, shards: Sequence[Shard]) -> pa.Table:
    """The cuts in all files, by one suffix array."""
    tables = [pq.read_table(_candidates_path(out, shard), columns=["word", "hash", "opens"]) for shard in shards]
    words = pa.concat_tables(tables)
    hashes, numbers, opens = (words.column(name).to_numpy() for name in ("hash", "word", "opens"))
    return judge_by_suffix_array(config, hashes, numbers, opens)


def cut_file(config: DedupSubstringsConfig, out: Path, num_shards: int, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file without their cuts, and the ledger of those left with nothing."""
    cuts = merge_intervals(verdicts(out / ".scratch" / "cuts", shard, num_shards=num_shards))
    first_word = 0
    for table in read_document_batches(shard.source):
        words = find_words(table.column("text"))
        mine = cuts - first_word
        first_word += len(words.hashes)
        low = np.searchsorted(mine[:, 1], words.bounds[:-1], side="right")
        high = np.searchsorted(mine[:, 0], words.bounds[1:], side="left")
        texts, fraction, stays = table.column("text").to_pylist(), np.zeros(len(table)), np.ones(len(table), np.bool_)
        dropped, counts = [], {"edited_documents": 0, "removed_passages": 0, "removed_bytes": 0}
        for i in np.flatnonzero(high > low).tolist():
            text = texts[i] or ""
            cut = cut_words(text, words, i, mine[low[i] : high[i]])
            texts[i], fraction[i] = cut.text, 1 - len(cut.text) / len(text)
            if len(cut.text) < config.min_characters_left:
                stays[i] = False
                what = f"{len(cut.passages)} passages stand elsewhere; {len(cut.text)} of {len(text)} characters are left"
                facts = {"value": float(fraction[i]), "detail": what, "url": table.column("url")[i].as_py()}
                row = ledger_row(stage="dedup_substrings", rule="all_repeated", id=table.column("id")[i].as_py(), text=text, **facts)
                dropped.append(row)
            else:
                counts["edited_documents"] += 1
                counts["removed_passages"] += len(cut.passages)
                counts["removed_bytes"] += len(text.encode()) - len(cut.text.encode())
        kept = table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts, pa.large_string()))
        kept = (kept.drop_columns([SIGNAL]) if SIGNAL in kept.column_names else kept).append_column(SIGNAL, pa.array(fraction))
        yield Outcome(kept.filter(pa.array(stays)), ledger_table(dropped), len(table), text_bytes(table), counts=counts, came=table)


def _candidates_path(out: Path, shard: Shard) -> Path:
    return out / ".scratch" / "candidates" / f"{shard.index:05d}.parquet"


STAGE = Stage(
    name="dedup_substrings",
    config_type=DedupSubstringsConfig,
    run=dedup_substrings,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
