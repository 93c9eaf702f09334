"""What a server needs to know of a checkpoint beside its weights: how a conversation becomes a prompt, and ids become text.

A checkpoint of our own is spoken to in our chat format; another in the form of its own chat template; one that has neither
(a base model of others) only completes text.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any  # Any: JSON as OpenAI's API has it

from bloomery.chat.tool_calls import call_beginning, tell_tools
from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.tokens.chat import render
from bloomery.tokens.template import ChatTemplate, load_chat_template
from bloomery.tokens.tokenizer import CHAT_TOKENS, TOOL_TOKENS, Tokenizer


class Voice:
    """The tokenizer and chat format of a checkpoint; make one with `load_voice`.

    As a tokenizer for an Engine it differs from a Tokenizer in one thing: added tokens that are not special, such as Qwen's
    `<tool_call>`, are text, and so is our `<|tool_call|>`: who looks for calls finds them in the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, *, visible: Iterable[int] = (), ends: Iterable[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.is_ours = all(token in tokenizer.special_ids for token in CHAT_TOKENS)
        self.marks_calls = self.is_ours and all(token in tokenizer.special_ids for token in TOOL_TOKENS)
        """Whether tools have tokens of their own in it."""
        self.stop_tokens = tuple(sorted(set(ends) - {tokenizer.end_id}))
        """Ids that end an answer beside the end token: of others, some name several."""
        self._hidden = set(tokenizer.special_ids.values()) - set(visible)
        self.without_calls = self
        """As a vocabulary for answers in which no tool may be called: in their text our mark of a call is not seen."""
        if self.marks_calls:
            self.without_calls = copy.copy(self)
            self._hidden = self._hidden - {tokenizer.special_ids[TOOL_TOKENS[0]]}

    @property
    def vocab_size(self) -> int:
        """Its ids are 0 to vocab_size - 1."""
        return self.tokenizer.vocab_size

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return self.tokenizer.end_id

    @property
    def pad_id(self) -> int:
        """An id to fill up with."""
        return self.tokenizer.pad_id

    @property
    def can_converse(self) -> bool:
        """Whether there is a chat format."""
        return self.is_ours or self.template is not None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special ids have none."""
        return self.tokenizer.decode_bytes((i for i in ids if i not in self._hidden), skip_special=False)

    def name_token(self, token: int) -> str:
        """How a token is called in a list of log-probabilities: its text, a special one's name, too."""
        return self.tokenizer.decode([token], skip_special=False)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt that asks for the next answer. Raises DataError for a conversation that the format has no form for."""
        if self.marks_calls:
            return render(self.tokenizer, _plain(messages), tools=tools, add_generation_prompt=True).ids
        if self.is_ours:
            return render(self.tokenizer, tell_tools(messages, tools), add_generation_prompt=True).ids
        if self.template is None:
            raise DataError("this model has no chat template: it completes text and was not taught to converse. Use /v1/completions.")
        return self.template.render(messages, tools=list(tools) or None, add_generation_prompt=True)

    def begin_call(self, name: str | None) -> tuple[str, list[int]]:
        """What an answer begins with that must be a call of `name` (None: of any function), as text and as ids."""
        text = call_beginning(name, marked=self.marks_calls)
        if not self.marks_calls:
            return text, self.tokenizer.encode(text)
        return text, [self.tokenizer.special_ids[TOOL_TOKENS[0]], *self.tokenizer.encode(text.removeprefix(TOOL_TOKENS[0]))]

    def encode_text(self, text: str) -> list[int]:
        """A text to complete."""
        return [*self.tokenizer.begin, *self.tokenizer.encode(text)]


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    # What clients send beside these (ids, names) is not rendered.
    kept = ("role", "content", "tool_calls")
    return [{key: message[key] for key in kept if message.get(key) is not None} for message in messages]  # type: ignore[misc]  # keys of a Message


def load_voice(folder: Path, tokenizer: Tokenizer) -> Voice:
    """The voice of a checkpoint's folder. Raises DataError for a chat template that cannot be read."""
    added = read_json(folder / "tokenizer.json").get("added_tokens", [])
    visible = [int(token["id"]) for token in added if not token.get("special", True)]
    ends: list[int] = []
    for name in ("config.json", "generation_config.json"):
        found = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        ends += [i for i in (found if isinstance(found, list) else [found]) if isinstance(i, int) and 0 <= i < tokenizer.vocab_size]
    return Voice(tokenizer, load_chat_template(folder, tokenizer), visible=visible, ends=ends)
