"""What the chat page may ask, checked, and the prompt that comes of it."""

from typing import Annotated, Any, Literal, NamedTuple  # Any: messages in OpenAI's shape

from pydantic import Field, StringConstraints, model_validator

from bloomery.chat.refusal import Refusal
from bloomery.chat.voice import Voice
from bloomery.core.conversation import find_problem
from bloomery.web.http import Body, in_thread
from bloomery.web.models import ModelEntry, ModelHost, conversation_prompt
from bloomery.web.sampling import Sampling

MAX_CHARACTERS = 200_000
"""Of one message, or of a text to complete."""
MAX_TOTAL_CHARACTERS = 400_000
MAX_MESSAGES = 400
MAX_TOP = 10
MAX_SEED = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


class Turn(Body):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class PromptBody(Body):
    """What a model is asked: a conversation to answer or a text to continue."""

    model: Id
    messages: list[Turn] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    text: Text | None = None
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _check(self) -> "PromptBody":
        if (self.messages is None) == (self.text is None):
            raise ValueError("give `messages` to answer, or `text` to continue")
        if self.messages is not None:
            if problem := find_problem(self.plain_messages()):
                raise ValueError(f"messages: {problem}")
            if self.messages[-1].role not in ("user", "tool"):
                raise ValueError("messages: the last must be the user's or a tool's: it is what gets an answer")
            if sum(len(turn.content) for turn in self.messages) > MAX_TOTAL_CHARACTERS:
                raise ValueError(f"messages: more than {MAX_TOTAL_CHARACTERS:,} characters in all")
        return self

    def plain_messages(self) -> list[dict[str, Any]]:
        """The conversation as dictionaries."""
        return [turn.model_dump() for turn in self.messages or []]


class AnswerBody(PromptBody):
    """An answer that is wanted."""

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    top: int = Field(default=0, ge=0, le=MAX_TOP)
    """The likeliest tokens that are told of each place."""
    forced: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=8192)
    """Tokens that the answer begins with: the part of another answer that is kept, and the alternative that was chosen."""


class Asked(NamedTuple):
    """A checked request."""

    entry: ModelEntry
    voice: Voice
    ids: list[int]
    """The prompt, without what is forced."""
    forgotten: int
    """Messages that are left out because the context is full."""


async def read_prompt(body: PromptBody, host: ModelHost) -> Asked:
    """The prompt of a request; cut into tokens in a thread, so that a long one holds up nobody.

    Raises Refusal: 404 for an unknown model, 400 and 422 with the name of the field that is wrong or too long.
    """
    entry = await in_thread(host.find, body.model)
    voice = await in_thread(host.voice, entry)
    return await in_thread(_prompt, body, entry, voice)


def _prompt(body: PromptBody, entry: ModelEntry, voice: Voice) -> Asked:
    forced = body.forced if isinstance(body, AnswerBody) else []
    ends = {voice.end_id, *voice.stop_tokens}
    for token in forced:
        if token >= voice.vocab_size or token in ends:
            raise Refusal(400, f"forced: {token} is not a token that an answer can go on after", code="invalid_value", param="forced")
    if body.messages is not None:
        found = conversation_prompt(
            voice, body.plain_messages(), context_tokens=entry.context_tokens, max_tokens=body.sampling.max_tokens + len(forced)
        )
        ids, forgotten, name = found.ids, found.forgotten, "messages"
    else:
        ids, forgotten, name = voice.encode_text(body.text or ""), 0, "text"
        if not ids:
            raise Refusal(400, "text: empty, and nothing begins a text of this model: write a first word", code="invalid_value", param=name)
    if len(ids) + len(forced) >= entry.context_tokens:
        message = f"{name}: {len(ids) + len(forced)} tokens; this model reads {entry.context_tokens} at once, its answer included"
        raise Refusal(422, message, code="context_length_exceeded", param=name)
    return Asked(entry, voice, ids, forgotten)
