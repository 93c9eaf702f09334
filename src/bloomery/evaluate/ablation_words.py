"""What an experiment on data shows, in sentences: what was found, what became of the predictions, and what cannot be concluded.

Every sentence is made of the figures of ablation.py; no more is said than they carry.
"""

from collections.abc import Mapping, Sequence
from typing import Any  # Any: JSON records

Record = Mapping[str, Any]


def found_sentences(report: Record) -> list[str]:
    """For each outcome, each arm beside the baseline."""
    sentences = []
    for outcome in report["outcomes"]:
        if all(one["verdict"] == "equal" for one in outcome["comparisons"]):
            value = show_value(next(iter(outcome["arms"].values()))["value"], outcome["unit"])
            sentences.append(f"{outcome['name']}: {value} in every arm and seed: nothing to compare.")
            continue
        chance = f" (all arms are within chance, {show_value(outcome['chance'], outcome['unit'])})" if outcome["at_chance"] else ""
        beside = [one for one in outcome["comparisons"] if one["theirs"] == report["baseline"]]
        sentences += [f"{outcome['name']}{chance}: {compare_clause(one, outcome)}." for one in beside]
    return sentences


def compare_clause(one: Record, outcome: Record) -> str:
    """One arm beside another, in a clause with its evidence."""
    unit, ours, theirs = outcome["unit"], one["ours"], one["theirs"]
    found = f"{show_difference(one['value'], unit)} {show_range(one, unit)}"
    if one["verdict"] == "equal":
        return f"{ours} is the same as {theirs} in every row"
    if one["verdict"] in ("better", "worse"):
        return f"{ours} is {one['verdict']} than {theirs}, {found}, p {show_p(one['p_corrected'])} corrected"
    missed = f"a difference under {show_size(one['detectable'], unit)} would probably have been missed"
    if unit == "share" and one["detectable"] >= 1:
        missed = "no difference that there can be would have been found"
    if one["verdict"] == "unclear":
        seems = "better" if (one["value"] < 0) == outcome["lower_is_better"] else "worse"
        p = f"p {show_p(one['p'])}, corrected {show_p(one['p_corrected'])}"
        return f"{ours} looks {seems} than {theirs}, {found}, but not after correction ({p}); {missed}"
    return f"{ours} cannot be told from {theirs}, {found}; {missed}"


def prediction_sentences(report: Record) -> list[str]:
    """Each prediction beside its outcome."""
    sentences = []
    for outcome in report["outcomes"]:
        told = outcome["prediction"]
        if told is None:
            continue
        ahead = outcome["ahead"]
        if told["result"] == "right":
            came = "right: it beats every other arm"
        elif told["result"] == "wrong":
            came = (
                f"wrong: {outcome['winner']} beats every other arm"
                if outcome["winner"]
                else f"wrong: another arm beats it; ahead is {ahead}"
            )
        else:
            mean = (
                "all arms have the same figure"
                if ahead is None
                else f"{ahead} is ahead by the mean"
                if ahead != told["wins"]
                else "it is ahead by the mean"
            )
            came = f"cannot be told ({mean})"
        because = f", because {told['because'].rstrip('.')}" if told["because"] else ""
        sentences.append(f"{outcome['name']}: predicted {told['wins']}{because}. Outcome: {came}.")
    return [*sentences, *(f"{key}: predicted {told['wins']}. Outcome: not measured." for key, told in report["unmeasured"].items())]


def limit_sentences(report: Record) -> list[str]:
    """What the experiment does not show."""
    facts, arms, num_seeds = report["facts"], report["arms"], len(report["seeds"])
    sentences = [
        f"Other sizes and budgets: all models have {_millions(report['params'])} parameters and read {_millions(report['tokens'])} tokens. "
        "Which data is best can change with either."
    ]
    repeated = [f"{arm} {facts[arm]['epochs']:.1f} times" for arm in arms if facts[arm]["epochs"] > 1.05]
    if repeated:
        sentences.append(
            f"More data of each kind: the budget is the same, the texts are not as many, so some were read again ({', '.join(repeated)}, "
            "the most read source of each). What that costs, and what more texts would bring, is part of the differences."
        )
    if num_seeds == 1:
        sentences.append(
            "Other trainings of the same recipes: with one seed there is no test over seeds; all intervals are over rows alone."
        )
    else:
        sentences.append(
            f"Intervals and tests are over both {num_seeds} seeds (initial weights and order) and the rows that were drawn; they are of "
            "these sources of texts and of no others."
        )
    if at_chance := [outcome["name"] for outcome in report["outcomes"] if outcome["at_chance"]]:
        sentences.append(f"Anything from scores at chance: {', '.join(at_chance)}. A model of this size does not do the task at all.")
    sentences.append(
        f"Comparisons that were tested: {report['num_tests']}. P values are corrected for that (Holm: one false alarm among all of them in "
        "20 such experiments); the 95 % intervals are each for itself."
    )
    if report["tokenizer"]:
        sentences.append(f"One tokenizer, trained on {report['tokenizer']}, serves all arms: texts unlike that cost more tokens.")
    if report["skipped"]:
        sentences.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in report["skipped"].items()) + ".")
    return sentences


def show_value(value: float, unit: str) -> str:
    """
    >>> show_value(0.2513, "share"), show_value(2.04567, "bits per byte")
    ('25.1 %', '2.046')
    """
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"


def show_difference(value: float, unit: str) -> str:
    """
    >>> show_difference(-0.0123, "share"), show_difference(0.0456, "bits per byte")
    ('-1.2 points', '+0.0456')
    """
    return f"{100 * value:+.1f} points" if unit == "share" else f"{value:+.4f}"


def show_range(found: Record, unit: str) -> str:
    """
    >>> show_range({"low": -0.012, "high": 0.034}, "share")
    '[-1.2, +3.4]'
    """
    return f"[{show_difference(found['low'], unit)}, {show_difference(found['high'], unit)}]".replace(" points", "")


def show_size(value: float, unit: str) -> str:
    """
    >>> show_size(0.0123, "share")
    '1.2 points'
    """
    return show_difference(value, unit).lstrip("+")


def show_p(p: float) -> str:
    """
    >>> show_p(0.00004), show_p(0.0312)
    ('< 0.0001', '0.031')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def verdict_of(outcome: Record) -> str:
    """Who is best on an outcome, in a word or two."""
    if outcome["winner"]:
        return str(outcome["winner"])
    if outcome["ahead"] is None:
        return "no difference"
    return "all at chance" if outcome["at_chance"] else "cannot be told"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M"


def excluded_rows(facts: Mapping[str, Record], arms: Sequence[str]) -> list[list[str]]:
    """A table of what each arm was made of: documents lost to the held-out texts, tokens there are, how often they were read."""
    return [
        [
            arm,
            f"{facts[arm]['documents']:,}",
            f"{facts[arm]['documents_dropped']:,}",
            _millions(facts[arm]["unique_tokens"]),
            f"{facts[arm]['epochs']:.2f}",
        ]
        for arm in arms
    ]
