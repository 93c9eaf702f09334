"""Tool conversations are right in every part, and a test's expression is never trained on."""

from bloomery.core.calculator import calculate
from bloomery.core.conversation import find_problem
from bloomery.curate.tool_use import draw_tool_rows, tool_messages


def test_the_call_works_out_to_its_result_and_to_the_answer() -> None:
    for row in draw_tool_rows(count=200, held_out=False, seed=1):
        messages = tool_messages(row)
        assert find_problem(messages) is None
        call = messages[1]["tool_calls"][0]["function"]
        assert call["name"] == "calculator"
        assert calculate(call["arguments"]["expression"]) == messages[2]["content"] == messages[3]["content"] == row.answer
        numbers = set(row.expression.replace("(", " ").replace(")", " ").split()) - set("+-*/")
        assert all(number in row.prompt for number in numbers)


def test_no_expression_is_on_both_sides_and_a_longer_list_begins_with_the_shorter() -> None:
    train, test = (draw_tool_rows(count=300, held_out=held_out, seed=0) for held_out in (False, True))
    assert len(train) == len(test) == 300
    assert not {row.expression for row in train} & {row.expression for row in test}
    assert draw_tool_rows(count=20, held_out=False, seed=0) == train[:20]
    assert draw_tool_rows(count=20, held_out=False, seed=1) != train[:20]
