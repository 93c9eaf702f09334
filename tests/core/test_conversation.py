"""Conversation files are checked as they are read."""

import pytest

from bloomery.core.conversation import find_problem, read_conversations
from bloomery.core.errors import DataError
from bloomery.core.files import write_jsonl

GOOD = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], "skill": "addition"}


def test_sound_rows_are_read_in_order(tmp_path):
    write_jsonl(tmp_path / "b.jsonl.gz", [GOOD])
    write_jsonl(tmp_path / "a.jsonl", [{**GOOD, "skill": "first"}])
    assert [row["skill"] for row in read_conversations(tmp_path)] == ["first", "addition"]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (None, "must be a list"),
        ([], "must be a list"),
        ([{"role": "user"}], "message 0 needs"),
        ([{"role": "robot", "content": "x"}], "'robot'; expected one of system, user, assistant, tool"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "only the first"),
        ([{"role": "user", "content": "x", "tool_calls": [{"name": "f", "arguments": {}}]}], "message 0 has tool_calls, but is the user's"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"arguments": {}}]}], "message 0 has a tool call without a name"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": 3}]}], "message 0 calls f with the arguments 3"),
    ],
)
def test_a_broken_row_is_named_by_file_and_number(tmp_path, messages, problem):
    assert problem in (find_problem(messages) or "")
    write_jsonl(tmp_path / "a.jsonl", [GOOD, {"messages": messages}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        list(read_conversations(tmp_path))
