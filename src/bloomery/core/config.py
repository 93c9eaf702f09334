"""The base of every stage's configuration: frozen, keyword-only, strict, plain values only.

A config says WHAT is made and is part of an artifact's identity; where and how it is made (paths, workers, devices)
lives in `core/stage.py` and can never leak in here. `check_config` turns a table from a recipe into a config and
reports every mistake at once, with the nearest valid name.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar  # Any: values of a TOML table before they are validated

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Config(BaseModel):
    """Frozen, strict settings of one function. Unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _refuse_values_without_canonical_form(self) -> "Config":
        for name, value in self:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {value} is not a finite number")
        return self


C = TypeVar("C", bound=Config)


def check_config(config_type: type[C], values: Mapping[str, Any]) -> tuple[C | None, list[str]]:
    """The config made of `values`, or None and every mistake in them, one line each, each starting with its dotted key."""
    try:
        return config_type(**values), []
    except ValidationError as error:
        return None, [_explain(config_type, dict(item)) for item in error.errors()]


def suggest(word: str, known: Iterable[str]) -> str:
    """A clause for the end of a message: the nearest known name if one is near, else all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return "known: " + ", ".join(known) if known else "none are known"


def _explain(config_type: type[Config], item: dict[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path) or "config"
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown setting; {suggest(path[-1], _field_names(config_type, path[:-1]))}"
    if item["type"] == "missing":
        return f"{key}: required, but not given"
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message}; found {item['input']!r}" if path else message


def _field_names(config_type: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = config_type.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        config_type = inner
    return list(config_type.model_fields)
