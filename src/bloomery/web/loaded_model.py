"""A model in memory that answers: the Worker, Batcher and Choice of `bloomery serve`, one set a checkpoint.

Imported with the first model that somebody talks to, because it brings torch with it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import NamedTuple

from bloomery.chat.refusal import Refusal
from bloomery.chat.replies import Choice
from bloomery.chat.voice import Voice
from bloomery.chat.worker import Failure, Worker
from bloomery.generate.batcher import MAX_SLOTS, Batcher, Event
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.model.device import resolve_device, return_freed_memory
from bloomery.model.huggingface import load_model
from bloomery.web.sampling import ModelLimits, Sampling


class Piece(NamedTuple):
    """What a step of the model added: text that is sure (a character is given out with its last byte), and the tokens."""

    text: str
    events: list[Event]
    finish: str | None
    """"stop" or "length" with the last piece."""


class LoadedModel:
    """An engine with the thread that steps it; `start` needs a running event loop, `close` blocks until the thread has ended."""

    def __init__(self, engine: Engine, voice: Voice, *, limits: ModelLimits) -> None:
        self.voice, self._limits = voice, limits
        slots = max(MAX_SLOTS, engine.context_tokens)
        self._worker = Worker(lambda: Batcher(engine, max_rows=limits.max_rows, max_slots=slots))

    @property
    def num_open(self) -> int:
        """Answers that are being made or wait."""
        return self._worker.num_open

    def start(self) -> None:
        """Begins to work for the running event loop."""
        self._worker.start()

    def close(self) -> None:
        """Ends the thread and gives the memory back."""
        self._worker.close()
        del self._worker
        return_freed_memory()

    async def stream(
        self, prompt: Sequence[int], sampling: Sampling, *, seed: int, top: int = 0, forced: Sequence[int] = ()
    ) -> AsyncGenerator[Piece, None]:
        """An answer as it is made, `top` likeliest tokens recorded at each place. `forced` tokens begin it: a first piece has their
        text and no events. Closing the iterator stops the model within a step.

        Raises Refusal: 422 for a prompt that cannot be answered, 500 if the model failed, 504 if it took too long.
        """
        params = SamplingParams(**sampling.model_dump(exclude={"stop"}), stop=tuple(sampling.stop), stop_tokens=self.voice.stop_tokens,
                                top_logps=top)  # fmt: skip
        choice = Choice(
            0, self.voice, params=params, is_chat=False, logprobs=False, finder=None, token_ids=False, tokens_as_ids=False
        )  # fmt: skip
        if forced:
            yield Piece("".join(_add(choice, Event(0, token, 0.0, [], None)) for token in forced), [], None)
        job = self._worker.submit([*prompt, *forced], params, seed=seed)
        deadline = time.monotonic() + self._limits.answer_seconds
        try:
            while choice.finish is None:
                try:
                    told = [await asyncio.wait_for(job.events.get(), deadline - time.monotonic())]
                except TimeoutError as error:
                    raise Refusal(504, f"the answer took longer than {self._limits.answer_seconds:g} s", code="timeout") from error
                while not job.events.empty():
                    told.append(job.events.get_nowait())
                events = [_event(item) for item in told]
                yield Piece("".join(_add(choice, event) for event in events), events, choice.finish)
        finally:
            self._worker.cancel(job)


def read_model(folder: Path, voice: Voice, *, limits: ModelLimits) -> LoadedModel:
    """The model in a Hugging Face folder, in float32, on a GPU if there is one. Raises DataError for one that cannot be read."""
    network = load_model(folder, device=resolve_device(limits.device)).eval()
    return LoadedModel(Engine(network, voice), voice, limits=limits)


def _add(choice: Choice, event: Event) -> str:
    return "".join(row["text"] for row in choice.add(event))


def _event(told: Event | Failure) -> Event:
    if isinstance(told, Failure):
        raise Refusal(422 if told.refused else 500, told.message, code="refused_prompt" if told.refused else "server_error")
    return told
