"""filter: documents that are not worth learning from go, each with the rule that dropped it in the ledger.

Signals are measured for every document and stay in the output as columns; rules are conditions on them
(`curate/rules.py`). Shards map one to one.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import ConfigError
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.language import identify_language
from bloomery.curate.rules import RULE_SETS, apply_rules, choose_rules
from bloomery.curate.signals import add_signals


class FilterConfig(Config):
    """Which rules to apply. `languages = []` lets every language through."""

    rules: list[str] = Field(default=["language", "gopher"], min_length=1)
    """Names of rule sets, in the order in which they are tried."""
    languages: list[str] = Field(default=["en"])
    """ISO 639-1 codes to keep, for the set "language"."""
    min_language_score: float = Field(default=0.65, ge=0, le=1)
    thresholds: dict[str, float] = Field(default={})
    """Other thresholds for single rules, by their names."""

    @field_validator("rules")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in RULE_SETS:
                raise ValueError(f'no rule set is named "{name}"; {suggest(name, RULE_SETS)}')
        return names

    @model_validator(mode="after")
    def _thresholds_have_rules(self) -> "FilterConfig":
        try:
            choose_rules(self.rules, thresholds=self.thresholds)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


def filter(config: FilterConfig, *, documents: list[Path], out: Path, runtime: Runtime) -> Mapping[str, int]:
    """Fills `out` with the documents that no rule drops, one shard for each input file."""
    shards = number_shards(list_document_files(documents))
    return map_shards(functools.partial(filter_file, config), shards, out=out, runtime=runtime)


def filter_file(config: FilterConfig, shard: Shard) -> Iterator[Outcome]:
    """The documents of one file that stay, with their signals, and the ledger of the rest."""
    thresholds = {"uncertain_language": config.min_language_score} if "language" in config.rules else {}
    rules = choose_rules(config.rules, thresholds={**thresholds, **config.thresholds})
    for batch in read_document_batches(shard.source):
        table = add_signals(_with_language(batch))
        verdicts = apply_rules(table, rules, languages=config.languages)
        yield Outcome(table.filter(verdicts.keep), verdicts.ledger, len(table), text_bytes(table))


def _with_language(table: pa.Table) -> pa.Table:
    # Documents of other tools may come without a language; those of `extract` have one.
    if not table.column("language").null_count:
        return table
    codes, scores = table.column("language").to_pylist(), table.column("language_score").to_pylist()
    for i, text in enumerate(table.column("text").to_pylist()):
        if codes[i] is None:
            codes[i], scores[i] = identify_language(text or "")
    for name, values in (("language", codes), ("language_score", scores)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return table


STAGE = Stage(
    name="filter",
    config_type=FilterConfig,
    run=filter,
    inputs={"documents": Slot("documents", many=True)},
    output="documents",
    version=1,
)
