"""Tools in a conversation: how they are told to a model, and its calls found in what it writes.

A model of our own calls as our chat format has it (tokens/chat.py): `<|tool_call|>{"name": ..., "arguments": {...}}`, the mark
being one special token. Where a tokenizer has no such token the form is that of Hermes and Qwen, which needs none: tools
stand as JSON in the system message, a call is `<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>` in the
assistant's text, and a result is `<tool_response>\\n...\\n</tool_response>` in a user's turn. Models that were trained on
another form say so in their own chat template (tokens/template.py); of their calls a bare JSON object with `name` and
`parameters` (Llama 3) is understood, too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple  # Any: JSON as OpenAI's API has it

from bloomery.core.conversation import Message
from bloomery.tokens.tokenizer import TOOL_TOKENS

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARK = TOOL_TOKENS[0]

_INSTRUCTIONS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{signatures}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)


class ToolCall(NamedTuple):
    """A call that a model made. `arguments` is the text of a JSON object, as the model wrote it."""

    name: str
    arguments: str


class Found(NamedTuple):
    """What a piece of an answer turned out to be: text to show, or a call."""

    text: str = ""
    call: ToolCall | None = None


def tell_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's messages and tools as plain turns of system, user and assistant, for tokenizers of ours without tokens for tools.

    >>> tell_tools([{"role": "tool", "content": "21 C"}], [])
    [{'role': 'user', 'content': '<tool_response>\\n21 C\\n</tool_response>'}]
    """
    plain: list[Message] = []
    results_open = False
    for message in messages:
        role, content = str(message["role"]), message.get("content") or ""
        if role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if results_open:
                plain[-1]["content"] += f"\n{result}"
            else:
                plain.append({"role": "user", "content": result})
        else:
            calls = [write_call(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
            plain.append({"role": role, "content": "\n".join([*([content] if content or not calls else []), *calls])})
        results_open = role == "tool"
    if tools:
        signatures = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
        instructions = _INSTRUCTIONS.format(signatures=signatures)
        if plain and plain[0]["role"] == "system":
            plain[0] = {"role": "system", "content": f"{plain[0]['content']}\n\n{instructions}"}
        else:
            plain.insert(0, {"role": "system", "content": instructions})
    return plain


def write_call(name: str, arguments: str) -> str:
    """A call as a model writes it."""
    return f'{OPEN}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}\n{CLOSE}'


def call_beginning(name: str | None, *, marked: bool = False) -> str:
    """What an answer begins with that must be a call: of the function `name`, or of any. `marked`: in our own format."""
    start = MARK if marked else f"{OPEN}\n"
    return start if name is None else f'{start}{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


class CallFinder:
    """Takes an answer in pieces and gives text and calls as they are sure; text that may begin a call waits.

    `beginning` is what the answer was made to start with (see `call_beginning`); `name` is the function that it must call.
    What looks like a call but is none is text, unless the call was asked for: then it is one, with arguments as they stand.
    """

    def __init__(self, *, beginning: str = "", name: str | None = None) -> None:
        self._text = beginning
        self._forced = name
        self._started = bool(beginning)
        self._after_call = False

    def add(self, piece: str) -> list[Found]:
        """What became sure with this piece."""
        self._text = self._text + piece if not self._after_call else (self._text + piece).lstrip("\n")
        self._after_call = self._after_call and not self._text
        found: list[Found] = []
        while True:
            # An answer that is one JSON object is a call of Llama 3's form: nothing can be said before its end.
            if not self._started and self._text.lstrip()[:1] in ("{", ""):
                return found
            self._started = True
            starts = [start for mark in (OPEN, MARK) if (start := self._text.find(mark)) >= 0]
            if not starts:
                sure = len(self._text) - max(_overlap(self._text, OPEN), _overlap(self._text, MARK))
                found += [Found(text=self._text[:sure])] if sure else []
                self._text = self._text[sure:]
                return found
            if start := min(starts):
                found.append(Found(text=self._text[:start]))
                self._text = self._text[start:]
                continue
            # A call of our own ends where the next one begins, or with the answer.
            opening, closing = (MARK, MARK) if self._text.startswith(MARK) else (OPEN, CLOSE)
            end = self._text.find(closing, len(opening))
            if end < 0:
                return found
            after = end if closing == MARK else end + len(CLOSE)
            found.append(self._read(self._text[:after], self._text[len(opening) : end]))
            self._text = self._text[after:].lstrip("\n")
            self._after_call = not self._text

    def end(self) -> list[Found]:
        """What is left when the answer has ended."""
        text, self._text = self._text, ""
        if not text:
            return []
        for opening in (OPEN, MARK):
            if text.startswith(opening):
                return [self._read(text, text[len(opening) :])]
        call = read_call(text) if text.lstrip().startswith("{") else None
        return [Found(call=call)] if call else [Found(text=text)]

    def _read(self, whole: str, body: str) -> Found:
        call = read_call(body)
        if call is None and self._forced is not None:
            arguments = body.strip().removeprefix(call_beginning(self._forced, marked=True).removeprefix(MARK).strip()).strip()
            call = ToolCall(self._forced, arguments.removesuffix("}").strip() or "{}")
        self._forced = None
        return Found(call=call) if call else Found(text=whole)


def read_call(text: str) -> ToolCall | None:
    """The call that a JSON object says, or None if it is none.

    >>> read_call('{"name": "add", "arguments": {"a": 1}}')
    ToolCall(name='add', arguments='{"a": 1}')
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        return ToolCall(value["name"], arguments)
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def valid_name(name: str) -> bool:
    """Whether OpenAI's API allows a function of this name."""
    return re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) is not None


def _overlap(text: str, mark: str) -> int:
    """How much of the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
