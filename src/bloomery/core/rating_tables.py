"""Ratings of scores.json as tables of text: for the page of an evaluation, the report of a run, and the terminal."""

from collections.abc import Mapping
from typing import Any  # Any: JSON records


def rating_tables(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for greedy answers, and one for sampled ones if there are any: a row a model, the best first, as text."""
    tables = []
    for kind, found in scores.get("ratings", {}).items():
        likeliest = {one["name"]: one for one in found.get("bradley_terry", [])}
        rows = []
        for one in found["elo"]:
            strength, name = likeliest.get(one["name"]), one["name"]
            games = [sum(rate[result] for rate in found["win_rates"][name].values()) for result in ("wins", "ties", "losses")]
            rows.append(
                {
                    "model": name,
                    "bradley_terry": "-" if strength is None else _points(strength["rating"]),
                    "elo": _points(one["rating"]),
                    "order_spread": f"{one['order_spread']:.0f}",
                    "games": " / ".join(f"{count:,}" for count in games),
                }
            )
        tables.append({"kind": kind, "rows": rows, "problem": found.get("problem", "")})
    return tables


def _points(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.0f} [{interval['low']:.0f}, {interval['high']:.0f}]"
