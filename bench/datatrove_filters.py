"""What datatrove 0.10 decides on texts, rule by rule, and how long its filters take. Run by agreement.py and signals.py.

    .venv-peers/bin/python bench/datatrove_filters.py decide texts.jsonl decisions.jsonl
    .venv-peers/bin/python bench/datatrove_filters.py time texts.jsonl

It runs in an environment of its own, where datatrove's pins do not meet ours, and so imports nothing of bloomery. A rule
is judged alone: every other threshold of its filter is switched off.
"""

import functools
import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter

GOPHER_QUALITY = {
    "too_few_words": ("min_doc_words", 50),
    "too_many_words": ("max_doc_words", 100_000),
    "short_words": ("min_avg_word_length", 3),
    "long_words": ("max_avg_word_length", 10),
    "too_many_symbols": ("max_symbol_word_ratio", 0.1),
    "too_many_bullets": ("max_bullet_lines_ratio", 0.9),
    "too_many_ellipsis_lines": ("max_ellipsis_lines_ratio", 0.3),
    "too_few_alphabetic": ("max_non_alpha_words_ratio", 0.8),
    "too_few_stop_words": ("min_stop_words", 2),
}
GOPHER_REPETITION = {
    "duplicate_lines": ("dup_line_frac", 0.3),
    "duplicate_paragraphs": ("dup_para_frac", 0.3),
    "duplicate_line_characters": ("dup_line_char_frac", 0.2),
    "duplicate_paragraph_characters": ("dup_para_char_frac", 0.2),
    **{f"top_{n}_grams": ("top_n_grams", ((n, share),)) for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))},
    **{f"duplicate_{n}_grams": ("dup_n_grams", ((n, 0.2 - n / 100),)) for n in range(5, 11)},
}
ONLY_LINES = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}
FINEWEB_OFF = {"line_punct_thr": -1.0, "short_line_thr": 2.0, "char_duplicates_ratio": 2.0, "new_line_ratio": 1e9}
FINEWEB = {
    "few_line_ends": {"line_punct_thr": 0.12},
    "short_lines": {"short_line_thr": 0.67},
    "repeated_lines": {"char_duplicates_ratio": 0.01},
    "too_many_newlines": {"new_line_ratio": 0.3},
}


def main() -> None:
    command, source = sys.argv[1], Path(sys.argv[2])
    texts = [json.loads(line)["text"] for line in source.open(encoding="utf-8")]
    if command == "time":
        print(json.dumps(time_filters(texts)))
        return
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = functools.lru_cache(maxsize=4)(module.split_into_words)
    filters = make_rule_filters()
    with Path(sys.argv[3]).open("w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({name: drops(one, text) for name, one in filters.items()}) + "\n")


def make_rule_filters():
    filters = {}
    for rules, make in (
        (GOPHER_QUALITY, gopher_quality_filter.GopherQualityFilter),
        (GOPHER_REPETITION, gopher_repetition_filter.GopherRepetitionFilter),
    ):
        names = {argument for argument, _ in rules.values()}
        off = {argument: () if argument.endswith("n_grams") else None for argument in names}
        filters |= {rule: make(**{**off, argument: value}) for rule, (argument, value) in rules.items()}
    c4 = c4_filters.C4QualityFilter
    filters["too_few_sentences"] = c4(**{**ONLY_LINES, "min_num_sentences": 5})
    filters["curly_bracket"] = c4(**{**ONLY_LINES, "filter_curly_bracket": True})
    filters["lorem_ipsum"] = c4(**{**ONLY_LINES, "filter_lorem_ipsum": True})
    filters["few_long_lines"] = c4_filters.C4ParagraphFilter()
    filters |= {rule: fineweb_quality_filter.FineWebQualityFilter(**{**FINEWEB_OFF, **on}) for rule, on in FINEWEB.items()}
    filters["gopher_quality"] = gopher_quality_filter.GopherQualityFilter()
    filters["gopher_repetition"] = gopher_repetition_filter.GopherRepetitionFilter()
    filters["c4"] = c4()
    filters["fineweb"] = fineweb_quality_filter.FineWebQualityFilter()
    return filters


def drops(one, text):
    """True, False, or "error" where datatrove's filter raises (which its pipeline would not survive)."""
    try:
        verdict = one.filter(Document(text=text, id="0"))
    except (ZeroDivisionError, IndexError):
        return "error"
    return verdict is not True


def time_filters(texts):
    """Seconds of each filter over all texts, models loaded before."""
    filters = {
        "gopher_quality": gopher_quality_filter.GopherQualityFilter(),
        "gopher_repetition": gopher_repetition_filter.GopherRepetitionFilter(),
        "c4": c4_filters.C4QualityFilter(),
        "fineweb": fineweb_quality_filter.FineWebQualityFilter(),
    }
    seconds = {}
    for name, one in filters.items():
        one.filter(Document(text="It was there, and that is all that was to be said with it. " * 6, id="0"))
        started = time.process_time()
        for text in texts:
            drops(one, text)
        seconds[name] = time.process_time() - started
    return seconds


if __name__ == "__main__":
    main()
