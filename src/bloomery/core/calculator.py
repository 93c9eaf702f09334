"""A calculator as a tool: its schema, a call of it, and what it answers, exactly.

Numbers are fractions, so that 0.1 + 0.2 is 0.3; only numbers, + - * / and parentheses are understood.
"""

import ast
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any  # Any: JSON schemas

CALCULATOR = {
    "function": {
        "description": "Works out an arithmetic expression.",
        "name": "calculator",
        "parameters": {"properties": {"expression": {"type": "string"}}, "required": ["expression"], "type": "object"},
    },
    "type": "function",
}
"""Keys in the order in which our files have them: a model is told it in the same words wherever it came from."""

MAX_CHARACTERS = 200
MAX_DECIMALS = 10

_DECIMAL = re.compile(r"\d+\.?\d*|\.\d+")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def calculator_call(expression: str) -> dict[str, Any]:
    """The call of the tool, as an assistant's `tool_calls` have it."""
    return {"type": "function", "function": {"name": "calculator", "arguments": {"expression": expression}}}


def calculate(expression: str) -> str | None:
    """The value of an arithmetic expression, or None for anything else. Endless decimals are rounded to MAX_DECIMALS.

    >>> calculate("48/2"), calculate("0.1 + 0.2"), calculate("1/3"), calculate("(2"), calculate("2**9")
    ('24', '0.3', '0.3333333333', None, None)
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    text = expression.replace(",", "").replace("$", "").strip()
    try:
        value = _value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return write_number(value)


def write_number(value: Fraction) -> str:
    """A number in decimals, without zeros at its end.

    >>> write_number(Fraction(5, 2)), write_number(Fraction(-3))
    ('2.5', '-3')
    """
    scaled = round(value * 10**MAX_DECIMALS)
    sign = "-" if scaled < 0 else ""
    whole, rest = divmod(abs(scaled), 10**MAX_DECIMALS)
    return f"{sign}{whole}.{rest:0{MAX_DECIMALS}}".rstrip("0").rstrip(".")


def _value(node: ast.expr, text: str) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, text), _value(node.right, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        written = ast.get_source_segment(text, node) or ""
        if _DECIMAL.fullmatch(written):  # 1e999999999 would be worked out for ever
            return Fraction(written)  # the decimals that were written, not the float that they became
    raise ValueError(f"{ast.dump(node)[:80]} is no arithmetic")
