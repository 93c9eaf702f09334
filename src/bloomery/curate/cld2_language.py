"""Language identification by CLD2 (package pycld2): several times faster than py3langid, and less sure.

Loaded by `curate/language.py` when it is asked for.
"""

import pycld2

from bloomery.curate.language import UNDETERMINED, Language

_CODES = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "no": "no", "sr-ME": "sr", "in": "id", "ji": "yi"}


def classify(text: str) -> Language:
    """CLD2's first language, and the share of the text in it (CLD2 gives no probability); "und" where it will not say."""
    # CLD2 refuses control characters and code points that are not for interchange.
    plain = "".join(letter for letter in text if letter.isprintable() or letter.isspace()) if not text.isprintable() else text
    try:
        _, _, details = pycld2.detect(plain.encode("utf-8", "replace"), bestEffort=True)
    except pycld2.error:
        return UNDETERMINED
    _, code, percent, _ = details[0]
    return UNDETERMINED if code == "un" else Language(_CODES.get(code, code), percent / 100)
