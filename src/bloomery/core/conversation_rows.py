"""A row of any of the field's instruction formats as conversations: messages of OpenAI's shape, the other columns kept.

    messages [, tools]                      TRL, OpenAI, axolotl; `weight: 0` (OpenAI) is `loss: false`
    prompt, completion                      TRL: both texts, or both lists of messages; the completion is trained
    prompt                                  TRL: a conversation without its answer, for reinforcement learning
    conversations [, system, tools]         ShareGPT: from and value, with function_call and observation (LLaMA-Factory)
    instruction, input, output or response  alpaca [, system, history]
    instruction, instances                  self-instruct's seed tasks: a conversation for each instance
    question, answer                        GSM8K: its calculator's annotations become calls and results

Functions raise DataError with what is wrong in the row; who reads the file adds where.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal  # Any: rows of JSON

from bloomery.core.calculator import CALCULATOR, calculator_call
from bloomery.core.errors import DataError

Calculator = Literal["turns", "remove"]
"""What becomes of `<<48/2=24>>` in an answer: a call and its result, or nothing."""

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bing"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
    "system": "system",
    "function_call": "function_call",
}
_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_FINAL = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")


def to_conversations(row: Mapping[str, Any], *, calculator: Calculator = "turns") -> list[dict[str, Any]]:
    """The conversations of a row, one but for tasks of several instances. Raises DataError for a row of no known format.

    >>> to_conversations({"instruction": "Say hello.", "input": "", "output": "Hello!"})[0]["messages"]
    [{'role': 'user', 'content': 'Say hello.'}, {'role': 'assistant', 'content': 'Hello!'}]
    """
    has = {name for name, value in row.items() if value is not None}
    for columns, read in _FORMATS:
        if columns <= has:
            return [_finish(made) for made in read(row)]
    if {"question", "answer"} <= has:
        return [_finish(_read_question(row, calculator))]
    if "chosen" in has:
        raise DataError("`chosen` and `rejected` are a preference pair, and no conversation to imitate: give it to the stage preference")
    if "text" in has:
        raise DataError("`text` is a document, and no conversation: tokenize it, and give it to the input `tokens`")
    raise DataError(
        f"found the columns {', '.join(sorted(map(str, row))) or 'none'}; expected messages, prompt (and completion), conversations, "
        "instruction with output, response or instances, or question with answer"
    )


def clean_message(message: Any, number: int) -> Any:
    """A message without empty keys, its content one text; what is no message is left for `find_problem` to name."""
    if not isinstance(message, Mapping):
        return message
    found = {key: value for key, value in message.items() if value is not None}
    content = found.get("content", "" if found.get("tool_calls") else None)
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _join_parts(content, number)
    found["content"] = content
    if found.get("role") == "developer":
        found["role"] = "system"
    if found.get("tool_calls"):
        found["tool_calls"] = [_clean_call(call) for call in _as_list(found["tool_calls"])]
    else:
        found.pop("tool_calls", None)
    for name in ("loss", "truncated"):
        if not isinstance(found.get(name, False), bool):
            raise DataError(f"message {number}: `{name}` must be true or false, found {found[name]!r:.80}")
    if found.pop("weight", 1) in (0, False):
        found["loss"] = False
    return found


def _finish(row: dict[str, Any]) -> dict[str, Any]:
    messages = row["messages"]
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        messages = [clean_message(message, i) for i, message in enumerate(messages)]
    tools = row.pop("tools", None)
    if tools not in (None, "", []):
        row["tools"] = _read_tools(tools)
    cut = row.get("truncated") is True or "length" in (row.get("finish_reason"), row.get("finish"))
    if cut and isinstance(messages, list) and messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        messages[-1]["truncated"] = True
    return {**row, "messages": messages}


def _read_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(row)]


def _read_completion(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(row.get("label"), bool):
        raise DataError("`label` says that some answers are not to be imitated: give these rows to the stage preference")
    prompt, completion = _as_messages(row["prompt"], "user", "prompt"), _as_messages(row["completion"], "assistant", "completion")
    given = [{**message, "loss": False} if message.get("role") == "assistant" else message for message in prompt]
    return [{**_rest(row, "prompt", "completion"), "messages": [*given, *completion]}]


def _read_prompt(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "chosen" in row or "completions" in row:
        raise DataError("a prompt with several answers is a preference, and no conversation to imitate: give it to the stage preference")
    return [{**_rest(row, "prompt"), "messages": _as_messages(row["prompt"], "user", "prompt")}]


def _read_sharegpt(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns = row["conversations"]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"`conversations` must be a list of turns, found {turns!r:.80}")
    system = row.get("system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping) and "role" in turn and "content" in turn:
            messages.append(dict(turn))
            continue
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            raise DataError(f"turn {i} needs `from` and a `value` string, found {turn!r:.80}")
        role = _SPEAKERS.get(str(turn.get("from")))
        if role is None:
            raise DataError(f"turn {i} is from {turn.get('from')!r}; expected one of {', '.join(_SPEAKERS)}")
        extra = {key: turn[key] for key in ("loss", "weight") if turn.get(key) is not None}
        if role == "function_call":
            messages.append({"role": "assistant", "content": "", "tool_calls": _as_list(_parse(turn["value"], f"turn {i}")), **extra})
        else:
            messages.append({"role": role, "content": turn["value"], **extra})
    return [{**_rest(row, "conversations", "system"), "messages": messages}]


def _read_alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = row["output"] if row.get("output") is not None else row["response"]
    system = row.get("system")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise DataError(f"`history` must be a list of [question, answer], found {history!r:.80}")
    for pair in history:
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    messages += [{"role": "user", "content": _instruct(row["instruction"], row.get("input"))}, {"role": "assistant", "content": answer}]
    return [{**_rest(row, "instruction", "input", "output", "response", "system", "history"), "messages": messages}]


def _read_tasks(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    instances = row["instances"]
    is_list = isinstance(instances, Sequence) and not isinstance(instances, str)
    if not is_list or not all(isinstance(instance, Mapping) and "output" in instance for instance in instances):
        raise DataError(f"`instances` must be a list of objects with input and output, found {instances!r:.80}")
    rest = _rest(row, "instruction", "instances")
    return [
        {
            **rest,
            "messages": [
                {"role": "user", "content": _instruct(row["instruction"], instance.get("input"))},
                {"role": "assistant", "content": instance["output"]},
            ],
        }
        for instance in instances
    ]


def _read_question(row: Mapping[str, Any], calculator: Calculator) -> dict[str, Any]:
    question, answer = row["question"], row["answer"]
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DataError(f"`question` and `answer` must be texts, found {question!r:.60} and {answer!r:.60}")
    made: dict[str, Any] = _rest(row, "question", "answer")
    if final := _FINAL.search(answer):
        made["answer"] = final[1].replace(",", "")
    said: list[dict[str, Any]] = [{"role": "assistant", "content": answer}]
    if _ANNOTATION.search(answer):
        if calculator == "turns":
            said = _call_calculator(answer)
            made["tools"] = [CALCULATOR]
        else:
            said = [{"role": "assistant", "content": _ANNOTATION.sub("", answer)}]
    return {**made, "messages": [{"role": "user", "content": question}, *said]}


def _call_calculator(answer: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    at = 0
    for found in _ANNOTATION.finditer(answer):
        called = [calculator_call(found[1].strip())]
        messages.append({"role": "assistant", "content": answer[at : found.start()], "tool_calls": called})
        messages.append({"role": "tool", "content": found[2].strip()})
        at = found.end()
    return [*messages, {"role": "assistant", "content": answer[at:]}]


_FORMATS: tuple[tuple[set[str], Callable[[Mapping[str, Any]], list[dict[str, Any]]]], ...] = (
    ({"messages"}, _read_messages),
    ({"prompt", "completion"}, _read_completion),
    ({"conversations"}, _read_sharegpt),
    ({"instruction", "instances"}, _read_tasks),
    ({"instruction", "output"}, _read_alpaca),
    ({"instruction", "response"}, _read_alpaca),
    ({"prompt"}, _read_prompt),
)


def _as_messages(value: Any, role: str, column: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence) or not value or not all(isinstance(message, Mapping) for message in value):
        raise DataError(f"`{column}` must be a text or a list of messages, found {value!r:.80}")
    return [dict(message) for message in value]


def _instruct(instruction: Any, given: Any) -> Any:
    if given is not None and not isinstance(given, str):
        raise DataError(f"`input` must be a text, found {given!r:.80}")
    return f"{instruction}\n\n{given}" if given and isinstance(instruction, str) else instruction


def _read_tools(value: Any) -> list[Any]:
    tools = _parse(value, "`tools`") if isinstance(value, str) else value
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"`tools` must be a list of JSON schemas of functions, found {tools!r:.80}")
    return list(tools)


def _clean_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    called = call.get("function") or call
    if not isinstance(called, Mapping):
        return dict(call)
    function = {key: value for key, value in called.items() if key in ("name", "arguments")}
    if isinstance(function.get("arguments"), str):
        try:
            parsed = json.loads(function["arguments"])
        except ValueError:
            parsed = None
        # Text that is no object stays text: a model may have written it.
        function["arguments"] = parsed if isinstance(parsed, dict) else function["arguments"]
    elif function.get("arguments") is None:
        function["arguments"] = {}
    return {"type": "function", "function": function}


def _join_parts(parts: Sequence[Any], number: int) -> str:
    if not all(isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise DataError(f"message {number} has parts that are no text: {parts!r:.80}")
    return "".join(part["text"] for part in parts)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {text!r:.80}") from error


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _rest(row: Mapping[str, Any], *used: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used and value is not None}
