"""The checkpoints of a store, loaded when somebody talks to one and put away when memory is wanted for another.

`ModelHost` knows every finished checkpoint by its opaque id. `use` gives a loaded one: models are read one at a time, in a
thread; whoever was used longest ago leaves when the limits are reached, and never one in use. What computes is in
loaded_model.py, which is imported with the first model: a server that shows runs never loads torch.
"""

import asyncio
import bisect
import contextlib
import importlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple  # Any: messages in OpenAI's shape

from bloomery.chat.refusal import Refusal
from bloomery.chat.voice import Voice, load_voice
from bloomery.core.artifact import RECORD
from bloomery.core.errors import BloomeryError, DataError
from bloomery.core.files import read_json
from bloomery.tokens.tokenizer import load_tokenizer
from bloomery.web.directory import ArtifactEntry, Directory
from bloomery.web.http import in_thread
from bloomery.web.sampling import BYTES_PER_PARAMETER, ModelLimits, Sampling

if TYPE_CHECKING:
    from bloomery.web.loaded_model import LoadedModel

TAUGHT = ("sft", "preference", "grpo", "ppo")
"""Stages whose models have seen conversations; an export is what its model is."""

MAX_VOICES = 8
"""Tokenizers with chat formats that are kept."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A finished checkpoint of the store, from its files alone."""

    id: str
    name: str
    stage: str
    fingerprint: str
    path: Path
    params: int
    context_tokens: int
    can_converse: bool
    """It has a chat format; its training may know nothing of it."""
    is_chat: bool
    """It, or a checkpoint it began from, was trained on conversations."""
    changed: int
    """When the artifact was written, in nanoseconds: a rebuilt one is loaded anew."""

    @property
    def num_bytes(self) -> int:
        """Memory that it takes when it is loaded."""
        return self.params * BYTES_PER_PARAMETER

    def shown(self) -> dict[str, Any]:
        """What pages are told."""
        names = ("id", "name", "stage", "params", "context_tokens", "can_converse", "is_chat")
        return {name: getattr(self, name) for name in names}


class Prompt(NamedTuple):
    """The ids that a model reads, and how many of the first messages were left out because its context is full."""

    ids: list[int]
    forgotten: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A whole answer. `tokens` keep what ended it; `logprob` is the sum of theirs, at the temperature that they were drawn at."""

    text: str
    tokens: list[int]
    logprob: float
    finish: str
    """"stop", or "length" if it was cut."""


class ModelHost:
    """The models of a store. Its coroutines belong to one event loop; the rest may be called from threads."""

    def __init__(self, directory: Directory, *, limits: ModelLimits | None = None) -> None:
        self.directory, self.limits = directory, limits or ModelLimits()
        self._lock = threading.Lock()
        self._facts: dict[Path, tuple[int, _Facts]] = {}
        self._voices: OrderedDict[str, tuple[int, Voice]] = OrderedDict()
        # Least recently used first. `_users` counts those who wait for a model, too: it must not leave before they have it.
        self._loaded: OrderedDict[str, tuple[ModelEntry, LoadedModel]] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._one_load = asyncio.Lock()

    def models(self) -> list[ModelEntry]:
        """Every finished checkpoint, those of runs first. Damaged ones are left out. Reads files."""
        found = [(entry, facts) for entry in self.directory.artifacts("checkpoint") if (facts := self._read(entry)) is not None]
        facts_of = {entry.fingerprint: facts for entry, facts in found}
        return [_make_entry(entry, facts, is_taught=_is_taught(entry.fingerprint, facts_of)) for entry, facts in found]

    def find(self, model_id: str) -> ModelEntry:
        """The checkpoint with this id. Raises Refusal (404). Reads files."""
        for entry in self.models():
            if entry.id == model_id:
                return entry
        raise Refusal(404, "there is no such model in this store: it may have been removed", code="not_found", param="model")

    def state(self, model_id: str) -> Literal["loaded", "loading", ""]:
        """Whether a model is ready, being read, or on the disk."""
        return "loading" if model_id in self._loads else "loaded" if model_id in self._loaded else ""

    @property
    def num_open(self) -> int:
        """Answers that are being made or wait."""
        return sum(model.num_open for _, model in self._loaded.values())

    def voice(self, entry: ModelEntry) -> Voice:
        """Its tokenizer and chat format; needs no weights. Reads files the first time. Raises DataError for a broken one."""
        with self._lock:
            known = self._voices.pop(entry.id, None)
            if known is not None and known[0] == entry.changed:
                self._voices[entry.id] = known
                return known[1]
        voice = load_voice(entry.path, load_tokenizer(entry.path))
        with self._lock:
            self._voices[entry.id] = (entry.changed, voice)
            while len(self._voices) > MAX_VOICES:
                self._voices.popitem(last=False)
        return voice

    @contextlib.asynccontextmanager
    async def use(self, model: str | ModelEntry) -> AsyncIterator["LoadedModel"]:
        """The model (by its id, or as `find` gave it), loaded; it stays while the block lasts.

        Raises Refusal: 404, 422 if it is too large for the memory that models may take, 503 if all that are loaded are in use.
        What cannot be read is 422, too.
        """
        entry = model if isinstance(model, ModelEntry) else await in_thread(self.find, model)
        self._users[entry.id] += 1
        try:
            yield await self._ready(entry)
        finally:
            self._users[entry.id] -= 1

    async def prompt(self, entry: ModelEntry, messages: Sequence[Mapping[str, Any]], *, max_tokens: int) -> Prompt:
        """What the model reads to answer a conversation. Raises Refusal: 400 if it has no form for it, 422 if it is too long."""
        voice = await in_thread(self.voice, entry)
        return await in_thread(conversation_prompt, voice, messages, context_tokens=entry.context_tokens, max_tokens=max_tokens)

    async def answer(self, model_id: str, messages: Sequence[Mapping[str, Any]], *, sampling: Sampling, seed: int) -> Answered:
        """One whole answer. Raises Refusal as `use` and `prompt` do. Cancelled, it stops the model within a step."""
        entry = await in_thread(self.find, model_id)
        prompt = await self.prompt(entry, messages, max_tokens=sampling.max_tokens)
        self.check_room()
        async with self.use(entry) as model:
            text, tokens, logprob, finish = "", [], 0.0, ""
            async with contextlib.aclosing(model.stream(prompt.ids, sampling, seed=seed)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    tokens += [event.token for event in piece.events]
                    logprob += sum(event.logp for event in piece.events)
                    finish = piece.finish or finish
        return Answered(text=text, tokens=tokens, logprob=logprob, finish=finish)

    def check_room(self) -> None:
        """Raises Refusal (503) if as many answers are open as may be."""
        if self.num_open >= self.limits.max_open_answers:
            raise Refusal(503, f"{self.num_open} answers are being made: try again", code="overloaded", headers={"Retry-After": "1"})

    async def close(self) -> None:
        """Ends every model; for when the server stops."""
        for task in list(self._loads.values()):
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        while self._loaded:
            _, (_, model) = self._loaded.popitem()
            await in_thread(model.close)

    async def _ready(self, entry: ModelEntry) -> "LoadedModel":
        while True:
            known = self._loaded.get(entry.id)
            # One that was built anew meanwhile is read again, unless somebody still talks to the old one.
            if known is not None and (known[0].changed == entry.changed or self._users[entry.id] > 1):
                self._loaded.move_to_end(entry.id)
                return known[1]
            task = self._loads.get(entry.id)
            if task is None:
                task = self._loads[entry.id] = asyncio.create_task(self._load(entry))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, if everybody has left
            # Shielded: whoever waits may go away, the thread that reads cannot be stopped and others may wait for it.
            await asyncio.shield(task)

    async def _load(self, entry: ModelEntry) -> None:
        try:
            async with self._one_load:
                if entry.id in self._loaded:
                    await self._put_away(entry.id)
                await self._make_room(entry)
                model = await in_thread(self._read_model, entry)
                model.start()
                self._loaded[entry.id] = (entry, model)
        finally:
            del self._loads[entry.id]

    def _read_model(self, entry: ModelEntry) -> "LoadedModel":
        loading: Any = importlib.import_module("bloomery.web.loaded_model")  # Any: a module whose import would bring torch
        try:
            loaded: LoadedModel = loading.read_model(entry.path, self.voice(entry), limits=self.limits)
        except (BloomeryError, MemoryError, RuntimeError) as error:  # torch says RuntimeError when memory is short
            raise Refusal(422, f"{entry.name} could not be loaded: {error}", code="model_not_loaded", param="model") from error
        return loaded

    async def _make_room(self, entry: ModelEntry) -> None:
        limits = self.limits
        if entry.num_bytes > limits.max_bytes:
            raise Refusal(
                422,
                f"{entry.name} takes {entry.num_bytes / 1e9:.1f} GB of memory; models may take {limits.max_bytes / 1e9:.1f} GB here. "
                "Use `bloomery serve` for it",
                code="model_too_large",
                param="model",
            )
        while True:
            taken = sum(other.num_bytes for other, _ in self._loaded.values())
            if len(self._loaded) < limits.max_models and taken + entry.num_bytes <= limits.max_bytes:
                return
            idle = next((model_id for model_id in self._loaded if not self._users[model_id]), None)
            if idle is None:
                raise Refusal(
                    503,
                    f"{len(self._loaded)} models are loaded and all are answering: stop one or try again",
                    code="models_full",
                    headers={"Retry-After": "5"},
                )
            await self._put_away(idle)

    async def _put_away(self, model_id: str) -> None:
        _, model = self._loaded.pop(model_id)
        await in_thread(model.close)

    def _read(self, entry: ArtifactEntry) -> "_Facts | None":
        try:
            changed = (entry.path / RECORD).stat().st_mtime_ns
            with self._lock:
                known = self._facts.get(entry.path)
            if known is None or known[0] != changed:
                known = (changed, _read_facts(entry.path, changed))
                with self._lock:
                    self._facts[entry.path] = known
            return known[1]
        except (OSError, DataError, ValueError, KeyError, TypeError):
            return None


def conversation_prompt(voice: Voice, messages: Sequence[Mapping[str, Any]], *, context_tokens: int, max_tokens: int) -> Prompt:
    """The ids that ask for the next answer. Where they and the answer do not fit, the oldest turns are left out, the system message
    never; half of the context at most is kept free for the answer.

    Raises Refusal: 400 if the model has no form for this conversation, 422 if its last message alone is too long.
    """
    if not voice.can_converse:
        raise Refusal(400, "messages: this model has no chat template. Use completion: it continues text", param="messages")
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"]
    room = context_tokens - min(max_tokens, context_tokens // 2)

    def render(first: int) -> list[int]:
        try:
            return voice.render([*system, *turns[first:]])
        except DataError as error:
            raise Refusal(400, f"messages: {error}", code="invalid_value", param="messages") from error

    ids = render(0)
    if len(ids) <= room:
        return Prompt(ids, 0)
    # Fewer turns make fewer tokens, so the first start that fits can be searched for.
    place = bisect.bisect_left(starts, True, key=lambda first: len(render(first)) <= room)
    if place == len(starts):
        last = len(render(starts[-1])) if starts else len(ids)
        raise Refusal(
            422,
            f"messages: the last message makes a prompt of {last} tokens; this model reads {room} and an answer at once. Say it shorter",
            code="context_length_exceeded",
            param="messages",
        )
    return Prompt(render(starts[place]), starts[place])


class _Facts(NamedTuple):
    params: int
    context_tokens: int
    can_converse: bool
    stage: str
    begun_from: frozenset[str]
    changed: int


def _make_entry(entry: ArtifactEntry, facts: _Facts, *, is_taught: bool) -> ModelEntry:
    return ModelEntry(
        id=entry.id,
        name=entry.name,
        stage=entry.stage,
        fingerprint=entry.fingerprint,
        path=entry.path,
        params=facts.params,
        context_tokens=facts.context_tokens,
        can_converse=facts.can_converse,
        is_chat=facts.can_converse and is_taught,
        changed=facts.changed,
    )


def _is_taught(fingerprint: str, facts_of: Mapping[str, _Facts]) -> bool:
    seen, waiting = set(), [fingerprint]
    while waiting:
        name = waiting.pop()
        facts = facts_of.get(name)
        if facts is None or name in seen:
            continue
        if facts.stage in TAUGHT:
            return True
        seen.add(name)
        waiting += facts.begun_from
    return False


def _read_facts(path: Path, changed: int) -> _Facts:
    record, config = read_json(path / RECORD), read_json(path / "config.json")
    names = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    return _Facts(
        params=sum(_count_numbers(file) for file in path.glob("model*.safetensors")),
        context_tokens=int(config["max_position_embeddings"]),
        can_converse=bool(names.get("chat_template")) or (path / "chat_template.jinja").is_file(),
        stage=record["stage"],
        begun_from=frozenset(name for names in record["inputs"].values() for name in names),
        changed=changed,
    )


def _count_numbers(path: Path) -> int:
    # The header of a safetensors file names every tensor with its shape.
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for length in tensor["shape"]:
                size *= length
            total += size
    return total
