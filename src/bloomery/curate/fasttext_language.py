"""Language identification by a fastText model that the user has (lid.176.bin, GlotLID), with the package fasttext-predict.

Loaded by `curate/language.py` when it is asked for. Nothing is downloaded.
"""

import functools
from pathlib import Path
from typing import Any  # Any: fasttext has no types

import fasttext

from bloomery.core.errors import DataError
from bloomery.curate.language import UNDETERMINED, Identifier, Language

LABEL = "__label__"


def load(model: Path) -> Identifier:
    """The identifier of a model file. Raises DataError if it is not one."""
    try:
        loaded = fasttext.load_model(str(model))
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(f"{model}: not a fastText model (.bin or .ftz): {error}") from error
    return functools.partial(_classify, loaded)


def _classify(model: Any, text: str) -> Language:
    labels, scores = model.predict(" ".join(text.split()), k=1)
    if not labels:
        return UNDETERMINED
    # GlotLID says eng_Latn; lid.176 says en.
    return Language(str(labels[0]).removeprefix(LABEL).split("_")[0], min(float(scores[0]), 1.0))
