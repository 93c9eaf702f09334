"""Every instruction format of the field becomes the same conversations, and a bad row is named by file and line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.core.calculator import CALCULATOR
from bloomery.core.conversation import find_problem, read_conversations
from bloomery.core.conversation_rows import to_conversations
from bloomery.core.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "sft"
NAMES = (
    "messages prompt completion conversations instruction input output response instances question answer tools tool_calls function "
    "name arguments role content from value loss weight system history truncated finish_reason type text"
)
KEYS = st.sampled_from(NAMES.split())
USER, ASSISTANT = {"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello!"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
FACT = {"name": "add", "parameters": {"type": "object"}}


def only(row: dict[str, Any], **options: Any) -> dict[str, Any]:
    (found,) = to_conversations(row, **options)
    assert find_problem(found["messages"]) is None
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"prompt": "Say hello.", "completion": "Hello!"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello!"}]},
        {"conversations": [{"from": "user", "value": "Say hello."}, {"from": "assistant", "value": "Hello!"}], "tools": ""},
        {"instruction": "Say hello.", "input": "", "output": "Hello!"},
        {"instruction": "Say hello.", "response": "Hello!"},
        {"instruction": "Say hello.", "instances": [{"input": "", "output": "Hello!"}]},
        {"question": "Say hello.", "answer": "Hello!"},
        {"messages": [USER, ASSISTANT], "prompt": None, "completion": None},  # what Parquet makes of columns that a row has not
    ],
)
def test_one_conversation_is_the_same_in_every_format(row: dict[str, Any]) -> None:
    found = only(row)
    assert found["messages"] == [USER, ASSISTANT] and "tools" not in found


def test_other_columns_are_kept() -> None:
    assert only({"messages": [USER, ASSISTANT], "skill": "greeting", "answer": "Hello!"})["skill"] == "greeting"
    assert only({"question": "2 + 2?", "answer": "4", "level": 1})["level"] == 1


def test_of_a_prompt_with_earlier_answers_only_the_completion_is_trained() -> None:
    found = only({"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]})
    assert found["messages"] == [USER, {**ASSISTANT, "loss": False}, USER, ASSISTANT]


def test_a_prompt_alone_is_a_conversation_that_waits_for_its_answer() -> None:
    assert only({"prompt": "Say hello.", "answer": "Hello!"}) == {"messages": [USER], "answer": "Hello!"}


def test_alpacas_system_and_history_come_before_and_its_input_after_an_empty_line() -> None:
    row = {"instruction": "Translate.", "input": "Hallo", "output": "Hello", "system": "Be brief.", "history": [["Hi", "Yes?"]]}
    found = only(row)["messages"]
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Translate.\n\nHallo"), ("assistant", "Hello"),
    ]  # fmt: skip


def test_sharegpts_function_calls_and_observations_become_tool_calls_and_results() -> None:
    turns = [("human", "1?"), ("function_call", '{"name": "add", "arguments": {"a": 1}}'), ("observation", "1"), ("gpt", "It is 1.")]
    row = {"conversations": [{"from": who, "value": what} for who, what in turns], "system": "Add.", "tools": json.dumps([FACT])}
    found = only(row)
    assert found["tools"] == [FACT]
    assert found["messages"] == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "It is 1."},
    ]


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"id": "c1", **CALL},
        {"name": "add", "arguments": {"a": 1}},
        {"function": {"name": "add", "arguments": '{"a": 1}'}},
        {"function": {"name": "add", "arguments": {"a": 1}, "description": None}},
    ],
)
def test_calls_in_openais_shape_or_plain_with_arguments_or_their_text_are_one_call(call: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert only({"messages": [USER, message]})["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_each_instance_of_a_seed_task_is_a_conversation() -> None:
    instances = [{"input": "2 1", "output": "1 2"}, {"input": "b a", "output": "a b"}]
    found = to_conversations({"id": "t", "instruction": "Sort.", "instances": instances})
    assert [row["messages"][0]["content"] for row in found] == ["Sort.\n\n2 1", "Sort.\n\nb a"] and found[1]["id"] == "t"


SUM = {"question": "How many?", "answer": "He has 48/2 = $<<48/2=24>>24.\nTwice: <<24*2=1,048>>48.\n#### 1,048"}


def test_the_calculator_of_gsm8k_becomes_calls_and_the_final_answer_a_column() -> None:
    found = only(SUM)
    said = found["messages"][1:]
    assert [m["role"] for m in said] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert said[0]["content"] == "He has 48/2 = $" and said[0]["tool_calls"][0]["function"]["arguments"] == {"expression": "48/2"}
    assert [said[i]["content"] for i in (1, 2, 4)] == ["24", "24.\nTwice: ", "48.\n#### 1,048"]
    assert found["answer"] == "1048" and found["tools"] == [CALCULATOR]
    plain = only(SUM, calculator="remove")
    assert plain["messages"][1]["content"] == "He has 48/2 = $24.\nTwice: 48.\n#### 1,048" and "tools" not in plain


def test_weights_of_openai_and_parts_of_text_are_understood() -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]}, ASSISTANT]}
    assert only(row)["messages"][0] == USER
    found = only({"messages": [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}]})["messages"]
    assert found[1] == {**ASSISTANT, "loss": False} and found[3] == ASSISTANT


@pytest.mark.parametrize("mark", [{"truncated": True}, {"finish_reason": "length"}, {"finish": "length"}])
def test_an_answer_that_was_cut_by_a_limit_is_marked(mark: dict[str, Any]) -> None:
    assert only({"messages": [USER, ASSISTANT], **mark})["messages"][-1]["truncated"] is True
    assert "truncated" not in only({"messages": [USER, ASSISTANT], "finish_reason": "stop"})["messages"][-1]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"foo": 1, "bar": 2}, "found the columns bar, foo; expected messages, prompt"),
        ({"text": "a document"}, "`text` is a document"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"chosen": "b", "rejected": "c"}, "preference pair"),
        ({"prompt": "a", "completion": "b", "label": False}, "`label` says that some answers are not to be imitated"),
        ({"messages": "hello"}, "`messages` must be a list"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, "message 1 has the role 'robot'"),
        ({"messages": [USER, {**ASSISTANT, "loss": "no"}]}, "message 1: `loss` must be true or false, found 'no'"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "message 0 has parts that are no text"),
        ({"prompt": 3, "completion": "b"}, "`prompt` must be a text or a list of messages, found 3"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "turn 0 is from 'alien'; expected one of human"),
        ({"conversations": [{"from": "human"}]}, "turn 0 needs `from` and a `value`"),
        ({"conversations": [{"from": "function_call", "value": "{add"}]}, "turn 0 is not JSON: '{add'"),
        ({"conversations": [{"from": "human", "value": "x"}], "tools": "[{"}, "`tools` is not JSON"),
        ({"messages": [USER], "tools": ["add"]}, "`tools` must be a list of JSON schemas"),
        ({"instruction": "a", "output": 3}, "message 1 needs a `role` and a `content` string"),
        ({"instruction": "a", "input": 3, "output": "b"}, "`input` must be a text, found 3"),
        ({"instruction": "a", "instances": [{"input": "b"}]}, "`instances` must be a list of objects with input and output"),
        ({"question": 1, "answer": "b"}, "`question` and `answer` must be texts, found 1"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps({"messages": [USER, ASSISTANT]}), "", json.dumps(row)]))
    with pytest.raises(DataError) as error:
        list(read_conversations(tmp_path / "a.jsonl"))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl:3: ") and complaint in str(error.value)


LEAVES = st.sampled_from(["", "x", "user", "assistant", "function_call", "length", "[]", "[{}]", '{"name": "f"}'])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, JUNK, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_row_of_junk_does_more_harm_than_a_data_error(row: dict[str, Any]) -> None:
    try:
        for found in to_conversations(row):
            find_problem(found["messages"])
    except DataError:
        pass


def test_json_and_parquet_are_read_too_and_name_the_row(tmp_path: Path) -> None:
    good = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": [FACT]}
    bad = {"messages": [{"role": "user", "content": None}]}
    pq.write_table(pa.Table.from_pylist([good, {"messages": [USER, ASSISTANT]}]), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text(json.dumps([good, {"messages": [USER, ASSISTANT]}]))
    (tmp_path / "c.json").write_text(json.dumps([good, bad]))
    for name in ("a.parquet", "b.json"):
        first, second = read_conversations(tmp_path / name)
        assert first == {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "tools": [FACT]}
        assert second["messages"] == [USER, ASSISTANT]
    with pytest.raises(DataError, match=r"c\.json:2: message 0 needs"):
        list(read_conversations(tmp_path / "c.json"))
    pq.write_table(pa.Table.from_pylist([{"a": 1}]), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet:1: found the columns a"):
        list(read_conversations(tmp_path / "d.parquet"))
    for name, content in {"e.json": "{}", "f.json": "[1", "g.parquet": "no"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            list(read_conversations(tmp_path / name))
    (tmp_path / "artifact.json").write_text("{}")  # what else lies in a folder as .json is not read
    assert len(list(read_conversations(folder_of(tmp_path, "a.parquet")))) == 2


def folder_of(path: Path, name: str) -> Path:
    (path / "folder").mkdir()
    (path / "folder" / name).write_bytes((path / name).read_bytes())
    (path / "folder" / "artifact.json").write_text("{}")
    return path / "folder"


ROWS = {
    "alpaca_en_demo": 999, "alpaca_zh_demo": 1000, "fairytaleqa": 8548, "glaive_toolcall_en_demo": 300, "gpteacher_roleplay": 1923,
    "gsm8k_train": 7473, "identity": 91, "scitldr_dev": 619, "scitldr_train": 1992, "self_instruct_seed_tasks": 175,
    "t0_p3_permissive": 12081,
}  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/sft beside the repository")
@pytest.mark.parametrize("name", ROWS)
def test_every_file_of_the_instruction_data_loads_whole(name: str) -> None:
    rows = list(read_conversations(SHARED / f"{name}.jsonl.gz"))
    assert len(rows) == ROWS[name]
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    results = sum(message["role"] == "tool" for row in rows for message in row["messages"])
    assert results == {"gsm8k_train": 23_716, "glaive_toolcall_en_demo": 211}.get(name, 0)
