"""What a filter is told: which rules, with which thresholds, for which languages. Apart from the stage, so that who only reads
what a filter did need not load what measures documents.
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.curate.rules import RULE_SETS, Rule, choose_rules

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
