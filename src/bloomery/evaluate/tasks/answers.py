"""How generated answers are compared with the right ones: numbers, formulas, short texts."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from bloomery.evaluate.benchmark import Question
from bloomery.evaluate.tasks.parsers import last_boxed

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_number(question: Question, completions: Sequence[str]) -> Mapping[str, float]:
    """`exact_match`: the last number said is the right one; `strict_match`: it also stands behind ####, as shown."""
    text, right = completions[0], to_number(question.answers[0])
    behind = text.rpartition("####")[2] if "####" in text else ""
    numbers = _NUMBER.findall(behind or text)
    strict = _NUMBER.findall(behind)
    return {
        "exact_match": float(bool(numbers) and to_number(numbers[0] if behind else numbers[-1]) == right),
        "strict_match": float(bool(strict) and to_number(strict[0]) == right),
    }


def score_formula(question: Question, completions: Sequence[str]) -> Mapping[str, float]:
    """`exact_match`: what stands in the last \\boxed{...}, or after "answer is", is the right answer written alike.

    Written alike: after the normalisation of Hendrycks et al. (arXiv:2103.03874, math_equivalence.py), which knows
    fractions, units and blanks but no algebra: 1/2 and 0.5 are the same, x+1 and 1+x are not.
    """
    text = completions[0]
    found = last_boxed(text)
    if not found:
        said = re.findall(r"(?:answer is|answer:|####)[:\s]*(.+?)(?:\.\s|\.?$|\n)", text, re.IGNORECASE | re.MULTILINE)
        found = said[-1] if said else ""
    return {"exact_match": float(bool(found.strip()) and any(to_formula(found) == to_formula(right) for right in question.answers))}


def score_short_answer(question: Question, completions: Sequence[str]) -> Mapping[str, float]:
    """`exact_match` and `f1` by words with the nearest of the right answers (SQuAD's evaluate-v1.1.py, TriviaQA's)."""
    said = completions[0].strip().split("\n")[0]
    return {
        "exact_match": max(float(to_words(said) == to_words(right)) for right in question.answers),
        "f1": max(word_f1(said, right) for right in question.answers),
    }


def word_f1(said: str, right: str) -> float:
    """The harmonic mean of precision and recall over words; 1 if both have none.

    >>> word_f1("the Eiffel Tower, Paris", "Eiffel tower")
    0.8
    """
    ours, theirs = to_words(said), to_words(right)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def to_words(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles.

    >>> to_words("The answer's  an Ox.")
    ['answers', 'ox']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def to_number(text: str) -> float | None:
    """The number that a text spells, or None.

    >>> to_number("$1,234.50")
    1234.5
    """
    try:
        return float(text.replace(",", "").replace("$", "").strip())
    except ValueError:
        return None


def to_formula(text: str) -> str:
    """One way of writing a formula for the many that mean it.

    >>> to_formula(r"\\dfrac12"), to_formula("1/2"), to_formula("0.5")
    ('\\\\frac{1}{2}', '\\\\frac{1}{2}', '\\\\frac{1}{2}')
    """
    out = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    out = out.replace("\\left", "").replace("\\right", "").replace("^{\\circ}", "").replace("^\\circ", "")
    out = re.sub(r"\\text\{\s*[^}]*\}\s*$", "", out) if re.match(r"^-?[\d.,]+\s*\\text", out) else out
    out = re.sub(r"\\(?:text|mbox|mathrm|textbf)\{([^}]*)\}", r"\1", out)
    out = out.replace("\\$", "").replace("$", "").replace("\\%", "").replace("%", "")
    out = out.replace(" .", " 0.").replace("{.", "{0.").strip().rstrip(".")
    if out.startswith("."):
        out = "0" + out
    if len(out.split("=")) == 2 and len(out.split("=")[0].strip()) <= 2:  # "k = 3" is 3
        out = out.split("=")[1]
    out = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", out)
    out = out.replace("\\ ", "").replace("\\,", "").replace(" ", "")
    out = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", out)
    out = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", out)
    out = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", out)
    out = re.sub(r"\\frac\{([^{}]*)\}(\d)", r"\\frac{\1}{\2}", out)
    if out == "0.5":
        out = "\\frac{1}{2}"
    if simple := re.fullmatch(r"(-?\d+)/(\d+)", out):
        out = f"\\frac{{{simple[1]}}}{{{simple[2]}}}"
    return out
