"""Rules: named conditions for DROPPING a document, on signals that were measured before. A rule never edits text.

The ready sets hold the thresholds of Gopher, C4, FineWeb, RefinedWeb, CCNet and the mission documents; docs/rules.md
lists every rule with its origin. Most were made for English prose and apply only where they mean something: rules on
words to scripts that write spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan are judged by characters
instead), stop words to the languages whose stop words are known.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: values of a ledger row

import polars as pl
import pyarrow as pa

from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError, DataError
from bloomery.curate.ledger import ledger_row, ledger_table
from bloomery.curate.signal_names import DUPLICATE_SIZES, MOSTLY_UNSPACED, STOP_WORDS

Scope = Literal["all", "spaced", "unspaced", "stop_words"]


class Rule(Config):
    """Drops a document whose `signal` is below, or above, the threshold. `scope`: which documents it is for."""

    name: str
    signal: str
    drops: Literal["below", "above"]
    threshold: float
    scope: Scope = "all"
    origin: str = ""
    """Where the threshold comes from."""


GOPHER = "Gopher (arXiv:2112.11446, section A1.1)"
GOPHER_TABLE = "Gopher (arXiv:2112.11446, table A1)"
C4 = "C4 (arXiv:1910.10683, section 2.2)"
FINEWEB = "FineWeb (arXiv:2406.17557, section 3.6)"
REFINEDWEB = "RefinedWeb (arXiv:2306.01116, section G.2)"
CCNET = "CCNet (arXiv:1911.00359)"

_GOPHER_QUALITY = (
    Rule(name="too_few_words", signal="words", drops="below", threshold=50, scope="spaced", origin=GOPHER),
    Rule(name="too_many_words", signal="words", drops="above", threshold=100_000, scope="spaced", origin=GOPHER),
    Rule(name="too_few_characters", signal="characters", drops="below", threshold=100, scope="unspaced", origin="50 words of 2"),
    Rule(name="too_many_characters", signal="characters", drops="above", threshold=200_000, scope="unspaced", origin="as above"),
    Rule(name="short_words", signal="mean_word_characters", drops="below", threshold=3, scope="spaced", origin=GOPHER),
    Rule(name="long_words", signal="mean_word_characters", drops="above", threshold=10, scope="spaced", origin=GOPHER),
    Rule(name="too_many_hashes", signal="hash_word_ratio", drops="above", threshold=0.1, origin=GOPHER),
    Rule(name="too_many_ellipses", signal="ellipsis_word_ratio", drops="above", threshold=0.1, origin=GOPHER),
    Rule(name="too_many_bullets", signal="bullet_line_fraction", drops="above", threshold=0.9, origin=GOPHER),
    Rule(name="too_many_ellipsis_lines", signal="ellipsis_line_fraction", drops="above", threshold=0.3, origin=GOPHER),
    Rule(name="too_few_alphabetic", signal="alphabetic_word_fraction", drops="below", threshold=0.8, scope="spaced", origin=GOPHER),
    Rule(name="too_few_stop_words", signal="stop_words", drops="below", threshold=2, scope="stop_words", origin=GOPHER),
)
_GOPHER_REPETITION = (
    Rule(name="duplicate_paragraphs", signal="duplicate_paragraph_fraction", drops="above", threshold=0.3, origin=GOPHER_TABLE),
    Rule(
        name="duplicate_paragraph_characters",
        signal="duplicate_paragraph_character_fraction",
        drops="above",
        threshold=0.2,
        origin=GOPHER_TABLE,
    ),
    Rule(name="duplicate_lines", signal="duplicate_line_fraction", drops="above", threshold=0.3, origin=GOPHER_TABLE),
    Rule(name="duplicate_line_characters", signal="duplicate_line_character_fraction", drops="above", threshold=0.2, origin=GOPHER_TABLE),
    *(
        Rule(name=f"top_{n}_grams", signal=f"top_{n}_gram_character_fraction", drops="above", threshold=threshold, origin=GOPHER_TABLE)
        for n, threshold in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(
            name=f"duplicate_{n}_grams",
            signal=f"duplicate_{n}_gram_character_fraction",
            drops="above",
            threshold=threshold,
            origin=GOPHER_TABLE,
        )
        for n, threshold in zip(DUPLICATE_SIZES, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
    ),
)

RULE_SETS: Mapping[str, Sequence[Rule]] = {
    "language": (
        Rule(name="wrong_language", signal="language_listed", drops="below", threshold=1.0, origin="the languages asked for"),
        Rule(name="uncertain_language", signal="language_score", drops="below", threshold=0.65, origin=FINEWEB),
    ),
    "gopher_quality": _GOPHER_QUALITY,
    "gopher_repetition": _GOPHER_REPETITION,
    "gopher": (*_GOPHER_QUALITY, *_GOPHER_REPETITION),
    "c4": (
        Rule(name="curly_bracket", signal="c4_curly_bracket_lines", drops="above", threshold=0, origin=C4),
        Rule(name="lorem_ipsum", signal="c4_lorem_ipsum_lines", drops="above", threshold=0, origin=C4),
        Rule(name="too_few_sentences", signal="c4_sentences", drops="below", threshold=5, origin=C4),
    ),
    "bad_words": (Rule(name="bad_words", signal="bad_words", drops="above", threshold=0, origin=f"{C4}; needs the input `lists`"),),
    "mc4": (
        Rule(
            name="few_long_lines",
            signal="third_longest_line_characters",
            drops="below",
            threshold=200,
            origin="mC4 (arXiv:2010.11934, 3.1)",
        ),
    ),
    "fineweb": (
        Rule(name="few_line_ends", signal="line_end_fraction", drops="below", threshold=0.12, origin=FINEWEB),
        Rule(name="short_lines", signal="short_line_fraction", drops="above", threshold=0.67, origin=FINEWEB),
        Rule(name="repeated_lines", signal="repeated_line_character_fraction", drops="above", threshold=0.01, origin=FINEWEB),
        Rule(name="too_many_newlines", signal="newline_word_ratio", drops="above", threshold=0.3, origin="FineWeb's code, in datatrove"),
    ),
    "refinedweb": (Rule(name="boilerplate_lines", signal="refinedweb_word_fraction", drops="above", threshold=0.05, origin=REFINEDWEB),),
    "ccnet": (
        Rule(name="too_short", signal="length", drops="below", threshold=300, origin=f"{CCNET}: min_len of its code"),
        Rule(name="unsure_language", signal="language_score", drops="below", threshold=0.5, origin=f"{CCNET}, section 3.2"),
        Rule(
            name="perplexity_tail",
            signal="perplexity_bucket",
            drops="above",
            threshold=1,
            origin=f"{CCNET}, section 3.3: head 0, middle 1, tail 2",
        ),
    ),
    "mission": (
        Rule(name="low_mission_score", signal="mission_score", drops="below", threshold=0.5, origin="the mission documents' QualityFilter"),
    ),
}
"""The ready sets, each in the order in which its rules are tried."""


def choose_rules(sets: Sequence[str], *, thresholds: Mapping[str, float], extra: Sequence[Rule] = ()) -> list[Rule]:
    """The rules of the named sets, in order, then the `extra` ones, with some thresholds replaced by name.

    Raises ConfigError for a set that is not known, for two rules of one name, and for a threshold whose rule is in none
    of the sets.
    """
    rules: dict[str, Rule] = {}
    for name in sets:
        if name not in RULE_SETS:
            raise ConfigError(f'rules: no rule set is named "{name}"; {suggest(name, RULE_SETS)}')
        rules |= {rule.name: rule for rule in RULE_SETS[name]}
    for rule in extra:
        if rule.name in rules:
            raise ConfigError(f'extra_rules: another rule is named "{rule.name}" already; change its threshold under `thresholds`')
        rules[rule.name] = rule
    for name, value in thresholds.items():
        if name not in rules:
            raise ConfigError(
                f'thresholds: no rule of {", ".join([*sets, *(r.name for r in extra)])} is named "{name}"; {suggest(name, rules)}'
            )
        rules[name] = rules[name].model_copy(update={"threshold": float(value)})
    return list(rules.values())


class Verdicts(NamedTuple):
    """Which documents stay, the ledger of those that do not, and what every document was judged on.

    `judged` has a row for every document: id, url, language, language_score, every signal, `rule` (the first broken, or
    none) and `broken` (all of them).
    """

    keep: pa.Array
    ledger: pa.Table
    judged: pa.Table


def apply_rules(
    table: pa.Table,
    rules: Sequence[Rule],
    *,
    languages: Sequence[str],
    language_thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> Verdicts:
    """Judges documents that have the columns of `add_signals`: each is dropped by the FIRST rule that it breaks.

    No `languages` means that any is welcome. `language_thresholds` are other thresholds by language, then rule.
    """
    verdicts = find_broken(table, rules, languages=languages, language_thresholds=language_thresholds)
    first = [names[0] if names else None for names in verdicts]
    by_name = {rule.name: rule for rule in rules}
    limits = language_thresholds or {}
    rows = []
    for at, name in enumerate(first):
        if name is not None:
            rule = by_name[name]
            language = table.column("language")[at].as_py()
            threshold = limits.get(language or "", {}).get(name, rule.threshold)
            rows.append(_ledger_row(table, at, rule, threshold, listed=language in languages if languages else True))
    columns = ["id", "url", "language", "language_score", *_signals(table)]
    judged = table.select(columns).append_column("rule", pa.array(first, pa.string()))
    judged = judged.append_column("broken", pa.array(verdicts, pa.list_(pa.string())))
    return Verdicts(pa.array([name is None for name in first], pa.bool_()), ledger_table(rows), judged)


def find_broken(
    table: pa.Table,
    rules: Sequence[Rule],
    *,
    languages: Sequence[str],
    language_thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> list[list[str]]:
    """The names of all rules that each document breaks, in the order of `rules`.

    It needs `language`, `language_score` and the signals alone, so that other thresholds can be tried on stored signals.
    A document without a value (null or NaN) breaks no rule on it. Raises DataError for a signal that nobody measured.
    """
    names = ["language", "language_score", *_signals(table)]
    frame = pl.DataFrame({n: pl.Series(values=table.column(n).combine_chunks()) for n in names}, strict=False)
    frame = frame.with_columns(language=pl.col("language").cast(pl.String))
    listed = pl.col("language").is_in(list(languages)) if languages else pl.lit(True)
    score = pl.col("language_score").cast(pl.Float64).fill_null(0.0)
    frame = frame.with_columns(signal_language_listed=listed.fill_null(False).cast(pl.Float64), signal_language_score=score)
    for rule in rules:
        if f"signal_{rule.signal}" not in frame.columns:
            known = [name.removeprefix("signal_") for name in frame.columns if name.startswith("signal_")]
            raise DataError(
                f'rule "{rule.name}" needs signal_{rule.signal}, which the documents do not have; {suggest(rule.signal, known)} '
                f"Signals of other stages come with their documents, those of scorers with the input `scorers`, bad words with `lists`."
            )
    if not rules:
        return [[] for _ in range(len(table))]
    broken = frame.select(_condition(rule, language_thresholds or {}).fill_null(False).alias(rule.name) for rule in rules)
    masks = broken.to_numpy().reshape(len(table), len(rules))
    ordered = [rule.name for rule in rules]
    return [[ordered[k] for k in mask.nonzero()[0].tolist()] for mask in masks]


def _signals(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name.startswith("signal_")]


def _condition(rule: Rule, language_thresholds: Mapping[str, Mapping[str, float]]) -> pl.Expr:
    signal = pl.col(f"signal_{rule.signal}").cast(pl.Float64)
    others = {language: float(limits[rule.name]) for language, limits in language_thresholds.items() if rule.name in limits}
    threshold = (
        pl.col("language").replace_strict(others, default=rule.threshold, return_dtype=pl.Float64) if others else pl.lit(rule.threshold)
    )
    # float32 columns hold 0.65 as 0.6499999762: an exact threshold must not drop its own value.
    margin = 1e-6 * pl.max_horizontal(pl.lit(1.0), threshold.abs())
    breaks = (signal < threshold - margin if rule.drops == "below" else signal > threshold + margin) & signal.is_not_nan()
    unspaced = pl.col("signal_unspaced_fraction") > MOSTLY_UNSPACED
    known = pl.col("language").is_in(list(STOP_WORDS)).fill_null(False)
    scopes = {"all": pl.lit(True), "spaced": ~unspaced, "unspaced": unspaced, "stop_words": known}
    return breaks & scopes[rule.scope]


def _ledger_row(table: pa.Table, at: int, rule: Rule, threshold: float, *, listed: bool) -> dict[str, Any]:
    language = table.column("language")[at].as_py()
    if rule.signal == "language_listed":
        value = float(listed)
    elif rule.signal == "language_score":
        value = table.column("language_score")[at].as_py() or 0.0
    else:
        value = table.column(f"signal_{rule.signal}")[at].as_py()
    return ledger_row(
        stage="filter",
        rule=rule.name,
        id=table.column("id")[at].as_py(),
        url=table.column("url")[at].as_py(),
        text=table.column("text")[at].as_py(),
        value=value,
        threshold=threshold,
        detail=language if rule.signal.startswith("language") else None,
    )
