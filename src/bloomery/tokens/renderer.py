"""How a checkpoint's conversations become ids: our own chat format for our tokenizers, its own template for others'."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol  # Any: JSON schemas of tools

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.tokens.chat import Rendered, render
from bloomery.tokens.template import load_chat_template
from bloomery.tokens.tokenizer import CHAT_TOKENS, Tokenizer


class Renderer(Protocol):
    """`chat.render` of one tokenizer, or what does the same by a template."""

    def __call__(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), add_generation_prompt: bool = False
    ) -> Rendered:
        """Ids and loss mask. Raises DataError for a conversation that there is no form for."""
        ...


def load_renderer(folder: Path, tokenizer: Tokenizer) -> Renderer:
    """The renderer of a checkpoint's folder. Raises DataError where it has no chat format."""
    if all(token in tokenizer.special_ids for token in CHAT_TOKENS):
        return functools.partial(render, tokenizer)
    template = load_chat_template(folder, tokenizer)
    if template is None:
        raise DataError(
            f"{folder}: has no chat template, so there is no form for a conversation. Put a chat_template.jinja into it, one with "
            "{% generation %} and {% endgeneration %} around what an assistant says"
        )
    return template.render_trained


class WholeRenderer(Protocol):
    """Ids of a conversation that is read, and not learnt to be said."""

    def __call__(self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Raises DataError for a conversation that there is no form for."""
        ...


def load_whole_renderer(folder: Path, tokenizer: Tokenizer) -> WholeRenderer:
    """How a reward model's folder writes a whole conversation: `load_renderer` without a mask, so that any template will do."""
    if all(token in tokenizer.special_ids for token in CHAT_TOKENS):
        return lambda messages, *, tools=(): render(tokenizer, messages, tools=tools).ids
    template = load_chat_template(folder, tokenizer)
    if template is None:
        raise DataError(f"{folder}: has no chat template, so there is no form for a conversation. Put a chat_template.jinja into it")
    return lambda messages, *, tools=(): template.render(list(messages), tools=list(tools) or None)


def load_prompt_renderer(folder: Path, tokenizer: Tokenizer) -> WholeRenderer:
    """How a conversation becomes a prompt for its next answer: `load_renderer` where nothing is trained, so that any template will do."""
    if all(token in tokenizer.special_ids for token in CHAT_TOKENS):
        return lambda messages, *, tools=(): render(tokenizer, messages, tools=tools, add_generation_prompt=True).ids
    template = load_chat_template(folder, tokenizer)
    if template is None:
        raise DataError(f"{folder}: this model has no chat template: it was not taught to converse")
    return lambda messages, *, tools=(): template.render(list(messages), tools=list(tools) or None, add_generation_prompt=True)
