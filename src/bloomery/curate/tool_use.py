"""Conversations in which the assistant asks a calculator: what to work out, the call, its result, and the answer.

Expressions are drawn at random and worked out exactly (core/calculator.py), so that call, result and answer are all right.
Some are plain, most stand in a sentence of everyday life.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple  # Any: messages of JSON

from bloomery.core.calculator import calculate, calculator_call
from bloomery.curate.skills import is_held_out

SKILL = "calculator"
FORMAT = r"-?\d+(\.\d+)?"

_PLAIN = ("What is {e}?", "Work out {e}.", "Calculate {e}", "{e} = ?")
_STORIES = (
    ("A box holds {a} parts. How many parts do {b} boxes hold?", "{a} * {b}"),
    ("{a} pages are read, then {b} more. How many pages are that?", "{a} + {b}"),
    ("Of {c} seats {a} are taken. How many are free?", "{c} - {a}"),
    ("{b} people share {p} coins. How many does each get?", "{p} / {b}"),
    ("A ticket costs {a} and a guide {b}. What do {d} tickets and one guide cost?", "{a} * {d} + {b}"),
    ("{a} bolts lie in one tray and {b} in another. {d} are used. How many are left?", "{a} + {b} - {d}"),
)


class ToolRow(NamedTuple):
    """A question, the expression that answers it, and its value."""

    prompt: str
    expression: str
    answer: str


def draw_tool_rows(*, count: int, held_out: bool, seed: int) -> list[ToolRow]:
    """Up to `count` rows of different prompts, all of test expressions or all of training expressions.

    A longer list starts with the shorter one's rows.
    """
    found: dict[str, ToolRow] = {}
    for row in _draw_forever(seed, max_draws=60 + 30 * count):
        if len(found) == count:
            break
        if is_held_out(SKILL, row.expression) == held_out:
            found.setdefault(row.prompt, row)
    return list(found.values())


def tool_messages(row: ToolRow) -> list[dict[str, Any]]:
    """The whole conversation."""
    return [
        {"role": "user", "content": row.prompt},
        {"role": "assistant", "content": "", "tool_calls": [calculator_call(row.expression)]},
        {"role": "tool", "content": row.answer},
        {"role": "assistant", "content": row.answer},
    ]


def _draw_forever(seed: int, *, max_draws: int) -> Iterator[ToolRow]:
    for index in range(max_draws):
        # A string seed goes through SHA-512: the same draws in every process and Python version.
        rng = random.Random(f"tool_use/{seed}/{index}")
        a, b, d = rng.randint(2, 99), rng.randint(2, 40), rng.randint(2, 9)
        numbers = {"a": a, "b": b, "c": a + rng.randint(1, 200), "d": d, "p": b * rng.randint(2, 50)}
        if rng.random() < 0.4:
            expression = _draw_expression(rng)
            prompt = rng.choice(_PLAIN).format(e=expression)
        else:
            story, formula = rng.choice(_STORIES)
            prompt, expression = story.format(**numbers), formula.format(**numbers)
        value = calculate(expression)
        assert value is not None
        yield ToolRow(prompt, expression, value)


def _draw_expression(rng: random.Random) -> str:
    a, b, c = (rng.randint(2, 999) for _ in range(3))
    sums = (f"{a} + {b}", f"{a} - {b}", f"{a / 10:g} + {b / 10:g}")
    return rng.choice((*sums, f"{a} * {b}", f"{a} * {b} + {c}", f"({a} + {b}) * {c % 20 + 2}"))
