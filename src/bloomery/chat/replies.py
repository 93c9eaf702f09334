"""What the server answers, in OpenAI's shapes: choices put together from tokens, whole or as the chunks of a stream."""

import json
import uuid
from collections.abc import Sequence
from typing import Any  # Any: JSON as OpenAI's API has it

from bloomery.chat.tool_calls import CallFinder, Found
from bloomery.chat.voice import Voice
from bloomery.generate.batcher import Event
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import TextStream

Json = dict[str, Any]

LEAST_LOGPROB = -9999.0
"""What OpenAI says for "very unlikely": JSON has no infinity."""


class Choice:
    """One answer in the making: takes events and gives what they add, as the delta of a chunk.

    `finder` looks for tool calls in it; `is_chat` decides between the two shapes of OpenAI's API.
    """

    def __init__(
        self,
        index: int,
        voice: Voice,
        *,
        params: SamplingParams,
        is_chat: bool,
        logprobs: bool,
        finder: CallFinder | None,
        token_ids: bool,
        tokens_as_ids: bool,
    ) -> None:
        self.index, self.is_chat = index, is_chat
        self._params, self._tokens_as_ids = params, tokens_as_ids
        self._stop_reason: int | str | None = None
        self.num_tokens = 0
        self.finish: str | None = None
        self._voice, self._finder = voice, finder
        self._text = TextStream(voice if finder is not None else voice.without_calls, params.stop)
        self._logprobs, self._token_ids = logprobs, token_ids
        self._said = ""
        self._calls: list[Json] = []
        self._new_logprobs: list[Json] = []
        self._new_ids: list[int] = []
        self._all_logprobs: list[Json] = []
        self._all_ids: list[int] = []
        self._offset = 0

    def add(self, event: Event) -> list[Json]:
        """The choices of the chunks that this token makes; none while everything is held back."""
        self.num_tokens += 1
        self._new_ids.append(event.token)
        if self._logprobs:
            self._new_logprobs.append(self._logprob(event))
        text = self._text.push(event.token)
        if event.finish is not None:
            text += self._text.finish()
        found = self._find(text, ended=event.finish is not None)
        self._said += "".join(item.text for item in found)
        chunks = [delta for item in found for delta in self._deltas(item)]
        if event.finish is not None:
            self.finish = "tool_calls" if self._calls else "length" if event.finish == "length" else "stop"
            chunks.append({})
        rows = [self._chunk(delta) for delta in chunks]
        if rows:
            self._take_details(rows[-1])
            rows[-1]["finish_reason"] = self.finish
        if event.finish == "stop":
            self._stop_reason = rows[-1]["stop_reason"] = self._find_stop(event.token)
        return rows

    def opening(self) -> Json:
        """The first chunk of a chat stream: who is speaking."""
        return self._chunk({"role": "assistant", "content": ""})

    def whole(self) -> Json:
        """The choice when it has ended."""
        row: Json = {"index": self.index, "finish_reason": self.finish, "stop_reason": self._stop_reason}
        if self.is_chat:
            message: Json = {"role": "assistant", "content": self._said if self._said or not self._calls else None, "refusal": None}
            row["message"] = message | ({"tool_calls": self._calls} if self._calls else {})
        else:
            row["text"] = self._said
        row["logprobs"] = self._shape_logprobs(self._all_logprobs) if self._logprobs else None
        return row | ({"token_ids": self._all_ids} if self._token_ids else {})

    def _find(self, text: str, *, ended: bool) -> list[Found]:
        if self._finder is None:
            return [Found(text=text)] if text else []
        found = self._finder.add(text) if text else []
        return found + (self._finder.end() if ended else [])

    def _deltas(self, found: Found) -> list[Json]:
        if found.call is None:
            return [{"content": found.text}] if found.text else []
        at = len(self._calls)
        call_id = f"call_{uuid.uuid4().hex[:24]}"
        self._calls.append({"id": call_id, "type": "function", "function": {"name": found.call.name, "arguments": found.call.arguments}})
        head = {"index": at, "id": call_id, "type": "function", "function": {"name": found.call.name, "arguments": ""}}
        return [{"tool_calls": [head]}, {"tool_calls": [{"index": at, "function": {"arguments": found.call.arguments}}]}]

    def _chunk(self, delta: Json) -> Json:
        row: Json = {"index": self.index, "finish_reason": None, "logprobs": None}
        return row | ({"delta": delta} if self.is_chat else {"text": delta.get("content", "")})

    def _take_details(self, row: Json) -> None:
        if self._logprobs:
            row["logprobs"] = self._shape_logprobs(self._new_logprobs)
        if self._token_ids:
            row["token_ids"] = self._new_ids
        self._all_logprobs += self._new_logprobs
        self._all_ids += self._new_ids
        self._new_logprobs, self._new_ids = [], []

    def _find_stop(self, token: int) -> int | str | None:
        # vLLM's `stop_reason`: the stop token or string; nothing after the end token.
        if token in self._params.stop_tokens:
            return token
        said = self._voice.decode_bytes(self._all_ids).decode("utf-8", "replace")
        places = {said.find(text): text for text in self._params.stop if text in said}
        return places[min(places)] if places else None

    def _logprob(self, event: Event) -> Json:
        entry = {**self._named(event.token), "logprob": max(event.logp, LEAST_LOGPROB), "offset": self._offset}
        self._offset += len(entry["token"])
        return entry | {"top_logprobs": [{**self._named(token), "logprob": max(logp, LEAST_LOGPROB)} for token, logp in event.top]}

    def _named(self, token: int) -> Json:
        name = self._voice.name_token(token)
        shown = f"token_id:{token}" if self._tokens_as_ids else name
        return {"token": shown, "bytes": list(self._voice.decode_bytes([token]) or name.encode())}

    def _shape_logprobs(self, entries: Sequence[Json]) -> Json:
        if self.is_chat:
            return {"content": [{key: value for key, value in entry.items() if key != "offset"} for entry in entries], "refusal": None}
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries],
            "text_offset": [entry["offset"] for entry in entries],
        }


class Reply:
    """What all chunks of a reply have in common."""

    def __init__(self, model: str, *, is_chat: bool, created: int) -> None:
        self.model, self.is_chat, self.created = model, is_chat, created
        self.id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, choices: Sequence[Json], usage: Json) -> Json:
        """The body of a reply that is no stream."""
        return self._head("chat.completion" if self.is_chat else "text_completion") | {"choices": list(choices), "usage": usage}

    def chunk(self, choice: Json, *, counts_usage: bool) -> bytes:
        """A line of a stream that carries a piece of one choice."""
        return sse(self._chunk_head() | {"choices": [choice]} | ({"usage": None} if counts_usage else {}))

    def usage_chunk(self, usage: Json) -> bytes:
        """The line before the last, if usage was asked for."""
        return sse(self._chunk_head() | {"choices": [], "usage": usage})

    def _chunk_head(self) -> Json:
        return self._head("chat.completion.chunk" if self.is_chat else "text_completion")

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still here\n\n"


def sse(value: Json) -> bytes:
    """One event of a stream (server-sent events)."""
    # Escaped: some clients take U+2028 for the end of a line.
    return f"data: {json.dumps(value)}\n\n".encode()


def usage(prompt_tokens: int, answer_tokens: int) -> Json:
    """How many tokens went in and out."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens, "total_tokens": prompt_tokens + answer_tokens}


def model_card(name: str, *, created: int, context_tokens: int) -> Json:
    """A model as /v1/models lists it; `max_model_len` is vLLM's name for the context."""
    return {"id": name, "object": "model", "created": created, "owned_by": "bloomery", "max_model_len": context_tokens}
