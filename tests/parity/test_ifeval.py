"""Instruction checks beside the published program of IFEval, as lm-eval 0.4.13 carries it."""

from typing import Any

import pytest

for package in ("lm_eval", "langdetect", "immutabledict", "nltk"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'bloomery[parity]'")

import nltk  # noqa: E402

from bloomery.evaluate.tasks.instructions import CHECKS, follow  # noqa: E402

TEXTS = (
    "Just a plain sentence, with a comma.",
    "all of this is in lower case letters and it is english text for sure",
    "ALL OF THIS IS IN CAPITAL LETTERS AND IT IS ENGLISH TEXT FOR SURE",
    '"Quoted from the first to the last word."',
    "<<A title>>\nSome *highlighted* words and **more of them** here.\n\nP.S. I forgot something.",
    "* one\n* two\n* three",
    "- one\n- two\n* three\n** not one",
    'My answer is yes.\n\nSection 1\nfirst\n\nSection 2\nsecond [name] and [place]. that is all.',
    '```json\n{"a": [1, 2]}\n```',
    "First answer.\n******\nSecond answer.",
    "Same answer.\n******\nSame answer.",
    "One paragraph.\n***\nAnother light one.\n***\nA third; light light light.",
    "Alpha begins it.\n\n'Beta, goes on.\n\nGamma ends it. P.P.S. more",
    "Write this again: go. And the rest follows, that is all.",
    "Dies ist ein deutscher Satz über das Wetter und die Stadt, in der wir wohnen.",
    "word " * 40,
)  # fmt: skip

SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("keywords:existence", {"keywords": ["light", "one"]}),
    ("keywords:frequency", {"keyword": "light", "frequency": 3, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "light", "frequency": 3, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["light", "comma"]}),
    ("keywords:letter_frequency", {"letter": "o", "let_frequency": 4, "let_relation": "less than"}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 4, "let_relation": "at least"}),
    ("language:response_language", {"language": "de"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_words", {"num_words": 10, "relation": "less than"}),
    ("length_constraints:number_words", {"num_words": 40, "relation": "at least"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "beta"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write this again: go."}),
    ("startend:end_checker", {"end_phrase": "that is all."}),
    ("startend:quotation", {}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
)


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    download, nltk.download = nltk.download, lambda *arguments, **options: True  # the splitter it loads at import is not needed here
    try:
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    finally:
        nltk.download = download
    return dict(INSTRUCTION_DICT)


def test_there_is_a_check_for_every_published_instruction(published: dict[str, Any]) -> None:
    assert set(CHECKS) == set(published)


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(SETTINGS)])
def test_an_instruction_is_followed_where_the_published_program_says_so(
    published: dict[str, Any], kind: str, settings: dict[str, Any]
) -> None:
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws at random otherwise
    checker = published[kind](kind)
    checker.build_description(**settings)
    # Of a few words its detector says anything ("Same answer." is German).
    texts = [text for text in TEXTS if "language" not in kind or len(text.split()) > 10]
    ours = [follow({"instruction_id_list": [kind], "kwargs": [settings]}, text)[0] for text in texts]
    assert ours == [bool(checker.check_following(text)) for text in texts]
    assert len(set(ours)) == 2, "the texts must have one that follows it and one that does not"
