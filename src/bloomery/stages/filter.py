"""filter: documents that are not worth learning from go, each with the rule that dropped it in the ledger.

Signals are measured for every document and stay in the output as columns; rules are conditions on them
(`curate/rules.py`), ready or the user's own, on signals of other stages and of scorers too. Beside the documents lies
`signals/`: what every document was judged on, the dropped ones included, so that other thresholds can be tried without
measuring again. Shards map one to one.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.documents import list_document_files, read_document_batches
from bloomery.core.errors import ConfigError
from bloomery.core.files import expand
from bloomery.core.stage import Runtime, Slot, Stage
from bloomery.curate.flow import Outcome, Shard, map_shards, number_shards, text_bytes
from bloomery.curate.language import Identifier, add_language_share, identify_language, load_identifier
from bloomery.curate.line_edits import edit_lines
from bloomery.curate.rules import RULE_SETS, Rule, apply_rules, choose_rules
from bloomery.curate.safety import add_bad_word_signals, load_word_lists
from bloomery.curate.scorers import load_scorers
from bloomery.curate.signals import add_signals

NO_LINES_LEFT = Rule(name="no_lines_left", signal="lines", drops="below", threshold=1, origin="nothing to learn from")


class ExtraRule(Config):
    """A rule of your own: drops documents whose `signal` is below, or above, the threshold."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    signal: str = Field(min_length=1)
    """Any signal, without its prefix: one of docs/rules.md, or one that another stage or a scorer added."""
    drops: Literal["below", "above"]
    threshold: float
    scope: Literal["all", "spaced", "unspaced", "stop_words"] = "all"
    """Which documents it is for: all, those of scripts with or without spaces, or of languages whose stop words are known."""


class FilterConfig(Config):
    """Which rules to apply. `languages = []` lets every language through."""

    rules: list[str] = Field(default=["language", "gopher"])
    """Names of rule sets, in the order in which they are tried."""
    languages: list[str] = Field(default=["en"])
    """ISO 639-1 codes to keep, for the set "language"."""
    min_language_score: float = Field(default=0.65, ge=0, le=1)
    """Certainty of the language, for the set "language"."""
    language_scores: dict[str, float] = Field(default={})
    """Other certainties for single languages: { de = 0.7 }."""
    thresholds: dict[str, float] = Field(default={})
    """Other thresholds for single rules, by their names."""
    language_thresholds: dict[str, dict[str, float]] = Field(default={})
    """Other thresholds for single languages, by language and rule: { de = { long_words = 12 } }."""
    extra_rules: list[ExtraRule] = Field(default=[])
    """Rules of your own, tried last: { name = "dull", signal = "quality", drops = "below", threshold = 0.2 }."""
    identifier: Literal["documents", "py3langid", "cld2", "fasttext"] = "documents"
    """Who says which language a document is in: what it came with (py3langid where it came with nothing), or one of these
    anew. cld2 and fasttext need the extra bloomery[langid]; fasttext also its model, through the input `language_model`."""
    paragraph_languages: bool = False
    """Adds the signal `language_share`: how much of a document's paragraphs is in the document's language."""
    edit_lines: list[Literal["c4", "refinedweb"]] = Field(default=[])
    """Whose line rules take lines out of the text before it is measured."""

    @field_validator("rules")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in RULE_SETS:
                raise ValueError(f'no rule set is named "{name}"; {suggest(name, RULE_SETS)}')
        return names

    @model_validator(mode="after")
    def _thresholds_have_rules(self) -> "FilterConfig":
        if not self.rules and not self.extra_rules:
            raise ValueError(f"no rules: name a set ({', '.join(RULE_SETS)}), or give extra_rules")
        if self.language_scores and "language" not in self.rules:
            raise ValueError('language_scores are thresholds of the rule set "language", which is not among the rules')
        try:
            rules = self.chosen_rules
        except ConfigError as error:
            raise ValueError(str(error)) from error
        names = {rule.name for rule in rules}
        for language, limits in self.language_thresholds.items():
            for name in set(limits) - names:
                raise ValueError(f'language_thresholds.{language}: no rule chosen is named "{name}"; {suggest(name, names)}')
        return self

    @property
    def chosen_rules(self) -> list[Rule]:
        """All rules in the order in which they are tried."""
        score = {"uncertain_language": self.min_language_score} if "language" in self.rules else {}
        extra = [Rule(**rule.model_dump(), origin="extra_rules") for rule in self.extra_rules]
        rules = choose_rules(self.rules, thresholds={**score, **self.thresholds}, extra=extra)
        return [NO_LINES_LEFT, *rules] if self.edit_lines else rules

    @property
    def thresholds_by_language(self) -> dict[str, dict[str, float]]:
        """`language_thresholds` with `language_scores` among them."""
        scores = {language: {"uncertain_language": score} for language, score in self.language_scores.items()}
        return {
            language: {**scores.get(language, {}), **self.language_thresholds.get(language, {})}
            for language in sorted({*scores, *self.language_thresholds})
        }


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
