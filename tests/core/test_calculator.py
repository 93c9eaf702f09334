"""The calculator is exact, takes arithmetic and nothing else, and agrees with GSM8K's own."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.calculator import calculate
from bloomery.core.files import read_jsonl

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "sft" / "gsm8k_train.jsonl.gz"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", "14"), ("(2+3)*4", "20"), ("-5+2", "-3"), ("0.1+0.2", "0.3"), ("10/4", "2.5"), ("2/3", "0.6666666667"),
        (".5*8", "4"), ("1,000*3", "3000"), ("$5+$6", "11"), ("0*-1", "0"), ("100000000000*10", "1000000000000"),
    ],
)  # fmt: skip
def test_arithmetic_is_exact(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "1/0", "(2", "x+1", "__import__('os')", "2**999", "[1]", "'a'*3", "True+1", "1 if 1 else 2", "9" * 201, "f(1)", "1j+1", "1e99999"],
)
def test_anything_else_has_no_value(expression: str) -> None:
    assert calculate(expression) is None


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 99))
def test_it_agrees_with_python_on_whole_numbers(a: int, b: int, c: int) -> None:
    assert calculate(f"({a}) * ({b}) - {c}") == str(a * b - c)


@pytest.mark.skipif(not GSM8K.is_file(), reason="needs shared/data/sft beside the repository")
def test_it_agrees_with_the_annotations_of_gsm8k() -> None:
    annotations = [found for row in read_jsonl(GSM8K) for found in re.findall(r"<<([^<>=]+)=([^<>=]+)>>", row["answer"])]
    missed = []
    for expression, expected in annotations:
        value = calculate(expression)
        # They round to cents, and some to whole numbers.
        if value is None or abs(Fraction(value) - Fraction(expected.replace(",", ""))) > Fraction(1, 100) * max(1, abs(Fraction(value))):
            missed.append(expression)
    assert len(annotations) == 23_716 and missed == ["560//10", "180//3"], json.dumps(missed)
