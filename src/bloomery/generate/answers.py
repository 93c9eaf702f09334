"""Answers to conversations, in text: what synthetic data, judges and evaluation ask of an engine, whoever runs it.

`RolloutEngine` (engine.py) works on token ids, because training needs those that were drawn. A model behind somebody's API
takes messages and gives text; so there is a second Protocol, of messages, and both kinds of engine satisfy it: the
built-in one through `LocalAnswerer`, and `RemoteEngine`. Answers come as they are finished, so that a caller can keep each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.generate.answer_store import AnswerStore
from bloomery.generate.batcher import Batcher
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.generate.text import answer_text

Ending = Literal["end", "length", "filtered", "refused"]
"""By itself (or with a stop string); by the limit of tokens; by a filter of the service, which then says little or nothing; before it
began, because the prompt is too long or not to the service's liking (the text is then the reason)."""


class Answer(NamedTuple):
    """What was said, why it ended, and how many tokens went in and out."""

    text: str
    ending: Ending
    prompt_tokens: int
    answer_tokens: int


class Answered(NamedTuple):
    """The answer to conversation `number`."""

    number: int
    answer: Answer


class Answerer(Protocol):
    """What answers conversations."""

    def answer(self, conversations: Sequence[Sequence[Message]], params: SamplingParams, *, seeds: Sequence[int]) -> Iterator[Answered]:
        """An answer to each conversation, in the order in which they are finished; seeds[i] decides what is drawn for conversations[i].

        One conversation that cannot be answered costs the others nothing. Raises DataError where no answer can be had at all.
        """
        ...


class LocalAnswerer:
    """The built-in engine. `render` makes a prompt of a conversation in the model's chat format."""

    def __init__(self, engine: Engine, render: Callable[[Sequence[Message]], list[int]], *, max_rows: int = 64) -> None:
        self.engine, self.render, self.max_rows = engine, render, max_rows

    def answer(self, conversations: Sequence[Sequence[Message]], params: SamplingParams, *, seeds: Sequence[int]) -> Iterator[Answered]:
        """See Answerer."""
        batcher = Batcher(self.engine, max_rows=self.max_rows)
        prompts = [self.render(conversation) for conversation in conversations]
        index: dict[int, int] = {}
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            try:
                index[batcher.add(prompt, params, seed=seed)] = i
            except DataError as error:
                yield Answered(i, Answer(str(error), "refused", 0, 0))
        tokens: dict[int, list[int]] = {i: [] for i in index.values()}
        while batcher.num_active or batcher.num_waiting:
            for event in batcher.step():
                i = index[event.request_id]
                tokens[i].append(event.token)
                if event.finish is not None:
                    said = tokens.pop(i)
                    text = answer_text(self.engine.tokenizer, said, stop=params.stop)
                    ending: Ending = "length" if event.finish == "length" else "end"
                    yield Answered(i, Answer(text, ending, len(prompts[i]), len(said)))


def keep_answers(
    answerer: Answerer,
    conversations: Sequence[Sequence[Message]],
    params: SamplingParams,
    *,
    seeds: Sequence[int],
    store: AnswerStore,
    keys: Sequence[str],
) -> Iterator[int]:
    """Asks for what the store has not got under `keys`, puts each answer there as it comes, and yields its number."""
    missing = [i for i, key in enumerate(keys) if store.get(key) is None]
    answers = answerer.answer([conversations[i] for i in missing], params, seeds=[seeds[i] for i in missing])
    for answered in answers:
        store.put(keys[missing[answered.number]], answered.answer._asdict())
        yield missing[answered.number]
