"""Instructions that a program can check, by the names and rules of IFEval (arXiv:2311.07911, table 1).

Written from the paper and checked against the published program (tests/parity/test_ifeval.py). Two differ on purpose in
how they count: sentences end at . ! or ? before a blank, and words in capitals are split at blanks and punctuation; the
published program asks a trained splitter for both.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any  # Any: the settings of an instruction

import py3langid

from bloomery.evaluate.benchmark import Question, Row

Check = Callable[[str, Mapping[str, Any]], bool]


def score_instructions(question: Question, completions: Sequence[str]) -> Mapping[str, float]:
    """`prompt_strict`: all instructions of the prompt are followed; `prompt_loose`: in the answer or in it without its first
    or last line or its asterisks; `instructions_strict`: the share that is followed."""
    followed = follow(question.row, completions[0])
    loose = [follow(question.row, text) for text in _variants(completions[0])]
    return {
        "prompt_strict": float(all(followed)),
        "prompt_loose": float(all(any(one) for one in zip(*loose, strict=True))),
        "instructions_strict": sum(followed) / len(followed),
    }


def follow(row: Row, text: str) -> list[bool]:
    """For each instruction of a row whether `text` follows it; an empty answer follows none. KeyError for an unknown one."""
    checks = [(CHECKS[kind], settings or {}) for kind, settings in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
    return [bool(text.strip()) and check(text, settings) for check, settings in checks]


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    cuts = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [*cuts, *(cut.replace("*", "") for cut in cuts)]


def _relation(count: int, relation: str | None, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


def _keywords(text: str, settings: Mapping[str, Any]) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in settings["keywords"])


def _keyword_frequency(text: str, settings: Mapping[str, Any]) -> bool:
    count = len(re.findall(settings["keyword"], text, re.IGNORECASE))
    return _relation(count, settings.get("relation"), int(settings["frequency"]))


def _forbidden(text: str, settings: Mapping[str, Any]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in settings["forbidden_words"])


def _letters(text: str, settings: Mapping[str, Any]) -> bool:
    count = text.lower().count(str(settings["letter"]).lower())
    return _relation(count, settings.get("let_relation"), int(settings["let_frequency"]))


def _language(text: str, settings: Mapping[str, Any]) -> bool:
    return _language_of(text) == str(settings["language"]).split("-")[0]


def _language_of(text: str) -> str:
    return str(py3langid.classify(text)[0])


def _sentences(text: str, settings: Mapping[str, Any]) -> bool:
    count = len([part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+", text.strip()) if re.search(r"\w", part)])
    return _relation(count, settings.get("relation"), settings["num_sentences"])


def _paragraphs(text: str, settings: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return bool(sum(bool(part.strip()) for part in parts) == settings["num_paragraphs"])


def _words(text: str, settings: Mapping[str, Any]) -> bool:
    return _relation(len(re.findall(r"\w+", text)), settings.get("relation"), settings["num_words"])


def _first_word_of_paragraph(text: str, settings: Mapping[str, Any]) -> bool:
    parts = re.split(r"\n\n", text)
    number = settings["nth_paragraph"]
    count = sum(bool(part.strip()) for part in parts)
    if number > count or not parts[number - 1].strip():
        return False
    word = parts[number - 1].split()[0].lstrip("'").lstrip('"')
    first = re.split(r"[.,?!'\"]", word)[0].lower()
    return bool(count == settings["num_paragraphs"] and first == settings["first_word"].lower())


def _placeholders(text: str, settings: Mapping[str, Any]) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= int(settings["num_placeholders"])


def _postscript(text: str, settings: Mapping[str, Any]) -> bool:
    marker = settings["postscript_marker"].strip()
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return bool(re.search(known.get(marker, rf"\s*{marker.lower()}.*$"), text.lower(), re.MULTILINE))


def _bullets(text: str, settings: Mapping[str, Any]) -> bool:
    count = len(re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))
    return bool(count == settings["num_bullets"])


def _constrained(text: str, settings: Mapping[str, Any]) -> bool:
    return any(option in text for option in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


def _highlights(text: str, settings: Mapping[str, Any]) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part.removeprefix("**").removesuffix("**").strip()]
    return bool(len(single) + len(double) >= settings["num_highlights"])


def _sections(text: str, settings: Mapping[str, Any]) -> bool:
    count = len(re.split(rf"\s?{settings['section_spliter']}\s?\d+\s?", text)) - 1
    return bool(count >= settings["num_sections"])


def _json(text: str, settings: Mapping[str, Any]) -> bool:
    plain = text.strip()
    for prefix in ("```json", "```Json", "```JSON", "```"):
        plain = plain.removeprefix(prefix)
    try:
        json.loads(plain.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, settings: Mapping[str, Any]) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, settings: Mapping[str, Any]) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    said = [part.strip() for part in parts if part.strip()]
    return len(said) == 2 and said[0] != said[1]


def _repeats_prompt(text: str, settings: Mapping[str, Any]) -> bool:
    return text.strip().lower().startswith(str(settings["prompt_to_repeat"]).strip().lower())


def _ends_with(text: str, settings: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(str(settings["end_phrase"]).strip().lower())


def _quoted(text: str, settings: Mapping[str, Any]) -> bool:
    plain = text.strip()
    return len(plain) > 1 and plain[0] == plain[-1] == '"'


def _capital_words(text: str, settings: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'-]+", text))
    return _relation(count, settings.get("capital_relation"), settings["capital_frequency"])


def _all_capital(text: str, settings: Mapping[str, Any]) -> bool:
    # Languages are known by lower-case letters better than by capitals.
    return text.isupper() and _language_of(text.lower()) == "en"


def _all_lower(text: str, settings: Mapping[str, Any]) -> bool:
    return text.islower() and _language_of(text) == "en"


def _no_comma(text: str, settings: Mapping[str, Any]) -> bool:
    return "," not in text


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word_of_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capital,
    "change_case:english_lowercase": _all_lower,
    "punctuation:no_comma": _no_comma,
}
"""By the names of IFEval's `instruction_id_list`."""

TOPICS = ("the moon", "a bicycle", "how bread is made", "a rainy day", "the sea", "an old library")

INSTRUCTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("punctuation:no_comma", "Do not use any commas.", {}),
    ("change_case:english_lowercase", "Use lowercase letters only.", {}),
    ("change_case:english_capital", "Use capital letters only.", {}),
    ("length_constraints:number_words", "Use less than 30 words.", {"num_words": 30, "relation": "less than"}),
    ("length_constraints:number_words", "Use at least 10 words.", {"num_words": 10, "relation": "at least"}),
    ("startend:quotation", "Wrap your whole answer in double quotation marks.", {}),
    ("startend:end_checker", "End with the exact words: that is all.", {"end_phrase": "that is all."}),
    ("detectable_format:number_bullet_lists", "Answer with exactly 3 bullet points, each beginning with *.", {"num_bullets": 3}),
    ("detectable_format:title", "Give it a title in double angular brackets, such as <<a title>>.", {}),
    ("keywords:existence", "Use the word light.", {"keywords": ["light"]}),
    ("keywords:forbidden_words", "Do not use the word the.", {"forbidden_words": ["the"]}),
    ("detectable_content:postscript", "Add a postscript that begins with P.S.", {"postscript_marker": "P.S."}),
)


def built_in_instructions() -> list[Row]:
    """72 prompts of one or two instructions, in IFEval's form: for models without its file at hand."""
    rows: list[Row] = []
    for t, topic in enumerate(TOPICS):
        for i, (kind, words, settings) in enumerate(INSTRUCTIONS):
            kinds, texts, kwargs = [kind], [words], [settings]
            if (t + i) % 3 == 0 and i != 0 and kind != "startend:quotation":
                kinds, texts, kwargs = [*kinds, INSTRUCTIONS[0][0]], [*texts, INSTRUCTIONS[0][1]], [*kwargs, {}]
            rows.append({"prompt": f"Write about {topic}. {' '.join(texts)}", "instruction_id_list": kinds, "kwargs": kwargs})
    return rows
