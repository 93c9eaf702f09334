"""The chat format: messages to token ids and a mask of what is trained, in code and as a Jinja template.

    <|bos|><|system|>content<|end|><|user|>content<|end|><|assistant|>content<|end|>
    ...<|assistant|>content<|tool_call|>{"name": "add", "arguments": {"a": 1}}<|end|><|tool_result|>3<|end|><|assistant|>...

Every mark is one special id and nothing is added between them, so a rendered conversation is a prefix of the same
conversation with another turn. Loss is on what the assistant says, its calls included, AND on the `<|end|>` after it: a
model that is never trained on its end never stops (trl #1623, nanochat #810). What a tool answers is never trained.
Tools stand at the end of the system message, one JSON schema a line.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple  # Any: JSON schemas of tools

from bloomery.core.conversation import Message, ToolCall, find_problem
from bloomery.core.errors import DataError
from bloomery.tokens.tokenizer import TOOL_TOKENS, Tokenizer

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- if tools -%}"
    "{{- '<|system|>' -}}"
    "{%- if messages[0]['role'] == 'system' -%}{{- messages[0]['content'] + '\\n\\n' -}}{%- endif -%}"
    "{{- '# Tools' -}}"
    "{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}"
    "{{- '<|end|>' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- generation -%}"
    "{{- message['content'] or '' -}}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set function = call['function'] or call -%}"
    "{{- '<|tool_call|>{\"name\": ' + (function['name'] | tojson) + ', \"arguments\": ' -}}"
    "{%- if function['arguments'] is string -%}{{- function['arguments'] -}}{%- else -%}{{- function['arguments'] | tojson -}}{%- endif -%}"
    "{{- '}' -}}"
    "{%- endfor -%}"
    "{{- '<|end|>' -}}"
    "{%- endgeneration -%}"
    "{%- elif message['role'] == 'tool' -%}"
    "{{- '<|tool_result|>' + message['content'] + '<|end|>' -}}"
    "{%- elif message['role'] != 'system' or not tools or not loop.first -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""For `transformers`, TRL and vLLM; gives the ids that `render` gives. Text in a message that spells a special token is
the one difference: a template makes the special id of it, `render` keeps it text."""

_MARKS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": TOOL_TOKENS[1]}


class Rendered(NamedTuple):
    """A conversation as ids, and which of them the model is to learn to say."""

    ids: list[int]
    loss_mask: list[bool]


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = False,
) -> Rendered:
    """`messages` as token ids. The mask is true on what an assistant says and its `<|end|>`, unless it has `loss: false`.

    An assistant's message with `truncated: true` has no `<|end|>`: where an answer was cut off, nothing is learnt of ending
    one. With `add_generation_prompt` the ids end in `<|assistant|>`, ready for an answer. Raises DataError for a message
    without content or with a role of no known name, and for one that the tokenizer has no mark for.
    """
    problem = find_problem(list(messages))
    if problem:
        raise DataError(f"a conversation cannot be rendered: {problem}")
    _check_marks(tokenizer, messages)
    told: list[Message] = [*messages]
    if tools:
        system = told.pop(0)["content"] + "\n\n" if messages[0]["role"] == "system" else ""
        told.insert(0, {"role": "system", "content": system + tell_tools(tools)})
    ids, loss_mask = list(tokenizer.begin), [False] * len(tokenizer.begin)
    for message in told:
        said = _encode_message(tokenizer, message)
        trained = message["role"] == "assistant" and message.get("loss") is not False
        ids += [tokenizer.special_ids[_MARKS[message["role"]]], *said]
        loss_mask += [False, *[trained] * len(said)]
    if add_generation_prompt:
        ids.append(tokenizer.special_ids["<|assistant|>"])
        loss_mask.append(False)
    return Rendered(ids, loss_mask)


def tell_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of the tools that may be called."""
    return "\n".join(["# Tools", *(json.dumps(tool, ensure_ascii=False) for tool in tools)])


def write_call(call: ToolCall | Mapping[str, Any]) -> str:
    """What stands after `<|tool_call|>`.

    >>> write_call({"type": "function", "function": {"name": "add", "arguments": {"a": 1}}})
    '{"name": "add", "arguments": {"a": 1}}'
    """
    function: Mapping[str, Any] = call.get("function") or call
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {written}}}'


def _encode_message(tokenizer: Tokenizer, message: Message) -> list[int]:
    ids = tokenizer.encode(message.get("content") or "")
    for call in message.get("tool_calls") or ():
        ids += [tokenizer.special_ids[TOOL_TOKENS[0]], *tokenizer.encode(write_call(call))]
    return ids if message.get("truncated") and message["role"] == "assistant" else [*ids, tokenizer.end_id]


def _check_marks(tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
    unknown = [mark for role in ("system", "user", "assistant") if (mark := _MARKS[role]) not in tokenizer.special_ids]
    if unknown:
        raise DataError(f"the tokenizer has no {', '.join(unknown)}: conversations are rendered with those that train_tokenizer makes")
    if TOOL_TOKENS[0] not in tokenizer.special_ids and any(m["role"] == "tool" or m.get("tool_calls") for m in messages):
        raise DataError(
            f"the tokenizer has no {' and no '.join(TOOL_TOKENS)}: it was made before there were tool calls. "
            "Leave out the conversations with tools, or train a tokenizer and the model anew"
        )
