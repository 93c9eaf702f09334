"""The chat format: messages to token ids and a mask of what is trained, in code and as a Jinja template.

    <|bos|><|system|>content<|end|><|user|>content<|end|><|assistant|>content<|end|>

Every mark is one special id and nothing is added between them, so a rendered conversation is a prefix of the same
conversation with another turn. Loss is on what the assistant says AND on the `<|end|>` after it: a model that is never
trained on its end never stops (trl #1623, nanochat #810).
"""

from collections.abc import Sequence
from typing import NamedTuple

from bloomery.core.conversation import Message, find_problem
from bloomery.core.errors import DataError
from bloomery.tokens.tokenizer import Tokenizer

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""For `transformers`, TRL and vLLM; gives the ids that `render` gives. Text in a message that spells a special token is
the one difference: a template makes the special id of it, `render` keeps it text."""


class Rendered(NamedTuple):
    """A conversation as ids, and which of them the model is to learn to say."""

    ids: list[int]
    loss_mask: list[bool]


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Rendered:
    """`messages` as token ids. The mask is true on an assistant's content and its `<|end|>`, unless it has `loss: false`.

    With `add_generation_prompt` the ids end in `<|assistant|>`, ready for an answer. Raises DataError for a message
    without content or with a role of no known name.
    """
    problem = find_problem(list(messages))
    if problem:
        raise DataError(f"a conversation cannot be rendered: {problem}")
    unknown = [mark for role in ("system", "user", "assistant") if (mark := f"<|{role}|>") not in tokenizer.special_ids]
    if unknown:
        raise DataError(f"the tokenizer has no {', '.join(unknown)}: conversations are rendered with those that train_tokenizer makes")
    ids, loss_mask = list(tokenizer.begin), [False] * len(tokenizer.begin)
    for message in messages:
        content = [*tokenizer.encode(message["content"]), tokenizer.end_id]
        trained = message["role"] == "assistant" and message.get("loss", True)
        ids += [tokenizer.special_ids[f"<|{message['role']}|>"], *content]
        loss_mask += [False, *[trained] * len(content)]
    if add_generation_prompt:
        ids.append(tokenizer.special_ids["<|assistant|>"])
        loss_mask.append(False)
    return Rendered(ids, loss_mask)
