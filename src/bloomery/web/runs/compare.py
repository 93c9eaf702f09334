"""What differs between runs: fields of their recipes that are not equal in all, the others left away."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any  # Any: plain values

ABSENT = "(not there)"


def differing_fields(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a field, `values` in the order of the recipes as they are written in JSON or TOML; what one lacks is "(not there)".

    A stage that a recipe lacks altogether is one row and not one for each of its settings.

    >>> differing_fields([{"seed": 0, "stages": {"a": {"x": 1}}}, {"seed": 1, "stages": {"a": {"x": 1}, "b": {"x": 1}}}])
    [{'field': 'seed', 'values': [0, 1]}, {'field': 'stages.b', 'values': ['(not there)', '(a stage)']}]
    """
    stages = [recipe.get("stages", {}) for recipe in recipes]
    everywhere = {name for name in dict.fromkeys(name for found in stages for name in found) if all(name in found for found in stages)}
    flat = [dict(_flatten(_only_shared(recipe, everywhere))) for recipe in recipes]
    rows = []
    for field in dict.fromkeys(field for found in flat for field in found):
        values = [found.get(field, ABSENT) for found in flat]
        if any(value != values[0] for value in values[1:]):
            rows.append({"field": field, "values": values})
    for name in dict.fromkeys(name for found in stages for name in found):
        if name not in everywhere:
            rows.append({"field": f"stages.{name}", "values": ["(a stage)" if name in found else ABSENT for found in stages]})
    return rows


def _only_shared(recipe: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {**recipe, "stages": {name: stage for name, stage in recipe.get("stages", {}).items() if name in names}}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
