"""An answer is right when it is the answer, whole; it is well-formed when the whole of it has the format."""

import pytest

from bloomery.core.errors import DataError
from bloomery.generate.verify import verify

NUMBER = {"answer": "12", "format": r"-?\d+"}


@pytest.mark.parametrize(
    ("text", "well_formed", "correct"),
    [
        ("12", True, True),
        ("13", True, False),
        ("-12", True, False),
        ("012", True, False),
        (" 12", False, False),
        ("12 ", False, False),
        ("12\n", False, False),
        ("12.", False, False),
        ("The answer is 12", False, False),
        ("12 12", False, False),
        ("", False, False),
        ("12<|end|>", False, False),
    ],
)
def test_numbers(text: str, well_formed: bool, correct: bool) -> None:
    assert verify(NUMBER, text) == (well_formed, correct)


def test_without_a_format_any_text_that_is_not_blank_is_well_formed() -> None:
    assert verify({"answer": "Copies a file."}, "Copies a file.") == (True, True)
    assert verify({"answer": "Copies a file.", "format": ""}, "Moves it.") == (True, False)
    assert verify({"answer": "Copies a file."}, " \n") == (False, False)


def test_a_right_answer_in_the_wrong_format_is_not_correct() -> None:
    assert verify({"answer": "a b", "format": r"[a-z]+"}, "a b") == (False, False)


def test_a_row_without_an_answer_is_named() -> None:
    with pytest.raises(DataError, match="`answer` that is a string, found 12"):
        verify({"answer": 12}, "12")


def test_a_format_that_is_no_regular_expression_is_named() -> None:
    with pytest.raises(DataError, match=r"'\(' of a row is not a regular expression"):
        verify({"answer": "x", "format": "("}, "x")
