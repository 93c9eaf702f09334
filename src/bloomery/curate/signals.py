"""Signals: numbers measured once for each document and kept as `signal_*` columns, so that thresholds can move freely.

Expressions of Polars where they are fast, compiled loops (`curate/kernels.py`) where they are not. "Words" here are
runs between white space, as in Gopher (arXiv:2112.11446, table A1); for scripts without spaces they mean nothing, and
the rules on them do not apply (see `curate/rules.py`).
"""

import polars as pl
import pyarrow as pa

from bloomery.curate.kernels import measure_lines, measure_words, text_column

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""English words of which Gopher wants two different ones in a document."""

SIGNALS = {
    "characters": "Unicode characters that are not white space",
    "words": "runs between white space",
    "mean_word_characters": "characters / words",
    "symbol_word_ratio": "hash signs and ellipses, for each word",
    "alphabetic_word_fraction": "share of words with a letter in them",
    "stop_words": "how many different words of " + ", ".join(STOP_WORDS),
    "unspaced_fraction": "share of the letters that belong to scripts without spaces between words",
    "lines": "lines with text",
    "bullet_line_fraction": "share of lines that begin with a bullet",
    "ellipsis_line_fraction": "share of lines that end with an ellipsis",
    "duplicate_line_fraction": "share of lines that repeat an earlier line",
    "duplicate_line_byte_fraction": "share of the bytes of the text that stand in lines that repeat an earlier one",
}
"""Every signal, without its `signal_` prefix, and what it measures."""

_BULLET_LINE = r"(?m)^[ \t]*(?:[-*] |[•‣▪◦●∙·–])"
_ELLIPSIS_LINE = r"(?m)(?:\.\.\.|…)[ \t]*$"


def add_signals(table: pa.Table) -> pa.Table:
    """The table with every `signal_*` column of SIGNALS (float64), measured anew."""
    table = table.drop_columns([n for n in table.column_names if n.removeprefix("signal_") in SIGNALS and n.startswith("signal_")])
    column = text_column(table.column("text"), lowercase=False)
    words, lines = measure_words(*column), measure_lines(*column)
    frame = pl.DataFrame({"text": pl.Series(values=table.column("text")).cast(pl.String).fill_null("")})
    for i, name in enumerate(("characters", "words", "lettered", "letters", "unspaced")):
        frame = frame.with_columns(pl.Series(name, words[:, i]))
    for i, name in enumerate(("lines", "repeats", "repeat_bytes")):
        frame = frame.with_columns(pl.Series(name, lines[:, i]))
    signals = frame.select(**_expressions())
    for name in SIGNALS:
        values = pa.array(signals[name].cast(pl.Float64).to_numpy(), pa.float64())
        table = table.append_column(pa.field(f"signal_{name}", pa.float64()), values)
    return table


def _expressions() -> dict[str, pl.Expr]:
    text, words, lines = pl.col("text"), pl.col("words"), pl.col("lines")
    symbols = (
        text.str.count_matches("#", literal=True) + text.str.count_matches("...", literal=True) + text.str.count_matches("…", literal=True)
    )
    return {
        "characters": pl.col("characters"),
        "words": words,
        "mean_word_characters": _share(pl.col("characters"), words),
        "symbol_word_ratio": _share(symbols, words),
        "alphabetic_word_fraction": _share(pl.col("lettered"), words),
        "stop_words": pl.sum_horizontal(text.str.contains(rf"(?i)\b{word}\b").cast(pl.Float64) for word in STOP_WORDS),
        "unspaced_fraction": _share(pl.col("unspaced"), pl.col("letters")),
        "lines": lines,
        "bullet_line_fraction": _share(text.str.count_matches(_BULLET_LINE), lines),
        "ellipsis_line_fraction": _share(text.str.count_matches(_ELLIPSIS_LINE), lines),
        "duplicate_line_fraction": _share(pl.col("repeats"), lines),
        "duplicate_line_byte_fraction": _share(pl.col("repeat_bytes"), text.str.len_bytes()),
    }


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole).otherwise(0.0)
