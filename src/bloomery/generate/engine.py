"""Answers from a model: many at once, or one as a stream. The loop itself is in batcher.py; drawing is in sampling.py.

A request's answer depends on its prompt, params and seed, not on its company: its draws are its own, and in float32 a
row's numbers are the same in any batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from bloomery.generate.batcher import Batcher, Event
from bloomery.generate.finish import Finish
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import Vocabulary
from bloomery.model.decoding import Decoder
from bloomery.model.transformer import Transformer

MAX_SAMPLES = 64
"""Samples of one prompt that begin together; the rest of them begin when there is room."""


@dataclass(frozen=True)
class Sample:
    """An answer. `tokens` keep what ended it: the end token, which is trained like any other, a stop token, or those that
    spell a stop string (`text.answer_text` leaves it out of the text). `logps` are after temperature alone (see `choose`)."""

    tokens: list[int]
    logps: list[float]
    finish: Finish
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    """For each token the likeliest ones in its place and their log-probabilities, if `top_logps` asks for any."""


class RolloutEngine(Protocol):
    """What answers prompts: the engine of this file, vLLM, or a server elsewhere."""

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """An answer for each prompt, in their order; seeds[i] decides what is drawn for prompts[i]."""
        ...


class Engine:
    """Generates with `model` as it is at each call, on its device and in its compute dtype."""

    def __init__(self, model: Transformer, tokenizer: Vocabulary) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._decoder: Decoder | None = None
        self._decoder_key: tuple[object, ...] = ()

    @property
    def context_tokens(self) -> int:
        """The most tokens that a prompt and its answer can have together."""
        return self.model.config.max_positions

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]) -> list[Sample]:
        """An answer for each prompt, in their order; seeds[i] decides what is drawn for prompts[i].

        An answer ends with `<|end|>` ("end"), a stop string or token ("stop"), or with `max_tokens` or the model's last
        position ("length"). Raises DataError for a prompt that is empty or fills the model's context.
        """
        samples = dict(self.generate_each(prompts, params, seeds=seeds))
        return [samples[i] for i in range(len(prompts))]

    def generate_each(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Sample]]:
        """`generate` with each answer given out when it ends, as (number of its prompt, sample)."""
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        batcher = Batcher(self)
        samples_of: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            samples_of.setdefault(tuple(prompt), []).append(i)
        place: dict[int, int] = {}
        # Longest first: what is too much for the memory then fails at once, not after an hour.
        for ids, same in sorted(samples_of.items(), key=lambda item: -len(item[0])):
            for start in range(0, len(same), MAX_SAMPLES):
                part = same[start : start + MAX_SAMPLES]
                place |= zip(batcher.add_samples(ids, params, seeds=[seeds[i] for i in part]), part, strict=True)
        begun: dict[int, list[Event]] = {}
        while batcher.num_active or batcher.num_waiting:
            for event in batcher.step():
                events = begun.setdefault(event.request_id, [])
                events.append(event)
                if event.finish is not None:
                    yield place[event.request_id], _make_sample(begun.pop(event.request_id), event.finish, with_tops=params.top_logps > 0)

    def decoder(self) -> Decoder:
        """The model ready to generate, made anew when a weight has changed since the last time."""
        # A parameter's version counts what is written into it; tensors made in inference mode have none.
        versions = [(p.data_ptr(), None if p.is_inference() else p._version) for p in self.model.parameters()]
        key = (self.model.compute_dtype, *versions)
        if self._decoder is None or key != self._decoder_key or any(version is None for _, version in versions):
            self._decoder = None  # the old one's memory is free before the new one needs it
            with torch.inference_mode():
                self._decoder = Decoder(self.model, vocab_size=self.tokenizer.vocab_size)
            self._decoder_key = key
        return self._decoder

    def stream(self, prompt: Sequence[int], params: SamplingParams, *, seed: int) -> Iterator[int]:
        """The tokens of one answer as they are made, the last one too."""
        batcher = Batcher(self)
        batcher.add(prompt, params, seed=seed)
        while batcher.num_active or batcher.num_waiting:
            for event in batcher.step():
                yield event.token


def _make_sample(events: Sequence[Event], finish: Finish, *, with_tops: bool) -> Sample:
    tops = [event.top for event in events] if with_tops else []
    return Sample([event.token for event in events], [event.logp for event in events], finish, tops)
