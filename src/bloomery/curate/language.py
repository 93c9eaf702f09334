"""Which language a text is in: py3langid, whose model (97 languages, BSD licence) comes inside its package.

`language_score` is the model's probability for the language it names, normalised over all it knows.
"""

import functools
from typing import NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

EXAMINED_CHARACTERS = 2000
"""As much of a text as its language is read from: more costs time and changes almost nothing."""


class Language(NamedTuple):
    """An ISO 639-1 code and its probability; "und" with 0 for a text without letters."""

    code: str
    score: float


def identify_language(text: str) -> Language:
    """The language of a text, from up to 2,000 characters of its middle.

    The middle, because pages begin and end with menus, often in another language than the page's own.
    """
    start = max((len(text) - EXAMINED_CHARACTERS) // 2, 0)
    examined = text[start : start + EXAMINED_CHARACTERS]
    if not any(map(str.isalpha, examined)):
        return Language("und", 0.0)
    code, score = _identifier().classify(examined)
    return Language(str(code), float(score))


@functools.cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
