"""What may be asked of the server: OpenAI's request bodies, checked, and what becomes of a wrong one.

A parameter that changes the answer and that we do not have is refused and never passed over; what changes nothing here
(`user`, `store`, `metadata`) is. `top_k`, `min_p` and `repetition_penalty` are the extensions that vLLM has, too.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar  # Any: JSON that a stranger sent

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bloomery.chat.refusal import Refusal
from bloomery.chat.tool_calls import valid_name
from bloomery.generate.sampling import SamplingParams

MAX_CHOICES = 32
MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1000


Stop = str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None


class _Request(BaseModel):
    # Unknown fields are let through: clients send many that mean nothing here. Those that would mean something are in UNSUPPORTED.
    model_config = ConfigDict(extra="ignore", strict=False, allow_inf_nan=False)

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: Stop = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: "StreamOptions | None" = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=256)
    return_token_ids: bool = False
    """Each choice carries `token_ids`, as vLLM's does."""
    return_tokens_as_token_ids: bool = False
    """Tokens in lists of log-probabilities are called "token_id:123", as vLLM's are."""


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class CompletionRequest(_Request):
    """The body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


class FunctionCall(BaseModel):
    """What an assistant called."""

    name: str
    arguments: str = "{}"


class Call(BaseModel):
    """A call in an assistant's message."""

    model_config = ConfigDict(extra="ignore")
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Part(BaseModel):
    """A piece of a message; of pictures and sounds these models know nothing."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn as OpenAI's API has it."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """The turn with its content as one string, as chat templates want it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        plain: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            plain["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return plain | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {}) | ({"name": self.name} if self.name else {})


class Function(BaseModel):
    """What a model may call."""

    model_config = ConfigDict(extra="ignore")
    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name in a tool_choice."""

    name: str


class NamedChoice(BaseModel):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(_Request):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None

    @property
    def active_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else [tool.model_dump() for tool in self.tools or []]


UNSUPPORTED: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "response_format": (None, {"type": "text"}),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "prompt_logprobs": (None,),
    "guided_json": (None,),
    "web_search_options": (None,),
}
"""Parameters that would change the answer, with the values that mean "not asked for"."""

R = TypeVar("R", ChatRequest, CompletionRequest)


def read_request(kind: type[R], body: bytes) -> R:
    """The request in a body. Raises Refusal (400) that names the parameter."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, found {type(value).__name__}", code="invalid_json")
    for name, harmless in UNSUPPORTED.items():
        if name in value and value[name] not in harmless:
            raise Refusal(
                400, f"{name} = {value[name]!r:.60} is not supported here: leave it out", code="unsupported_parameter", param=name
            )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{param}: {first['msg']}; found {first['input']!r:.80}", code="invalid_value", param=param) from error


def check_messages(request: ChatRequest) -> None:
    """Whether turns and tools go together. Raises Refusal (400)."""
    for i, message in enumerate(request.messages):
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise Refusal(400, f"messages.{i}: no content", code="invalid_value", param=f"messages.{i}.content")
        if message.tool_calls and message.role != "assistant":
            raise Refusal(400, f"messages.{i}: only an assistant has tool_calls", code="invalid_value", param=f"messages.{i}.tool_calls")
    names = [tool.function.name for tool in request.tools or []]
    for name in names:
        if not valid_name(name):
            raise Refusal(400, f"tools: {name!r:.80} is no name of a function", code="invalid_value", param="tools")
    choice = request.tool_choice
    if choice not in (None, "none", "auto") and not names:
        raise Refusal(400, "tool_choice asks for a call, but there are no tools", code="invalid_value", param="tool_choice")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        raise Refusal(400, f"tool_choice: none of the tools is {choice.function.name!r:.80}", code="invalid_value", param="tool_choice")


class Sampling(NamedTuple):
    """How the choices of a request are drawn."""

    params: SamplingParams
    wants_logprobs: bool


def read_sampling(
    request: ChatRequest | CompletionRequest, *, max_tokens: int, default_tokens: int, stop_tokens: Sequence[int]
) -> Sampling:
    """The params of a request. `max_tokens` is what the server allows an answer, `default_tokens` what one gets that asks for no number.

    Raises Refusal: 422 for more tokens than are allowed, 400 for stop strings that are empty or too long.
    """
    asked = (request.max_completion_tokens if isinstance(request, ChatRequest) else None) or request.max_tokens
    if asked is not None and asked > max_tokens:
        param = "max_tokens" if request.max_tokens else "max_completion_tokens"
        raise Refusal(422, f"{param} = {asked}: an answer has at most {max_tokens} tokens here", code="max_tokens_exceeded", param=param)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if any(not text or len(text) > MAX_STOP_CHARACTERS for text in stop):
        raise Refusal(400, f"stop: strings of 1 to {MAX_STOP_CHARACTERS} characters", code="invalid_value", param="stop")
    if isinstance(request, ChatRequest):
        if request.top_logprobs and not request.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs = true", code="invalid_value", param="top_logprobs")
        wanted, top = bool(request.logprobs), request.top_logprobs or 0
    else:
        wanted, top = request.logprobs is not None, request.logprobs or 0
    params = SamplingParams(
        max_tokens=min(asked or default_tokens, max_tokens),
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=request.top_p or 1.0,
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        stop=tuple(stop),
        stop_tokens=(*stop_tokens, *request.stop_token_ids),
        top_logps=top if wanted else 0,
    )
    return Sampling(params, wanted)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON has")
