"""The chat template of somebody else's checkpoint: messages and tools to token ids, as `transformers` renders them.

A template is a program that a stranger wrote, so it runs in Jinja's sandbox, and what it makes is cut into special
tokens and text here. Text is data: a message that spells out `<|im_end|>` is shielded while the template runs and comes
out as those characters, which is the one difference from `transformers`. Checkpoints of our own need none of this: their
conversations are rendered by `tokens/chat.py`.

What a template's answers are, for training, is said by `{% generation %}` where it has that. Else it is what a message adds to
the prompt before it, up to its last special token; a template that renders a message in another way when others follow
(Qwen3's) has no such difference, and is refused (trl #6105, #5213).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn  # Any: the values of JSON documents and of a template

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bloomery.core.conversation import Message, find_problem
from bloomery.core.errors import DataError
from bloomery.core.files import read_json
from bloomery.tokens.chat import Rendered
from bloomery.tokens.tokenizer import Tokenizer

MAX_PROMPT_CHARACTERS = 8_000_000
"""Of what a template makes; a loop that a hostile one hides would fill the memory."""

_SHIELD = re.compile("\ue000([0-9]+)\ue001")
_SPAN = re.compile("([\ue002\ue003])")
"""Where `{% generation %}` begins and ends."""


class _Piece(NamedTuple):
    """Text between two special tokens, and the characters in it where what is learnt begins and ends."""

    text: str
    begins: list[int]
    ends: list[int]

    def strip(self, *, left: bool, right: bool) -> "_Piece":
        text = self.text.lstrip() if left else self.text
        shift = len(self.text) - len(text)
        text = text.rstrip() if right else text
        begins, ends = ([min(max(place - shift, 0), len(text)) for place in places] for places in (self.begins, self.ends))
        return _Piece(text, begins, ends)


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
        self.marks_answers = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        """Whether it says which part of a conversation is to be learnt."""
        self._marks = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")
        self._shielded = re.compile("|".join(map(re.escape, ["\ue000", "\ue002", "\ue003", *names])))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids of `messages`, of OpenAI's shape (`role`, `content`, `tool_calls`). Raises DataError with the template's complaint."""
        return self._render_marked(messages, tools=tools, add_generation_prompt=add_generation_prompt)[0]

    def render_trained(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), add_generation_prompt: bool = False
    ) -> Rendered:
        """The ids and the loss mask of `messages`, as `chat.render` gives them: without answers of `loss: false`, and of a last
        answer that is `truncated` only up to its end. Raises DataError where the template does not tell what its answers are.
        """
        if problem := find_problem(list(messages)):
            raise DataError(f"a conversation cannot be rendered: {problem}")
        said = [{key: value for key, value in message.items() if key not in ("loss", "truncated")} for message in messages]
        ids, spans = self._render_marked(said, tools=tools or None, add_generation_prompt=add_generation_prompt)
        if not self.marks_answers:
            spans = self._find_answers(said, ids, tools or None)
        turns = [message for message in messages if message["role"] == "assistant"]
        if len(spans) != len(turns):
            if any(message.get("loss") is False or message.get("truncated") for message in turns):
                raise DataError(
                    f"the model's chat template marks {len(spans)} answers of {len(turns)}: which is not to be learnt cannot be told"
                )
            turns = []
        mask = [False] * len(ids)
        for i, (first, end) in enumerate(spans):
            if not turns or turns[i].get("loss") is not False:
                mask[first:end] = [True] * (end - first)
        if turns and turns[-1].get("truncated") and messages[-1] is turns[-1] and not add_generation_prompt:
            first, end = spans[-1]
            kept = self._last_special(ids, first, end)
            ids, mask = ids[:kept], mask[:kept]
        return Rendered(ids, mask)

    def _find_answers(self, messages: Sequence[Mapping[str, Any]], whole: list[int], tools: Any) -> list[tuple[int, int]]:
        """The places of each answer's ids: what it adds to the prompt before it, up to its last special token."""
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[:i], tools=tools, add_generation_prompt=True) if i else whole[:0]
            ids = self.render(messages[: i + 1], tools=tools)
            if whole[: len(ids)] != ids or ids[: len(prompt)] != prompt:
                raise DataError(
                    f"the model's chat template renders message {i} in one way as the last one and in another when others follow, so that "
                    "which tokens are an answer cannot be told. Put a chat_template.jinja with {% generation %} and {% endgeneration %} "
                    "around what an assistant says into the checkpoint's folder, or train on conversations of one answer each"
                )
            last = self._last_special(ids, len(prompt), len(ids))
            spans.append((len(prompt), last + 1 if last < len(ids) else last))
        return spans

    def _last_special(self, ids: Sequence[int], first: int, end: int) -> int:
        special = {int(token["id"]) for token in self._added.values()}
        return next((i for i in range(end - 1, first - 1, -1) if ids[i] in special), end)

    def _render_marked(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and the places first .. end of those that came from between `{% generation %}` and its end."""
        hidden: list[str] = []
        text = self._render_text(self._shield(list(messages), hidden), self._shield(tools, hidden), add_generation_prompt)
        ids: list[int] = []
        begins: list[int] = []
        ends: list[int] = []
        strip_next = False
        at = 0
        for match in [*self._marks.finditer(text), None]:
            mark = self._added[match[0]] if match else {}
            piece = _read_piece(text[at : match.start() if match else len(text)], hidden)
            piece = piece.strip(left=strip_next, right=bool(mark.get("lstrip")))
            if piece.begins or piece.ends:
                placed = self._tokenizer.encode_with_places(piece.text)
                # A token that lies half inside counts as inside, as in `transformers`.
                begins += [len(ids) + sum(end <= cut for _, _, end in placed) for cut in piece.begins]
                ends += [len(ids) + sum(first < cut for _, first, _ in placed) for cut in piece.ends]
                ids += [token for token, _, _ in placed]
            elif piece.text:
                ids += self._tokenizer.encode(piece.text)
            if match:
                ids.append(int(mark["id"]))
                strip_next, at = bool(mark.get("rstrip")), match.end()
        return ids, list(zip(begins, ends, strict=True))

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


def _read_piece(marked: str, hidden: Sequence[str]) -> _Piece:
    text = ""
    places: dict[str, list[int]] = {"": [], "": []}
    for part in _SPAN.split(marked):
        if part in places:
            places[part].append(len(text))
        else:
            text += _SHIELD.sub(lambda found: hidden[int(found[1])], part)
    return _Piece(text, places[""], places[""])


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
    """`{% generation %}`, which marks what is to be learnt: its content, between two characters that no text has."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own attribute)

    def parse(self, parser: Parser) -> Node | list[Node]:
        """The statements between the tags, with marks around them."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in "")
        return [begin, *body, end]
