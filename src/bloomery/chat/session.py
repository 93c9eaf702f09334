"""A conversation with a model: what was said so far, and the next answer as it is made.

The model's context is finite. When a conversation outgrows it, the oldest turns are left out, the system message never,
and `num_forgotten` says how many messages the model no longer sees.
"""

import hashlib
from collections.abc import Iterator

from bloomery.core.conversation import Message
from bloomery.core.errors import DataError
from bloomery.generate.engine import Engine
from bloomery.generate.sampling import SamplingParams
from bloomery.tokens.chat import render
from bloomery.tokens.tokenizer import Tokenizer


class Session:
    """The state of one conversation. `messages` are all that was said; `num_forgotten` of them are out of the model's sight."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, params: SamplingParams, seed: int = 0, system: str = "") -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.params = params
        self.seed = seed
        self.system = system
        self.messages: list[Message] = []
        self.num_forgotten = 0
        self.reached_limit = False
        """Whether the last answer was cut by the limit of tokens."""

    def reset(self) -> None:
        """Forgets everything that was said; the system message stays."""
        self.messages, self.num_forgotten, self.reached_limit = [], 0, False

    def answer(self, text: str) -> Iterator[str]:
        """Says `text` to the model and yields its answer in pieces. What was yielded is kept, also if the caller stops early.

        Raises DataError if `text` alone is too long for the model; the conversation is then as before.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            prompt = self._prompt()
        except DataError:
            self.messages.pop()
            raise
        seed = _turn_seed(self.seed, len(self.messages))
        said: list[str] = []
        self.reached_limit = True
        try:
            for piece in self.tokenizer.decode_stream(self._until_end(prompt, seed)):
                said.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})

    def _until_end(self, prompt: list[int], seed: int) -> Iterator[int]:
        for token in self.engine.stream(prompt, self.params, seed=seed):
            if token == self.tokenizer.end_id:
                self.reached_limit = False
                return
            yield token

    def _prompt(self) -> list[int]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        context = self.engine.context_tokens
        # Half of a small context is kept free at most: a limit on answers that is too generous must not forget everything.
        room = context - min(self.params.max_tokens, context // 2)
        for first in range(0, len(self.messages), 2):
            ids = render(self.tokenizer, [*system, *self.messages[first:]], add_generation_prompt=True).ids
            if len(ids) <= room:
                self.num_forgotten = first
                return ids
        raise DataError(f"this message makes a prompt of {len(ids)} tokens, but the model can read {room} at once: say it shorter")


def _turn_seed(seed: int, turn: int) -> int:
    digest = hashlib.blake2b(f"chat/{seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
