"""filter: documents that are not worth learning from go, each with the rule that dropped it in the ledger.

Signals are measured for every document and stay in the output as columns; rules are conditions on them
(`curate/rules.py`), ready or the user's own, on signals of other stages and of scorers too. Beside the documents lies
`signals/`: what every document was judged on, the dropped ones included, so that other thresholds can be tried without
measuring again. Shards map one to one.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import ConfigError
from bloomery.core.files import expand
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.filter_config import FilterConfig
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.language import Identifier, add_language_share, identify_language, load_identifier
from bloomery.curate.line_edits import edit_lines
from bloomery.curate.rules import apply_rules
from bloomery.curate.safety import add_bad_word_signals, load_word_lists
from bloomery.curate.scorers import load_scorers
from bloomery.curate.signals import add_signals


def filter(
    config: FilterConfig,
    *,
    documents: list[Path],
    scorers: Sequence[Path] = (),
    lists: Sequence[Path] = (),
    language_model: Path | None = None,
    out: Path,
    runtime: Runtime,
) -> Mapping[str, int]:
    """Fills `out` with the documents that no rule drops, one shard for each input file.

    Each folder of `scorers` adds its signals; files of word lists ({"lang", "words"}) add `signal_bad_words`.
    `language_model` is a fastText model for identifier = "fasttext".
    """
    if (language_model is not None) != (config.identifier == "fasttext"):
        raise ConfigError('identifier = "fasttext" and the input `language_model` (a .bin or .ftz file) go together: give both or neither')
    load_identifier(config.identifier if config.identifier != "documents" else "py3langid", language_model)  # mistakes before any work
    shards = number_shards(list_document_files(documents))
    words = tuple(expand(lists, suffixes=(".jsonl", ".jsonl.gz", ".jsonl.zst"))) if lists else ()
    work = functools.partial(filter_file, config, tuple(scorers), words, language_model)
    return map_shards(work, shards, out=out, runtime=runtime)


def filter_file(
    config: FilterConfig, scorers: Sequence[Path], lists: Sequence[Path], language_model: Path | None, shard: Shard
) -> Iterator[Outcome]:
    """The documents of one file that stay, with their signals, and the ledger of the rest."""
    loaded = load_scorers(scorers)
    anew = config.identifier != "documents"
    identifier = load_identifier(config.identifier, language_model) if config.identifier != "documents" else None
    words = load_word_lists(lists) if lists else None
    for batch in read_document_batches(shard.source):
        edited = edit_lines(batch, config.edit_lines)
        table = add_signals(_with_language(edited.table, identifier, anew=anew))
        if config.paragraph_languages:
            table = add_language_share(table, identifier=identifier)
        if words is not None:
            table = add_bad_word_signals(table, words)
        for scorer in loaded:
            table = scorer.add_signals(table)
        limits = config.thresholds_by_language
        verdicts = apply_rules(table, config.chosen_rules, languages=config.languages, language_thresholds=limits)
        yield Outcome(
            table.filter(verdicts.keep),
            verdicts.ledger,
            len(table),
            text_bytes(batch),
            counts=edited.counts,
            extra={"signals": verdicts.judged},
            came=batch,
        )


def _with_language(table: pa.Table, identifier: Identifier | None, *, anew: bool) -> pa.Table:
    # Documents of other tools may come without a language; those of `extract` have one.
    if not (anew or table.column("language").null_count):
        return table
    codes, scores = table.column("language").to_pylist(), table.column("language_score").to_pylist()
    for i, text in enumerate(table.column("text").to_pylist()):
        if anew or codes[i] is None:
            codes[i], scores[i] = identify_language(text or "", identifier=identifier)
    for name, values in (("language", codes), ("language_score", scores)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


STAGE = Stage(
    name="filter",
    config_type=FilterConfig,
    run=filter,
    inputs={
        "documents": Slot("documents", many=True),
        "scorers": Slot("scorer", many=True, optional=True),
        "lists": Slot("lists", many=True, optional=True),
        "language_model": Slot("scorer", optional=True),
    },
    output="documents",
    version=2,
)
