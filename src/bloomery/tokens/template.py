"""The chat template of somebody else's checkpoint: messages and tools to token ids, as `transformers` renders them.

A template is a program that a stranger wrote, so it runs in Jinja's sandbox, and what it makes is cut into special
tokens and text here. Text is data: a message that spells out `<|im_end|>` is shielded while the template runs and comes
out as those characters, which is the one difference from `transformers`. Checkpoints of our own need none of this: their
conversations are rendered by `tokens/chat.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn  # Any: the values of JSON documents and of a template

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.tokens.tokenizer import Tokenizer

MAX_PROMPT_CHARACTERS = 8_000_000
"""Of what a template makes; a loop that a hostile one hides would fill the memory."""

_SHIELD = re.compile("\ue000([0-9]+)\ue001")


class ChatTemplate:
    """A loaded template; make one with `load_chat_template`."""

    def __init__(self, tokenizer: Tokenizer, source: str, variables: Mapping[str, str], added: Sequence[Mapping[str, Any]]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda pattern: datetime.now().strftime(pattern)}
        self._template = environment.from_string(source)
        self._tokenizer, self._variables = tokenizer, variables
        self._added = {str(token["content"]): token for token in added}
        # The longest first: "<|end|>" must not be found inside of "<|end|>x".
        names = sorted(self._added, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")
        self._shielded = re.compile("|".join(map(re.escape, ["\ue000", *names])))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids of `messages`, of OpenAI's shape (`role`, `content`, `tool_calls`). Raises DataError with the template's complaint."""
        hidden: list[str] = []
        text = self._render_text(self._shield(list(messages), hidden), self._shield(tools, hidden), add_generation_prompt)
        ids: list[int] = []
        strip_next = False
        at = 0
        for match in [*self._marks.finditer(text), None]:
            piece = text[at : match.start() if match else len(text)]
            mark = self._added[match[0]] if match else {}
            piece = piece.lstrip() if strip_next else piece
            piece = piece.rstrip() if mark.get("lstrip") else piece
            ids += self._tokenizer.encode(_SHIELD.sub(lambda found: hidden[int(found[1])], piece)) if piece else []
            if match:
                ids.append(int(mark["id"]))
                strip_next, at = bool(mark.get("rstrip")), match.end()
        return ids

    def _render_text(self, messages: Any, tools: Any, add_generation_prompt: bool) -> str:
        try:
            made: list[str] = []
            size = 0
            for piece in self._template.generate(
                messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **self._variables
            ):
                made.append(piece)
                size += len(piece)
                if size > MAX_PROMPT_CHARACTERS:
                    raise DataError(f"the model's chat template makes more than {MAX_PROMPT_CHARACTERS:,} characters of this conversation")
            return "".join(made)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, MemoryError) as error:
            raise DataError(f"the model's chat template refuses this conversation: {error}") from error

    def _shield(self, value: Any, hidden: list[str]) -> Any:
        if isinstance(value, str):
            return self._shielded.sub(lambda found: _hide(found[0], hidden), value)
        if isinstance(value, Mapping):
            return {key: self._shield(item, hidden) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._shield(item, hidden) for item in value]
        return value


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a checkpoint's folder (chat_template.jinja, else tokenizer_config.json), or None if it has none.

    Of several named ones it is "default". Raises DataError for a template that is no Jinja.
    """
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    source = config.get("chat_template")
    if isinstance(source, list):
        source = next((item.get("template") for item in source if item.get("name") == "default"), None)
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None
    variables = {key: _content(config[key]) for key in config if key.endswith("_token") and isinstance(config[key], str | dict)}
    try:
        return ChatTemplate(tokenizer, source, variables, read_json(folder / "tokenizer.json").get("added_tokens", []))
    except jinja2.TemplateError as error:
        raise DataError(f"{folder}: its chat template is not one that can be read: {error}") from error


def _hide(text: str, hidden: list[str]) -> str:
    hidden.append(text)
    return f"\ue000{len(hidden) - 1}\ue001"


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content", ""))


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    # Jinja's own filter escapes for HTML, which a model was not trained on; transformers replaces it too.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}`, with which TRL marks what is trained: here its content as it is."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own attribute)

    def parse(self, parser: Parser) -> Node | list[Node]:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
