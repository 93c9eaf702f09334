"""Rules: named conditions for DROPPING a document, on signals that were measured before. A rule never edits text.

The ready sets follow Gopher (arXiv:2112.11446, table A1). Its word rules were made for English prose; here they apply
only where they mean something: rules on words to documents whose script writes spaces (Chinese, Japanese, Thai, Lao,
Khmer, Burmese and Tibetan are judged by characters instead), stop words to English alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple  # Any: values of a ledger row

import polars as pl
import pyarrow as pa

from bloomery.core.config import Config, suggest
from bloomery.core.errors import ConfigError
from bloomery.curate.ledger import ledger_row, ledger_table

Scope = Literal["all", "spaced", "unspaced", "english"]

MOSTLY_UNSPACED = 0.3
"""Share of letters from scripts without spaces above which a document is judged by characters, not by words."""


class Rule(Config):
    """Drops a document whose `signal` is below, or above, the threshold. `scope`: which documents it is for."""

    name: str
    signal: str
    drops: Literal["below", "above"]
    threshold: float
    scope: Scope = "all"
    origin: str = ""
    """Where the threshold comes from."""


GOPHER = "Gopher (arXiv:2112.11446, table A1)"

RULE_SETS: Mapping[str, Sequence[Rule]] = {
    "language": (
        Rule(name="wrong_language", signal="language_listed", drops="below", threshold=1.0, origin="the languages asked for"),
        Rule(name="uncertain_language", signal="language_score", drops="below", threshold=0.65, origin="FineWeb (arXiv:2406.17557)"),
    ),
    "gopher": (
        Rule(name="too_few_words", signal="words", drops="below", threshold=50, scope="spaced", origin=GOPHER),
        Rule(name="too_many_words", signal="words", drops="above", threshold=100_000, scope="spaced", origin=GOPHER),
        Rule(name="too_few_characters", signal="characters", drops="below", threshold=100, scope="unspaced", origin="50 words of 2"),
        Rule(name="too_many_characters", signal="characters", drops="above", threshold=200_000, scope="unspaced", origin="as above"),
        Rule(name="short_words", signal="mean_word_characters", drops="below", threshold=3, scope="spaced", origin=GOPHER),
        Rule(name="long_words", signal="mean_word_characters", drops="above", threshold=10, scope="spaced", origin=GOPHER),
        Rule(name="too_many_symbols", signal="symbol_word_ratio", drops="above", threshold=0.1, scope="spaced", origin=GOPHER),
        Rule(name="too_many_bullets", signal="bullet_line_fraction", drops="above", threshold=0.9, origin=GOPHER),
        Rule(name="too_many_ellipses", signal="ellipsis_line_fraction", drops="above", threshold=0.3, origin=GOPHER),
        Rule(name="too_few_alphabetic", signal="alphabetic_word_fraction", drops="below", threshold=0.8, scope="spaced", origin=GOPHER),
        Rule(name="too_few_stop_words", signal="stop_words", drops="below", threshold=2, scope="english", origin=GOPHER),
        Rule(name="duplicate_lines", signal="duplicate_line_fraction", drops="above", threshold=0.3, origin=GOPHER),
        Rule(name="duplicate_line_bytes", signal="duplicate_line_byte_fraction", drops="above", threshold=0.2, origin=GOPHER),
    ),
}
"""The ready sets, each in the order in which its rules are tried."""


def choose_rules(sets: Sequence[str], *, thresholds: Mapping[str, float]) -> list[Rule]:
    """The rules of the named sets, in order, with some thresholds replaced by name.

    Raises ConfigError for a set that is not known, and for a threshold whose rule is in none of the sets.
    """
    rules: dict[str, Rule] = {}
    for name in sets:
        if name not in RULE_SETS:
            raise ConfigError(f'rules: no rule set is named "{name}"; {suggest(name, RULE_SETS)}')
        rules |= {rule.name: rule for rule in RULE_SETS[name]}
    for name, value in thresholds.items():
        if name not in rules:
            raise ConfigError(f'thresholds: no rule of {", ".join(sets)} is named "{name}"; {suggest(name, rules)}')
        rules[name] = rules[name].model_copy(update={"threshold": float(value)})
    return list(rules.values())


class Verdicts(NamedTuple):
    """Which documents stay, and the ledger of those that do not."""

    keep: pa.Array
    ledger: pa.Table


def apply_rules(table: pa.Table, rules: Sequence[Rule], *, languages: Sequence[str]) -> Verdicts:
    """A mask of the documents that no rule drops, and the ledger of the others: each with the FIRST rule that it broke.

    `table` has the columns of `add_signals`. No `languages` means that any is welcome.
    """
    names = ["language", "language_score", *(n for n in table.column_names if n.startswith("signal_"))]
    frame = pl.DataFrame({n: pl.Series(values=table.column(n).combine_chunks()) for n in names}, strict=False)
    listed = pl.col("language").is_in(list(languages)) if languages else pl.lit(True)
    frame = frame.with_columns(signal_language_listed=listed.fill_null(False).cast(pl.Float64), signal_language_score=_score())
    broken = pl.coalesce(*(pl.when(_condition(rule)).then(pl.lit(i)) for i, rule in enumerate(rules)), pl.lit(None, pl.Int32))
    first = frame.with_columns(first=broken)["first"]
    rows = []
    for at in first.is_not_null().arg_true().to_list():
        rule = rules[first[at]]
        rows.append(_ledger_row(table, at, rule, frame[f"signal_{rule.signal}"][at]))
    return Verdicts(pa.array(first.is_null().to_list(), pa.bool_()), ledger_table(rows))


def _score() -> pl.Expr:
    return pl.col("language_score").cast(pl.Float64).fill_null(0.0)


def _condition(rule: Rule) -> pl.Expr:
    signal = pl.col(f"signal_{rule.signal}")
    # float32 columns hold 0.65 as 0.6499999762: an exact threshold must not drop its own value.
    margin = 1e-6 * max(1.0, abs(rule.threshold))
    breaks = signal < rule.threshold - margin if rule.drops == "below" else signal > rule.threshold + margin
    unspaced = pl.col("signal_unspaced_fraction") > MOSTLY_UNSPACED
    scopes = {"all": pl.lit(True), "spaced": ~unspaced, "unspaced": unspaced, "english": (pl.col("language") == "en").fill_null(False)}
    return breaks & scopes[rule.scope]


def _ledger_row(table: pa.Table, at: int, rule: Rule, value: float) -> dict[str, Any]:
    language = table.column("language")[at].as_py()
    return ledger_row(
        stage="filter",
        rule=rule.name,
        id=table.column("id")[at].as_py(),
        url=table.column("url")[at].as_py(),
        text=table.column("text")[at].as_py(),
        value=value,
        threshold=rule.threshold,
        detail=language if rule.signal.startswith("language") else None,
    )
